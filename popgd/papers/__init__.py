"""The papers that popgd judges, one module or folder each; the instrument knows none of them."""
