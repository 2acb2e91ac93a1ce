"""What `main` does besides training: sample from, and evaluate, a run's student or its teacher."""

import dataclasses
import json
import re
import statistics
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.convert import teacher as teachers
from diffjax.distributed import peers, sharding
from diffjax.evaluation import sampling
from diffjax.files import images, writing
from diffjax.interfaces import Array, Params
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import best_network, building, checks
from diffjax.runs.experiment import DistillExperiment, Experiment
from diffjax.training import checkpointing

_SOURCES = ("student", "best", "teacher")
_FORMATS = ("png", "npz")


def sample(config: ConfigDict, workdir: str) -> None:
    """Writes a grid and, with a count, images, of a student, its teacher or another network.

    `config.sample` says what: `source`, as `_find` takes it; `count` (0 for the grid alone);
    `format`, "png" for one file an image or "npz" for one file with `images` and `classes`;
    `label`, one class or −1 for all; `seed`; `batch_size`, which changes no image.

    Args:
      config: of the run.
      workdir: of the run; images go to `samples/` in it.

    Raises:
      ValueError: a field that can't be followed.
      FileNotFoundError: no checkpoint to sample from.
    """
    with _joined(config):
        _sample(config, workdir)


def _joined(config: ConfigDict) -> AbstractContextManager[peers.Peers]:
    checks.check(config)
    return peers.joined(
        config.to_dict(),
        deterministic=config.deterministic,
        distributed=config.distributed,
        peer_seconds=config.watchdog.peer_seconds,
        compilation_cache=config.compilation_cache,
    )


def _sample(config: ConfigDict, workdir: str) -> None:
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
    writing.make_writable(workdir)
    subject = _find(settings.source, Path(workdir), exp, settings.seed, mesh)
    sampler, params = subject.sampler, subject.params
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
    is_main = jax.process_index() == 0
    if is_main:
        scale = images.visible_scale(shown.shape[1])
        grid_path = folder / f"{subject.name}_seed{settings.seed}.png"
        images.save_png(grid_path, images.grid(shown, columns=config.grid.columns, scale=scale))
        print(f"{subject.title}: grid in {grid_path}")
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
        print(f"{settings.count} images in {folder / name}")


def evaluate(config: ConfigDict, workdir: str) -> None:
    """Measures a student, its teacher or another network as `config.evaluate` says.

    `source` says what: see `_find`. `seeds` measurements of `count` images each, no two of
    which share one, give mean and standard deviation. They are printed, and written with each
    value to `evaluation_<source>.json` in the work directory.

    Args:
      config: of the run.
      workdir: of the run.

    Raises:
      ValueError: a metric without its reference, or a field that can't be followed.
      FileNotFoundError: nothing to evaluate.
    """
    with _joined(config):
        _evaluate(config, workdir)


def _evaluate(config: ConfigDict, workdir: str) -> None:
    mesh = sharding.make_mesh(**config.mesh)
    exp = building.build(config)
    settings = config.evaluate
    building.check_evaluation(config)
    writing.make_writable(workdir)
    subject = _find(settings.source, Path(workdir), exp, settings.seed, mesh)
    evaluator = building.make_evaluator(config, exp, mesh)
    measured = [
        evaluator(subject.sampler, subject.params, label_dim=exp.denoiser.label_dim, repeat=repeat)
        for repeat in range(settings.seeds)
    ]
    if jax.process_index() != 0:
        return
    values = {name: [values[name] for values in measured] for name in measured[0]}
    mean = {name: statistics.fmean(each) for name, each in values.items()}
    report: dict[str, Any] = {
        "source": subject.title,
        "evaluations": subject.evaluations,
        "images": settings.count,
        "seeds": settings.seeds,
        **mean,
    }
    deviation = {}
    if settings.seeds > 1:
        deviation = {name: statistics.stdev(each) for name, each in values.items()}
        report |= {"standard_deviation": deviation, "values": values}
    shown = "  ".join(
        f"{name} {value:.5g}" + (f" ± {deviation[name]:.2g}" if deviation else "")
        for name, value in mean.items()
    )
    print(f"{subject.title}: {shown}")
    path = Path(workdir) / f"evaluation_{subject.name}.json"
    writing.write_text(path, json.dumps(report, indent=2) + "\n")
    print(f"written to {path}")


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What is sampled from: how, with which parameters, and what to call it."""

    name: str
    title: str
    evaluations: int
    sampler: sampling.SampleBatch
    params: Params


def _find(source: str, workdir: Path, exp: Experiment, seed: int, mesh: Mesh) -> _Subject:
    """Finds what a source names.

    Args:
      source: "student", the average of the newest checkpoint; "best", the network in `best/`;
        "teacher", sampled by Heun's method; or a network's folder, file or URL, such as a
        converted student, which is asked as the run's own network is.
      workdir: of the run.
      exp: the run.
      seed: of the samples.
      mesh: the devices.

    Raises:
      ValueError: the run has no such thing, or the network is for other images.
      FileNotFoundError: nothing is there.
    """
    if source == "teacher":
        return _teacher(exp, seed, mesh)
    if source == "student":
        state, meta = restore(workdir, exp, mesh)
        title = f"{exp.caption}, {meta['kimg']:.1f} kimg"
        sampler = exp.sampler(seed=seed, mesh=mesh)
        return _Subject(source, title, exp.evaluations, sampler, exp.ema_params(state))
    if source == "best":
        folder, record = best_network.find_best(workdir)
        title = f"{exp.caption}, {record['kimg']:.1f} kimg, best {record['metric']}"
        return _network(source, title, str(folder), exp, seed, mesh)
    if not re.search(r"[/.]", source) and not Path(source).exists():
        raise ValueError(
            f"source={source!r} is unknown; known are: {', '.join(_SOURCES)}, and a network's path."
        )
    name = Path(source).stem or "network"
    title = f"{source}, {exp.evaluations} evaluation{'s' if exp.evaluations > 1 else ''}"
    return _network(name, title, source, exp, seed, mesh)


def _teacher(exp: Experiment, seed: int, mesh: Mesh) -> _Subject:
    if not isinstance(exp, DistillExperiment):
        raise ValueError("source='teacher' needs a distillation; a teacher's run is 'student'.")
    frozen = exp.load_frozen()
    params = sharding.put(frozen, sharding.state(frozen, mesh))
    caption, sampler, params = exp.comparisons(params, seed=seed, mesh=mesh)[0]
    return _Subject("teacher", caption, exp.heun.evaluations, sampler, params)


def _network(name: str, title: str, path: str, exp: Experiment, seed: int, mesh: Mesh) -> _Subject:
    if "://" not in path and not Path(path).exists():
        raise FileNotFoundError(f"source={path}: there is no such file or folder.")
    network = teachers.load(path)
    denoiser = from_edm_kwargs(network.init_kwargs, dtype=exp.denoiser.network.dtype)
    own = exp.denoiser
    if (denoiser.image_shape, denoiser.label_dim) != (own.image_shape, own.label_dim):
        raise ValueError(
            f"source={path}: a network of {denoiser.image_shape} with {denoiser.label_dim} "
            f"classes, but the config is for {own.image_shape} with {own.label_dim}."
        )
    params = sharding.put(network.params, sharding.state(network.params, mesh))
    sampler = exp.sampler(seed=seed, mesh=mesh, denoiser=denoiser)
    return _Subject(name, title, exp.evaluations, sampler, params)


def restore(workdir: Path, exp: Experiment, mesh: Mesh) -> tuple[Any, dict[str, Any]]:
    """The newest whole checkpoint of a run, which may be under way: nothing there is changed.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if all are damaged, or they hold another network.
    """
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint: train with this workdir first.")
    abstract = exp.abstract_state()
    with checkpointing.Checkpointer(folder, read_only=True) as checkpointer:
        return checkpointer.restore(
            sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        )
