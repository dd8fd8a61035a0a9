"""What descends: weights, a loss, a data law; and what all of popgd calls rounding, equal and
whole.
"""
