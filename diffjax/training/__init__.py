"""Training: the update, its state, its compilation, its checkpoints."""
