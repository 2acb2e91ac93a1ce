"""Formats of exports, and the way from a source to a file and its card."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffjax.convert import portable
from diffjax.export import card, function, onnx_file, stablehlo
from diffjax.export import source as source_lib
from diffjax.export.source import Source
from diffjax.files import digests, json_values, paths, writing
from diffjax.interfaces import Params
from diffjax.models import network_folder, record_folder
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.runs.user_function import RefusedError

_ARRAYS = {"safetensors": portable.OWN, "edm": portable.EDM}
_FUNCTIONS: dict[str, Any] = {"stablehlo": stablehlo, "onnx": onnx_file}
NAMES = (*_ARRAYS, *_FUNCTIONS)
_PICKLES = (".pkl", ".pickle")


def export(
    source: str,
    name: str,
    output: str,
    *,
    init_sigma: float | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Write a network as a file, with its card beside it.

    Args:
      source: as `source.find` takes it.
      name: of the format, one of `NAMES`.
      output: the file to write, which isn't there yet.
      init_sigma: noise level at which a student is asked that doesn't say so itself.
      batch_size: of each call of a function; None leaves it free.

    Returns:
      The card.

    Raises:
      RefusedError: before anything is computed, if this network can't be in that format.
      FileExistsError: if the output is there.
      OSError: if the source isn't there or the output can't be written.
      ValueError: if the source is damaged.
    """
    if name in _FUNCTIONS:
        _FUNCTIONS[name].check_installed()
    path = _checked_output(output)
    with _refusing():
        source = paths.named(source, flag=source_lib.FIELD)
    found = source_lib.find(source, init_sigma=init_sigma)
    _check(found, name, path, batch_size)
    params = found.network.load()
    described = _write(found, params, name, path, batch_size)
    described |= {"file": {"name": path.name, "sha256": digests.whole(path)}}
    writing.write_text(card.path_of(path), json_values.dumps("card", described))
    return described


def _write(
    found: Source, params: Params, name: str, path: Path, batch_size: int | None
) -> dict[str, Any]:
    if name in _FUNCTIONS:
        made = function.of(found, params)
        described = {"format": name, **card.describe(found, params, made)}
        _FUNCTIONS[name].write(path, made, batch_size=batch_size)
        return described
    described = {"format": name, **card.describe(found, params)}
    text = json_values.dumps("card", described)
    portable.write(path, _description(found, name, text), _stored(found, params))
    return described


def _description(found: Source, name: str, text: str) -> portable.Header:
    network = found.network
    if isinstance(network.model, NetworkDenoiser):
        of_folder = network_folder.describe(network.init_kwargs, network.classes, found.card)
        return portable.Header(_ARRAYS[name], network_folder.FILE, of_folder, text)
    assert network.origin is not None
    of_folder = record_folder.describe(network.origin, found.card)
    return portable.Header(_ARRAYS[name], record_folder.FILE, of_folder, text)


def _stored(found: Source, params: Params) -> Params:
    model = found.network.model
    return params if isinstance(model, NetworkDenoiser) else model.arrays.stored(params)


def _check(found: Source, name: str, path: Path, batch_size: int | None) -> None:
    """Check that a format can hold a network, before its arrays are looked at."""
    if name in _FUNCTIONS:
        function.check_is_student(found)
        return
    if batch_size is not None:
        raise RefusedError(f"--batch_size is of functions, and --format={name} holds arrays alone")
    if name != "edm":
        return
    if not isinstance(found.network.model, NetworkDenoiser):
        raise RefusedError(
            f"--format=edm has the names of EDM's networks, and {function.model_name(found)} is "
            "none of them: name safetensors, or for its function stablehlo or onnx"
        )
    if path.suffix in _PICKLES:
        raise RefusedError(
            f"--output={path}: a pickle of EDM's holds its authors' code, which isn't ours; "
            f"name a state dict, {path.stem}.pt for torch.load, or {path.stem}.safetensors"
        )


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """Context whose errors are a mistake of the command line."""
    try:
        yield
    except ValueError as error:
        raise RefusedError(str(error)) from None


def _checked_output(output: str) -> Path:
    """Check that a file and its card can be written, and are in nobody's way."""
    with _refusing():
        path = Path(paths.file_to_write(output, flag="--output"))
    for each in (path, card.path_of(path)):
        with writing.explained(each):
            is_there = each.exists()
        if is_there:
            raise FileExistsError(f"{each} exists already: name another file, or delete it")
    writing.check_writable(path)
    return path
