"""Theorems, and the rule that judges their claims."""
