"""Teachers: whatever denoises, as plain functions in a frozen record."""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models import trainable as trainable_lib

Cond = Any  # a pytree of [B, ...], or None
CondLaw = Callable[[PRNGKey, int], Cond]
Denoise = Callable[[Params, Array, Array, Cond], Array]

_NEEDED = ("denoise", "params", "shape", "sigma_data", "sigma_min", "sigma_max")


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """Denoiser D(y; σ) ≈ E[x₀ | x₀ + σ n = y] in the data's own units, and what it is right for.

    Any object with these names will do where a teacher is asked for; those with a default may be
    absent.

    Attributes:
      denoise: (params, y [B, *shape], sigma [B] float32, cond) -> [B, *shape] float32. Pure.
      params: pytree. Its inexact arrays are trained, cast and sharded; all else is carried along.
      shape: of one example: (2,), (16000,), (32, 32, 1), (4, 64, 64). No axis has a meaning.
      sigma_data: standard deviation of the data, in the teacher's units. Published settings are
        multiplied by sigma_data/0.5.
      sigma_min: least noise level at which the teacher is right.
      sigma_max: greatest such noise level. Noise levels are clipped to the two, the sampler's too.
      cond: law of the conditions, (key, batch) -> pytree of [batch, ...]; None: unconditional.
      process: the process that it was trained on, for model cards, samplers and times; None:
        EDM's, which `denoise` has in any case.
      gain: σ -> output of `denoise` per unit of the network's output; None: sigma_data, as EDM's
        c_out saturates.
      trainable: (path, leaf) -> whether the leaf is trained; False for Fourier features and the
        like. What an adapter put below "frozen" isn't trained whatever this says.
      preview: [N, *shape] -> picture; None: by rank.
      null: condition of one example that stands for none, as the teacher has learnt it, a pytree as
        the law's draws are without the batch; None: it has learnt none. Guidance asks for it.
    """

    denoise: Denoise
    params: Params
    shape: tuple[int, ...]
    sigma_data: float
    sigma_min: float
    sigma_max: float
    cond: CondLaw | None = None
    process: Any = None
    gain: Callable[[float], float] | None = None
    trainable: trainable_lib.Trainable = trainable_lib.not_frozen
    preview: Callable[[Array], Any] | None = None
    null: Any = None


def checked(obj: Any, name: str) -> Teacher:
    """Make a `Teacher` of what a user's function returned, or say what is wrong with it.

    Nothing is computed: the law of conditions is traced, `denoise` isn't called.

    Args:
      obj: any object with the names of `Teacher`.
      name: where it comes from, such as "my_teacher:sky", for the message.

    Returns:
      A `Teacher` whose shape is a tuple of ints and whose noise levels are floats.

    Raises:
      ValueError: in one line, naming the field.
    """
    check_names(obj, _NEEDED, name, "diffjax.models.Teacher")
    fields = fields_of(obj, Teacher)
    fields["shape"] = shape_of_example(fields["shape"], name)
    for each in ("sigma_data", "sigma_min", "sigma_max"):
        fields[each] = positive(fields[each], f"{name}: {each}")
    if fields["sigma_min"] >= fields["sigma_max"]:
        raise ValueError(
            f"{name}: sigma_min={fields['sigma_min']:g} must be less than "
            f"sigma_max={fields['sigma_max']:g}"
        )
    optional = ("cond", "gain", "preview")
    check_callables(fields, ("denoise", "trainable"), optional, name)
    teacher = Teacher(**fields)
    check_params(teacher.params, teacher.trainable, name)
    if (gain := gain_of(teacher)) is not None:
        for level in (teacher.sigma_min, teacher.sigma_max):
            try:
                value = gain(level)
            except Exception as error:  # a user's function: anything
                raise ValueError(f"{name}: gain({level:g}) failed ({_one_line(error)})") from error
            positive(value, f"{name}: gain({level:g})")
    if teacher.cond is not None:
        drawn(teacher.cond, f"{name}: cond", "set cond=None for an unconditional teacher")
    if teacher.null is not None:
        if teacher.cond is None:
            raise ValueError(
                f"{name}: null stands for no condition, and cond is None: set cond too, or leave "
                "null out"
            )
        teacher = dataclasses.replace(
            teacher, null=null_condition(teacher.cond, teacher.null, name)
        )
    return teacher


def gain_of(teacher: Teacher) -> Callable[[float], float] | None:
    """Find the gain of a teacher: its own, or that of its `denoise`; None where neither has one.

    Args:
      teacher: any.
    """
    return teacher.gain or getattr(teacher.denoise, "gain", None)


def check_names(obj: Any, needed: tuple[str, ...], name: str, record: str) -> None:
    """Check that an object has the names of a record.

    Args:
      obj: any object.
      needed: names that it must have.
      name: whose it is, for the message.
      record: full name of the record, for the message.

    Raises:
      ValueError: naming those that are missing.
    """
    missing = [each for each in needed if not hasattr(obj, each)]
    if missing:
        without = "" if len(missing) == len(needed) else f" without {', '.join(missing)}"
        raise ValueError(
            f"{name} returned {type(obj).__name__}{without}; it must return {', '.join(needed)} "
            f"({record})"
        )


def fields_of(obj: Any, record: Any) -> dict[str, Any]:
    """Collect what an object has of a record's fields, by name.

    Args:
      obj: any object.
      record: a dataclass.
    """
    names = [field.name for field in dataclasses.fields(record)]
    return {each: getattr(obj, each) for each in names if hasattr(obj, each)}


def shape_of_example(shape: Any, name: str) -> tuple[int, ...]:
    """Make a tuple of ints of a shape.

    Args:
      shape: sequence of positive integers, at least one.
      name: whose shape it is, for the message.

    Raises:
      ValueError: if it is anything else.
    """
    if isinstance(shape, tuple | list) and shape:
        axes = [each for each in shape if _is_integer(each) and each > 0]
        if len(axes) == len(shape):
            return tuple(int(each) for each in axes)
    raise ValueError(
        f"{name}: shape={shape!r} must be a tuple of positive integers, the shape of one example "
        "without the batch, such as (32, 32, 3) or (2,)"
    )


def positive(value: Any, name: str) -> float:
    """Make a float of a positive finite number.

    Args:
      value: a number, or an array of one.
      name: of the field, for the message.

    Raises:
      ValueError: if it is anything else.
    """
    shaped = getattr(value, "shape", None)
    numeric = isinstance(value, numbers.Real) if shaped is None else shaped in ((), (1,))
    if numeric and not isinstance(value, bool):
        try:
            number = float(value.reshape(()) if shaped else value)
        except (TypeError, ValueError):
            number = math.nan
        if 0 < number < math.inf:
            return number
    shown = f"{value!r}" if shaped in (None, (), (1,)) else f"array of shape {shaped}"
    raise ValueError(f"{name}={shown} must be a positive finite number")


def check_callables(
    fields: dict[str, Any], needed: tuple[str, ...], optional: tuple[str, ...], name: str
) -> None:
    """Check that fields are functions.

    Args:
      fields: values by name; absent ones have a default that is right.
      needed: names of those that must be functions.
      optional: names of those that may also be None.
      name: whose fields they are, for the message.

    Raises:
      ValueError: naming the field that isn't.
    """
    for each in (*needed, *optional):
        if each not in fields or callable(fields[each]):
            continue
        if each in optional and fields[each] is None:
            continue
        or_none = " or None" if each in optional else ""
        kind = type(fields[each]).__name__
        raise ValueError(f"{name}: {each} is of type {kind}; it must be a function{or_none}")


def check_params(params: Params, trainable: trainable_lib.Trainable, name: str) -> None:
    """Check that there is something to train and to store, and that `trainable` can be asked.

    Args:
      params: pytree.
      trainable: (path, leaf) -> bool.
      name: whose they are, for the message.

    Raises:
      ValueError: if no leaf is an inexact array, if complex numbers would be trained, if
        `trainable` fails, or if a checkpoint doesn't tell two arrays apart by their names.
    """
    if not any(trainable_lib.is_inexact_array(leaf) for leaf in jax.tree.leaves(params)):
        kind = type(params).__name__
        raise ValueError(
            f"{name}: params ({kind}) holds no array of floating-point numbers; it must be a "
            "pytree of arrays (of an Equinox or NNX model: the second that from_equinox or "
            "from_nnx gives)"
        )
    try:
        trained, _ = trainable_lib.split(params, trainable)
    except Exception as error:  # a user's function: anything
        raise ValueError(f"{name}: trainable(path, leaf) failed ({_one_line(error)})") from error
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                f"{name}: params {'/'.join(trainable_lib.names(path))} is {leaf.dtype}, and real "
                "numbers are trained: keep its real and its imaginary part as two arrays, or put "
                'it below "frozen"'
            )
    _check_stored_names(params, name)


def _check_stored_names(params: Params, name: str) -> None:
    """Check that no two arrays have one name in a checkpoint, of which one would be lost."""
    seen: dict[str, trainable_lib.Path] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct) or not path:
            continue
        keys = trainable_lib.names(path)
        stored = ".".join(keys).rstrip("/")  # as Orbax has it
        if not stored:
            raise ValueError(
                f"{name}: params {keys[0]!r} has no name that a checkpoint could have; rename it"
            )
        if stored in seen:
            raise ValueError(
                f"{name}: params {seen[stored]} and {keys} would be one array in a checkpoint, "
                f"{stored!r}; rename one of them"
            )
        seen[stored] = keys


def drawn(law: Callable[[PRNGKey, int], Any], name: str, remedy: str) -> Any:
    """Trace what a law draws.

    Args:
      law: (key, batch) -> pytree of [batch, ...].
      name: of the law, for the message.
      remedy: what to do if it draws nothing, for the message.

    Returns:
      Pytree of `jax.ShapeDtypeStruct`s [*leaf], without the axis of the batch.

    Raises:
      ValueError: if it fails, or gives no array, or one without an axis of the batch, or two whose
        names are one where paths are written with slashes, as in files of samples and exports.
    """
    batch = 3
    try:
        tree = jax.eval_shape(lambda key: law(key, batch), jax.random.key(0))
    except Exception as error:  # a user's function: anything
        raise ValueError(f"{name}(key, {batch}) failed ({_one_line(error)})") from error
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"{name}(key, {batch}) gave no array; {remedy}")
    seen: set[str] = set()
    for path, leaf in leaves:
        keys = trainable_lib.names(path)
        at = "".join(f"[{each!r}]" for each in keys)
        if leaf.shape[:1] != (batch,):
            raise ValueError(
                f"{name}(key, {batch}){at} has shape {list(leaf.shape)}; its first axis must be "
                f"the batch, {batch}"
            )
        if (written := "/".join(keys)) in seen:
            raise ValueError(
                f"{name}(key, {batch}){at} has the name of another array, {written!r}, in files of "
                "samples; rename one of them"
            )
        seen.add(written)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def null_condition(law: CondLaw, null: Any, name: str) -> Any:
    """Make arrays of the condition that stands for none.

    Args:
      law: of conditions.
      null: condition of one example.
      name: whose it is, for the message.

    Returns:
      Pytree of NumPy arrays of the law's types, without the axis of the batch.

    Raises:
      ValueError: if it isn't of the form of what the law draws, or holds NaN.
    """
    form = drawn(law, f"{name}: cond", "it must be conditional")
    given, wanted = (str(jax.tree.structure(tree)) for tree in (null, form))
    if given != wanted:
        raise ValueError(
            f"{name}: null is of the form {given}, the condition of {wanted}; give the condition "
            "of one example that stands for none"
        )

    def fitted(path: Any, like: jax.ShapeDtypeStruct, leaf: Any) -> np.ndarray:
        value = np.asarray(leaf)
        at = "".join(f"[{each!r}]" for each in trainable_lib.names(path))
        if value.shape not in (like.shape, (1, *like.shape)):
            raise ValueError(
                f"{name}: null{at} has shape {list(value.shape)}, one example's condition "
                f"{list(like.shape)}"
            )
        cast = value.reshape(like.shape).astype(like.dtype)
        if jnp.issubdtype(like.dtype, jnp.integer) and not np.array_equal(
            cast, value.reshape(like.shape)
        ):
            raise ValueError(f"{name}: null{at}={leaf!r} must be of {like.dtype}")
        if jnp.issubdtype(like.dtype, jnp.floating) and np.isnan(cast).any():
            raise ValueError(f"{name}: null{at} holds NaN, with which all that is guided is NaN")
        return cast

    return jax.tree_util.tree_map_with_path(fitted, form, null)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]
