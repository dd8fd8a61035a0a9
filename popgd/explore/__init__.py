"""What could be claimed of a problem: its symmetries, plane, zeros, conserved quantities, growth,
limits and curvatures, as lines for a theorem. Conjectures, until judged on fresh samples.
"""
