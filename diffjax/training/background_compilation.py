"""Functions that one thread compiles while another does what must come before their first call."""

import atexit
import concurrent.futures
import threading
from typing import Any, Protocol

_under_way: set["BackgroundCompiled"] = set()


class Compilable(Protocol):
    """What `jax.jit` returns, and anything that is compiled in the same two steps."""

    def __call__(self, *arguments: Any) -> Any:
        """Compiles what isn't, and calls it."""

    def lower(self, *arguments: Any) -> Any:
        """Traces the function; the result's `compile` makes a program, which can be called."""


class BackgroundCompiled:
    """A function that is being compiled; the first call waits for it."""

    def __init__(self, function: Compilable, *arguments: Any) -> None:
        """Begins.

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
        """Waits so many seconds at most; True also where it failed, which calling it tells."""
        concurrent.futures.wait([self._program], timeout=within)
        return self._program.done()

    def __call__(self, *arguments: Any) -> Any:
        """Calls the program.

        Raises:
          Exception: what compiling raised.
        """
        return self._program.result()(*arguments)


def is_compiling() -> bool:
    """Whether a program is still being made, for which Python would wait before it ends."""
    return bool(_under_way)
