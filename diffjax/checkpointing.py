"""What is kept on disk: denoisers to distil from, and training checkpoints to resume from.

A denoiser is a folder with `denoiser.json` (how to build the network) and `params` (its arrays,
written by Orbax). Training checkpoints are folders named by their step, kept by Orbax's manager.
Both appear under their final name only when complete, so a killed process leaves nothing that looks
like a checkpoint and isn't one. Paths are local or mounted; object stores want a mount.
"""

import json
import logging as python_logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from diffjax.types import Params

FORMAT_VERSION = 1
_DESCRIPTION = "denoiser.json"
_PARAMS = "params"

PathLike = str | os.PathLike[str]


def save_denoiser(
    directory: PathLike,
    init_kwargs: Mapping[str, Any],
    params: Params,
    *,
    dtype: Any | None = None,
) -> None:
    """Writes a denoiser that `load_denoiser_kwargs` and `load_params` read back.

    With several processes call it in one of them only.

    Args:
      directory: the folder to make; it may exist if it is empty.
      init_kwargs: constructor arguments of the preconditioned network, with `class_name` among
        them. Values are numbers (infinite ones too), strings, booleans, None, and lists or dicts
        of these; NumPy scalars become Python numbers and tuples become lists.
      params: pytree (nested dicts) of arrays that this process can read.
      dtype: floating-point type to store floating arrays in, such as `jnp.float16` for a small
        file; None keeps their own.

    Raises:
      FileExistsError: if `directory` holds something already.
      ValueError: if `init_kwargs` can't be written as JSON or lacks `class_name`, or if a value of
        `params` is too large for `dtype`.
    """
    _quieten_orbax()
    directory = _local_path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists and isn't empty: name another folder")
    description = json.dumps(_describe(init_kwargs), indent=2, allow_nan=False) + "\n"
    arrays = jax.tree_util.tree_map_with_path(lambda k, x: _cast(k, x, dtype), params)

    # Written beside its final place and renamed, so that the folder appears complete or not at all.
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (partial / _DESCRIPTION).write_text(description, encoding="utf-8")
        with _params_checkpointer() as checkpointer:
            checkpointer.save(partial / _PARAMS, args=ocp.args.PyTreeSave(arrays))
        # Orbax writes this machine's path into its mark, which is no business of who gets a copy.
        (partial / _PARAMS / "commit_success.txt").write_text("complete", encoding="utf-8")
        partial.replace(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_denoiser_kwargs(directory: PathLike) -> dict[str, Any]:
    """Reads how a saved denoiser is built.

    Args:
      directory: what `save_denoiser` or `python -m diffjax.convert` wrote.

    Returns:
      The `init_kwargs` that `save_denoiser` was given, `class_name` among them.

    Raises:
      FileNotFoundError: if there is no denoiser.
      ValueError: if its description is damaged or of a version that isn't known here.
    """
    path = _local_path(directory) / _DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} doesn't exist: name a folder that `python -m diffjax.convert` wrote"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this diffjax reads {FORMAT_VERSION}")
        return {"class_name": description["class_name"], **_decode(description["init_kwargs"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} isn't a denoiser's description ({error})") from error


def load_params(directory: PathLike, abstract_params: Params) -> Params:
    """Reads the arrays of a saved denoiser.

    Args:
      directory: what `save_denoiser` wrote.
      abstract_params: pytree of `jax.ShapeDtypeStruct` (or of arrays) that says which arrays and
        shapes to expect. A leaf's `sharding`, where it has one, places the array.

    Returns:
      Pytree of `jax.Array` with the structure of `abstract_params`; floating arrays are float32
      whatever they were stored as.

    Raises:
      FileNotFoundError: if there are no arrays.
      ValueError: if they aren't those of `abstract_params`, naming each that differs, or if they
        are damaged.
    """
    _quieten_orbax()
    path = _local_path(directory) / _PARAMS
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} doesn't exist: name a folder that `python -m diffjax.convert` wrote"
        )
    try:
        stored = _array_list(_params_handler().metadata(path))
    except _READ_ERRORS as error:
        raise ValueError(f"{path} can't be read ({_one_line(error)})") from error
    _check_same_arrays(path, stored, abstract_params)
    # The structure is the same, so the stored arrays can be asked for by the expected tree.
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract_params)
    with _params_checkpointer() as checkpointer:
        try:
            arrays = checkpointer.restore(
                path, args=ocp.args.PyTreeRestore(item=abstract_params, restore_args=as_numpy)
            )
        except _READ_ERRORS as error:
            raise ValueError(f"{path} can't be read ({_one_line(error)})") from error
    return jax.tree.map(_place, arrays, abstract_params)


class Checkpointer:
    """Saves and restores training state, a few newest steps of it, without holding up training.

    A process killed while it saves leaves the previous checkpoint as the latest one. All processes
    of a run call every method, on a directory that they share.

    Attributes:
      directory: where the checkpoints are, one folder a step.
    """

    def __init__(self, directory: PathLike, *, keep: int = 3) -> None:
        """Opens a folder of checkpoints, making it if needed.

        Args:
          directory: the folder.
          keep: how many checkpoints to keep, the newest; older ones are deleted.

        Raises:
          ValueError: if `keep` isn't positive.
        """
        if keep < 1:
            raise ValueError(f"keep is {keep}: keep at least one checkpoint")
        _quieten_orbax()
        self.directory = _local_path(directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "meta": ocp.JsonCheckpointHandler(),
            },
        )

    def save(self, step: int, state: Any, meta: Mapping[str, Any]) -> None:
        """Starts saving, and returns once `state` may be changed or donated.

        The writing goes on in the background; `wait` waits for it, and an error of it is raised by
        the next call.

        Args:
          step: the number of updates done, larger than any saved step.
          state: pytree of arrays; for PRNG keys pass `jax.random.key_data`.
          meta: what else is needed to resume, as JSON can hold it.

        Raises:
          ValueError: if `step` isn't newer than the latest checkpoint.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise ValueError(f"step {step} isn't newer than {self.directory / str(latest)}")
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                meta=ocp.args.JsonSave(dict(meta)),
            ),
        )

    def latest_step(self) -> int | None:
        """The newest step whose checkpoint is complete or being written, or None."""
        return self._manager.latest_step()

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint, whatever devices or mesh it was saved from.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct` with shardings, which say where the
            arrays go; without shardings they go where the current default is.
          step: which checkpoint; None is the latest.

        Returns:
          `(state, meta)`, as given to `save`.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it holds other arrays than `abstract_state`, or is damaged.
        """
        self.wait()
        steps = self._manager.all_steps()
        if not steps:
            raise FileNotFoundError(f"{self.directory} holds no checkpoint")
        step = max(steps) if step is None else step
        if step not in steps:
            known = ", ".join(map(str, sorted(steps)))
            raise FileNotFoundError(f"{self.directory} holds no step {step}; it holds {known}")
        path = self.directory / str(step)
        # Compared first: Orbax reads as it compares, and fails with pages of unrelated errors.
        try:
            stored = _array_list(self._manager.item_metadata(step).state)
        except _READ_ERRORS as error:
            raise ValueError(_damaged(path, error)) from error
        _check_same_arrays(path, stored, abstract_state)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(jax.tree.map(_with_sharding, abstract_state)),
                    meta=ocp.args.JsonRestore(),
                ),
            )
        except _READ_ERRORS as error:
            raise ValueError(_damaged(path, error)) from error
        return restored.state, restored.meta

    def wait(self) -> None:
        """Waits until nothing is being written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until nothing is being written, and ends the writing threads."""
        self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


# What Orbax, TensorStore and the JSON reader raise on a damaged checkpoint.
_READ_ERRORS = (ValueError, KeyError, OSError)


def _damaged(path: Path, cause: object) -> str:
    return f"{path} can't be read ({_one_line(cause)}): delete it to resume from an earlier one"


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _local_path(path: PathLike) -> Path:
    if "://" in os.fspath(path):
        raise ValueError(f"{os.fspath(path)} is a URL: mount the store and name the mounted path")
    return Path(path).absolute()


def _params_handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=_without_others())


def _params_checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(_params_handler(), multiprocessing_options=_without_others())


def _without_others() -> ocp.options.MultiprocessingOptions:
    """Has Orbax wait for no other process, however many there are."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"diffjax-{me}"
    )


def _describe(init_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if "class_name" not in init_kwargs:
        raise ValueError("init_kwargs lacks class_name, the class of the preconditioned network")
    rest = {key: value for key, value in init_kwargs.items() if key != "class_name"}
    return {
        "format_version": FORMAT_VERSION,
        "class_name": init_kwargs["class_name"],
        "init_kwargs": _encode("init_kwargs", rest),
    }


def _encode(name: str, value: Any) -> Any:
    """JSON knows neither infinities nor NumPy: the first become {"float": "inf"}."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{name} has keys that aren't strings")
        return {key: _encode(f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(f"{name}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{name} is a {type(value).__name__}, which a description can't hold")


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def _cast(key_path: Any, array: Any, dtype: Any | None) -> np.ndarray:
    array = np.asarray(jax.device_get(array))
    if dtype is None or not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.array_equal(np.isfinite(cast), np.isfinite(array)):
        name = jax.tree_util.keystr(key_path, simple=True, separator="/")
        raise ValueError(f"{name} has values too large for {jnp.dtype(dtype).name}")
    return cast


def _place(array: np.ndarray, expected: Any) -> jax.Array:
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float32)
    sharding = getattr(expected, "sharding", None)
    if sharding is None:
        return jnp.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jnp.zeros(()).sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_same_arrays(path: Path, stored: Any, expected: Any) -> None:
    """Compares names and shapes, and says all differences in one line."""
    have, want = _shapes(stored), _shapes(expected)
    differences = (
        [f"{name} is missing" for name in sorted(want.keys() - have.keys())]
        + [f"{name} isn't expected" for name in sorted(have.keys() - want.keys())]
        + [
            f"{name} has shape {have[name]} instead of {want[name]}"
            for name in sorted(want.keys() & have.keys())
            if have[name] != want[name]
        ]
    )
    if not differences:
        return
    shown = "; ".join(differences[:8])
    more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
    raise ValueError(f"{path} holds another model's arrays: {shown}{more}")


def _array_list(metadata: Any) -> Any:
    if metadata is None:  # Orbax's way to say that it failed to read them
        raise ValueError("its list of arrays is damaged or missing")
    return metadata.tree


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        if hasattr(leaf, "shape")  # Orbax's lists of arrays have leaves for empty nodes too
    }


class _OrbaxChatter(python_logging.Filter):
    """Drops what Orbax logs below the level of a warning."""

    def filter(self, record: python_logging.LogRecord) -> bool:
        orbax = f"{os.sep}orbax{os.sep}checkpoint{os.sep}"
        return record.levelno >= python_logging.WARNING or orbax not in record.pathname


_CHATTER_FILTER = _OrbaxChatter()


def _quieten_orbax() -> None:
    logging.get_absl_logger().addFilter(_CHATTER_FILTER)  # does nothing the second time
