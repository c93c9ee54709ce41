"""What a run keeps on disk: metrics, checkpoints, variables, small results; here, and in a storage elsewhere."""
