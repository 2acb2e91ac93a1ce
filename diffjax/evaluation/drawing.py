"""Draws of samples: of each its latents and its condition, from a key of its own.

The key comes from the seed and the sample's index, so that sample i is the same whatever the batch
size, the number of samples and the devices.
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffjax.distributed import numerics
from diffjax.interfaces import Array, PRNGKey
from diffjax.models.teacher import CondLaw


def keys(seed: int, indices: Array) -> PRNGKey:
    """Key of each sample, [B], from the seed and its index.

    Args:
      seed: of all samples.
      indices: [B] numbers of these samples.
    """
    return jax.vmap(lambda i: jax.random.fold_in(numerics.key(seed), i))(indices)


def latents(seed: int, indices: Array, shape: tuple[int, ...], law: CondLaw | None = None) -> Any:
    """Latents [B, *shape] ~ N(0, I), or by a law, that of sample i from its own key.

    Args:
      seed: of all samples.
      indices: [B] numbers of these samples.
      shape: of one latent.
      law: (key, count) -> pytree of [count, ...], in place of N(0, I); one that has `in_turn`, such
        as `models.points.Indices`, decides itself by the numbers.
    """
    in_turn = getattr(law, "in_turn", None)
    if in_turn is not None:
        return in_turn(indices)

    def latent(key: PRNGKey) -> Any:
        key = jax.random.fold_in(key, 0)
        if law is not None:
            return _one(law, key)
        return jax.random.normal(key, shape, jnp.float32)

    return jax.vmap(latent)(keys(seed, indices))


def random_classes(seed: int, indices: Array, label_dim: int, among: tuple[int, ...] = ()) -> Array:
    """Uniform classes [B], that of sample i from its own key; 0 where `label_dim` is 0.

    Args:
      seed: of all samples.
      indices: [B] numbers of these samples.
      label_dim: number of classes.
      among: those that are drawn; () for all.
    """
    count = len(among) or max(label_dim, 1)

    def drawn(key: PRNGKey) -> Array:
        return jax.random.randint(jax.random.fold_in(key, 1), (), 0, count, jnp.int32)

    classes = jax.vmap(drawn)(keys(seed, indices))
    return jnp.asarray(among, jnp.int32)[classes] if among else classes


def random_conditions(
    seed: int,
    indices: Array,
    label_dim: int,
    among: tuple[int, ...] = (),
    law: CondLaw | None = None,
) -> Any:
    """Conditions of samples, that of sample i from its own key.

    Args:
      seed: of all samples.
      indices: [B] numbers of these samples.
      label_dim: number of classes, where a condition is one of them.
      among: classes that are drawn, without a law; () for all.
      law: (key, count) -> pytree of [count, ...], in place of uniform classes.

    Returns:
      Classes [B], also of a law of one-hot vectors; or the law's pytree of [B, ...].
    """
    if law is None:
        return random_classes(seed, indices, label_dim, among)
    drawn = jax.vmap(lambda key: _one(law, jax.random.fold_in(key, 1)))(keys(seed, indices))
    return jnp.argmax(drawn, axis=-1).astype(jnp.int32) if label_dim else drawn


def classes_in_turn(indices: Array, label_dim: int, among: tuple[int, ...] = ()) -> Array:
    """Classes [B], that of sample i being i modulo their number.

    Args:
      indices: [B] numbers of these samples.
      label_dim: number of classes; 0 for none.
      among: those that are taken; () for all.
    """
    classes = indices % (len(among) or max(label_dim, 1))
    return jnp.asarray(among, jnp.int32)[classes] if among else classes


def as_labels(drawn: Any, label_dim: int, law: CondLaw | None = None) -> Any:
    """Convert drawn conditions to what a network takes: one-hot vectors, a pytree, or None.

    Args:
      drawn: as the functions above give it.
      label_dim: number of classes, where a condition is one of them.
      law: of conditions; None where they are classes, or there are none.
    """
    if label_dim:
        return jax.nn.one_hot(drawn, label_dim, dtype=jnp.float32)
    return None if law is None else drawn


def _one(law: CondLaw, key: PRNGKey) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], law(key, 1))
