"""Which pretrained weights to start from: scores of their features, and L2-FE on the validation images."""
