"""What `main` does besides training: sample from, and evaluate, a run's student or its teacher."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax import checkpointing, experiment, images, runtime, sampling, sharding
from diffjax.experiment import DistillExperiment, Experiment
from diffjax.types import Array, Params

_SOURCES = ("student", "teacher")
_FORMATS = ("png", "npz")


def sample(config: ConfigDict, workdir: str) -> None:
    """Writes a grid and, with a count, images, of the run's student or of its teacher.

    `config.sample` says what: `source`; `count` (0 for the grid alone); `format`, "png" for one
    file an image or "npz" for one file with `images` and `classes`; `label`, one class or −1 for
    all; `seed`; `batch_size`, which changes no image.

    Args:
      config: of the run.
      workdir: of the run; images go to `samples/` in it.

    Raises:
      ValueError: a field that can't be followed.
      FileNotFoundError: no checkpoint to sample from.
    """
    runtime.prepare(deterministic=config.deterministic, distributed=config.distributed)
    mesh = sharding.make_mesh(**config.mesh)
    settings, exp = config.sample, experiment.build(config)
    if settings.format not in _FORMATS:
        raise ValueError(f"config.sample.format={settings.format!r}: known are {_FORMATS}.")
    if settings.count < 0:
        raise ValueError(f"config.sample.count={settings.count}: 0 or more are needed.")
    label_dim = exp.denoiser.label_dim
    if not -1 <= settings.label < label_dim:
        raise ValueError(
            f"config.sample.label={settings.label}: the network has {label_dim} classes; -1 is all."
        )
    sampler, params, title = _source(config, Path(workdir), exp, settings.source, mesh)
    folder = Path(workdir) / "samples"

    def classes(indices: Array) -> Array:
        if settings.label >= 0:
            return jnp.full_like(indices, settings.label)
        return sampling.random_classes(settings.seed, indices, label_dim)

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
    scale = images.visible_scale(shown.shape[1])
    grid_path = folder / f"{settings.source}_seed{settings.seed}.png"
    images.save_png(grid_path, images.grid(shown, columns=config.grid.columns, scale=scale))
    print(f"{title}: grid in {grid_path}")
    if settings.count:
        name = f"{settings.source}_seed{settings.seed}_{settings.count}"
        produced = sampling.batches(
            sampler, params, settings.count, batch_size=batch_size, classes=classes
        )
        if settings.format == "png":
            sampling.write_pngs(folder / name, produced)
        else:
            name += ".npz"
            sampling.write_npz(folder / name, produced, settings.count)
        print(f"{settings.count} images in {folder / name}")


def evaluate(config: ConfigDict, workdir: str) -> None:
    """Measures the run's student or its teacher as `config.evaluate` says.

    Prints the values, and writes them to `evaluation_<source>.json` in the work directory.

    Args:
      config: of the run.
      workdir: of the run.

    Raises:
      ValueError: no reference to measure against, or a field that can't be followed.
      FileNotFoundError: no checkpoint to evaluate.
    """
    runtime.prepare(deterministic=config.deterministic, distributed=config.distributed)
    mesh = sharding.make_mesh(**config.mesh)
    exp = experiment.build(config)
    evaluator = experiment.evaluator(config, mesh)
    if evaluator is None:
        raise ValueError(
            "config.evaluate.reference is empty: name the real images to compare with."
        )
    source = config.evaluate.source
    sampler, params, title = _source(config, Path(workdir), exp, source, mesh, evaluator.seed)
    values = evaluator(sampler, params, label_dim=exp.denoiser.label_dim)
    print(f"{title}: " + "  ".join(f"{name} {value:.5g}" for name, value in values.items()))
    path = Path(workdir) / f"evaluation_{source}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"source": title, **values}, indent=2) + "\n", encoding="utf-8")


def _source(
    config: ConfigDict,
    workdir: Path,
    exp: Experiment,
    source: str,
    mesh: Mesh,
    seed: int | None = None,
) -> tuple[sampling.SampleBatch, Params, str]:
    """The sampler, the parameters and a title of "student" or "teacher"."""
    seed = config.sample.seed if seed is None else seed
    if source not in _SOURCES:
        raise ValueError(f"source={source!r} is unknown; known are: {', '.join(_SOURCES)}.")
    if source == "teacher":
        if not isinstance(exp, DistillExperiment):
            raise ValueError("source='teacher' needs a distillation; a teacher's run is 'student'.")
        frozen = exp.load_frozen()
        params = jax.device_put(frozen, sharding.state(frozen, mesh))
        caption, sampler, params = exp.comparisons(params, seed=seed, mesh=mesh)[0]
        return sampler, params, caption
    state, meta = restore(workdir, exp, mesh)
    title = f"{exp.caption}, {meta['kimg']:.1f} kimg"
    return exp.sampler(seed=seed, mesh=mesh), exp.ema_params(state), title


def restore(workdir: Path, exp: Experiment, mesh: Mesh) -> tuple[Any, dict[str, Any]]:
    """The newest checkpoint of a run.

    Raises:
      FileNotFoundError: if there is none.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint: train with this workdir first.")
    abstract = exp.abstract_state()
    with checkpointing.Checkpointer(folder) as checkpointer:
        return checkpointer.restore(
            sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        )
