"""What a run is made of: state, steps, optimiser, evaluation, checkpoints, logs, and the trainer that joins them."""
