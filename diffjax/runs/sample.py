"""The sample mode: a grid and images of a student, its teacher or another network."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.files import images, writing
from diffjax.files.progress import say, warn_once
from diffjax.interfaces import Array
from diffjax.runs import building, checks, joining, saved_config, subjects

_FORMATS = ("png", "npz")


def sample(config: ConfigDict, workdir: str, *, allow_changed_config: bool = False) -> None:
    """Write a grid of a student, its teacher or another network, and with a count its images.

    `config.sample` has: `source`, as `subjects.find` takes it; `count` (0 for the grid alone);
    `format`, "png" for one file an image or "npz" for one file with `images` and `classes`;
    `label`, one class or −1 for all; `seed`; `batch_size`, which changes no image.

    Args:
      config: of the run.
      workdir: of the run; images go to `samples/` in it.
      allow_changed_config: asks a run's network also as another config says.

    Raises:
      ValueError: a field that can't be followed.
      FileNotFoundError: no checkpoint to sample from.
    """
    config = checks.upgraded(config)
    with joining.joined(config):
        _sample(config, workdir, allow_changed_config)


def _sample(config: ConfigDict, workdir: str, allow_changed_config: bool) -> None:
    mesh = sharding.make_mesh(**config.mesh)
    settings, exp = config.sample, building.build(config)
    if settings.format not in _FORMATS:
        raise ValueError(f"config.sample.format={settings.format!r}: known are {_FORMATS}.")
    if settings.count < 0:
        raise ValueError(f"config.sample.count={settings.count}: 0 or more are needed.")
    label_dim = exp.denoiser.label_dim
    if not -1 <= settings.label < label_dim:
        raise ValueError(
            f"config.sample.label={settings.label}: the network has {label_dim} classes; -1 is all."
        )
    if settings.source in subjects.OF_THE_RUN and not allow_changed_config:
        saved_config.check_same_network(Path(workdir), config)
    writing.make_writable(workdir)
    subject = subjects.find(settings.source, Path(workdir), exp, settings.seed, mesh)
    if subject.classes and settings.label not in (-1, *subject.classes):
        warn_once(f"config.sample.label={settings.label}: no images of this class were trained on.")
    sampler, params = subject.sampler, subject.params
    folder = Path(workdir) / "samples"

    def classes(indices: Array) -> Array:
        if settings.label >= 0:
            return jnp.full_like(indices, settings.label)
        return sampling.random_classes(settings.seed, indices, label_dim, subject.classes)

    grid_size = config.grid.rows * config.grid.columns
    batch_size = sharding.round_up(settings.batch_size, mesh)
    shown, _ = next(
        sampling.batches(
            sampler,
            params,
            grid_size,
            batch_size=sharding.round_up(grid_size, mesh),
            classes=classes,
        )
    )
    is_main = jax.process_index() == 0
    if is_main:
        scale = images.visible_scale(shown.shape[1])
        grid_path = folder / f"{subject.name}_seed{settings.seed}.png"
        images.save_png(grid_path, images.grid(shown, columns=config.grid.columns, scale=scale))
        say(f"{subject.title}: grid in {grid_path}")
    if settings.count:
        name = f"{subject.name}_seed{settings.seed}_{settings.count}"
        produced = sampling.batches(
            sampler, params, settings.count, batch_size=batch_size, classes=classes
        )
        if not is_main:  # which takes its part in making them
            for _ in produced:
                pass
            return
        if settings.format == "png":
            sampling.write_pngs(folder / name, produced)
        else:
            name += ".npz"
            sampling.write_npz(folder / name, produced, settings.count)
        say(f"{settings.count} images in {folder / name}")
