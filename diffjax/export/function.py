"""A student as one function of arrays: latents, and a class or condition, to samples."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.export import source as source_lib
from diffjax.export.source import Source
from diffjax.interfaces import Array, Params
from diffjax.models import conditions, trainable
from diffjax.models import teacher as teacher_lib
from diffjax.models.records import RecordGenerator
from diffjax.runs import networks, students
from diffjax.runs.user_function import RefusedError

UNIT_NORMAL = "independent draws of N(0, 1)"


@dataclasses.dataclass(frozen=True)
class Input:
    """Array that the function takes.

    Attributes:
      name: of the array, with its place in a tree of several: "z", "z/noise/4", "class".
      shape: of one example.
      dtype: of the array.
      holds: what is in it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    holds: str


@dataclasses.dataclass(frozen=True)
class Function:
    """Student as a function of arrays.

    Attributes:
      call: (z) -> samples [B, *shape], or (z, class or condition) -> samples; float32, in the
        teacher's units.
      forms: of the arguments, trees of `jax.ShapeDtypeStruct` without their batch.
      inputs: the arrays of the arguments, in the order of the trees' leaves.
      shape: of a sample.
    """

    call: Callable[..., Array]
    forms: tuple[Any, ...]
    inputs: tuple[Input, ...]
    shape: tuple[int, ...]

    def arguments(self, batch: Any) -> tuple[Any, ...]:
        """Shapes and types of the arguments.

        Args:
          batch: size of the batch, a number or a symbol of `jax.export`.
        """
        return tuple(
            jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape), leaf.dtype), form)
            for form in self.forms
        )


def of(source: Source, params: Params) -> Function:
    """Make the function of a student.

    Args:
      source: the student.
      params: of it, which become constants of the function.

    Returns:
      The function. A class is an int32 in [0, number of classes).

    Raises:
      RefusedError: if it is no student, or takes something that a file can't hold.
    """
    check_is_student(source)
    model = source.network.model
    generator: Any = model
    latent: Any = conditions.normal(model.shape)
    if isinstance(model, RecordGenerator):
        latent = model.latent
    else:
        assert source.card.init_sigma is not None
        generator = students.of_card(model, source.card.init_sigma, source.card.sigmas)
        latent = getattr(generator, "latent", latent)
    cond = _condition_law(source)
    of_z = _form(latent, f"the latents of {model_name(source)}")
    forms, inputs = [of_z], _inputs("z", of_z, _holds(latent))
    classes = conditions.classes_of(cond)[0]
    if classes:
        of_class = jax.ShapeDtypeStruct((), jnp.int32)
        forms.append(of_class)
        inputs += _inputs("class", of_class, f"class, 0 to {classes - 1}")
    elif cond is not None:
        form = _form(cond, f"the condition of {model_name(source)}")
        forms.append(form)
        inputs += _inputs("condition", form, "as the teacher takes it")

    def sample(z: Any, *given: Any) -> Array:
        labels = given[0] if given else None
        if classes:
            labels = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
        return generator(params, z, labels=labels).astype(jnp.float32)

    return Function(sample, tuple(forms), tuple(inputs), tuple(model.shape))


def check_is_student(source: Source) -> None:
    """Check that a network makes a sample in one evaluation, or a few.

    Args:
      source: the network.

    Raises:
      RefusedError: if it doesn't, or doesn't say.
    """
    if source.is_student:
        return
    given = f"{source_lib.FIELD}={source.network.source}"
    if source.card.kind:
        raise RefusedError(
            f"{given} is {source.card.title}, which takes many evaluations a sample: this format "
            "holds a student; name one, or export a denoiser as safetensors or edm"
        )
    raise RefusedError(
        f"{given} doesn't say whether it is a student: if so, name the noise level at which it is "
        "asked, such as SiD's --init_sigma=2.5"
    )


def untraceable(error: Exception, batch_size: int | None) -> RefusedError:
    """Make the error of a student that can't be traced.

    Args:
      error: that tracing ended with.
      batch_size: of each call; None for a free one.
    """
    reason = one_line(error)
    if batch_size is None:
        return RefusedError(
            f"the student can't be traced with a batch of any size ({reason}): let its function "
            "take sizes from x.shape as they come, or give one size, --batch_size=16"
        )
    return RefusedError(f"the student can't be traced ({reason})")


def one_line(error: Exception) -> str:
    """Say what an error of others is, its kind and its first line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def model_name(source: Source) -> str:
    """Name a network for errors: a user's by its function, ours by its folder."""
    return getattr(source.network.model, "name", "") or source.network.source


def _condition_law(source: Source) -> Any:
    """Law of the conditions, which a user's student has from its teacher."""
    if not isinstance(source.network.model, RecordGenerator):
        return source.network.model.cond
    origin = source.network.origin
    assert origin is not None
    return networks.teacher(origin.teacher, field=f"{source_lib.FIELD}: teacher").model.cond


def _form(law: Any, what: str) -> Any:
    """Tree of shapes and types of what a law draws, without the batch."""
    form = teacher_lib.drawn(law, what, "it must be a law")
    if other := _other_node(form):
        raise RefusedError(
            f"{what} are held in a {other}, which other programs don't know: a file takes dicts, "
            "lists and tuples of arrays"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(form):
        if not isinstance(leaf.dtype, np.dtype):
            name = "/".join(trainable.names(path))
            raise RefusedError(
                f"{what} hold random keys ({name or leaf.dtype}), which a file can't take: have "
                "the law draw arrays of numbers"
            )
    return form


def _other_node(form: Any) -> str:
    """Name the type of a tree's node that isn't Python's own; "" if there is none."""
    if form is None or isinstance(form, jax.ShapeDtypeStruct):
        return ""
    if type(form) not in (dict, list, tuple):
        return type(form).__name__
    children = form.values() if isinstance(form, dict) else form
    return next(filter(None, map(_other_node, children)), "")


def _inputs(name: str, form: Any, holds: str) -> list[Input]:
    return [
        Input(
            "/".join((name, *trainable.names(path))),
            tuple(leaf.shape),
            np.dtype(leaf.dtype).name,
            holds,
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(form)
    ]


def _holds(latent: Any) -> str:
    if conditions.is_unit_normal(latent):
        return UNIT_NORMAL
    return f"latents as {getattr(latent, '__name__', type(latent).__name__)} draws them"
