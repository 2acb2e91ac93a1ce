"""A student as an ONNX file, by jax2onnx."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax import export
from jax.extend.core import jaxpr_as_fun

from diffjax.export import packages
from diffjax.export.function import Function, one_line, untraceable
from diffjax.files import writing
from diffjax.runs.user_function import RefusedError

OPSET = 23


def check_installed() -> None:
    """Check that what writes the file is installed.

    Raises:
      RefusedError: if it isn't.
    """
    packages.check("--format=onnx", "jax2onnx", install="diffjax[onnx]")


def write(path: Path, function: Function, *, batch_size: int | None = None) -> None:
    """Write a student, its weights inside; a tree of latents is one input an array.

    Args:
      path: of the file.
      function: the student.
      batch_size: of each call; None leaves it free.

    Raises:
      RefusedError: if a user's function can't be traced so, or does what ONNX or jax2onnx doesn't
        know.
      OSError: if the file can't be written.
    """
    from jax2onnx import to_onnx
    from onnx import checker

    # It warns of each shape whose type nothing asks for.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    batch = batch_size or export.symbolic_shape("B")[0]
    leaves, tree = jax.tree.flatten(function.arguments(batch))

    def flat(*arrays: Any) -> Any:
        return function.call(*jax.tree.unflatten(tree, arrays))

    # Traced first: where jax2onnx traces, functions of jnp are its own, and take less.
    try:
        with _of_one_platform():
            traced = jax.make_jaxpr(flat)(*leaves)
    except Exception as error:  # a user's function may fail in any way
        raise untraceable(error, batch_size) from error
    try:
        model = to_onnx(
            lambda *arrays: jaxpr_as_fun(traced)(*arrays)[0],
            inputs=leaves,
            input_names=[each.name for each in function.inputs],
            output_names=["samples"],
            model_name="sample",
            opset=OPSET,
        )
        # It writes what no runtime opens, such as products of arrays of two types.
        checker.check_model(model, full_check=True)
        content = model.SerializeToString()
    except Exception as error:  # what it doesn't know, it tells in any way
        raise RefusedError(
            f"jax2onnx can't write this student ({one_line(error)}): --format=stablehlo holds all "
            "that JAX does" + (", or try one size, --batch_size=16" if batch_size is None else "")
        ) from error
    with writing.replacing(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def _of_one_platform() -> Iterator[None]:
    """Context in which what differs by platform is traced for none: ONNX has no such choice."""
    chosen = jax.lax.platform_dependent

    def default_alone(
        *args: Any, default: Callable[..., Any] | None = None, **by_platform: Callable[..., Any]
    ) -> Any:
        return (default or by_platform["cpu"])(*args)

    jax.lax.platform_dependent = default_alone
    try:
        yield
    finally:
        jax.lax.platform_dependent = chosen
