"""Training: steps, optimiser, checkpoints, and the loop over epochs."""
