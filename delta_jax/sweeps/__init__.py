"""Experiments of many runs: which ones, how strong a method is chosen, and what they show together."""
