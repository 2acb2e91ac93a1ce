"""The sample mode: a grid and images of a student, its teacher or another network."""

from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.files import images
from diffjax.files.progress import say, warn_once
from diffjax.interfaces import Array
from diffjax.runs import building, checks, joining, results, subjects

_FORMATS = ("png", "npz")


def sample(
    config: ConfigDict, workdir: str, *, allow_changed_config: bool = False, output: str = ""
) -> None:
    """Write a grid of a student, its teacher or another network, and with a count its images.

    `config.sample` has: `source`, as `subjects.find` takes it; `count` (0 for the grid alone);
    `format`, "png" for one file an image or "npz" for one file with `images` and `classes`;
    `label`, one class or −1 for all; `seed`; `batch_size`, which changes images by rounding alone.

    Source, label, seed and count are in the files' names, and `<name>.json` says what else decides
    their content. Earlier files there of something else are kept under other names.

    Args:
      config: of the run.
      workdir: of the run.
      allow_changed_config: asks a run's network also as another config says.
      output: folder to write to, in `samples/` there; "" is the work directory.

    Raises:
      ValueError: a field that can't be followed.
      FileNotFoundError: no checkpoint to sample from.
      OSError: a folder that can't be written to, before anything is computed.
    """
    config = checks.upgraded(config)
    with joining.joined(config):
        _sample(config, workdir, allow_changed_config, output)


def _sample(config: ConfigDict, workdir: str, allow_changed_config: bool, output: str) -> None:
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
    if not allow_changed_config:
        subjects.check(settings.source, Path(workdir), config, exp)
    folder = results.folder(workdir, output) / "samples"
    subject = subjects.find(settings.source, Path(workdir), exp, settings.seed, mesh)
    if subject.classes and settings.label not in (-1, *subject.classes):
        warn_once(f"config.sample.label={settings.label}: no images of this class were trained on.")
    sampler, params = subject.sampler, subject.params
    network = results.network(exp, subject.params, source=settings.source, step=subject.step)
    record = {"network": network, "label": settings.label, "seed": settings.seed}
    label = f"_label{settings.label}" if settings.label >= 0 else ""
    name = f"{subject.name}{label}_seed{settings.seed}"

    def classes(indices: Array) -> Array:
        if settings.label >= 0:
            return jnp.full_like(indices, settings.label)
        return sampling.random_classes(settings.seed, indices, label_dim, subject.classes)

    grid_size = config.grid.rows * config.grid.columns
    total = max(grid_size, settings.count)
    produced = sampling.batches(
        sampler,
        params,
        total,
        # One size, and each image once: the grid's are the first of them.
        batch_size=sharding.round_up(min(settings.batch_size, total), mesh),
        classes=classes,
    )
    shown, produced = sampling.look_ahead(produced, grid_size)
    is_main = jax.process_index() == 0
    if is_main:
        scale = images.visible_scale(shown.shape[1])
        path = folder / f"{name}.png"
        picture = images.grid(shown, columns=config.grid.columns, scale=scale)
        shape = {"rows": config.grid.rows, "columns": config.grid.columns}
        with results.placed(path, {**record, **shape}) as partial:
            images.save_png(partial, picture)
        say(f"{subject.title}: grid in {path}")
    if settings.count:
        produced = sampling.cut(produced, settings.count)
        if not is_main:  # which takes its part in making them
            for _ in produced:
                pass
            return
        path = folder / f"{name}_{settings.count}{'.npz' if settings.format == 'npz' else ''}"
        with results.placed(path, {**record, "count": settings.count}) as partial:
            if settings.format == "png":
                sampling.write_pngs(partial, produced)
            else:
                sampling.write_npz(partial, produced, settings.count)
        say(f"{settings.count} images in {path}")
