"""Teachers from folders of Hugging Face's diffusers, read without PyTorch.

A folder is that of a pipeline, with `unet/` and `scheduler/`, or has the network's `config.json`
and weights beside `scheduler_config.json`. The network is a UNet2DModel, its weights are
safetensors. Images become channels last, (H, W, C), in the units of the network's training, which
are [-1, 1] for images by habit.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.convert import diffusers_files, diffusers_scheduler, diffusers_unet
from diffjax.files import paths
from diffjax.interfaces import Array, Params
from diffjax.models import adapters, conditions
from diffjax.models.teacher import CondLaw, Teacher
from diffjax.networks.unet_2d import UNet2D

PathLike = str | os.PathLike[str]

_OURS = "denoiser.json"  # in folders that diffjax wrote
_SIGMA_DATA = 0.5  # of images in [-1, 1], as EDM takes it


@dataclasses.dataclass(frozen=True)
class Description:
    """Content of a folder as far as it is known without reading its weights.

    Attributes:
      folder: as it was given.
      network: the network, to be bound to the weights.
      shape: of one example, (H, W, C).
      num_classes: number of classes; 0 for an unconditional network; None where labels aren't
        classes.
      configs: the network's config and the scheduler's.
      weights: files of the weights; with the configs, all that is read.
      convention: what the network was trained on.
      has_variances: whether the second half of the output's channels are variances, left out.
    """

    folder: Path
    network: UNet2D
    shape: tuple[int, int, int]
    num_classes: int | None
    configs: tuple[Path, Path]
    weights: tuple[Path, ...]
    convention: diffusers_scheduler.Convention
    has_variances: bool

    def abstract_params(self) -> Params:
        """Parameters of `teacher` as `jax.ShapeDtypeStruct`s, without computing anything."""
        return self._adapted(diffusers_unet.abstract(self.network))[1]

    def read_params(self) -> Params:
        """Read the weights, float32.

        Returns:
          `{"params": …, "frozen": …}`, Fourier features being frozen.

        Raises:
          ValueError: in one line, naming the file and the arrays that don't fit.
        """
        arrays: dict[str, np.ndarray] = {}
        for path in self.weights:
            arrays |= diffusers_files.read_safetensors(path)
        with diffusers_files.named(self.weights[0]):
            variables = diffusers_unet.variables(self.network, arrays)
        return self._adapted(variables)[1]

    def law(self, cond: CondLaw | None = None) -> CondLaw | None:
        """Law of the teacher's conditions.

        Args:
          cond: the user's; None: classes drawn uniformly, as one-hot vectors, or none.

        Raises:
          ValueError: if `cond` is needed, or given for an unconditional network.
        """
        folder = self.folder
        if self.num_classes == 0 and cond is not None:
            raise ValueError(f"{folder}: the network has no classes, so that cond must be None")
        if self.num_classes is None and cond is None:
            raise ValueError(
                f"{folder}: class_embed_type={self.network.class_embed_type!r} doesn't say which "
                "labels there are; give cond, a law that draws them, in a function of yours that "
                f"returns diffusers.read({str(folder)!r}, cond=…)"
            )
        return cond if cond or not self.num_classes else conditions.one_hot(self.num_classes)

    def teacher(
        self,
        params: Params,
        *,
        cond: CondLaw | None = None,
        sigma_data: float | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
    ) -> Teacher:
        """Make a teacher of the network and parameters.

        Args:
          params: as `read_params` or `abstract_params` gives them.
          cond: as `law` takes it.
          sigma_data: standard deviation of the data; None: the scheduler's, or else 0.5.
          sigma_min: least noise level; None: the scheduler's.
          sigma_max: greatest noise level; None: the scheduler's.

        Raises:
          ValueError: if `cond` is needed, or given for an unconditional network.
        """
        if sigma_data is None:
            sigma_data = self.convention.sigma_data or _SIGMA_DATA
        net, _ = self._adapted({"params": {}})
        denoise = self.convention.denoiser(net)
        return Teacher(
            denoise,
            params,
            shape=self.shape,
            sigma_data=sigma_data,
            sigma_min=self.convention.sigma_min if sigma_min is None else sigma_min,
            sigma_max=self.convention.sigma_max if sigma_max is None else sigma_max,
            cond=self.law(cond),
            process=self.convention.process,
            gain=getattr(denoise, "gain", None),
        )

    def _adapted(self, variables: Mapping[str, Any]) -> tuple[adapters.Net, Params]:
        channels = self.shape[-1]

        def call(module: UNet2D, variables: Any, x: Array, t: Array, cond: Any) -> Array:
            out: Any = module.apply(variables, x, t, cond)
            return out[..., :channels] if self.has_variances else out

        return adapters.from_linen(self.network, variables, call=call)


def is_folder(path: PathLike) -> bool:
    """Say whether a path is a folder of diffusers' rather than of ours, by the files in it.

    Args:
      path: of anything, or of nothing.
    """
    try:
        folder = Path(paths.expanded(os.fspath(path)))
        if not folder.is_dir() or (folder / _OURS).exists():
            return False
        if any(
            (folder / name).is_file()
            for name in (
                diffusers_files.INDEX,
                diffusers_files.SCHEDULER,
                f"scheduler/{diffusers_files.SCHEDULER}",
                f"unet/{diffusers_files.CONFIG}",
            )
        ):
            return True
        return "_diffusers_version" in diffusers_files.read_json(folder / diffusers_files.CONFIG)
    except (OSError, ValueError):
        return False


def describe(folder: PathLike, *, size: int | tuple[int, int] | None = None) -> Description:
    """Read all of a folder but its weights.

    Args:
      folder: of a pipeline, or of a network beside a `scheduler_config.json`.
      size: height and width of the images, one number for both; None: the config's `sample_size`.

    Raises:
      FileNotFoundError: in one line, if the folder or one of its files isn't there.
      ValueError: in one line, naming the file and the setting that isn't read.
    """
    given = Path(paths.expanded(os.fspath(folder)))
    if not given.is_dir():
        what = "is no folder" if given.exists() else "isn't there"
        raise FileNotFoundError(
            f"{given} {what}; download the model's folder (hf download NAME --local-dir FOLDER) "
            "and give its path"
        )
    config_path, scheduler_path = diffusers_files.config_paths(given)
    config = diffusers_files.read_json(config_path)
    scheduler = diffusers_files.read_json(scheduler_path)
    with diffusers_files.named(config_path):
        network = diffusers_unet.network(config)
        height, width = _size(config, size, len(network.block_out_channels))
    with diffusers_files.named(scheduler_path):
        convention = diffusers_scheduler.convention(scheduler)
        _check_times(network, convention, scheduler["_class_name"])
    variance = str(scheduler.get("variance_type"))
    twice = network.out_channels == 2 * network.in_channels
    has_variances = twice and variance in ("learned", "learned_range")
    if network.in_channels != network.out_channels and not has_variances:
        raise ValueError(
            f"{config_path}: in_channels={network.in_channels} and "
            f"out_channels={network.out_channels} differ; a denoiser gives what it takes"
            + (" (learned variances are read under variance_type='learned_range')" if twice else "")
        )
    classes = network.num_class_embeds or 0
    return Description(
        folder=given,
        network=network,
        shape=(height, width, network.in_channels),
        num_classes=classes if network.class_embed_type is None else None,
        configs=(config_path, scheduler_path),
        weights=diffusers_files.weights(config_path.parent),
        convention=convention,
        has_variances=has_variances,
    )


def read(
    folder: PathLike,
    *,
    cond: CondLaw | None = None,
    sigma_data: float | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    size: int | tuple[int, int] | None = None,
) -> Teacher:
    """Read a teacher: a UNet2DModel and what its scheduler says of its training.

    `clip_sample`, thresholding and all else that is a sampler's are passed over; a table of β is a
    table of noise levels, to which σ snaps.

    Args:
      folder: as `describe` takes it.
      cond: law of the conditions; None: classes drawn uniformly, as one-hot vectors, or none.
      sigma_data: standard deviation of the data in the network's units; None: 0.5, or what a
        scheduler of EDM says.
      sigma_min: least noise level at which the network is right, where the check says so; None: the
        scheduler's.
      sigma_max: greatest such noise level, likewise.
      size: height and width of the images, one number for both; None: the config's `sample_size`.

    Returns:
      Teacher of examples (H, W, C), its parameters float32.

    Raises:
      FileNotFoundError: in one line, if the folder or one of its files isn't there.
      ValueError: in one line, naming the file and what in it isn't read or doesn't fit.
    """
    description = describe(folder, size=size)
    description.law(cond)  # before weights are read
    return description.teacher(
        description.read_params(),
        cond=cond,
        sigma_data=sigma_data,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
    )


def _size(config: Mapping[str, Any], size: Any, levels: int) -> tuple[int, int]:
    given = config.get("sample_size") if size is None else size
    name = "sample_size" if size is None else "size"
    if given is None:
        raise ValueError(
            "sample_size isn't said; write the height and width that the network was trained at "
            "into it, or give size"
        )
    both = list(given) if isinstance(given, list | tuple) else [given, given]
    if len(both) != 2 or not all(type(each) is int and each > 0 for each in both):
        raise ValueError(f"{name}={given!r} must be a positive integer, or two: height and width")
    multiple = 2 ** (levels - 1)
    if any(each % multiple for each in both):
        raise ValueError(
            f"{name}={given!r} must be a multiple of {multiple}, which {levels} levels halve"
        )
    return both[0], both[1]


def _check_times(
    network: UNet2D, convention: diffusers_scheduler.Convention, scheduler: str
) -> None:
    """Refuse times of the scheduler that the network can't embed."""
    kind = network.time_embedding_type
    if kind == "fourier" and convention.t_min <= 0:
        raise ValueError(
            f"{scheduler} has the time {convention.t_min:.3g}, whose logarithm the network's "
            "time_embedding_type='fourier' takes; the scheduler that it was trained with is wanted"
        )
    if kind != "learned":
        return
    if convention.num_times is None:
        raise ValueError(
            f"{scheduler} has real times, and the network's time_embedding_type='learned' knows "
            "integers; the scheduler that it was trained with is wanted"
        )
    assert network.num_train_timesteps is not None
    if network.num_train_timesteps < convention.num_times:
        raise ValueError(
            f"{scheduler} has {convention.num_times} times, and the network's "
            f"num_train_timesteps={network.num_train_timesteps}"
        )
