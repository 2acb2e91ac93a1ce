"""Training checkpoints to resume from.

Training checkpoints are folders named by their step. Each appears under its final name only when
complete, so a killed process leaves nothing that looks like a checkpoint and isn't one. Paths are
local or mounted; object stores want a mount.

Orbax's AsyncCheckpointer writes them, and not its CheckpointManager (0.12.8), which was tried: if
one process of several can't write, no call of the manager tells any process before timeouts of 20
minutes, and then without the cause; its `save` asks JAX about SIGTERM by the step, whereupon the
run's own question can miss the signal; and a kill while it deletes leaves half a `<step>/`.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from diffjax.distributed import agreement
from diffjax.files import digests, orbax_support, writing
from diffjax.files.orbax_support import PathLike, SaveError
from diffjax.training import stored_trees


class Checkpointer:
    """Saved training state, a few newest steps of it, written without holding up training.

    A checkpoint is `<step>/`, in which `state/` and `meta/` are Orbax's and `digests.json` tells
    damage. It appears under that name only when whole, so a process killed while it saves leaves
    the one before as the newest. All processes of a run call every method, on a directory that
    they share; the main one reports.

    Attributes:
      directory: where the checkpoints are.
      report: shows a line about a damaged checkpoint or a failed save.
    """

    def __init__(
        self,
        directory: PathLike,
        *,
        keep: int = 3,
        read_only: bool = False,
        report: Callable[[str], None] = print,
    ) -> None:
        """Open a folder of checkpoints, and make it if needed.

        Args:
          directory: the folder.
          keep: how many checkpoints to keep, the newest; older ones are deleted.
          read_only: changes nothing in the folder, which a run may be writing to.
          report: what becomes the attribute.

        Raises:
          ValueError: if `keep` isn't positive.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}: keep at least one checkpoint")
        orbax_support.quieten_orbax()
        self.directory = orbax_support.local_path(directory)
        self.report = report
        self._keep, self._read_only = keep, read_only
        self._saving: int | None = None  # the step that was last given to the writing threads
        self._failures = 0  # saves in a row
        self._cause = ""  # of the latest of them
        self._saver: ocp.AsyncCheckpointer | None = None
        self._barriers = agreement.Barriers()  # of the save that is under way
        if not read_only:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._delete_leftovers()

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Start saving, and return once `state` may be changed or donated.

        The writing goes on in the background. A save that failed is reported, and the next one
        stands in for it: `must_save_again` says when that is due.

        Args:
          step: the number of updates done, larger than any saved step.
          state: pytree of arrays; for PRNG keys pass `jax.random.key_data`.
          meta: what else is needed to resume, as JSON can hold it.

        Raises:
          ValueError: if `step` isn't newer than the latest checkpoint.
          SaveError: if this and the save before failed; what was saved before stays.
        """
        self.wait()
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"step {step} isn't newer than {self.directory / str(latest)}")
        self._saving = step
        # Asked of all before any begins: Orbax's own steps are taken together or hang.
        if error := agreement.first_error(_caught(_check_space, self.directory, state)):
            self._settle(error)
            return
        self._barriers.begin()
        if self._saver is None:
            self._saver = self._new_saver()
        try:
            self._saver.save(
                self.directory / str(step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))
                ),
            )
        except Exception as error:  # a full disk has many names in the libraries below
            self._settle(error)

    def save_and_wait(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Save, try once more if that fails, and return when the checkpoint is written.

        Raises:
          ValueError: as `save` does.
          SaveError: if it failed again.
        """
        while self.latest_step() != step:
            self.save(step, state, meta)
            self.wait()

    def must_save_again(self) -> bool:
        """Tell, without waiting, whether a save failed that no later one has stood in for yet.

        Raises:
          SaveError: if the save before that one failed too.
        """
        if self._saving is not None and self._saver is not None:
            error = _caught(self._saver.check_for_errors)
            if (error := agreement.first_error(error)) is not None:
                self._settle(error)
        return self._saving is None and self._failures > 0

    def steps(self) -> list[int]:
        """The steps whose checkpoints are complete, from old to new; some may be damaged."""
        if not self.directory.is_dir():
            return []
        names = [path.name for path in self.directory.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def latest_step(self) -> int | None:
        """The newest step whose checkpoint is complete or being written, or None."""
        return max([*self.steps(), *([] if self._saving is None else [self._saving])], default=None)

    def restore(
        self,
        abstract_state: Any,
        step: int | None = None,
        *,
        older: Callable[[Any], Sequence[stored_trees.Layout]] = lambda stored: (),
    ) -> tuple[Any, dict[str, Any]]:
        """Read a checkpoint, whatever devices or mesh it was saved from.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings, which say where the
            arrays go; without shardings they go where the current default is.
          step: which checkpoint; None is the newest that is whole. Newer ones, which are damaged,
            are set aside as `<step>.damaged`, or only reported if this is read only.
          older: lists other layouts of the state, given the shapes of what is stored, as pairs
            `(abstract, convert)`: a tree like `abstract_state`, and what makes the state of such a
            tree of arrays. The first whose arrays are named as those stored is read, where
            `abstract_state` isn't.

        Returns:
          `(state, meta)`, as given to `save`; of an older layout `state` is what `convert` made.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it holds other arrays than `abstract_state` and each older layout, or is
            damaged, or if none is whole, in which case all are left as they are.
        """
        path = self._find(step)
        state = stored_trees.read(path / "state", abstract_state, older)
        return state, _read_meta(path)

    def restore_part(
        self, abstract: Any, places: Sequence[tuple[str, ...]], step: int | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Read one tree of a checkpoint's state, and no other array, whatever lies beside it.

        Args:
          abstract: the tree, as `restore` takes the state.
          places: where it may lie, as names from the state down; the first that is stored is read.
          step: likewise as for `restore`.

        Returns:
          `(tree, meta)`, in which `meta["step"]` tells which checkpoint it is.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if other arrays are stored there, or it is damaged, as for `restore`.
        """
        path = self._find(step)
        tree = stored_trees.read_part(path / "state", abstract, places)
        return tree, {**_read_meta(path), "step": int(path.name)}

    def meta(self, step: int) -> dict[str, Any]:
        """Read what a complete checkpoint holds besides the state."""
        return _read_meta(self.directory / str(step))

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
          SaveError: if two saves in a row failed.
        """
        if self._saving is None or self._saver is None:
            return
        self._settle(agreement.first_error(self._finish_writing()))

    def close(self) -> None:
        """Wait until nothing is being written, and end the writing threads.

        Raises:
          SaveError: if the last save failed.
        """
        self.wait()
        if self._saver is not None:
            self._saver.close()
            self._saver = None
        if self._failures:
            raise SaveError(self._failure_text("the last checkpoint"))

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None:
            self.close()
        elif jax.process_count() == 1:
            with contextlib.suppress(SaveError):  # the error that is on its way says more
                self.close()
        else:
            # The others may be elsewhere, and never come to agree.
            self._barriers.end_within(_LAST_SECONDS)
            self._finish_writing()

    def _new_saver(self) -> ocp.AsyncCheckpointer:
        handler = ocp.CompositeCheckpointHandler(
            state=ocp.StandardCheckpointHandler(), meta=ocp.JsonCheckpointHandler()
        )
        options = ocp.options.AsyncOptions(
            post_finalization_callback=self._write_digests, barrier_sync_fn=self._barriers.wait
        )
        return ocp.AsyncCheckpointer(handler, async_options=options)

    def _finish_writing(self) -> Exception | None:
        """Wait for this process's writing, and tell the others of its error, if there is one."""
        if self._saver is None:
            return None
        error = _caught(self._saver.wait_until_finished)
        if error is not None:
            self._barriers.give_up(error)
        return error

    def _write_digests(self) -> None:
        """Write digests, in the main process, before the folder that all wrote gets its name."""
        (folder,) = self.directory.glob(f"{self._saving}{_UNFINISHED}*")
        digests.write(folder, ["state", "meta"])

    def _settle(self, error: Exception | None) -> None:
        """Note how the save that is under way ended, and tell if it failed."""
        step, self._saving = self._saving, None
        if error is None:
            self._failures = 0
            self._delete_old()
            return
        self._failures += 1
        self._barriers.give_up(error)
        self._finish_writing()
        agreement.first_error(None)  # by now nobody writes any more
        self._saver = None  # an error may leave it half-way
        self._delete_leftovers()
        self._cause = orbax_support.one_line(error)
        if self._failures > 1:
            self._failures = 0  # told
            raise SaveError(self._failure_text(f"the checkpoint of update {step}")) from error
        if jax.process_index() == 0:
            self.report(
                f"WARNING: the checkpoint of update {step} couldn't be written ({self._cause}); "
                "trying once more"
            )

    def _failure_text(self, what: str) -> str:
        steps = self.steps()
        kept = f"that of update {steps[-1]} is kept" if steps else "none was written before"
        return (
            f"{what} couldn't be written in {self.directory} ({self._cause}); {kept}. Mend that, "
            "such as by freeing space, and the same command goes on"
        )

    def _find(self, step: int | None) -> Path:
        """Find the checkpoint of a step, or the newest that is whole."""
        self.wait()
        steps = self.steps()
        if not steps:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint")
        if step is None:
            step = self._newest_whole(steps)
        elif step not in steps:
            known = ", ".join(map(str, steps))
            raise FileNotFoundError(f"{self.directory} holds no step {step}; it holds {known}")
        elif problem := digests.problem(self.directory / str(step)):
            raise ValueError(f"{self.directory / str(step)} is damaged ({problem})")
        return self.directory / str(step)

    def _newest_whole(self, steps: list[int]) -> int:
        """Find, in the main process for all, the newest whole one, and set newer ones aside."""
        found = -1
        if jax.process_index() == 0:
            found = self._look_for_whole(steps)
        if jax.process_count() > 1:
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        if found >= 0:
            return found
        newest = self.directory / str(steps[-1])
        raise ValueError(
            f"{self.directory} holds no whole checkpoint: all {len(steps)} are damaged, the newest "
            f"in this way: {digests.problem(newest)}. Nothing was changed; take it from a backup, "
            "or name another workdir to start afresh"
        )

    def _look_for_whole(self, steps: list[int]) -> int:
        damaged: dict[int, str] = {}
        for step in reversed(steps):
            problem = digests.problem(self.directory / str(step))
            if problem is None:
                break
            damaged[step] = problem
        else:
            return -1
        for bad, problem in damaged.items():
            path = self.directory / str(bad)
            fate = "is passed over"
            if not self._read_only:
                fate = f"is set aside as {_set_aside(path).name}"
            self.report(f"WARNING: {path} is damaged ({problem}); it {fate}, and {step} is used")
        return step

    def _delete_old(self) -> None:
        if jax.process_index() == 0:
            for step in self.steps()[: -self._keep]:
                # Renamed first: a kill in the middle leaves nothing that looks like a checkpoint.
                doomed = self.directory / f"{step}{_DOOMED}"
                (self.directory / str(step)).rename(doomed)
                shutil.rmtree(doomed)

    def _delete_leftovers(self) -> None:
        """Delete what a killed process or a failed save left."""
        if jax.process_index() == 0:
            for suffix in (_UNFINISHED, _DOOMED):
                for path in self.directory.glob(f"*{suffix}*"):
                    shutil.rmtree(path, ignore_errors=True)


# For the writing that is under way when a process ends with an error.
_LAST_SECONDS = 30.0
_UNFINISHED = ".orbax-checkpoint-tmp"
_DOOMED = ".deleting"


def _check_space(directory: Path, state: Any) -> None:
    """Check that there is space to write, to say in a line what Orbax would say in pages."""
    writing.probe(directory)
    needed = 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + 1e6  # names and places
    disk = shutil.disk_usage(directory)
    if disk.total and disk.free < needed:  # some mounted stores tell nothing
        raise OSError(f"{needed / 1e6:.1f} MB are needed and {disk.free / 1e6:.1f} MB are free")


def _caught(function: Callable[..., None], *arguments: Any) -> Exception | None:
    """Call a function, and return what it raised; a full disk has many names in libraries."""
    try:
        function(*arguments)
    except Exception as error:
        return error
    return None


def _set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name that isn't a step's, and return it."""
    place = path.with_name(f"{path.name}.damaged")
    number = 1
    while place.exists():
        number += 1
        place = path.with_name(f"{path.name}.damaged-{number}")
    path.rename(place)
    return place


def _read_meta(path: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((path / "meta" / "metadata").read_text(encoding="utf-8"))
    return meta
