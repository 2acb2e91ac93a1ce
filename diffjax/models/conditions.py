"""Laws of conditions and latents, (key, batch) -> pytree of [batch, ...], and guidance.

A law is a pure function of its key: the same key gives the same draw, on any number of devices and
under `jax.jit`, where `batch` is static.
"""

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models import teacher as teacher_lib
from diffjax.models import trainable as trainable_lib
from diffjax.models.teacher import Cond, CondLaw, Teacher


def one_hot(n: int, classes: Sequence[int] = ()) -> CondLaw:
    """Draw classes uniformly, as one-hot vectors.

    Args:
      n: number of classes, the length of the vectors.
      classes: those that are drawn, each in [0, n); () for all.

    Returns:
      Law that gives [batch, n] float32.

    Raises:
      ValueError: if `n` isn't a positive integer or a class isn't in range.
    """
    n = _count(n, "one_hot: n")
    chosen = np.asarray(classes) if len(classes) else np.zeros(0, np.int64)
    integers = chosen.ndim == 1 and chosen.dtype.kind in "iu"
    if not integers or (chosen < 0).any() or (chosen >= n).any():
        raise ValueError(f"one_hot: classes={tuple(classes)} must be integers in [0, {n})")
    return _OneHot(n, tuple(chosen.tolist()))


def uniform(spec: Any) -> CondLaw:
    """Draw each leaf of a description uniformly, and independently.

    A tuple of two numbers is always a range. Two classes are written as a list or a dict.

    Args:
      spec: pytree. An integer n stands for a class in [0, n), a tuple (low, high) for a number in
        that range: `{"class": 10, "snr": (0.0, 1.0)}`.

    Returns:
      Law that gives the tree with [batch] int32 for each integer, [batch] float32 for each range.

    Raises:
      ValueError: if a leaf is neither, or a range is empty.
    """
    entries, tree = jax.tree_util.tree_flatten_with_path(spec, is_leaf=_is_pair)
    if not entries:
        raise ValueError(f"uniform: {spec!r} describes nothing to draw")
    checked: list[int | tuple[float, float]] = []
    for path, entry in entries:
        at = "".join(f"[{each!r}]" for each in trainable_lib.names(path))
        if _is_pair(entry):
            low, high = (float(each) for each in entry)
            if not (np.isfinite(low) and np.isfinite(high) and low < high):
                raise ValueError(f"uniform{at}: {entry!r} must be (low, high), finite, low < high")
            checked.append((low, high))
        else:
            checked.append(_count(entry, f"uniform{at}", ", or a tuple (low, high)"))
    return _Uniform(tree, tuple(checked))


def from_frequencies(counts: Any) -> CondLaw:
    """Draw classes as often as the data has them, as one-hot vectors.

    Args:
      counts: [K], how often each class occurs, or its share; not negative, not all zero.

    Returns:
      Law that gives [batch, K] float32; a class of count 0 is never drawn.

    Raises:
      ValueError: if `counts` is anything else.
    """
    given = np.asarray(counts)
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not given.size:
        raise ValueError("from_frequencies: counts must be a list of numbers, one for each class")
    if not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise ValueError("from_frequencies: counts must be finite, not negative, not all zero")
    return _Frequencies(tuple((given / given.sum(dtype=np.float64)).tolist()))


def from_array(tree: Any) -> CondLaw:
    """Draw rows of a table with replacement, such as text embeddings.

    The law is a pytree whose leaves are the table. A function under `jax.jit` that takes the law
    as an argument doesn't hold the table as a constant.

    Args:
      tree: pytree of arrays [N, ...], of one N; a row goes through all of them.

    Returns:
      Law that gives the tree with [batch, ...] for each array. 64-bit numbers become 32-bit ones,
      other types stay, in this machine's order of bytes.

    Raises:
      ValueError: if there is no array, or no row, or numbers of rows differ, or an array holds no
        numbers, or 32 bits are too few for one.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    rows = {}
    for path, leaf in leaves:
        name = _named(path)
        rows[name] = np.shape(leaf)[0] if np.ndim(leaf) else 0
    if not rows or 0 in rows.values() or len(set(rows.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in rows.items()) or "no array"
        raise ValueError(
            f"from_array: all arrays must have the same number of rows, at least 1 ({found})"
        )
    return _Table(jax.tree_util.tree_map_with_path(_narrow, tree))


def normal(shape: int | Sequence[int]) -> CondLaw:
    """Draw latents z ~ N(0, I).

    Args:
      shape: of one latent, such as (100,).

    Returns:
      Law that gives [batch, *shape] float32.

    Raises:
      ValueError: if `shape` isn't made of positive integers.
    """
    axes = (shape,) if isinstance(shape, numbers.Integral) else shape
    return _Normal(teacher_lib.shape_of_example(axes, "normal"))


def guided(teacher: Teacher, scale: float = 2.0, null: Any = None) -> Teacher:
    """Make classifier-free guidance a part of the denoiser (Ho and Salimans 2022).

    D(y; σ, c) = D(y; σ, null) + scale (D(y; σ, c) - D(y; σ, null)), in one call of twice the
    batch. Asked without a condition it gives D(y; σ, null).

    Args:
      teacher: a conditional one.
      scale: 1 for no guidance.
      null: condition of one example that stands for none, a pytree as the law's draws are without
        their batch, such as `jnp.zeros(10)` for one-hot classes.

    Returns:
      The teacher with that denoiser, and all else as it was.

    Raises:
      ValueError: if the teacher is unconditional or `null` isn't of its condition's form.
    """
    teacher = teacher_lib.checked(teacher, "guided")
    if teacher.cond is None:
        raise ValueError("guided: the teacher has no cond (it is unconditional)")
    if not isinstance(scale, numbers.Real) or not np.isfinite(scale):
        raise ValueError(f"guided: scale={scale!r} must be a finite number")
    return dataclasses.replace(
        teacher,
        gain=teacher_lib.gain_of(teacher),
        denoise=_Guided(
            teacher.denoise, float(scale), teacher_lib.null_condition(teacher.cond, null, "guided")
        ),
    )


def classes_of(law: CondLaw | None) -> tuple[int, tuple[int, ...]]:
    """Tell the classes that a law draws as one-hot vectors.

    Args:
      law: any law, or None.

    Returns:
      (number of classes, those that are drawn; () for all); (0, ()) if it draws something else.
    """
    if isinstance(law, _OneHot):
        return law.n, law.classes
    if isinstance(law, _Frequencies):
        drawn = tuple(i for i, share in enumerate(law.shares) if share)
        return len(law.shares), () if len(drawn) == len(law.shares) else drawn
    return 0, ()


def is_unit_normal(law: Any) -> bool:
    """Tell whether all numbers that a law draws are independent and of N(0, 1).

    Args:
      law: any law. One of a user's own says so by an attribute `unit_normal`.
    """
    return bool(getattr(law, "unit_normal", False))


@dataclasses.dataclass(frozen=True)
class _OneHot:
    n: int
    classes: tuple[int, ...]

    def __call__(self, key: PRNGKey, batch: int) -> Array:
        drawn = jax.random.randint(key, (batch,), 0, len(self.classes) or self.n, jnp.int32)
        drawn = jnp.asarray(self.classes, jnp.int32)[drawn] if self.classes else drawn
        return jax.nn.one_hot(drawn, self.n, dtype=jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Uniform:
    tree: Any  # of jax.tree_util.PyTreeDef
    entries: tuple[int | tuple[float, float], ...]

    def __call__(self, key: PRNGKey, batch: int) -> Any:
        keys = jax.random.split(key, len(self.entries))
        drawn = [
            jax.random.randint(k, (batch,), 0, entry, jnp.int32)
            if isinstance(entry, int)
            else jax.random.uniform(k, (batch,), jnp.float32, *entry)
            for k, entry in zip(keys, self.entries, strict=True)
        ]
        return self.tree.unflatten(drawn)


@dataclasses.dataclass(frozen=True)
class _Frequencies:
    shares: tuple[float, ...]

    def __call__(self, key: PRNGKey, batch: int) -> Array:
        logits = jnp.log(jnp.asarray(self.shares, jnp.float32))
        drawn = jax.random.categorical(key, logits, shape=(batch,))
        return jax.nn.one_hot(drawn, len(self.shares), dtype=jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Table:
    table: Any

    def __call__(self, key: PRNGKey, batch: int) -> Any:
        rows = jax.tree.leaves(self.table)[0].shape[0]
        drawn = jax.random.randint(key, (batch,), 0, rows, jnp.int32)
        return jax.tree.map(lambda leaf: leaf[drawn], self.table)


@dataclasses.dataclass(frozen=True)
class _Normal:
    unit_normal: ClassVar[bool] = True
    shape: tuple[int, ...]

    def __call__(self, key: PRNGKey, batch: int) -> Array:
        return jax.random.normal(key, (batch, *self.shape), jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class _Guided:
    denoise: teacher_lib.Denoise
    scale: float
    null: Any  # pytree of NumPy arrays, one example

    def __call__(self, params: Params, y: Array, sigma: Array, cond: Cond) -> Array:
        batch = y.shape[0]
        null = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (batch, *leaf.shape)), self.null)
        if cond is None:
            return self.denoise(params, y, sigma, null)
        # Both answers of an example stand beside each other, so that they stay on its device.
        both = jax.tree.map(lambda c, n: _interleave(c, n.astype(c.dtype)), cond, null)
        answers = self.denoise(params, _interleave(y, y), _interleave(sigma, sigma), both)
        answers = answers.reshape(batch, 2, *answers.shape[1:])
        given, without = answers[:, 0], answers[:, 1]
        return without + jnp.asarray(self.scale, given.dtype) * (given - without)


def _interleave(a: Array, b: Array) -> Array:
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])


def _is_pair(entry: Any) -> bool:
    return (
        isinstance(entry, tuple)
        and len(entry) == 2
        and all(isinstance(e, numbers.Real) and not isinstance(e, bool) for e in entry)
    )


def _count(n: Any, name: str, other: str = "") -> int:
    if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"{name}={n!r} must be a positive integer, the number of classes{other}")
    return int(n)


def _named(path: Any) -> str:
    return "/".join(trainable_lib.names(path)) or "the array"


def _narrow(path: Any, leaf: Any) -> Array:
    """Give an array in the types that JAX has, and refuse numbers that they can't hold."""
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    if array.dtype.kind in "USOMm":
        what = "text" if array.dtype.kind in "US" else f"{array.dtype}"
        raise ValueError(
            f"from_array: {_named(path)} holds {what}, and numbers are needed, such as embeddings"
        )
    if array.dtype.kind not in "iuf" or (array.dtype.itemsize <= 4 and array.dtype.isnative):
        return jnp.asarray(array)
    own = np.asarray(array)
    bits = min(own.dtype.itemsize, 4)
    with np.errstate(over="ignore"):
        narrowed = own.astype(f"{own.dtype.kind}{bits}")
    is_lost = np.isinf(narrowed) & ~np.isinf(own) if own.dtype.kind == "f" else narrowed != own
    if is_lost.any():
        raise ValueError(
            f"from_array: {_named(path)} holds {own[is_lost][0]}, which {narrowed.dtype} doesn't"
        )
    return jnp.asarray(narrowed)
