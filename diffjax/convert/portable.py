"""Networks as one file of arrays, by diffjax's own names or by those of EDM's authors.

A file is safetensors, or of EDM's names also what `torch.load` reads. It carries the description of
the folder that it came from, `denoiser.json` or `model.json`, so that it opens by itself.
"""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from diffjax.convert import edm, torch_layout
from diffjax.files import kinds, safetensors_file, torch_state_dict, torch_storage
from diffjax.interfaces import Params
from diffjax.models import network_folder, record_folder
from diffjax.models.model_card import ModelCard

OWN, EDM = "diffjax", "edm"
TORCH_SUFFIXES = (".pt", ".pth")
_KEY = "diffjax"  # of the description among the texts of a file


@dataclasses.dataclass(frozen=True)
class Header:
    """Description that a file of arrays carries.

    Attributes:
      names: of its arrays, `OWN` or `EDM`.
      folder: name of the description's file in a folder.
      text: of that file.
      card: model card, as JSON text, of whoever wrote the file.
      sha256: of the arrays, by which damage is told; `write` fills it in.
    """

    names: str
    folder: str
    text: str
    card: str = ""
    sha256: str = ""


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Network of ours, as a file holds it.

    Attributes:
      init_kwargs: constructor arguments, as `denoiser.from_edm_kwargs` takes them.
      classes: those that it was trained on; () for all.
      card: what it is.
    """

    init_kwargs: dict[str, Any]
    classes: tuple[int, ...]
    card: ModelCard


def write(path: Path, description: Header, params: Params) -> None:
    """Write a network as one file.

    Args:
      path: of the file. With EDM's names, and one of `TORCH_SUFFIXES`, it is for `torch.load`.
      description: of the network, of what `names` the arrays are to have.
      params: nested dicts of arrays.

    Raises:
      ValueError: if an array's name has a slash in it, or they aren't the description's.
      OSError: if it can't be written.
    """
    is_edm = description.names == EDM
    if is_edm:
        arrays = edm.to_state_dict(network_folder.parsed(description.text)[0], params)
    else:
        arrays = _flat(params)
    description = dataclasses.replace(description, sha256=_digest(arrays))
    texts = {_KEY: json.dumps(dataclasses.asdict(description))}
    of_torch = is_edm and path.suffix in TORCH_SUFFIXES
    (torch_state_dict if of_torch else safetensors_file).write(path, arrays, texts)


def is_one(path: Path) -> bool:
    """Tell whether a file was written by `write`, by its first bytes and its texts.

    Args:
      path: of anything, or nothing.
    """
    return path.is_file() and _text(path) is not None


def describe(path: Path) -> Denoiser:
    """Read what a network of ours is, without its arrays.

    Args:
      path: of a file that `write` wrote.

    Raises:
      ValueError: if it is damaged, or of a user's network.
    """
    description = _description(path)
    if description.folder != network_folder.FILE:
        raise ValueError(
            f"{path} is a user's network, which opens from a folder: `python -m diffjax.convert "
            "--source=FILE --output=FOLDER` makes that"
        )
    try:
        return Denoiser(*network_folder.parsed(description.text))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error


def load(path: Path) -> tuple[Denoiser, Params]:
    """Read a network of ours.

    Args:
      path: of a file that `write` wrote.

    Returns:
      What it is, and its parameters, float32.

    Raises:
      ValueError: if it is damaged, or of a user's network; naming the arrays that don't fit.
    """
    denoiser, arrays = describe(path), _arrays(path)
    try:
        if _description(path).names == EDM:
            return denoiser, edm.to_denoiser(denoiser.init_kwargs, arrays)[1]
        return denoiser, _checked(denoiser.init_kwargs, _nested(arrays, ("params", "buffers")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_folder(path: Path, output: str) -> None:
    """Make the folder of the network that a file holds, ours or a user's.

    Args:
      path: of a file that `write` wrote.
      output: the folder to make; it may exist if it is empty.

    Raises:
      FileExistsError: if `output` holds something already.
      ValueError: if the file is damaged.
      SaveError: if the folder can't be written.
    """
    description = _description(path)
    if description.folder == network_folder.FILE:
        denoiser, params = load(path)
        network_folder.save_denoiser(
            output, denoiser.init_kwargs, params, classes=denoiser.classes, card=denoiser.card
        )
        return
    try:
        record_folder.parsed(description.text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    params = _nested(_arrays(path))
    network_folder.save_arrays(output, record_folder.FILE, description.text, params)


def _text(path: Path) -> str | None:
    """Read the description's text; None if the file is of another kind, or has none."""
    kind = kinds.of(path)
    if kind == kinds.SAFETENSORS:
        try:
            with safetensors.safe_open(path, "numpy") as file:
                return (file.metadata() or {}).get(_KEY)
        except safetensors.SafetensorError:
            return None
    if kind == kinds.TORCH_ZIP:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.partition("/")[2] == _KEY]
                return archive.read(names[0]).decode() if names else None
        except torch_storage.ZIP_ERRORS as error:
            raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    return None


def _description(path: Path) -> Header:
    try:
        values = json.loads(_text(path) or "")
        return Header(**{name: str(value) for name, value in values.items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no description of diffjax's ({error})") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if kinds.of(path) == kinds.SAFETENSORS:
        arrays = safetensors_file.read(path)[0]
    else:
        arrays = torch_state_dict.read(path)
    if _digest(arrays) != _description(path).sha256:
        raise ValueError(f"{path} is damaged (its arrays aren't those written): fetch it again")
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {arrays[name].shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _checked(init_kwargs: Mapping[str, Any], params: Params) -> Params:
    """Check that arrays are a network's, by the way to EDM's names and back."""
    edm.to_state_dict(init_kwargs, params)
    return params


def _flat(params: Params) -> dict[str, np.ndarray]:
    """Arrays by names with slashes."""
    found = {}
    for path, leaf in torch_layout.flatten(params):
        if any("/" in part for part in path):
            raise ValueError(f"the array {path} has a slash in its name, which parts names here")
        found["/".join(path)] = np.asarray(leaf)
    return found


def _nested(arrays: Mapping[str, np.ndarray], collections: Iterable[str] = ()) -> dict[str, Any]:
    leaves = {tuple(name.split("/")): array for name, array in arrays.items()}
    return torch_layout.nest(leaves, collections)
