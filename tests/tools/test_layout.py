"""A compiler that is stopped, and what is read from XLA's dump of how it laid out memory."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from diffjax.tools import layout

# As libtpu writes it: an argument that the next state takes the place of, one that stays, what
# comes out anew, what lies in between, and memory on the chip itself ("color 1").
ASSIGNMENT = """\
BufferAssignment:
allocation 0: size 512, thread-local:
 value: <8 reduce_sum.14 @0> (size=512,offset=0): f32[]{:T(128)}
allocation 1: size 147456, parameter 20, shape |f32[3,3,32,32]| at ShapeIndex {}, maybe-live-out:
 value: <51265 param.109 @0> (size=147456,offset=0): f32[3,3,32,32]{3,2,1,0:T(8,128)}
allocation 2: size 36864, parameter 2, shape |f32[96,96]| at ShapeIndex {}:
allocation 3: size 1024, output shape is |(f32[8], f32[])|, maybe-live-out:
allocation 4: size 512, constant:
allocation 5045: size 9728, color 6, preallocated-temp:
allocation 5047: size 28099584, preallocated-temp:
allocation 5048: size 63050240, color 1, preallocated-temp:
"""


def test_sizes_of_a_buffer_assignment():
    arguments, outputs, aliased, temporaries = layout.sizes(ASSIGNMENT)
    assert arguments == 147456 + 36864
    assert outputs == 147456 + 1024
    assert aliased == 147456
    assert temporaries == 512 + 512 + 28099584


def dump(folder: Path) -> None:
    """A dump as it is when memory is laid out, and of another program beside it."""
    stem = "module_0003.jit_call.cl_933746096.after_optimizations"
    (folder / "module_0000.jit_call.cl_933746096.before_optimizations.txt").write_text("before")
    (folder / f"{stem}.txt").write_text("HloModule jit_call")
    (folder / f"{stem}-buffer-assignment.txt").write_text(ASSIGNMENT)
    (folder / f"{stem}-buffer-assignment-values.txt").write_text("values")
    (folder / f"{stem}_after_buffer_assignment.txt").write_text("HloModule jit_call")


def test_a_dump_is_read_once_its_last_file_is_there(tmp_path):
    assert layout.read(tmp_path) is None
    dump(tmp_path)
    last = next(tmp_path.glob("*_after_buffer_assignment.txt"))
    last.rename(tmp_path / "later")
    assert layout.read(tmp_path) is None
    (tmp_path / "later").rename(last)
    found = layout.read(tmp_path)
    assert found is not None
    assert found.hlo == "HloModule jit_call"
    assert found.arguments == 147456 + 36864


def dumping_compiler(module: str, process: Path) -> None:
    """Does what XLA does when asked to dump, and then goes on for too long."""
    flags = os.environ["XLA_FLAGS"]
    assert f"--xla_dump_hlo_module_re={module}" in flags
    assert "--xla_dump_hlo_as_text" in flags
    folder = re.search(r"--xla_dump_to=(\S+)", flags)
    assert folder is not None
    process.write_text(str(os.getpid()))
    dump(Path(folder[1]))
    time.sleep(600)


def lasting_compiler(beat: Path) -> None:
    """Goes on for too long, and shows that it does."""
    while True:
        beat.touch()
        time.sleep(0.1)


def refusing_compiler() -> tuple[None, str]:
    return None, "RESOURCE_EXHAUSTED"


def crashing_compiler() -> None:
    os._exit(3)


def test_a_compiler_is_stopped_once_memory_is_laid_out(tmp_path):
    process = tmp_path / "process"
    before = dict(os.environ)
    found = layout.stopped_early(dumping_compiler, "jit_call", process, module="jit_call")
    assert isinstance(found, layout.Layout)
    assert found.temporaries > 28099584
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.read_text()), 0)
    assert dict(os.environ) == before


def test_a_compiler_that_ends_before_that():
    found = layout.stopped_early(refusing_compiler, module="jit_call")
    assert found == (None, "RESOURCE_EXHAUSTED")
    with pytest.raises(RuntimeError, match="ended with code 3"):
        layout.stopped_early(crashing_compiler, module="jit_call")


def test_a_compiler_ends_with_who_waits_for_it(tmp_path):
    beat = tmp_path / "beat"
    code = (
        "from pathlib import Path\n"
        "from diffjax.tools import layout\n"
        "from tests.tools import test_layout\n"
        "if __name__ == '__main__':\n"
        f"    path = Path({str(beat)!r})\n"
        "    layout.stopped_early(test_layout.lasting_compiler, path, module='m')\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    waiting = subprocess.Popen([sys.executable, str(script)], env=environment)
    try:
        assert wait_until(beat.exists)
    finally:
        waiting.send_signal(signal.SIGKILL)
        waiting.wait()
    assert wait_until(lambda: time.time() - beat.stat().st_mtime > 3)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether a condition came true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.1)
    return condition()
