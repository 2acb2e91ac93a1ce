"""Evaluation: generate, take features, measure."""
