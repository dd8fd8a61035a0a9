"""Theorems 4.6 and 4.7: a trained layer looped on other data."""
