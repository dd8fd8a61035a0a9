"""What population gradient descent does beside the manifold of Theorems 4.1, 4.2 and 4.3, popgd's
own.
"""
