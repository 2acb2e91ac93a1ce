"""Inception score."""

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from diffjax.metrics._rows import Float64Array, as_rows


def inception_score(logits: npt.ArrayLike, *, splits: int = 10) -> tuple[float, float]:
    """Inception score exp(E_x KL(p(y|x) || p(y))): mean and standard deviation over splits.

    Salimans et al., "Improved Techniques for Training GANs", NeurIPS 2016, section 4. Split i is
    the rows from i N // splits up to (i + 1) N // splits, unshuffled, so rows that come sorted by
    class should be shuffled first. The standard deviation is that of the splits themselves.

    Args:
      logits: [N, K] unnormalised log-probabilities of the classes, one row an image.
      splits: number of parts that the rows are cut into, in [1, N].

    Returns:
      (mean, standard deviation) over the splits; each split's score lies in [1, K].

    Raises:
      ValueError: logits aren't [N, K] and finite, or `splits` isn't in [1, N].
    """
    rows = as_rows("logits", logits)
    if not 1 <= splits <= len(rows):
        raise ValueError(
            f"splits must lie between 1 and the {len(rows)} rows of logits, got {splits}."
        )
    log_p = log_softmax(rows, axis=1)
    edges = [i * len(rows) // splits for i in range(splits + 1)]
    scores = [_score(log_p[edges[i] : edges[i + 1]]) for i in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(log_p: Float64Array) -> float:
    log_marginal = logsumexp(log_p, axis=0) - np.log(len(log_p))
    divergences = np.sum(np.exp(log_p) * (log_p - log_marginal), axis=1)
    return float(np.exp(divergences.mean()))
