"""Programs that are compiled by another thread."""

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from diffjax.training import background_compilation
from tests.support.processes import PATIENCE, ROOT


@pytest.fixture(autouse=True)
def _idle():
    """Nothing is under way of a run in an earlier test, which ended before its update was there."""
    for call in list(background_compilation._under_way):
        assert call.is_compiled(within=PATIENCE)


class Function:
    """Something to compile, whose compiler waits for leave and may fail."""

    def __init__(self, error=None):
        self.leave, self.error, self.thread = threading.Event(), error, None

    def lower(self, *arguments):
        self.arguments, self.thread = arguments, threading.current_thread()
        return self

    def compile(self):
        assert self.leave.wait(PATIENCE)
        if self.error:
            raise self.error
        return lambda *arguments: ("called", *arguments)


def test_the_first_call_waits_for_the_program():
    function = Function()
    call = background_compilation.BackgroundCompiled(function, "shape")
    assert background_compilation.is_compiling()
    assert not call.is_compiled(within=0.01)
    function.leave.set()
    assert call("array", 3) == ("called", "array", 3)
    assert call.is_compiled(within=0.0)
    assert not background_compilation.is_compiling()
    assert function.arguments == ("shape",)
    assert function.thread is not threading.current_thread()


def test_whoever_calls_meets_the_compiler_s_error():
    function = Function(ValueError("refused"))
    call = background_compilation.BackgroundCompiled(function)
    function.leave.set()
    assert call.is_compiled(within=PATIENCE)
    assert not background_compilation.is_compiling()
    for _ in range(2):
        with pytest.raises(ValueError, match="refused"):
            call(1)


def test_what_jax_compiles_from_shapes():
    @jax.jit
    def scaled(x, key, count):
        return x * count + jax.random.normal(key, x.shape)

    key, x = jax.random.key(0), jnp.arange(3.0)
    call = background_compilation.BackgroundCompiled(
        scaled, jax.ShapeDtypeStruct(x.shape, x.dtype), key, 1
    )
    for count in (1, 5):
        assert (call(x, key, count) == scaled(x, key, count)).all()


ENDS_EARLY = """
import time
from diffjax.training import background_compilation
class Slow:
    def lower(self):
        time.sleep(1.0)
        print("compiled", flush=True)
        return self
    def compile(self):
        return print
background_compilation.BackgroundCompiled(Slow())
print("over", flush=True)
"""


def test_python_ends_after_the_compiler():
    done = subprocess.run(
        [sys.executable, "-c", ENDS_EARLY], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "over\ncompiled\n"
