"""The sample mode: a grid and images of a student, its teacher or another network."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.evaluation import drawing, sampling
from diffjax.files import images
from diffjax.files.progress import say, warn_once
from diffjax.interfaces import Array
from diffjax.runs import building, checks, decoders, idle, joining, results, subjects
from diffjax.runs.experiment import Experiment
from diffjax.runs.pictures import Pictures, PreviewError
from diffjax.runs.user_function import RefusedError

# Format -> end of the name of what holds the samples; a folder for PNG.
_ENDINGS = {"png": "", "npz": ".npz", "adm": "_adm.npz"}


def sample(
    config: ConfigDict, workdir: str, *, allow_changed_config: bool = False, output: str = ""
) -> None:
    """Write a grid of a student, its teacher or another network, and with a count its samples.

    `config.sample` has: `source`, as `subjects.find` takes it; `count` (0 for the grid alone);
    `format`, "png" for one file an image, "npz" for one file with `images` and `classes`, or "adm"
    for one that ADM's evaluator reads, `arr_0` uint8 [N, H, W, 3] and the classes in `arr_1`;
    `label`, one class or −1 for all; `seed`; `batch_size`, which changes samples by rounding alone.

    Through `config.decoder` samples are images in any format. Without it those of a user's teacher,
    and latents, are float32 in the teacher's units, `images` [N, *shape] of the npz, with
    `classes` or the leaves of the condition, such as `condition/snr`.

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
    with joining.joined(config, "sample"):
        _sample(config, workdir, allow_changed_config, output)


def _sample(config: ConfigDict, workdir: str, allow_changed_config: bool, output: str) -> None:
    mesh = sharding.make_mesh(**config.mesh)
    settings, exp = config.sample, building.build(config)
    pictures = Pictures(exp.examples, config.grid.rows, config.grid.columns)
    _check(config, exp, pictures)
    idle.check(config, exp, Path(workdir))
    if exp.decoder is not None:
        exp.decoder.check()
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

    total = max(pictures.count if pictures.exist else 0, settings.count)
    produced = sampling.batches(
        sampler,
        params,
        total,
        # One size, and each sample once: the grid's are the first of them.
        batch_size=sharding.round_up(min(settings.batch_size, total), mesh),
        classes=_conditions(exp, settings, subject.classes),
        quantise=exp.examples.holds_images,
    )
    is_main = jax.process_index() == 0
    if pictures.exist:
        shown, produced = sampling.look_ahead(produced, pictures.count)
        if is_main:
            path = folder / f"{name}.png"
            shape = {"rows": config.grid.rows, "columns": config.grid.columns}
            try:
                picture = pictures.grid(shown)
            except PreviewError as error:
                if not settings.count or settings.format != "npz":
                    raise
                warn_once(f"no grid is written: {error}")
                picture = None
            if picture is not None:
                with results.placed(path, {**record, **shape}) as partial:
                    images.save_png(partial, picture)
                say(f"{subject.title}: grid in {path}")
    if settings.count:
        produced = sampling.cut(produced, settings.count)
        if not is_main:  # which takes its part in making them
            for _ in produced:
                pass
            return
        path = folder / f"{name}_{settings.count}{_ENDINGS[settings.format]}"
        with results.placed(path, {**record, "count": settings.count}) as partial:
            if settings.format == "png":
                sampling.write_pngs(partial, _drawn(pictures, produced))
            elif settings.format == "adm":
                rgb = _as_rgb(_drawn(pictures, produced), has_classes=exp.denoiser.label_dim > 0)
                count = settings.count
                sampling.write_npz(partial, rgb, count, name="arr_1", images_name="arr_0")
            else:
                is_class = exp.denoiser.label_dim or exp.denoiser.holds_images
                conditions = "classes" if is_class else "condition"
                sampling.write_npz(partial, produced, settings.count, name=conditions)
        what = "images" if exp.examples.holds_images else "samples"
        say(f"{settings.count} {what} in {path}")


def _check(config: ConfigDict, exp: Experiment, pictures: Pictures) -> None:
    """Check fields against the network, before anything is computed."""
    settings, denoiser = config.sample, exp.denoiser
    if settings.format not in _ENDINGS:
        known = tuple(_ENDINGS)
        raise RefusedError(f"config.sample.format={settings.format!r}: known are {known}.")
    if settings.count < 0:
        raise RefusedError(f"config.sample.count={settings.count}: 0 or more are needed.")
    if not -1 <= settings.label < denoiser.label_dim:
        what = f"the network has {denoiser.label_dim} classes; -1 is all"
        if denoiser.cond is not None and not denoiser.label_dim:
            what = f"the condition of {exp.teacher} isn't a one-hot class; -1 draws it by its law"
        raise RefusedError(f"config.sample.label={settings.label}: {what}.")
    if settings.format != "png" and not settings.count and pictures.exist:
        warn_once(
            f"config.sample.format={settings.format!r} is of samples, and config.sample.count=0 "
            "writes a grid alone."
        )
    latents = f", or {decoders.ADVICE}" if exp.examples.is_latent else ""
    if settings.count and settings.format != "npz" and not pictures.exist_for_each:
        raise RefusedError(
            f"config.sample.format={settings.format!r} needs images, and examples are of "
            f"{denoiser.shape}: set it to 'npz'{latents}."
        )
    if not settings.count and not pictures.exist:
        raise RefusedError(
            f"config.sample.count=0 writes a picture alone, and examples of {denoiser.shape} have "
            f"none: set it to a number, and config.sample.format='npz'{latents}."
        )


def _conditions(
    exp: Experiment, settings: ConfigDict, among: tuple[int, ...]
) -> Callable[[Array], Any]:
    """Make what gives the conditions of samples by their indices."""
    denoiser = exp.denoiser

    def conditions(indices: Array) -> Any:
        if settings.label >= 0:
            return jnp.full_like(indices, settings.label)
        if denoiser.cond is None and not denoiser.holds_images:
            return None
        return drawing.random_conditions(
            settings.seed, indices, denoiser.label_dim, among, exp.condition_law
        )

    return conditions


def _drawn(pictures: Pictures, produced: sampling.Batches) -> Iterator[tuple[Any, Any]]:
    """Draw each sample as an image."""
    return ((pictures.each(samples), drawn) for samples, drawn in produced)


def _as_rgb(drawn: sampling.Batches, *, has_classes: bool) -> sampling.Batches:
    """Make images uint8 [B, H, W, 3], gray in all three channels, and keep classes alone."""
    for pictures, conditions in drawn:
        sizes = {picture.shape[:2] for picture in pictures}
        if len(sizes) > 1:
            raise ValueError(
                f"config.sample.format='adm' needs images of one size, and previews have {sizes}"
            )
        three = [np.broadcast_to(picture, (*picture.shape[:2], 3)) for picture in pictures]
        yield np.stack(three), conditions if has_classes else None
