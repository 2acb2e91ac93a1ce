"""Distillation: the state, the draws, and the update as a function of both."""
