"""Real images that a network is trained on, or that a distillation compares with, or latents."""

import numpy as np
from ml_collections import ConfigDict

from diffjax import data
from diffjax.data import DataSource, arrays
from diffjax.data.source import ArraySource, LatentSource
from diffjax.evaluation import sample_references
from diffjax.files.progress import warn_once
from diffjax.methods import Method
from diffjax.models import latents
from diffjax.models.network_denoiser import NetworkDenoiser
from diffjax.networks.edm2 import EDM2UNet
from diffjax.runs.inputs import DataInput
from diffjax.runs.networks import Denoiser
from diffjax.training import dataset

_CLASSES = "classes"  # as the sample mode names them


def of_training(
    config: ConfigDict, cls: type[Method], source: DataSource | None
) -> DataInput | None:
    """Open the real images that a network is trained on, if the method reads any.

    Args:
      config: of a method without a teacher.
      cls: the method.
      source: images in place of those that the config names.

    Raises:
      ValueError: naming the field.
      FileNotFoundError: if they aren't there.
    """
    if "data" not in cls.reads:
        return None
    if source is None:
        source = dataset.open_square(
            config.dataset, conditional=config.conditional, prefix="config."
        )
    return _checked(
        config, DataInput(source, config.batch_size, config.seed, config.x_flip), "dataset"
    )


def of_distillation(
    config: ConfigDict,
    cls: type[Method],
    denoiser: Denoiser,
    batches: int,
    source: DataSource | None,
) -> DataInput:
    """Open the real images that a distillation compares with, or examples of the teacher's kind.

    Args:
      config: of the distillation.
      cls: its method, which says what field names them.
      denoiser: the teacher, whose size and classes they have.
      batches: of `config.batch_size` images that an update reads.
      source: images in place of those that the config names.

    Raises:
      ValueError: naming the field.
      FileNotFoundError: if they aren't there.
    """
    field = cls.data_field
    name = config[field]
    law = getattr(denoiser, "cond", None)
    if law is not None and not denoiser.label_dim:
        raise ValueError(
            f"config.method={config.method!r} takes conditions from its data, as classes, and that "
            f"of {config.teacher} is something else: name a method that needs no data."
        )
    if source is None and denoiser.holds_images:
        source = dataset.open_square(
            name, conditional=bool(denoiser.label_dim), prefix="config.", field=field
        )
    elif source is None and sample_references.is_file(name):
        source = _floats(name, denoiser, config.teacher, f"config.{field}")
    elif source is None:
        source = _encoded(name, denoiser, config.teacher, f"config.{field}")
    if source.image_shape != denoiser.shape:
        raise ValueError(
            f"config.{field}={name!r} has images of {source.image_shape}, and the teacher "
            f"{config.teacher} denoises {denoiser.shape}; name its own data."
        )
    if denoiser.label_dim and source.num_classes != denoiser.label_dim:
        raise ValueError(
            f"config.{field}={name!r} has {source.num_classes or 'no'} classes, and the teacher "
            f"{config.teacher} {denoiser.label_dim}; name its own data."
        )
    if isinstance(source, LatentSource):
        _tell_of_other_units(source, denoiser, f"config.{field}={name!r}")
    data_input = DataInput(
        source, config.batch_size, config.seed, config.get("x_flip", False), batches
    )
    return _checked(config, data_input, field)


def _encoded(name: str, denoiser: Denoiser, teacher: str, field: str) -> LatentSource:
    """Open latents of EDM2's data sets, in the teacher's units."""
    if not isinstance(denoiser, NetworkDenoiser):
        raise ValueError(
            f"{field}={name!r}: {teacher} denoises {denoiser.shape} in units of its own, which are "
            "known where data are floats in them: name an .npz or .npy of such."
        )
    stored = data.open_laws(name, field=field)
    *places, channels = stored.image_shape
    if (*places, channels // 2) != denoiser.shape:
        raise ValueError(
            f"{field}={name!r} holds means and standard deviations of {(*places, channels // 2)}, "
            f"and the teacher {teacher} denoises {denoiser.shape}; name its own data."
        )
    if not isinstance(denoiser.network, EDM2UNet):
        raise ValueError(
            f"{field}={name!r}: latents as written by dataset_tool are of EDM2's networks, of "
            f"images in [0, 1], and {teacher} has other ones: name an .npz or .npy of floats in "
            "its units."
        )
    units = latents.EDM2
    if units.channels != denoiser.shape[-1]:
        raise ValueError(
            f"{field}={name!r}: EDM2's units are of {units.channels} channels, and {teacher} "
            f"denoises {denoiser.shape}: name an .npz or .npy of floats in its units."
        )
    return LatentSource(
        stored, True, np.asarray(units.scale, np.float32), np.asarray(units.bias, np.float32)
    )


def _floats(name: str, denoiser: Denoiser, teacher: str, field: str) -> LatentSource:
    """Read examples in the teacher's units from a file of NumPy's."""
    read = sample_references.read_named(name, [_CLASSES], field=field)
    examples = sample_references.checked(
        read[arrays.IMAGES], denoiser.shape, f"{field}={name!r} holds"
    )
    classes = np.zeros(len(examples), np.int32)
    if denoiser.label_dim:
        given = read.get(_CLASSES)
        if given is None:
            raise ValueError(
                f"{field}={name!r} has no array {_CLASSES!r}, and the teacher {teacher} has "
                f"{denoiser.label_dim}: add one of N whole numbers from 0."
            )
        is_whole = np.issubdtype(given.dtype, np.integer) and given.shape == (len(examples),)
        if not is_whole or given.min() < 0 or given.max() >= denoiser.label_dim:
            raise ValueError(
                f"{field}={name!r}: its {_CLASSES!r} are {given.dtype} {list(given.shape)}; "
                f"{len(examples)} whole numbers from 0 to {denoiser.label_dim - 1} are needed."
            )
        classes = given.astype(np.int32)
    stored = ArraySource(name, examples, classes, denoiser.label_dim)
    one = np.ones(1, np.float32)
    return LatentSource(stored, False, one, 0 * one)


def _tell_of_other_units(source: LatentSource, denoiser: Denoiser, what: str) -> None:
    """Tell of examples whose standard deviation is far from the teacher's, such as raw latents."""
    places = np.linspace(0, len(source) - 1, 64, dtype=int)
    seen = np.stack([source[each][0] for each in places])  # laws vary by their means
    std, wanted = seen[..., : denoiser.shape[-1]].std(), denoiser.sigma_data
    if not wanted / 1.5 < std < wanted * 1.5:
        warn_once(
            f"{what}: in the teacher's units the standard deviation is {std:.3g}, not {wanted:g}: "
            "scaled twice, or not at all?"
        )


def _checked(config: ConfigDict, data_input: DataInput, field: str) -> DataInput:
    if data_input.is_streamed and config.updates_per_call != 1:
        raise ValueError(
            f"config.updates_per_call={config.updates_per_call} needs a data set that fits on "
            f"the devices, and config.{field}={config[field]!r} is streamed to them; set it "
            "to 1."
        )
    return data_input
