"""The interface between a method and the engine that runs it.

A method says what is learnt, from what, by which loss, in which order. The engine
(`diffjax.training.update`) does gradient accumulation, optimisers, averages, sharding, compilation,
and the skipping of updates that are not finite, for all methods alike.
"""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import flax.linen as nn

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.methods.draws import Batch, Dataset, Draws
from diffjax.methods.settings import Setting, settings_of

# Parameters by the name of their network.
AllParams = Mapping[str, Params]
# One value an example, and other figures of each example by name; all [B].
Values = tuple[Array, dict[str, Array]]


@dataclasses.dataclass(frozen=True)
class Learner:
    """A network that a method trains, or other numbers that it learns.

    Attributes:
      name: of its parameters, optimiser state and average.
      starts_as: "teacher" for a copy of the teacher's parameters, "fresh" for new ones from the
        seed. Or a function that makes parameters of no network: these have no settings and follow
        their gradient itself, so that one of ½ (1 − β) (p − x)² makes p the running mean of x.
      averaged: whether an exponential moving average of it is kept.
      optimizer: name of the settings of its optimiser; "" for the learner's own name.
      fields: of these settings, values other than Adam's of SiD, by name: those of any optimiser,
        and "weight_decay" (AdamW's), "max_grad_value" and "rampup_kimg", which few have.
      has_head: whether its parameters are {"network": ..., "head": ...}, the second being those of
        the method's discriminator head.
    """

    name: str
    starts_as: str | Callable[[], Params] = "teacher"
    averaged: bool = False
    optimizer: str = ""
    fields: Mapping[str, float] = dataclasses.field(default_factory=dict)
    has_head: bool = False

    @property
    def is_network(self) -> bool:
        """Whether its parameters are a network's."""
        return isinstance(self.starts_as, str)


@dataclasses.dataclass(frozen=True)
class Turn:
    """One learner's part of an update: get samples, judge them, follow the gradient.

    Where XLA is asked for several programs, `samples` and `loss` are compiled apart.

    Attributes:
      learner: whose turn it is.
      samples: (parameters, draws of a round) -> [B, ...] examples.
      loss: (parameters, those examples, draws of a round) -> values, and other figures to report,
        in the order of `reports`.
      through_samples: whether the gradient reaches the learner through `samples` alone, as a
        generator's does; otherwise through `loss` alone.
      prefix: of its metrics' names, such as "fake_" in `fake_loss` and `fake_grad_norm`.
      reports: names of the other figures that `loss` gives.
      scale: factor on the loss. Under Adam it matters through epsilon alone.
      times: repetitions an update, each with draws of its own.
      every: it is this learner's turn in every n-th update, the first included.
      borrows: learner whose turn's samples this turn's last repetition learns from, so that they
        are made once; "" for samples of its own. They are made before the first turn: what the
        lender learns in between doesn't change them.
      borrows_at: the repetition that learns from them, -1 for the last.
    """

    learner: str
    samples: Callable[[AllParams, Draws], Array]
    loss: Callable[[AllParams, Array, Draws], Values]
    through_samples: bool = False
    prefix: str = ""
    reports: tuple[str, ...] = ()
    scale: float = 1.0
    times: int = 1
    every: int = 1
    borrows: str = ""
    borrows_at: int = -1

    @property
    def borrowing(self) -> int:
        """Repetition that learns from borrowed samples, from 0; -1 for none."""
        return self.borrows_at % self.times if self.borrows else -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train networks, as data and functions of arrays.

    Attributes:
      networks: functions of (parameters, ...) by name: the learners' and the teacher's.
      batch: shape of what an update draws.
      sigma_min: least noise level that the networks know.
      sigma_max: greatest noise level that they know.
      sigma_data: standard deviation of the data. Published noise levels and weights are for 0.5.
    """

    networks: Mapping[str, Callable[..., Array]]
    batch: Batch
    sigma_min: float = 0.0
    sigma_max: float = float("inf")
    sigma_data: float = PUBLISHED_SIGMA_DATA

    learners: ClassVar[tuple[Learner, ...]]
    # What an update reads and never changes: "teacher", "data", or both.
    reads: ClassVar[tuple[str, ...]]
    # The config's field that names real images, where the method reads "data".
    data_field: ClassVar[str] = "dataset"
    # The network by whose encoder a discriminator judges, "teacher" or a learner; "" for none.
    # `networks` then have "features", of it, and "head": see `models.discriminator`.
    judged_by: ClassVar[str] = ""
    # Whether an example's loss depends on the others of its round, by a mean over them: rounds of
    # gradient accumulation then take means of their own, as the GPUs of published runs do.
    couples_examples: ClassVar[bool] = False
    # Whether draws have `more["images"]`, those seen before the update, for losses with phases.
    has_phases: ClassVar[bool] = False
    # Whether EDM2's uncertainty weighting is one of its ways, and EDM2's noise levels: it then has
    # the attributes `p_mean`, `p_std` and `uncertainty_weighting`.
    weighs_by_uncertainty: ClassVar[bool] = False
    # Whether networks with a loss of their own, SiT's and DiT's, are trained by it: it then has the
    # attribute `own_loss`.
    takes_own_loss: ClassVar[bool] = False
    # The learner whose average is sampled, and how: "one_step" or "heun".
    samples_from: ClassVar[str]
    sampled_by: ClassVar[str]
    # Metric -> its short name on the progress line.
    shown: ClassVar[Mapping[str, str]] = {}
    # Settings that are mostly to blame where numbers go wrong, as dotted names in a config.
    suspects: ClassVar[tuple[str, ...]] = ()

    @property
    def scale(self) -> float:
        """Factor of published noise levels for these data, sigma_data/0.5."""
        return self.sigma_data / PUBLISHED_SIGMA_DATA

    def turns(self) -> tuple[Turn, ...]:
        """List the turns of an update, in order."""
        raise NotImplementedError

    def draw(self, key: PRNGKey, data: Dataset | None = None) -> dict[str, Draws]:
        """Draw all randomness of the update that `key` stands for, by learner.

        Args:
          key: of the update.
          data: real images, where the method reads "data".
        """
        raise NotImplementedError

    @classmethod
    def head(cls, settings: Mapping[str, Any]) -> nn.Module | None:
        """Make the discriminator's head, (features) -> logits; None for the mean over channels.

        Args:
          settings: of the method, by the names of its attributes.
        """
        del settings
        return None

    @classmethod
    def real_batches(cls, settings: Mapping[str, Any]) -> int:
        """Number of batches of real examples that an update draws.

        Args:
          settings: of the method, by the names of its attributes.
        """
        del settings
        return int("data" in cls.reads)

    def idle(self) -> dict[str, str]:
        """List what does nothing beside the other settings: dotted name in a config -> why."""
        return {}

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """List what users can set, besides what all methods have."""
        return settings_of(cls)


_M = TypeVar("_M", bound=type[Method])
_registry: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[_M], _M]:
    """Register a method under the name that configs use.

    Args:
      name: an identifier that no other method has.

    Raises:
      ValueError: if another method has that name.
    """

    def add(cls: _M) -> _M:
        known = _registry.setdefault(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"method {name!r} is {known.__module__}.{known.__qualname__} already.")
        return cls

    return add


def names() -> tuple[str, ...]:
    """List the registered methods, those of this package imported first."""
    package = importlib.import_module("diffjax.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_registry))


def get(name: str) -> type[Method]:
    """Look up a method.

    Args:
      name: of a registered method.

    Raises:
      ValueError: naming the methods that there are.
    """
    known = names()
    if name not in known:
        raise ValueError(f"method={name!r} is unknown; known are: {', '.join(known)}.")
    return _registry[name]


__all__ = [
    "AllParams",
    "Learner",
    "Method",
    "Turn",
    "Values",
    "get",
    "names",
    "register",
]
