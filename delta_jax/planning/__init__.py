"""What a run will take on hardware that is not here: its programs compiled, their costs, and what fits."""
