"""Model cards: what a network is, kept with it, so that it is asked as it was trained."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

import diffjax
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.records import RecordDenoiser

STUDENT, DENOISER = "student", "denoiser"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Description of a network, apart from its constructor's arguments.

    Attributes:
      kind: "student", which makes an image of latents in one evaluation or a few; "denoiser", which
        takes noise off; "" if that isn't known, as of a pickle, or of what was written before.
      method: that trained it, such as "sid"; "" if it isn't known.
      init_sigma: σ_init, the noise level at which a student is asked; None for a denoiser.
      steps: network evaluations a sample of a student; None for a denoiser, whose sampler says.
      label_dim: number of classes that it is conditioned on; 0 for none, None if it isn't known.
      sigma_data: standard deviation of the data in its preconditioning; None where that has none.
      dtype: of the network's computation in training; "" if it isn't known.
      images: images that it was trained on, real or its own; None if that isn't known.
      versions: of diffjax and jax, which wrote it.
      sigmas: of a student of several steps, the noise level of each, the first being init_sigma; ()
        for others.
    """

    kind: str = ""
    method: str = ""
    init_sigma: float | None = None
    steps: int | None = None
    label_dim: int | None = None
    sigma_data: float | None = None
    dtype: str = ""
    images: int | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        is_student = self.kind == STUDENT
        if self.kind not in ("", STUDENT, DENOISER):
            raise ValueError(f"kind={self.kind!r} is unknown; known are: {STUDENT}, {DENOISER}")
        if is_student != (isinstance(self.init_sigma, int | float) and self.init_sigma > 0):
            raise ValueError(
                f"init_sigma={self.init_sigma!r} and kind={self.kind!r}: a student has a positive "
                "init_sigma, and nothing else has one"
            )
        steps = self.steps or 1
        if (len(self.sigmas) or 1) != steps or self.sigmas[:1] not in ((), (self.init_sigma,)):
            raise ValueError(
                f"steps={self.steps!r} and sigmas={self.sigmas!r}: a student of several steps has "
                "a noise level for each, the first being init_sigma, and nothing else has any"
            )

    @property
    def title(self) -> str:
        """Description for people, such as "a student (sid, init_sigma 2.5)"."""
        if self.kind == STUDENT:
            of = f"{self.method}, " if self.method else ""
            of += f"{self.steps} steps, " if self.sigmas else ""
            return f"a student ({of}init_sigma {self.init_sigma:g})"
        return "a denoiser" if self.kind else "a network of unknown kind"


def read(values: Any) -> ModelCard:
    """Make the card of what `dataclasses.asdict` gave; fields of later versions are left out.

    Raises:
      ValueError: if they are no card's.
    """
    if not isinstance(values, Mapping):
        raise ValueError("model_card isn't a JSON object")
    known = {field.name for field in dataclasses.fields(ModelCard)}
    kept = {name: value for name, value in values.items() if name in known}
    return ModelCard(**{**kept, "sigmas": tuple(kept.get("sigmas") or ())})


def of_denoiser(denoiser: NetworkDenoiser | RecordDenoiser) -> dict[str, Any]:
    """Fields of a card that a built network fills in, and the versions here."""
    sigma_data: float | None = denoiser.sigma_data
    if isinstance(denoiser, NetworkDenoiser):
        sigma_data = getattr(denoiser.preconditioning, "sigma_data", None)
    return {
        "label_dim": denoiser.label_dim,
        "sigma_data": sigma_data,
        "versions": {"diffjax": diffjax.__version__, "jax": jax.__version__},
    }
