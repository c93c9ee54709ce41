"""Layers of the networks, with formulas of their own where a CPU compiler is slow; parameters as torch has them."""
