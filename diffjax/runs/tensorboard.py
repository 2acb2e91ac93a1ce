"""TensorBoard's event files, written at once and by nobody but the caller.

tensorboardX makes the records; its own writer has a thread, which ends when the disk is full and
lets the program wait for it for ever.
"""

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from diffjax.files import writing


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Let an import believe that PyTorch isn't installed, unless it is imported already."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # so importing it fails
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


# tensorboardX imports it where it can, for a type's name alone, which takes seconds.
with _without_torch():
    from tensorboardX import summary
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c


class EventWriter:
    """Writer of one new event file."""

    def __init__(self, folder: Path, *, purge_step: int) -> None:
        """Make the file.

        Args:
          folder: for event files; made if needed.
          purge_step: TensorBoard is to forget what earlier files say of this and later steps.

        Raises:
          OSError: if it can't be written to.
        """
        path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        with writing.explained(path):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=session, step=purge_step))

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Write one number."""
        self._write(event_pb2.Event(summary=summary.scalar(name, value), step=step))

    def add_image(self, name: str, picture: np.ndarray, step: int) -> None:
        """Write one picture, [H, W, C] uint8."""
        image = summary.image(name, picture, dataformats="HWC")
        self._write(event_pb2.Event(summary=image, step=step))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        checks = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
        writing.append(self._file, length + checks[0] + data + checks[1])
