"""Evaluation: samples, features of images, metrics against a reference."""
