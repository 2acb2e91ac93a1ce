"""Adam as the published runs use it."""

import optax


def adam(
    learning_rate: optax.ScalarOrSchedule, *, b1: float = 0.0, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) that keeps no first moment where b1 is 0.

    With b1 = 0, as in nearly all of the family, the first moment is the gradient itself; leaving
    it out saves a copy of both networks and changes no update.

    Args:
      learning_rate: a number, or a schedule of the optimiser's own step count.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment; the published runs use 1e-8 in float32 and
        1e-6 in half precision.
    """
    if b1:
        return optax.adam(learning_rate, b1=b1, b2=b2, eps=eps)
    return optax.chain(
        optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        optax.scale_by_learning_rate(learning_rate),
    )
