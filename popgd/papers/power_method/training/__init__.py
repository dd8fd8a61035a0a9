"""Theorems 4.1, 4.2 and 4.3: descent on the manifold {P21 = a I, Q12 = b I}."""
