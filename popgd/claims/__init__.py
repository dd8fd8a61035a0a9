"""What theorems say, as evidence: measured against predicted, with errors."""
