"""A student as a StableHLO file, which `jax.export` opens with nothing of diffjax."""

from pathlib import Path

import jax
from jax import export

from diffjax.export import packages
from diffjax.export.function import Function, untraceable
from diffjax.files import writing

PLATFORMS = ("cpu", "cuda", "tpu")


def check_installed() -> None:
    """Check that what writes the file is installed.

    Raises:
      RefusedError: if it isn't.
    """
    packages.check("--format=stablehlo", "flatbuffers", install="flatbuffers")


def write(path: Path, function: Function, *, batch_size: int | None = None) -> None:
    """Write a student, its weights inside, for `jax.export.deserialize` on any platform.

    Products are taken in float32 on each platform, so that they give the same samples.

    Args:
      path: of the file.
      function: the student.
      batch_size: of each call; None leaves it free.

    Raises:
      RefusedError: if a user's function can't be traced so.
      OSError: if the file can't be written.
    """
    batch = batch_size or export.symbolic_shape("b")[0]
    try:
        with jax.default_matmul_precision("highest"):
            made = export.export(jax.jit(function.call), platforms=PLATFORMS)(
                *function.arguments(batch)
            )
    except Exception as error:  # a user's function may fail in any way
        raise untraceable(error, batch_size) from error
    content = made.serialize()
    with writing.replacing(path) as partial:
        partial.write_bytes(content)
