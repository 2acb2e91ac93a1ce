"""The network that an export names: a run's, a folder's or a file's."""

import contextlib
import dataclasses
import math
from pathlib import Path

from diffjax.models import model_card, network_folder, record_folder
from diffjax.models.model_card import ModelCard
from diffjax.runs import best_network, networks, saved_config
from diffjax.runs.networks import Network
from diffjax.runs.user_function import RefusedError

FIELD = "--source"

_NETWORK = "network"


@dataclasses.dataclass(frozen=True)
class Source:
    """Network to export.

    Attributes:
      network: it.
      card: what it is.
      folder: that it was read from; a file's or a name's own text where there is none.
      workdir: of the run that wrote it; None where that isn't known.
    """

    network: Network
    card: ModelCard
    folder: Path
    workdir: Path | None = None

    @property
    def is_student(self) -> bool:
        """Whether it makes a sample in one evaluation, or a few."""
        return self.card.kind == model_card.STUDENT


def find(source: str, *, init_sigma: float | None = None) -> Source:
    """Open the network that a name is of; nothing is computed.

    Args:
      source: a work directory, whose `network/` is taken, or the best so far where the run didn't
        end; `W/network`, `W/best` or another network's folder; or what `convert.teacher.load`
        takes.
      init_sigma: noise level at which a student is asked that doesn't say so itself.

    Raises:
      FileNotFoundError: if there is nothing there, or a folder holds no network.
      RefusedError: if `init_sigma` contradicts what the network says, or a user's function can't
        be used.
      ValueError: if what is there is damaged.
    """
    folder = _folder(Path(source)) if Path(source).is_dir() else Path(source)
    name = str(folder) if folder.is_dir() else source
    network = networks.trained(name, field=FIELD)
    return Source(network, _card(network, init_sigma), folder, _workdir(folder))


def _folder(given: Path) -> Path:
    """Find the folder of a network in what may be one, or hold one."""
    if _is_network(given):
        return given
    if _is_network(given / _NETWORK):
        return given / _NETWORK
    for workdir in (given, given.parent if given.name == best_network.FOLDER else given):
        with contextlib.suppress(FileNotFoundError):
            return best_network.find_best(workdir)[0]
    if (given / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{FIELD}={given} is a run that hasn't written its network yet: a run writes "
            f"{_NETWORK}/ at its end, and {best_network.FOLDER}/ where it keeps the best network"
        )
    if networks.diffusers.is_folder(given):
        return given
    raise FileNotFoundError(
        f"{FIELD}={given} is no network's folder, nor a work directory with one: name a folder "
        f"that holds {network_folder.FILE} or {record_folder.FILE}, such as W/{_NETWORK}"
    )


def _is_network(folder: Path) -> bool:
    return record_folder.is_one(folder) or (folder / network_folder.FILE).is_file()


def _workdir(folder: Path) -> Path | None:
    """Find the run that a network's folder is of: W/network, or W/best/STEP."""
    for parent in folder.parents[:2]:
        if (parent / saved_config.FILE).is_file():
            return parent
    return None


def _card(network: Network, init_sigma: float | None) -> ModelCard:
    card = network.card
    if init_sigma is None:
        return card
    if not 0 < init_sigma < math.inf:
        raise RefusedError(f"--init_sigma={init_sigma:g}: a positive number is needed")
    if card.kind and card.init_sigma != init_sigma:
        raise RefusedError(
            f"--init_sigma={init_sigma:g}: {network.source} says that it is {card.title}; leave "
            "the flag out"
        )
    return dataclasses.replace(card, kind=model_card.STUDENT, init_sigma=init_sigma, steps=1)
