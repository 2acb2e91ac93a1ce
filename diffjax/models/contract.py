"""The short check of teachers and students: shape, type, finite numbers, unmixed examples."""

import contextlib
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.predictions import ProcessDenoiser
from diffjax.diffusion.process import Process
from diffjax.files.progress import warn_once
from diffjax.models import slopes
from diffjax.models import trainable as trainable_lib
from diffjax.models.generator import Generator
from diffjax.models.teacher import CondLaw, Teacher

_BATCH = 4
_OTHER_BATCHES = (2, 3)
_SAME = 1e-2  # relative difference of what should be equal, in the lowest precision met
_UNBATCHED = "vmap missing? Equinox is unbatched: from_equinox(batched=False)"


class NotFiniteError(ValueError):
    """Numbers of a teacher that aren't finite."""


def short(teacher: Teacher, name: str) -> None:
    """Check one batch: shape, type, finite numbers, independent examples, the form of conditions.

    The network is compiled once and evaluated a few times. Batches of 2 and 3 are traced only.

    Args:
      teacher: to check, as `teacher.checked` made it.
      name: of the teacher, such as "my_teacher:sky", for the message.

    Raises:
      ValueError: in one line, naming what to change; a `NotFiniteError` where that is all that is
        wrong so far.
    """
    check_form(teacher, name)
    compiled = slopes.compiled(teacher.denoise, teacher.params)
    cond = None if teacher.cond is None else teacher.cond(jax.random.fold_in(_key(), 1), _BATCH)

    def denoise(y: Any, sigma: Any, cond: Any) -> np.ndarray:
        return np.asarray(compiled(teacher.params, y, sigma, cond))

    middle, n = _check_finite(denoise, teacher, cond, name)
    # Levels of an example each, so that one told the wrong σ shows too.
    low, high = max(middle / 2, teacher.sigma_min), min(2 * middle, teacher.sigma_max)
    sigma = jnp.geomspace(low, high, _BATCH, dtype=jnp.float32)
    y = n * jnp.expand_dims(jnp.hypot(sigma, teacher.sigma_data), tuple(range(1, n.ndim)))
    out = denoise(y, sigma, cond)
    _check_independence(denoise, y, sigma, cond, out, name)
    _check_condition(teacher, denoise, y, sigma, cond, out, name)
    _tell_range(teacher, name)


def check_form(teacher: Teacher, name: str) -> None:
    """Trace batches of several sizes: shape, type, the form of conditions. Nothing is computed.

    Args:
      teacher: to check, as `teacher.checked` made it.
      name: of the teacher, for the message.

    Raises:
      ValueError: in one line, naming what to change.
    """
    for batch in (_BATCH, *_OTHER_BATCHES):
        _check_form(teacher, name, batch)


def check_generator(generator: Generator, teacher: Teacher, name: str, of: str) -> None:
    """Trace a student: it must give examples of the teacher's shape. Nothing is computed.

    Args:
      generator: to check, as `generator.checked_generator` made it.
      teacher: whose shape and conditions count.
      name: of the generator, for the message.
      of: name of the teacher.

    Raises:
      ValueError: in one line, naming what to change.
    """
    for batch in (_BATCH, *_OTHER_BATCHES, 1):
        z, cond = jax.eval_shape(
            functools.partial(_drawn, generator, teacher.cond, batch=batch), _key()
        )
        for leaf in jax.tree.leaves(z):
            if leaf.shape[:1] != (batch,):
                raise ValueError(
                    f"{name}: latent(key, {batch}) has shape {list(leaf.shape)}; its first axis "
                    f"must be the batch, {batch}"
                )
        try:
            out = jax.eval_shape(
                lambda *given: generator.generate(generator.params, *given), z, cond
            )
        except Exception as error:  # a user's function: anything
            raise ValueError(_generate_failed(generator, name, of, z, cond, error)) from error
        if not isinstance(out, jax.ShapeDtypeStruct):
            pair = "; of Linen's apply with mutable=, the first" if isinstance(out, tuple) else ""
            raise ValueError(
                f"{name}: generate returned {type(out).__name__}; it must return one array{pair}"
            )
        if out.shape[1:] != teacher.shape:
            raise ValueError(
                f"student {name!r} generates {out.shape[1:]} and teacher {of!r} denoises "
                f"{teacher.shape}: they must be equal"
            )
        if out.shape[0] != batch:
            raise ValueError(
                f"{name}: generate returned {list(out.shape)} for {batch} latents; the first axis "
                f"must be the batch ({_UNBATCHED})"
            )
        if out.dtype != jnp.float32:
            raise ValueError(
                f"{name}: generate returned {out.dtype}; cast to float32 in your function"
            )


def short_generator(generator: Generator, law: CondLaw | None, name: str) -> None:
    """Evaluate a student on a batch: finite numbers, and samples that are each their own.

    What may be meant is a warning: samples that depend on others of their batch, a condition that
    changes nothing, latents that do, and latents that are the same of any key.

    Args:
      generator: to check; `check_generator` passed it.
      law: of the conditions that it is given; None: none.
      name: of the generator, for the message.

    Raises:
      ValueError: in one line, if what it generates isn't finite.
    """
    compiled = slopes.compiled(generator.generate, generator.params)
    z, cond = _drawn(generator, law, _key(), _BATCH)
    for path, leaf in jax.tree_util.tree_leaves_with_path(z):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
            at = ".".join(trainable_lib.names(path))
            raise ValueError(f"{name}: latent{at and ' ' + at} drew numbers that aren't finite")
    out = np.asarray(compiled(generator.params, z, cond))
    if not np.isfinite(out).all():
        share = 1 - np.isfinite(out).mean()
        raise ValueError(
            f"{name}: generate gave numbers that aren't finite ({share:.0%} of them); look for NaN "
            "in its parameters, or for a division by 0"
        )
    first = np.array([0, 1, 0, 1])  # the first two as they were, in other company
    again = compiled(generator.params, *_pick((z, cond), first))
    if _differ(np.asarray(again)[:2], out[:2]):
        warn_once(
            f"{name}: a sample depends on the others of its batch, so that other batch sizes give "
            "other samples; of a batch norm take the running statistics (train=False)."
        )
    other_z, other = _drawn(generator, law, jax.random.fold_in(_key(), 1), _BATCH)
    if not any(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(z)):
        pass  # indices, of which there may be one
    elif not _other(z, other_z):
        warn_once(
            f"{name}: latent(key, {_BATCH}) is the same for two keys, so that all updates see the "
            "same; draw them from the key."
        )
    elif np.array_equal(compiled(generator.params, other_z, cond), out):
        warn_once(
            f"{name}: the latents ({_form(z)}) change nothing in what is generated; hand them to "
            "the network."
        )
    if _other(cond, other) and np.array_equal(compiled(generator.params, z, other), out):
        warn_once(
            f"{name}: the condition ({_form(cond)}) changes nothing in what is generated, and the "
            "teacher is asked about it; hand it to the network, or set the teacher's cond=None."
        )


def check_finite(teacher: Teacher, name: str) -> None:
    """Evaluate a denoiser at the ends and in the middle of its noise levels.

    Args:
      teacher: to check; `check_form` passed it.
      name: of it, for the message.

    Raises:
      NotFiniteError: in one line.
    """
    compiled = slopes.compiled(teacher.denoise, teacher.params)
    cond = None if teacher.cond is None else teacher.cond(jax.random.fold_in(_key(), 1), _BATCH)
    _check_finite(lambda *given: np.asarray(compiled(teacher.params, *given)), teacher, cond, name)


def _tell_range(teacher: Teacher, name: str) -> None:
    """Tell a process that is none, and noise levels beyond it: their times weren't trained."""
    process = teacher.process
    if not (process is None or isinstance(process, Process)):
        kind = type(process).__name__
        warn_once(f"{name}: process is of type {kind} and no models.Process: it is left out.")
    process = getattr(teacher.denoise, "process", process)
    if not isinstance(process, Process):
        return
    low, high = process.sigma_min, process.sigma_max
    if teacher.sigma_min < low * 0.99 or teacher.sigma_max > high * 1.01:
        warn_once(
            f"{name}: sigma_min={teacher.sigma_min:g} and sigma_max={teacher.sigma_max:g} reach "
            f"beyond the process, whose sigma is {low:.4g} to {high:.4g}: its network knows no "
            "time of the others; narrow them to that."
        )


def _key() -> Any:
    return jax.random.key(0)


def _drawn(generator: Generator, law: CondLaw | None, key: Any, batch: int) -> tuple[Any, Any]:
    """Draw latents and conditions."""
    return generator.latent(key, batch), None if law is None else law(key, batch)


def _check_finite(denoise: Any, teacher: Teacher, cond: Any, name: str) -> tuple[float, Any]:
    """Check three noise levels; give the middle one, and the noise."""
    n = jax.random.normal(_key(), (_BATCH, *teacher.shape), jnp.float32)
    middle = float(np.clip(teacher.sigma_data, teacher.sigma_min, teacher.sigma_max))
    for level in (teacher.sigma_min, middle, teacher.sigma_max):
        y = n * math.hypot(level, teacher.sigma_data)
        out = denoise(y, jnp.full((_BATCH,), level, jnp.float32), cond)
        if not np.isfinite(out).all():
            share = 1 - np.isfinite(out).mean()
            raise NotFiniteError(
                f"{name}: denoise gave numbers that aren't finite at sigma={level:g} ({share:.0%} "
                "of them); look for a division by 0 there, or narrow sigma_min and sigma_max"
            )
    return middle, n


def _check_form(teacher: Teacher, name: str, batch: int) -> None:
    y = jax.ShapeDtypeStruct((batch, *teacher.shape), jnp.float32)
    sigma = jax.ShapeDtypeStruct((batch,), jnp.float32)
    cond = None
    if teacher.cond is not None:
        law = teacher.cond
        cond = jax.eval_shape(lambda key: law(key, batch), jax.random.key(0))
    try:
        out = _traced(teacher, y, sigma, cond)
    except Exception as error:  # a user's function: anything
        raise ValueError(_failed(teacher, name, y, sigma, cond, error)) from error
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise ValueError(
            f"{name}: denoise returned {type(out).__name__}; it must return one array of y's shape"
        )
    if out.shape != y.shape:
        raise ValueError(_shapes(name, out.shape, y.shape))
    if out.dtype != jnp.float32:
        raise ValueError(f"{name}: denoise returned {out.dtype}; cast to float32 in your function")


def _traced(teacher: Teacher, y: Any, sigma: Any, cond: Any) -> Any:
    # The parameters may hold what isn't an array, so that they are closed over.
    return jax.eval_shape(lambda *given: teacher.denoise(teacher.params, *given), y, sigma, cond)


def _shapes(name: str, returned: tuple[int, ...], given: tuple[int, ...]) -> str:
    return (
        f"{name}: denoise returned {list(returned)} for y {list(given)}; it must keep the shape of "
        f"y ({_UNBATCHED})"
    )


def _generate_failed(
    generator: Generator, name: str, of: str, z: Any, cond: Any, error: Exception
) -> str:
    """Name what makes a student fail when it is traced, by trying it without the condition."""
    lines = str(error).strip().splitlines() or [""]
    what = f"{type(error).__name__}: {lines[0]}"[:300]
    given = f"latents {_form(z)} and the condition {'none' if cond is None else _form(cond)}"
    if isinstance(error, jax.errors.JAXTypeError):
        remedy = "; it must be a pure function of jax.numpy, without NumPy or branches on values"
    elif cond is None:
        remedy = "; if it wants a condition, it needs a teacher that has one"
    else:
        remedy = ""
        with contextlib.suppress(Exception):
            jax.eval_shape(lambda z: generator.generate(generator.params, z, None), z)
            remedy = "; it works without a condition"
    return f"{name}: generate failed for {given} of teacher {of!r} ({what}){remedy}"


def _failed(teacher: Teacher, name: str, y: Any, sigma: Any, cond: Any, error: Exception) -> str:
    """Name what makes a function fail when it is traced, by trying it otherwise."""
    lines = str(error).strip().splitlines() or [""]
    what = f"{type(error).__name__}: {lines[0]}"[:300]
    if lines[0].startswith("the network returned"):
        shapes = lines[0].replace("the network returned", "denoise returned")
        shapes = shapes.replace("x_t [", "y [").replace("keep that shape", "keep the shape of y")
        return f"{name}: {shapes}"
    at = f"for y {list(y.shape)}"
    if isinstance(error, jax.errors.JAXTypeError):
        return (
            f"{name}: denoise can't be traced ({what}); it must be a pure function of jax.numpy, "
            "without NumPy or branches on values"
        )
    if _works_mapped(teacher, y, sigma, cond):
        return (
            f"{name}: denoise failed {at} ({what}); it works on one example: {_UNBATCHED}, or "
            f"from_function(batched=False){_or_condition(cond)}"
        )
    if cond is not None:
        form = _form(cond)
        try:
            _traced(teacher, y, sigma, None)
        except Exception:  # neither with a condition nor without
            return (
                f"{name}: denoise failed {at} and conditions {form} ({what}); if it wants another "
                "form of them, give another law as cond (models.one_hot, models.uniform)"
            )
        return (
            f"{name}: denoise failed with conditions {form} and works without ({what}); set "
            "cond=None, or give a law whose draws have the form that it wants"
        )
    return (
        f"{name}: denoise failed {at}, sigma {list(sigma.shape)}, cond None ({what}); if the "
        "network wants a condition, say how they are drawn: cond=models.one_hot(10)"
    )


def _works_mapped(teacher: Teacher, y: Any, sigma: Any, cond: Any) -> bool:
    given = teacher.denoise
    function = given.net if isinstance(given, ProcessDenoiser) else given

    def mapped(*inputs: Any) -> Any:
        return jax.vmap(lambda *one: function(teacher.params, *one))(*inputs)

    try:
        return jax.eval_shape(mapped, y, sigma, cond).shape == y.shape
    except Exception:  # then it is something else
        return False


def _or_condition(cond: Any) -> str:
    return "" if cond is None else f"; or it wants another cond= than conditions {_form(cond)}"


def _form(tree: Any) -> str:
    """Types and shapes of a tree's leaves by path, in one line."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    forms = []
    for path, leaf in leaves:
        at = ".".join(trainable_lib.names(path))
        forms.append(f"{at + ' ' if at else ''}{leaf.dtype} {list(leaf.shape)}")
    return ", ".join(forms)


def _check_independence(
    denoise: Any, y: Any, sigma: Any, cond: Any, out: np.ndarray, name: str
) -> None:
    """Check that an example's output depends on itself alone, wherever it stands."""
    order = np.array([2, 0, 3, 1])

    permuted = denoise(*_pick((y, sigma, cond), order))
    if _differ(permuted, out[order]):
        raise ValueError(
            f"{name}: other outputs when the examples of a batch change places; each must depend "
            f"on its own y, sigma and condition ({_UNBATCHED}; or dropout is on, or a condition "
            "that isn't [batch, ...])"
        )
    first = np.array([0, 1, 0, 1])  # the first two as they were, in other company
    if _differ(denoise(*_pick((y, sigma, cond), first))[:2], out[:2]):
        raise ValueError(
            f"{name}: an example's output depends on the others of its batch; take the stored "
            "statistics of a batch norm (model.eval(), eqx.nn.inference_mode, train=False)"
        )


def _check_condition(
    teacher: Teacher, denoise: Any, y: Any, sigma: Any, cond: Any, out: np.ndarray, name: str
) -> None:
    """Check that the condition does something, if a law draws different ones."""
    if teacher.cond is None:
        return
    for seed in range(2, 6):
        other = teacher.cond(jax.random.key(seed), _BATCH)
        if np.any(denoise(y, sigma, other) != out):
            return
    if _other(cond, other):
        raise ValueError(
            f"{name}: the condition ({_form(cond)}) changes nothing; hand it to the network "
            "(call=lambda m, x, t, c: m(x, t, c)), or set cond=None"
        )


def _pick(tree: Any, places: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[places], tree)


def _other(cond: Any, other: Any) -> bool:
    return not all(jax.tree.leaves(jax.tree.map(np.array_equal, cond, other)))


def _differ(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.max(np.abs(a - b)) > _SAME * max(float(np.max(np.abs(b))), 1e-30))
