"""XLA's compiler for TPUs, stopped where memory is laid out and before it writes the program.

Writing the program takes most of the compiling, since each of thousands of fusions is written by
itself. By then the collectives and all memory but the program's are settled, and XLA's dump has
them. JAX offers no way to stop there, so that the compiler runs in a process that is ended.
"""

import dataclasses
import multiprocessing
import os
import re
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax

# A device's main memory is "color 0", which isn't written; others are on the chip.
_ALLOCATION = re.compile(r"allocation \d+: size (\d+), (?!.*color [1-9])(.*)")
_STEM = "*.after_optimizations"
_SECONDS_BETWEEN_LOOKS = 1.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """Layout of one device's main memory in bytes, and the program as far as it is known.

    Attributes:
      arguments: of the program.
      outputs: of the program, those that take the place of arguments included.
      aliased: outputs that take the place of arguments.
      temporaries: everything in between.
      hlo: text of the optimised module.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    hlo: str


def stopped_early(compile_: Callable[..., Any], *arguments: Any, module: str) -> Layout | Any:
    """Call a function that compiles, in another process, up to where memory is laid out.

    Args:
      compile_: a function of a module, called there with `arguments`; all of it can be pickled.
      *arguments: positional arguments of `compile_`.
      module: of the computation to watch for, such as "jit_call".

    Returns:
      The layout, or what the function returned if it did so before that, or raised.

    Raises:
      RuntimeError: if the process ended by itself.
    """
    spawning = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="diffjax-layout-") as folder:
        receiver, sender = spawning.Pipe(duplex=False)
        process = spawning.Process(target=_dump, args=(folder, module, sender, compile_, arguments))
        process.start()
        sender.close()
        try:
            while not receiver.poll(_SECONDS_BETWEEN_LOOKS):
                layout = read(Path(folder))
                if layout:
                    return layout
            return receiver.recv()
        except EOFError as error:
            process.join()
            raise RuntimeError(
                f"the compiler's process ended with code {process.exitcode}; what it said stands "
                "above."
            ) from error
        finally:
            process.kill()
            process.join()


def read(folder: Path) -> Layout | None:
    """Read XLA's dump in a folder; None while memory isn't laid out."""
    # The last file that is written before the program.
    if not any(folder.glob(f"{_STEM}_after_buffer_assignment.txt")):
        return None
    (assignment,), (program,) = (
        list(folder.glob(f"{_STEM}{ending}.txt")) for ending in ("-buffer-assignment", "")
    )
    arguments, outputs, aliased, temporaries = sizes(assignment.read_text())
    return Layout(arguments, outputs, aliased, temporaries, program.read_text())


def sizes(assignment: str) -> tuple[int, int, int, int]:
    """Sum the allocations of a buffer assignment by their use.

    Args:
      assignment: text that XLA dumps, a line an allocation among others.

    Returns:
      Bytes of arguments, outputs, outputs in arguments' place, and temporaries.
    """
    arguments = outputs = aliased = temporaries = 0
    for line in assignment.splitlines():
        if match := _ALLOCATION.match(line):
            size, what = int(match[1]), match[2]
            is_argument, is_output = "parameter " in what, "maybe-live-out" in what
            arguments += size * is_argument
            outputs += size * is_output
            aliased += size * (is_argument and is_output)
            temporaries += size * (not is_argument and not is_output)
    return arguments, outputs, aliased, temporaries


def _dump(
    folder: str,
    module: str,
    sender: Connection,
    compile_: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re={module}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    jax.config.update("jax_platforms", "cpu")  # leaves a TPU or GPU that is there alone
    sender.send(compile_(*arguments))


def _end_with_parent() -> None:
    """End this process with its parent, lest it compile on for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
