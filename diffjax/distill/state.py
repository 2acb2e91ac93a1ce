"""What a distillation run carries from update to update."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax.interfaces import Array, Params


@flax.struct.dataclass
class DistillState:
    """Named trees; the teacher's parameters are an argument of the update, not state.

    Attributes:
      step: int32 scalar, updates attempted, skipped ones among them; it seeds the draws, and
        images seen are step · batch size.
      skipped: int32 scalar, how many of them were left out because a number was not finite.
      skipped_in_a_row: int32 scalar, how many of those were the latest.
      generator: θ.
      generator_ema: the moving average of θ, which is what one samples from.
      fake_score: ψ.
      generator_opt: the state of θ's optimiser.
      fake_score_opt: the state of ψ's optimiser.
    """

    step: Array
    skipped: Array
    skipped_in_a_row: Array
    generator: Params
    generator_ema: Params
    fake_score: Params
    generator_opt: optax.OptState
    fake_score_opt: optax.OptState


def create(
    generator: Params,
    fake_score: Params,
    *,
    generator_optimizer: optax.GradientTransformation,
    fake_score_optimizer: optax.GradientTransformation,
) -> DistillState:
    """The state before the first update, the EMA starting at the generator itself.

    Parameters are copied, so that the state can be donated while the caller, who mostly passes the
    teacher's parameters for both, keeps them.
    """

    def copy(params: Params) -> Params:
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)

    return DistillState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
        generator=copy(generator),
        generator_ema=copy(generator),
        fake_score=copy(fake_score),
        generator_opt=generator_optimizer.init(generator),
        fake_score_opt=fake_score_optimizer.init(fake_score),
    )
