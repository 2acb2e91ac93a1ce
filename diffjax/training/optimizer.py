"""Adam as the published runs use it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffjax.interfaces import Array
from diffjax.networks import hashing
from diffjax.training import precision

# From images seen before an update, a uint32 scalar, to the learning rate in it.
Rate = Callable[[Array], Array]


def adam(
    learning_rate: float | Rate,
    *,
    b1: float = 0.0,
    b2: float = 0.999,
    eps: float = 1e-8,
    max_grad_norm: float = 0.0,
    max_grad_value: float = 0.0,
    weight_decay: float = 0.0,
    frozen: int = 0,
    bfloat16_state: bool = False,
) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015) or AdamW that keeps no first moment where b1 is 0.

    With b1 = 0, as in nearly all of the family, the first moment is the gradient itself; leaving
    it out saves a copy of both networks and changes no update.

    Args:
      learning_rate: a number, or a function of the images seen before an update, which its
        `update` then takes as the argument `images`.
      b1: decay of the first moment.
      b2: decay of the second moment.
      eps: added to the root of the second moment; the published runs use 1e-8 in float32 and
        1e-6 in half precision.
      max_grad_norm: a gradient whose global norm is greater is scaled down to it; 0 for none, as
        published. Where b2 is 0.999, one gradient many times the usual otherwise makes a step of up
        to 31 learning rates in every parameter.
      max_grad_value: greatest absolute value of a gradient's entries, those beyond it being
        clipped before the norm is; 0 for none.
      weight_decay: share of a parameter, times the learning rate, that an update takes off it
        (AdamW, Loshchilov & Hutter 2019); buffers stay.
      frozen: images at the start in which nothing changes, moments neither.
      bfloat16_state: whether moments are kept in bfloat16 instead of float32, rounded at random so
        that they stay right on average; with b2 = 0.999 a second moment is off by some 10 %, a
        step by 5 %. An update still computes in float32.
    """
    if b1:
        scaled = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    else:
        scaled = optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True)
    if weight_decay:
        scaled = optax.chain(scaled, optax.add_decayed_weights(weight_decay, _is_trained))
    by_rate = _scale_by(learning_rate) if callable(learning_rate) else optax.scale(-learning_rate)
    transformation: optax.GradientTransformation = optax.chain(scaled, by_rate)
    if bfloat16_state:
        transformation = in_bfloat16(transformation)
    if max_grad_norm:
        transformation = optax.chain(optax.clip_by_global_norm(max_grad_norm), transformation)
    if max_grad_value:
        transformation = optax.chain(optax.clip(max_grad_value), transformation)
    return _frozen_at_first(transformation, frozen) if frozen else transformation


def step(
    optimizer: optax.GradientTransformation,
    gradient: Any,
    state: optax.OptState,
    params: Any,
    images: Array,
) -> tuple[Any, optax.OptState]:
    """Follow a gradient; return parameters and optimiser state after it.

    Args:
      optimizer: such as `adam` makes.
      gradient: of the parameters.
      state: of the optimiser, before.
      params: before.
      images: uint32 scalar, seen before the update.
    """
    optimizer = optax.with_extra_args_support(optimizer)
    updates, state = optimizer.update(gradient, state, params, images=images)
    return optax.apply_updates(params, updates), state


def ramps(rate: float, *, rampup: int = 0, frozen: int = 0, decay: int = 0, end: int = 0) -> Rate:
    """Make a learning rate that changes as images are seen.

    Args:
      rate: of the learning rate where nothing changes it.
      rampup: images over which it grows from 0, first of all.
      frozen: images in which it is 0, first of all.
      decay: images over which it falls to 0, last of all.
      end: images of the run; decay counts back from it.
    """

    def at(images: Array) -> Array:
        value = jnp.float32(rate)
        if rampup:
            value *= _share(images, rampup)
        if frozen:
            value = jnp.where(images < np.uint32(frozen), 0.0, value)
        if decay:
            begins = np.uint32(max(frozen, end - decay))
            value *= 1 - _share(jnp.maximum(images, begins) - begins, decay)
        return value

    return at


def _share(images: Array, whole: int) -> Array:
    # Integers until here: float32 counts to 2^24.
    return jnp.minimum(images, np.uint32(whole)).astype(jnp.float32) / jnp.float32(whole)


def _is_trained(params: Any) -> Any:
    """Tell parameters from buffers, leaf by leaf."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "buffers" not in [getattr(key, "key", "") for key in path], params
    )


def _frozen_at_first(
    inner: optax.GradientTransformation, images_frozen: int
) -> optax.GradientTransformationExtraArgs:
    """Have an optimiser begin after so many images, as if there had been none before."""
    extended = optax.with_extra_args_support(inner)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        images: Array,
        **others: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        goes = images >= np.uint32(images_frozen)
        followed, after = extended.update(updates, state, params, images=images, **others)

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(goes, new, old)

        nothing = jax.tree.map(jnp.zeros_like, followed)
        return jax.tree.map(choose, followed, nothing), jax.tree.map(choose, after, state)

    return optax.GradientTransformationExtraArgs(extended.init, update)


def _scale_by(rate: Rate) -> optax.GradientTransformationExtraArgs:
    """Follow a rate of the images seen, which no state has to count."""

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        images: Array,
        **others: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, others
        factor = -rate(images)
        return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class Bfloat16State(NamedTuple):
    """State of an optimiser, float32 arrays as bfloat16.

    Attributes:
      steps: int32 scalar, updates done; it decides what is rounded up.
      inner: that state.
    """

    steps: Array
    inner: optax.OptState


def in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keep the float32 state of an optimiser in bfloat16 between updates; see `precision`."""
    extended = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> Bfloat16State:
        steps = jnp.zeros((), jnp.int32)
        return Bfloat16State(steps, _narrowed(inner.init(params), steps))

    def update(
        gradient: optax.Updates,
        state: Bfloat16State,
        params: optax.Params | None = None,
        **others: Any,
    ) -> tuple[optax.Updates, Bfloat16State]:
        updates, after = extended.update(gradient, _widened(state.inner), params, **others)
        steps = optax.safe_increment(state.steps)
        return updates, Bfloat16State(steps, _narrowed(after, steps))

    return optax.GradientTransformationExtraArgs(init, update)


def _narrowed(state: optax.OptState, steps: Array) -> Any:
    leaves, structure = jax.tree.flatten(state)
    word0 = hashing.mix(steps.astype(jnp.uint32))
    narrowed = [
        precision.round_to_bfloat16(leaf, word0, hashing.mix(jnp.uint32(i + 1)))
        if leaf.dtype == jnp.float32
        else leaf
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, narrowed)


def _widened(state: optax.OptState) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.bfloat16 else leaf, state
    )
