"""Folder of a network: its description and its arrays.

`denoiser.json` says how to build the network and, as its model card, what it is. `params/` holds
its arrays, written by Orbax, with digests that tell damage. A folder appears under its final name
only when complete. Paths are local or mounted; object stores want a mount.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from diffjax.files import digests, json_values, kinds, orbax_support, writing
from diffjax.files.orbax_support import PathLike, SaveError
from diffjax.interfaces import Params
from diffjax.models import model_card
from diffjax.models.model_card import ModelCard

FORMAT_VERSION = 1
FILE = "denoiser.json"
_PARAMS = "params"
_CLASSES = "classes"  # there only where not all were trained on


def save_denoiser(
    directory: PathLike,
    init_kwargs: Mapping[str, Any],
    params: Params,
    *,
    dtype: Any | None = None,
    classes: Sequence[int] = (),
    card: ModelCard | None = None,
) -> None:
    """Write a denoiser that `load_denoiser_kwargs` and `load_params` read back.

    With several processes call it in one of them only.

    Args:
      directory: the folder to make; it may exist if it is empty.
      init_kwargs: constructor arguments of the preconditioned network, with `class_name` among
        them. Values are numbers (infinite ones too), strings, booleans, None, and lists or dicts
        of these; NumPy scalars become Python numbers and tuples become lists.
      params: pytree (nested dicts) of arrays that this process can read.
      dtype: floating-point type to store floating arrays in, such as `jnp.float16` for a small
        file; None keeps their own.
      classes: those that it was trained on; () for all.
      card: says what the network is; None leaves that open.

    Raises:
      FileExistsError: if `directory` holds something already.
      ValueError: if `init_kwargs` can't be written as JSON or lacks `class_name`, or if a value of
        `params` is too large for `dtype`.
      SaveError: if it can't be written; nothing is left then.
    """
    save_arrays(directory, FILE, describe(init_kwargs, classes, card), params, dtype=dtype)


def describe(
    init_kwargs: Mapping[str, Any], classes: Sequence[int] = (), card: ModelCard | None = None
) -> str:
    """Describe a denoiser as JSON text, which `parsed` reads back.

    Args:
      init_kwargs: as for `save_denoiser`.
      classes: likewise.
      card: likewise.

    Raises:
      ValueError: if `init_kwargs` can't be written as JSON or lacks `class_name`.
    """
    if "class_name" not in init_kwargs:
        raise ValueError("init_kwargs lacks class_name, the class of the preconditioned network")
    rest = {key: value for key, value in init_kwargs.items() if key != "class_name"}
    description = {
        "format_version": FORMAT_VERSION,
        "class_name": init_kwargs["class_name"],
        "init_kwargs": json_values.encode("init_kwargs", rest),
        **({_CLASSES: list(classes)} if classes else {}),
        **({} if card is None else {"model_card": dataclasses.asdict(card)}),
    }
    return json_values.dumps("description", description)


def save_arrays(
    directory: PathLike, name: str, description: str, params: Params, *, dtype: Any | None = None
) -> None:
    """Write a description and arrays. With several processes call it in one of them only.

    Args:
      directory: the folder to make; it may exist if it is empty.
      name: file name of the description.
      description: its text.
      params: pytree (nested dicts) of arrays that this process can read.
      dtype: floating-point type to store floating arrays in; None keeps their own.

    Raises:
      FileExistsError: if `directory` holds something already.
      ValueError: if a value of `params` is too large for `dtype`.
      SaveError: if it can't be written; nothing is left then.
    """
    orbax_support.quieten_orbax()
    directory = orbax_support.local_path(directory)
    with writing.explained(directory):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise FileExistsError(f"{directory} exists and isn't empty: name another folder")
    arrays = jax.tree_util.tree_map_with_path(lambda k, x: _cast(k, x, dtype), params)

    # Written beside its final place and renamed, so that the folder appears complete or not at all.
    writing.delete_leftovers(directory)
    partial = writing.partial_of(directory)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / name).write_text(description, encoding="utf-8")
        with _params_checkpointer() as checkpointer:
            checkpointer.save(partial / _PARAMS, args=ocp.args.PyTreeSave(arrays))
        # Orbax writes this machine's path into its mark, which is no business of who gets a copy.
        (partial / _PARAMS / "commit_success.txt").write_text("complete", encoding="utf-8")
        digests.write(partial, [name, _PARAMS])
        partial.replace(directory)
    except Exception as error:  # a full disk has many names in the libraries below
        raise SaveError(
            f"{directory} couldn't be written ({orbax_support.one_line(error)}): mend that, such "
            "as by freeing space, and try again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_denoiser_kwargs(directory: PathLike) -> dict[str, Any]:
    """Read the constructor arguments of a saved denoiser.

    Args:
      directory: a folder that `save_denoiser` or `python -m diffjax.convert` wrote.

    Returns:
      The `init_kwargs` that `save_denoiser` was given, `class_name` among them.

    Raises:
      FileNotFoundError: if there is no denoiser.
      ValueError: if its description is damaged or of a version that isn't known here.
    """
    return _read(directory)[0]


def load_classes(directory: PathLike) -> tuple[int, ...]:
    """Read the classes that a saved denoiser was trained on; () for all, or if it isn't known.

    Args:
      directory: a folder that `save_denoiser` or `python -m diffjax.convert` wrote.

    Raises:
      FileNotFoundError: if there is no denoiser.
      ValueError: if its description is damaged or of a version that isn't known here.
    """
    return _read(directory)[1]


def load_card(directory: PathLike) -> ModelCard:
    """Read what a saved denoiser is; a folder that was written before doesn't say.

    Args:
      directory: a folder that `save_denoiser` wrote.

    Raises:
      FileNotFoundError: if there is no denoiser.
      ValueError: if its description is damaged or of a version that isn't known here.
    """
    return _read(directory)[2]


def content(directory: PathLike) -> dict[str, Any]:
    """Describe what decides a saved denoiser's values, wherever it lies, without its arrays.

    Args:
      directory: a folder that `save_denoiser` wrote.

    Returns:
      `sha256`, of its arguments and its arrays' digests, against which `load_params` reads.

    Raises:
      FileNotFoundError: if there is no denoiser.
      ValueError: if its description or digests are damaged.
    """
    directory = orbax_support.local_path(directory)
    described = json_values.dumps("init_kwargs", load_denoiser_kwargs(directory))
    return {"sha256": digests.of_written(directory, _PARAMS, described)}


def _read(directory: PathLike) -> tuple[dict[str, Any], tuple[int, ...], ModelCard]:
    path = orbax_support.local_path(directory) / FILE
    if not path.is_file():
        raise _missing(path)
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} isn't a denoiser's description ({error}){kinds.but(path)}"
        ) from error


def parsed(text: str) -> tuple[dict[str, Any], tuple[int, ...], ModelCard]:
    """Read a denoiser's description.

    Args:
      text: as `describe` gives it.

    Returns:
      (init_kwargs, classes, card), as `save_denoiser` was given them.

    Raises:
      ValueError: if it is damaged or of a version that isn't known here.
    """
    try:
        description = json.loads(text)
        version = description["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this diffjax reads {FORMAT_VERSION}")
        init_kwargs = {
            "class_name": description["class_name"],
            **json_values.decode(description["init_kwargs"]),
        }
        card = model_card.read(json_values.decode(description.get("model_card", {})))
        return init_kwargs, _classes(description.get(_CLASSES, []), init_kwargs), card
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def _missing(path: Path) -> FileNotFoundError:
    """Make the error of a file that a network's folder lacks, of a run's with its network."""
    if (network := path.parent / "network").is_dir():
        return FileNotFoundError(f"{path.parent} is a run's folder: name its network, {network}")
    return FileNotFoundError(
        f"{path} doesn't exist: name a folder that `python -m diffjax.convert` wrote"
    )


def _classes(listed: Any, init_kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    known = range(init_kwargs.get("label_dim", 0))
    if not isinstance(listed, list) or any(type(c) is not int or c not in known for c in listed):
        raise ValueError(f"{_CLASSES} aren't a list of numbers from 0 to {len(known) - 1}")
    found = tuple(sorted(set(listed)))
    return () if found == tuple(known) else found


def load_params(directory: PathLike, abstract_params: Params) -> Params:
    """Read the arrays of a saved denoiser.

    Args:
      directory: a folder that `save_denoiser` wrote.
      abstract_params: pytree of `jax.ShapeDtypeStruct` (or of arrays) that says which arrays and
        shapes to expect. A leaf's `sharding`, where it has one, places the array.

    Returns:
      Pytree of `jax.Array` with the structure of `abstract_params`; floating arrays are float32
      whatever they were stored as. Of a type that JAX hasn't here, such as int64, NumPy's arrays.

    Raises:
      FileNotFoundError: if there are no arrays.
      ValueError: if they aren't those of `abstract_params`, naming each that differs, or if they
        are damaged.
    """
    orbax_support.quieten_orbax()
    path = orbax_support.local_path(directory) / _PARAMS
    if not path.is_dir():
        raise _missing(path)
    if problem := digests.problem(path.parent):
        raise ValueError(f"{path.parent} is damaged ({problem}): make or fetch it again")
    orbax_support.check_same_arrays(path, _params_handler().metadata(path).tree, abstract_params)
    # The structure is the same, so the stored arrays can be asked for by the expected tree.
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract_params)
    with _params_checkpointer() as checkpointer:
        arrays = checkpointer.restore(
            path, args=ocp.args.PyTreeRestore(item=abstract_params, restore_args=as_numpy)
        )
    return jax.tree.map(_place, arrays, abstract_params)


def _params_handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=_without_others())


def _params_checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(_params_handler(), multiprocessing_options=_without_others())


def _without_others() -> ocp.options.MultiprocessingOptions:
    """Options by which Orbax waits for no other process, however many there are."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"diffjax-{me}"
    )


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


def _place(array: np.ndarray, expected: Any) -> jax.Array | np.ndarray:
    if jax.dtypes.canonicalize_dtype(expected.dtype) != expected.dtype:
        return array  # whose 64 bits JAX would cut
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float32)
    sharding = getattr(expected, "sharding", None)
    if sharding is None:
        return jax.device_put(array)  # which compiles nothing, as jnp.asarray does for each shape
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
