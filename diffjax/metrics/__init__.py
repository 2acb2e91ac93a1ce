"""Distances between sets of images or other samples, long sums in float64.

Those on features take arrays of features or logits, one row an image, and know nothing of images
or networks: `diffjax.convert.inception` makes features from images. `moments`,
`sliced_wasserstein` and `mmd` take samples of any shape as they are, in the units of the data;
`modes` takes points.
"""

from diffjax.metrics.frechet import Moments, frechet_distance
from diffjax.metrics.inception_score import inception_score
from diffjax.metrics.kernel import kernel_distance, mmd
from diffjax.metrics.modes import modes
from diffjax.metrics.moments import moments
from diffjax.metrics.precision_recall import precision_recall
from diffjax.metrics.sliced_wasserstein import sliced_wasserstein

__all__ = [
    "Moments",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "mmd",
    "modes",
    "moments",
    "precision_recall",
    "sliced_wasserstein",
]
