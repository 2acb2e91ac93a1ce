"""Distances between sets of images, computed on their features, long sums in float64.

Every function takes arrays of features or logits, one row an image, and knows nothing of images or
networks: `diffjax.convert.inception` makes features from images.
"""

from diffjax.metrics.frechet import Moments, frechet_distance
from diffjax.metrics.inception_score import inception_score
from diffjax.metrics.kernel import kernel_distance
from diffjax.metrics.precision_recall import precision_recall

__all__ = [
    "Moments",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "precision_recall",
]
