"""Real images that a network is trained on, or that a distillation compares with."""

from ml_collections import ConfigDict

from diffjax.data import DataSource
from diffjax.methods import Method
from diffjax.runs.inputs import DataInput
from diffjax.runs.networks import Denoiser
from diffjax.training import dataset


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
    """Open the real images that a distillation compares with.

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
    if not denoiser.holds_images:
        raise ValueError(
            f"config.method={config.method!r} compares with real images, and {config.teacher} "
            "denoises examples in units of its own: name a teacher of images, or a method that "
            "needs no data."
        )
    law = getattr(denoiser, "cond", None)
    if law is not None and not denoiser.label_dim:
        raise ValueError(
            f"config.method={config.method!r} takes conditions from its data, as classes, and that "
            f"of {config.teacher} is something else: name a method that needs no data."
        )
    if source is None:
        source = dataset.open_square(
            name, conditional=bool(denoiser.label_dim), prefix="config.", field=field
        )
    if source.image_shape != denoiser.shape:
        raise ValueError(
            f"config.{field}={name!r} has images of {source.image_shape}, and the teacher "
            f"{config.teacher} denoises {denoiser.shape}; name its own data."
        )
    if denoiser.label_dim and source.num_classes != denoiser.label_dim:
        raise ValueError(
            f"config.{field}={name!r} has {source.num_classes} classes, and the teacher "
            f"{config.teacher} {denoiser.label_dim}; name its own data."
        )
    data_input = DataInput(
        source, config.batch_size, config.seed, config.get("x_flip", False), batches
    )
    return _checked(config, data_input, field)


def _checked(config: ConfigDict, data_input: DataInput, field: str) -> DataInput:
    if data_input.is_streamed and config.updates_per_call != 1:
        raise ValueError(
            f"config.updates_per_call={config.updates_per_call} needs a data set that fits on "
            f"the devices, and config.{field}={config[field]!r} is streamed to them; set it "
            "to 1."
        )
    return data_input
