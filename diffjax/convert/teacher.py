"""Teachers by name, folder, file or URL."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from diffjax import models
from diffjax.convert import catalogue, checkpoint, edm, portable
from diffjax.files import digests, download
from diffjax.interfaces import Params
from diffjax.models import model_card, network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.models.model_card import ModelCard

# Denoisers that come with the package, as folders of `diffjax/assets`. They lie beside this file's
# package, wherever a namespace of its name points.
SHIPPED = ("cifar_tiny", "digits")
_ASSETS = Path(__file__).parents[1] / "assets"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Pretrained denoiser.

    Attributes:
      init_kwargs: constructor arguments, as `denoiser.from_edm_kwargs` takes them.
      params: parameters of the denoiser, float32.
      card: what it is; a pickle doesn't say.
    """

    init_kwargs: dict[str, Any]
    params: Params
    card: ModelCard = dataclasses.field(default_factory=ModelCard)


# The pickle that `describe` read last, until `load` asks for one.
_described: dict[tuple[str, int, int], Teacher] = {}


def describe(source: str, *, field: str = "teacher") -> dict[str, Any]:
    """Constructor arguments of a teacher, without a download where the name is a released one.

    Args:
      source: as `load` takes it.
      field: name of the setting in an error.

    Returns:
      Arguments as `denoiser.from_edm_kwargs` takes them.

    Raises:
      FileNotFoundError: if there is nothing there.
      ConnectionError: if it can't be downloaded.
      ValueError: if it is no denoiser, or a student, which was made of one.
    """
    _check_is_no_student(source, card(source), field)
    if source in catalogue.EDM:
        return catalogue.EDM[source].init_kwargs
    directory = _directory(source)
    if directory is not None:
        return network_folder.load_denoiser_kwargs(directory)
    if _is_portable(source):
        return portable.describe(Path(source)).init_kwargs
    teacher = load(source, field=field)
    _check_is_no_student(source, teacher.card, field)
    _described[_version(source)] = teacher  # so that a large pickle isn't parsed again at once
    return teacher.init_kwargs


def classes(source: str) -> tuple[int, ...]:
    """Classes that a teacher was trained on; () for all, and where only its maker knows.

    Args:
      source: as `load` takes it.

    Raises:
      FileNotFoundError: if there is nothing there.
      ValueError: if it is no denoiser.
    """
    if _is_portable(source):
        return portable.describe(Path(source)).classes
    directory = _directory(source)
    return () if directory is None else network_folder.load_classes(directory)


def card(source: str) -> ModelCard:
    """Read what a network is, as far as that is known without a download.

    Args:
      source: as `load` takes it.

    Raises:
      FileNotFoundError: if a folder holds no network.
      ValueError: if its description is damaged.
    """
    if source in catalogue.EDM and catalogue.EDM[source].init_sigma:
        student = catalogue.EDM[source]
        return ModelCard(
            model_card.STUDENT, method=student.method, init_sigma=student.init_sigma, steps=1
        )
    if source in catalogue.EDM:
        return ModelCard(model_card.DENOISER)
    if _is_portable(source):
        return portable.describe(Path(source)).card
    directory = _directory(source)
    return ModelCard() if directory is None else network_folder.load_card(directory)


def content(source: str) -> dict[str, Any]:
    """Describe what a teacher's file or folder holds, wherever it lies; a URL is downloaded.

    Args:
      source: as `load` takes it.

    Returns:
      `sha256`, and of a file what `digests.of_file` gives.

    Raises:
      OSError: if there is nothing there, or it can't be downloaded.
      ValueError: if a folder is damaged.
    """
    directory = _directory(source)
    if directory is not None:
        return network_folder.content(directory)
    url = catalogue.EDM[source].url if source in catalogue.EDM else source
    return digests.of_file(download.fetch(url))


def load(source: str, *, field: str = "teacher") -> Teacher:
    """Read a teacher's description and parameters.

    Args:
      source: "digits" or "cifar_tiny", which are shipped; a name in `catalogue.EDM`; a folder
        that `python -m diffjax.convert` or a teacher's training wrote; or an EDM pickle's path or
        https URL, downloaded once; likewise a training state of SiT's or DiT's, and a file of
        arrays that `python -m diffjax.export` wrote.
      field: name of the setting in an error.

    Raises:
      FileNotFoundError: if there is nothing there.
      ConnectionError: if it can't be downloaded.
      ValueError: if the name is unknown or the file or folder holds no denoiser.
    """
    described = _described.pop(_version(source), None)
    _described.clear()
    if described is not None:
        return described
    directory = _directory(source)
    if directory is not None:
        init_kwargs = network_folder.load_denoiser_kwargs(directory)
        abstract = from_edm_kwargs(init_kwargs).abstract_params()
        params = network_folder.load_params(directory, abstract)
        return Teacher(init_kwargs, params, card(source))
    what, said = card(source), catalogue.said(source)
    if source in catalogue.EDM:
        source = catalogue.EDM[source].url
    elif "://" not in source and not Path(source).exists():
        _raise_unknown(source, field)
    with download.reading(source) as path:
        if portable.is_one(path):
            found, params = portable.load(path)
            return Teacher(found.init_kwargs, params, found.card)
        init_kwargs, state_dict = checkpoint.read(path, said)
        try:
            _, params = edm.to_denoiser(init_kwargs, state_dict)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return Teacher(init_kwargs, params, what)


def read(source: str, *, dtype: Any = jnp.float32, field: str = "teacher") -> models.Teacher:
    """Read a teacher as the record that anyone's is, ready for `models.guided` and the like.

    Args:
      source: as `load` takes it.
      dtype: of the network's computation.
      field: name of the setting in an error.

    Raises:
      FileNotFoundError: if there is nothing there.
      ConnectionError: if it can't be downloaded.
      ValueError: if it is no denoiser, or a student, which was made of one.
    """
    denoiser = from_edm_kwargs(describe(source, field=field), dtype=dtype)
    return denoiser.as_teacher(load(source, field=field).params, classes=classes(source))


def _check_is_no_student(source: str, what: ModelCard, field: str) -> None:
    if what.kind == model_card.STUDENT:
        raise ValueError(
            f"{field}={source} is {what.title}, which makes images of noise alone and takes no "
            "noise off any more: name a denoiser, such as its own teacher."
        )


def _is_portable(source: str) -> bool:
    return source not in SHIPPED and portable.is_one(Path(source))


def _version(source: str) -> tuple[str, int, int]:
    """Tell a file from one that took its place: its name, time and size, 0 where it is none."""
    path = Path(source)
    if not path.is_file():
        return source, 0, 0
    status = path.stat()
    return source, status.st_mtime_ns, status.st_size


def _directory(source: str) -> Path | None:
    if source in SHIPPED:
        if not _ASSETS.is_dir():
            raise FileNotFoundError(
                f"teacher {source!r} comes with diffjax, but {_ASSETS} isn't there: this diffjax "
                "lies in a zip or was copied in part; install it as a folder, by pip"
            )
        return _ASSETS / source
    path = Path(source)
    return path if path.is_dir() else None


def _raise_unknown(source: str, field: str) -> None:
    if not catalogue.looks_like_name(source):
        raise FileNotFoundError(
            f"{field}={source}: there is no such file or folder. Name a folder that "
            "`python -m diffjax.convert` wrote, an EDM pickle, its URL, a released name, or "
            "module:function, of yours."
        )
    if shipped := difflib.get_close_matches(source, SHIPPED, n=1):
        raise ValueError(f"{field}={source!r} is unknown; the nearest is {shipped[0]!r}, shipped.")
    try:
        catalogue.lookup(source)
    except ValueError as error:
        raise ValueError(f"{field}={error}") from None
