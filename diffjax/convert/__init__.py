"""Conversion of checkpoints that others' code wrote, without running anything in them."""
