"""Folder of a user's network: the functions that make it, in `model.json`, and its arrays by name.

The functions themselves aren't kept: whoever opens the folder calls them again. `model.json` has
the SHA-256 of their files, so that a changed one is told.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffjax.files import digests, json_values, orbax_support
from diffjax.files.orbax_support import PathLike
from diffjax.interfaces import Params
from diffjax.models import model_card, network_folder
from diffjax.models.arrays import Arrays
from diffjax.models.model_card import ModelCard

FORMAT_VERSION = 1
FILE = "model.json"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Functions that make a user's network.

    Attributes:
      teacher: name of the teacher, as a config has it.
      student: name of the student's function or pickle; "" for a copy of the teacher.
      sha256: of the functions' files, by the file's name.
      stylegan2: arguments of the student's network, where that was a pickle's, which isn't asked
        for again.
    """

    teacher: str
    student: str = ""
    sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stylegan2: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def is_one(directory: PathLike) -> bool:
    """Tell whether a folder holds a user's network."""
    return (Path(directory) / FILE).is_file()


def save(
    directory: PathLike, origin: Origin, arrays: Arrays, params: Params, card: ModelCard
) -> None:
    """Write a user's network. With several processes call it in one of them only.

    Args:
      directory: the folder to make; it may exist if it is empty.
      origin: what makes it.
      arrays: of the record, whose arrays that aren't trained are kept too.
      params: what is trained, in the tree of `arrays.abstract()`.
      card: what the network is.

    Raises:
      FileExistsError: if `directory` holds something already.
      SaveError: if it can't be written; nothing is left then.
    """
    network_folder.save_arrays(directory, FILE, describe(origin, card), arrays.stored(params))


def describe(origin: Origin, card: ModelCard) -> str:
    """Describe a user's network as JSON text, which `parsed` reads back.

    Args:
      origin: what makes it.
      card: what it is.
    """
    described = {
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(origin),
        "versions": dict(card.versions),
        "model_card": dataclasses.asdict(card),
    }
    return json_values.dumps("description", described)


def read(directory: PathLike) -> tuple[Origin, ModelCard]:
    """Read what makes a network, and what it is.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if its description is damaged or of a version that isn't known here.
    """
    path = orbax_support.local_path(directory) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} doesn't exist: name a folder that holds a network")
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} isn't a network's description ({error})") from error


def parsed(text: str) -> tuple[Origin, ModelCard]:
    """Read the description of a user's network.

    Args:
      text: as `describe` gives it.

    Returns:
      What makes the network, and what it is.

    Raises:
      ValueError: if it is damaged or of a version that isn't known here.
    """
    try:
        values = json.loads(text)
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, this diffjax reads {FORMAT_VERSION}")
        origin = Origin(
            *(values[name] for name in ("teacher", "student")),
            *(dict(values.get(name, {})) for name in ("sha256", "stylegan2")),
        )
        if not all(isinstance(each, str) for each in (origin.teacher, origin.student)):
            raise ValueError("teacher and student must be names")
        return origin, model_card.read(json_values.decode(values["model_card"]))
    except (KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def load(directory: PathLike, arrays: Arrays) -> Arrays:
    """Read a network's arrays into the tree of its record.

    Args:
      directory: a folder that `save` wrote.
      arrays: of the record that the functions make now.

    Raises:
      FileNotFoundError: if there are no arrays.
      ValueError: naming the arrays that differ, or if they are damaged.
    """
    return arrays.replaced(network_folder.load_params(directory, arrays.abstract_stored()))


def content(directory: PathLike) -> dict[str, Any]:
    """Describe what decides a network's values, without its arrays: `sha256`.

    Raises:
      ValueError: if its digests are damaged.
    """
    directory = orbax_support.local_path(directory)
    return {"sha256": digests.of_written(directory, "params", "")}
