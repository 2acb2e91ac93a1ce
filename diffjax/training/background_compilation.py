"""Compilation in a thread of its own, while another does the work before the first call."""

import atexit
import concurrent.futures
import threading
from typing import Any, Protocol

_under_way: set["BackgroundCompiled"] = set()


class Compilable(Protocol):
    """A function that is compiled in two steps, as `jax.jit` makes it."""

    def __call__(self, *arguments: Any) -> Any:
        """Call it, compiled first if need be."""

    def lower(self, *arguments: Any) -> Any:
        """Trace the function; the result's `compile` makes a program, which can be called."""


class BackgroundCompiled:
    """A function that is being compiled; the first call waits for it."""

    def __init__(self, function: Compilable, *arguments: Any) -> None:
        """Begin.

        Args:
          function: what to compile.
          *arguments: what it will be called with, or shapes that say where arrays lie.
        """
        self._program: concurrent.futures.Future[Any] = concurrent.futures.Future()
        # A daemon, so that Python's end comes to `atexit`, where whoever is in a hurry may leave.
        thread = threading.Thread(target=self._compile, args=(function, arguments), daemon=True)
        atexit.register(thread.join)  # a compiler crashes when Python goes away under it
        _under_way.add(self)
        thread.start()

    def _compile(self, function: Compilable, arguments: tuple[Any, ...]) -> None:
        try:
            program = function.lower(*arguments).compile()
        except BaseException as error:  # the caller's
            _under_way.discard(self)
            self._program.set_exception(error)
        else:
            _under_way.discard(self)
            self._program.set_result(program)

    def is_compiled(self, within: float) -> bool:
        """Wait so many seconds at most; True also where it failed, which calling it tells."""
        concurrent.futures.wait([self._program], timeout=within)
        return self._program.done()

    def __call__(self, *arguments: Any) -> Any:
        """Call the program.

        Raises:
          Exception: what compiling raised.
        """
        return self._program.result()(*arguments)


def is_compiling() -> bool:
    """Tell whether a program is still being made, for which Python would wait before it ends."""
    return bool(_under_way)
