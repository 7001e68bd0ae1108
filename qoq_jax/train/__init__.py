"""Training: state, jitted steps, the loop over stages, checkpoints, metrics and progress."""
