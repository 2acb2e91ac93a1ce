"""Training a teacher: EDM's loss on real data."""
