"""Networks that the sample and evaluate modes take samples from, by name or path."""

import dataclasses
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.convert import catalogue
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.files.progress import say
from diffjax.interfaces import Params
from diffjax.models import model_card
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs
from diffjax.models.guidance import NEGATIVE
from diffjax.runs import best_network, networks, provenance, roles, saved_config
from diffjax.runs.experiment import Experiment
from diffjax.training import checkpointing

OF_THE_RUN = ("student", "best")
_SOURCES = (*OF_THE_RUN, "teacher", "initial")


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


def check(source: str, workdir: Path, config: ConfigDict, exp: Experiment) -> None:
    """Check that what a source names of a run is sampled as that run would, before it is read.

    What is sampled in another way by intent, or can't be compared, is told.

    Args:
      source: as `find` takes it; what isn't the run's passes.
      workdir: of the run.
      config: by which it would be sampled.
      exp: built from it.

    Raises:
      ValueError: naming what decides the images and differs.
    """
    if source not in (*OF_THE_RUN, "teacher"):
        _check_is_there(source)
        return
    if source in OF_THE_RUN and not workdir.is_dir():  # refused before a folder is made for results
        look = _checkpoints if source == "student" else best_network.find_best
        look(workdir)
    kept, notes = provenance.load(workdir), []
    has_config = (workdir / saved_config.FILE).exists()
    fields: tuple[str, ...] = saved_config.OF_THE_IMAGES
    besides: list[str] = []
    if source == "teacher":
        fields = ("dtype",) if kept else ("dtype", "teacher")
        if kept and "teacher" in exp.inputs and "teacher" in kept.inputs:
            now = {"source": exp.teacher, **exp.inputs["teacher"].content()}
            if not provenance.same(kept.inputs["teacher"], now):
                besides = [f"teacher: the content of {exp.teacher} is not the run's"]
    elif kept:
        besides = _differences(kept.network, exp)
    else:
        fields = saved_config.OF_THE_NETWORK
        if has_config and (moved := saved_config.changed_fields(workdir, config, ("teacher",))):
            notes.append(f"{moved[0]}; whether both describe one network was not kept")
    if source == "best" and not has_config:
        folder, _ = best_network.find_best(workdir)
        card = networks.trained(str(folder), field="best").card
        if card.init_sigma not in (None, exp.init_sigma):
            besides.append(f"init_sigma: {card.init_sigma:g} -> {exp.init_sigma:g}")
        if card.init_sigma and card.sigmas != exp.sigmas:
            besides.append(f"noise levels of steps: {card.sigmas} -> {exp.sigmas}")
    saved_config.check_same_network(workdir, config, fields=fields, besides=besides)
    if not has_config and saved_config.has_begun(workdir):
        notes.append(f"{workdir} has no config.json to compare this config with")
    if has_config and (source == "teacher" or not exp.is_one_step):
        asked = saved_config.OF_THE_TEACHERS_IMAGES if source == "teacher" else ("heun",)
        heun = saved_config.changed_fields(workdir, config, asked)
        notes += [f"not sampled as the run does, {change}" for change in heun]
    for note in notes:
        _tell(note)


def find(source: str, workdir: Path, exp: Experiment, seed: int, mesh: Mesh) -> Subject:
    """Find the network that a source names.

    Args:
      source: "student", the average of the newest checkpoint; "best", the network in `best/`;
        "teacher", sampled by Heun's method; "initial", what a run of this config starts from, such
        as a GAN's generator; or a network's folder, file, URL or released name, such as a student.
        A student is asked at its own σ_init; one that doesn't say what it is is asked as the run's
        own network is, and that is told.
      workdir: of the run.
      exp: the run.
      seed: of the samples.
      mesh: the devices.

    Raises:
      ValueError: the run has no such thing, or the network is for other images, or is sampled in
        another way than the run's.
      FileNotFoundError: nothing is there.
    """
    if source == "teacher":
        return _teacher(exp, seed, mesh)
    if source == "initial":
        return _initial(exp, seed, mesh)
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
    _check_is_there(source)
    return _network(file_name(source), "", source, exp, seed, mesh)


def file_name(source: str) -> str:
    """Name a network's results after it: the last part of its path, less a file's ending.

    Args:
      source: path, URL or released name, whose decimals (`averages_0.100`) are no ending.

    Returns:
      Letters, digits and `._-`; "network" if nothing else is left.
    """
    path = urllib.parse.urlsplit(source).path if "://" in source else source
    last = Path(path).name
    if not Path(path).is_dir() and source not in catalogue.EDM:
        last = re.sub(r"\.[A-Za-z]\w*$", "", last)
    return re.sub(r"[^\w.-]+", "-", last).strip("._-") or "network"


def _teacher(exp: Experiment, seed: int, mesh: Mesh) -> Subject:
    if "teacher" not in exp.inputs:
        raise ValueError("source='teacher' needs a distillation; a teacher's run is 'student'.")
    params = {name: exp.inputs[name].load() for name in ("teacher", NEGATIVE) if name in exp.inputs}
    params = sharding.put(params, sharding.state(params, mesh))
    caption, sampler, params = exp.comparisons(params, seed=seed, mesh=mesh)[0]
    return Subject("teacher", caption, exp.teacher_evaluations, sampler, params, exp.classes)


def _check_is_there(source: str) -> None:
    """Refuse a source that nothing is known by, as far as that is seen without a download."""
    if source in _SOURCES or source in catalogue.EDM or "://" in source or Path(source).exists():
        return
    if not catalogue.looks_like_name(source):
        raise FileNotFoundError(f"source={source}: there is no such file or folder.")
    raise ValueError(
        f"source={source!r} is unknown; known are: {', '.join(_SOURCES)}, a released network's "
        "name, and a network's path."
    )


def _initial(exp: Experiment, seed: int, mesh: Mesh) -> Subject:
    if not exp.is_one_step:
        raise ValueError("source='initial' needs a distillation; a teacher starts from noise.")
    params = exp.load_initial().get(exp.method.samples_from)
    if params is None:
        params = exp.inputs["teacher"].load()
    params = sharding.put(params, sharding.state(params, mesh))
    sampler, title = exp.sampler(seed=seed, mesh=mesh), f"{exp.caption}, at the start"
    return Subject("initial", title, exp.evaluations, sampler, params, exp.classes)


def _network(name: str, title: str, path: str, exp: Experiment, seed: int, mesh: Mesh) -> Subject:
    network = networks.trained(path, field="source")
    model, own = network.model, exp.denoiser
    if isinstance(model, NetworkDenoiser):
        model = from_edm_kwargs(network.init_kwargs, dtype=exp.sampled.dtype)
    classes = getattr(model, "label_dim", own.label_dim)
    if (model.shape, classes) != (own.shape, own.label_dim):
        raise ValueError(
            f"source={path}: a network of {model.shape} with {classes} "
            f"classes, but the config is for {own.shape} with {own.label_dim}."
        )
    card = network.card
    if card.kind and (card.kind == model_card.STUDENT) != exp.is_one_step:
        count = "one evaluation" if exp.evaluations == 1 else f"{exp.evaluations} evaluations"
        own_way = f"in {count}" if exp.is_one_step else "by Heun's method"
        raise ValueError(
            f"source={path} is {card.title}, and the networks of this config, of the method "
            f"{exp.method_name}, are sampled {own_way}: name a config of its own kind."
        )
    if not card.kind:
        how = f"one evaluation at init_sigma {exp.init_sigma:g}" if exp.is_one_step else "Heun"
        _tell(
            f"{path} doesn't say whether it is a student or a denoiser; it is sampled as the "
            f"config's own network is, by {how}"
        )
    params = network.load()
    params = sharding.put(params, sharding.state(params, mesh))
    # A run's own best network is asked as the config says, which was compared with the run's.
    asked = None if title else card
    sampler = exp.sampler(seed=seed, mesh=mesh, denoiser=model, card=asked)
    evaluations = exp.evaluations
    if not title:
        evaluations = card.steps or evaluations
        title = f"{path}, {evaluations} evaluation{'s' if evaluations > 1 else ''}"
        title += f" at init_sigma {card.init_sigma:g}" if card.init_sigma else ""
    classes = exp.classes
    if own.label_dim and (found := network.classes):
        classes = roles.drawn_classes(found, own.label_dim, f"source={path} was trained on")
    return Subject(name, title, evaluations, sampler, params, classes)


def _differences(kept: Mapping[str, Any], exp: Experiment) -> list[str]:
    """List in what a run's network, by what makes it, isn't the experiment's."""
    if "class_name" in kept and isinstance(exp.sampled, NetworkDenoiser):
        return from_edm_kwargs(kept).differences(exp.sampled)
    now = exp.init_kwargs
    return [
        f"{name}: {kept.get(name, '')} -> {now.get(name, '')}"
        for name in ("class_name", "teacher", "student")
        if kept.get(name, "") != now.get(name, "")
    ]


def restore(workdir: Path, exp: Experiment, mesh: Mesh) -> tuple[Any, dict[str, Any]]:
    """Read the newest whole checkpoint of a run, which may be under way, changing nothing there.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if all are damaged, or they hold another network.
    """
    with _checkpoints(workdir) as checkpointer:
        return exp.restore(checkpointer, mesh)


def _tell(note: str) -> None:
    if jax.process_index() == 0:
        say(f"note: {note}")


def _checkpoints(workdir: Path) -> checkpointing.Checkpointer:
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} holds no checkpoint: train with this workdir first.")
    return checkpointing.Checkpointer(folder, read_only=True)
