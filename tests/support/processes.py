"""Several processes of one run, on this host, as a list of hosts would start them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support import compiling

ROOT = Path(__file__).parents[2]
PATIENCE = 1200.0  # seconds: a hang is to end, a slow machine is no fault


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Processes:
    """What was started; each writes to a file of its own.

    Attributes:
      each: the processes, by index.
    """

    def __init__(
        self, command: Sequence[str], *, logs: Path, count: int = 2, devices: int = 1, **environment
    ):
        address = f"127.0.0.1:{free_port()}"
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = [logs / f"{index}.txt" for index in range(count)]
        self.each = []
        for index, log in enumerate(self._logs):
            hosts = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
            }
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, *command],
                    cwd=ROOT,
                    env={
                        **os.environ,
                        "JAX_PLATFORMS": "cpu",
                        "XLA_FLAGS": compiling.flags(devices),
                        **(hosts if not environment else {}),
                        **{k: v.format(index=index) for k, v in environment.items()},
                    },
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
            self.each.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.each:
            process.kill()
            process.wait()

    def said(self, index):
        return self._logs[index].read_text(errors="replace")

    def wait(self, seconds=PATIENCE):
        """Exit codes, once all have ended."""
        deadline = time.monotonic() + seconds
        return [process.wait(max(0.0, deadline - time.monotonic())) for process in self.each]

    def wait_for_lines(self, path, count, seconds=PATIENCE):
        """Waits until a file has so many lines."""
        deadline = time.monotonic() + seconds
        while not path.exists() or path.read_text().count("\n") < count:
            codes = [process.poll() for process in self.each]
            assert codes == [None] * len(codes), "\n".join(map(self.said, range(len(codes))))
            assert time.monotonic() < deadline, path
            time.sleep(0.02)
