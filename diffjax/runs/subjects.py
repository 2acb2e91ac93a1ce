"""Networks that the sample and evaluate modes take samples from, by name or path."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from diffjax.convert import teacher as teachers
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.interfaces import Params
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import best_network, building
from diffjax.runs.experiment import Experiment
from diffjax.training import checkpointing

OF_THE_RUN = ("student", "best")
_SOURCES = (*OF_THE_RUN, "teacher")


@dataclasses.dataclass(frozen=True)
class Subject:
    """Network that is sampled from.

    Attributes:
      name: for files.
      title: for people.
      evaluations: of the network, a sample.
      sampler: how it is sampled.
      params: its parameters, on the devices.
      classes: those to draw; () for all.
      step: updates that it was trained for; None where that isn't known.
    """

    name: str
    title: str
    evaluations: int
    sampler: sampling.SampleBatch
    params: Params
    classes: tuple[int, ...] = ()
    step: int | None = None


def find(source: str, workdir: Path, exp: Experiment, seed: int, mesh: Mesh) -> Subject:
    """Find the network that a source names.

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
        with _checkpoints(workdir) as checkpointer:
            params, meta = exp.restore_average(checkpointer, mesh)
        title = f"{exp.caption}, {meta['kimg']:.1f} kimg"
        sampler = exp.sampler(seed=seed, mesh=mesh)
        step = meta["step"]
        return Subject(source, title, exp.evaluations, sampler, params, exp.classes, step)
    if source == "best":
        folder, record = best_network.find_best(workdir)
        title = f"{exp.caption}, {record['kimg']:.1f} kimg, best {record['metric']}"
        subject = _network(source, title, str(folder), exp, seed, mesh)
        return dataclasses.replace(subject, step=record["step"])
    if not re.search(r"[/.]", source) and not Path(source).exists():
        raise ValueError(
            f"source={source!r} is unknown; known are: {', '.join(_SOURCES)}, and a network's path."
        )
    name = Path(source).stem or "network"
    title = f"{source}, {exp.evaluations} evaluation{'s' if exp.evaluations > 1 else ''}"
    return _network(name, title, source, exp, seed, mesh)


def _teacher(exp: Experiment, seed: int, mesh: Mesh) -> Subject:
    if "teacher" not in exp.inputs:
        raise ValueError("source='teacher' needs a distillation; a teacher's run is 'student'.")
    params = {"teacher": exp.inputs["teacher"].load()}
    params = sharding.put(params, sharding.state(params, mesh))
    caption, sampler, params = exp.comparisons(params, seed=seed, mesh=mesh)[0]
    return Subject("teacher", caption, exp.heun.evaluations, sampler, params, exp.classes)


def _network(name: str, title: str, path: str, exp: Experiment, seed: int, mesh: Mesh) -> Subject:
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
    classes = exp.classes
    if own.label_dim and (found := teachers.classes(path)):
        classes = building.drawn_classes(found, own.label_dim, f"source={path} was trained on")
    return Subject(name, title, exp.evaluations, sampler, params, classes)


def restore(workdir: Path, exp: Experiment, mesh: Mesh) -> tuple[Any, dict[str, Any]]:
    """Read the newest whole checkpoint of a run, which may be under way, changing nothing there.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if all are damaged, or they hold another network.
    """
    with _checkpoints(workdir) as checkpointer:
        return exp.restore(checkpointer, mesh)


def _checkpoints(workdir: Path) -> checkpointing.Checkpointer:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint: train with this workdir first.")
    return checkpointing.Checkpointer(folder, read_only=True)
