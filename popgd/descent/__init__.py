"""Population gradient descent: by Monte Carlo over all devices, exactly, and as a flow to 10^18
steps.
"""
