"""What a teacher's training carries from update to update."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax.interfaces import Array, Params


@flax.struct.dataclass
class PretrainState:
    """Named trees.

    Attributes:
      step: int32 scalar, updates attempted, skipped ones among them; it seeds the draws, and
        images seen are step · batch size.
      skipped: int32 scalar, how many of them were left out because a number was not finite.
      skipped_in_a_row: int32 scalar, how many of those were the latest.
      denoiser: the parameters being trained.
      denoiser_ema: their moving average, which is what one samples from.
      opt: the optimiser's state.
    """

    step: Array
    skipped: Array
    skipped_in_a_row: Array
    denoiser: Params
    denoiser_ema: Params
    opt: optax.OptState


def create(params: Params, *, optimizer: optax.GradientTransformation) -> PretrainState:
    """The state before the first update, the EMA starting at the parameters themselves."""
    return PretrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        denoiser=params,
        denoiser_ema=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params),
        opt=optimizer.init(params),
    )
