"""One-step generators from pretrained diffusion models, without training data, in JAX."""

__version__ = "0.1.0"
