"""From a config to what the loop runs. ConfigDict stops here: below it, plain arguments."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax import methods
from diffjax.data import DataSource
from diffjax.distributed import runtime
from diffjax.evaluation import (
    evaluator,
    features,
    measures,
    references,
    requests,
    sample_references,
    sampling,
)
from diffjax.files.progress import warn_once
from diffjax.methods.draws import Batch
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.guidance import NEGATIVE
from diffjax.models.records import RecordDenoiser
from diffjax.runs import (
    bases,
    checks,
    decoders,
    metric_writer,
    noise_levels,
    optimizers,
    real_data,
    roles,
    user_function,
)
from diffjax.runs.experiment import Experiment
from diffjax.runs.inputs import Input, LawInput, TeacherInput, holds_arrays
from diffjax.runs.networks import Denoiser
from diffjax.runs.rates import Rates, remarks
from diffjax.runs.user_function import RefusedError
from diffjax.training import compilation
from diffjax.training import draws as drawing
from diffjax.training.schedule import Schedule
from diffjax.training.separate_programs import SeparatePrograms
from diffjax.training.update import Update

_OF_EDM2 = ("p_mean", "p_std", "uncertainty_weighting")  # attributes of methods


def build(config: ConfigDict, *, source: DataSource | None = None) -> Experiment:
    """Check a config and build what it describes, without computing or downloading anything.

    Args:
      config: of any method.
      source: real images instead of those that the config names, which aren't opened.

    Raises:
      ValueError: naming the field, its value and what would do.
      FileNotFoundError: if a path of the config isn't there.
    """
    checks.check(config)
    cls = methods.get(config.method)
    settings = {each.name: checks.get(config, each.field) for each in cls.settings()}
    settings |= {name: config.edm2[name] for name in _OF_EDM2 if "edm2" in config}
    has_teacher = "teacher" in cls.reads
    data_input = None if has_teacher else real_data.of_training(config, cls, source)
    cast = roles.cast(config, cls, data_input, settings)
    if has_teacher and "data" in cls.reads:
        data_input = real_data.of_distillation(
            config, cls, cast.denoiser, cls.real_batches(settings), source
        )
    decoder = None
    if has_teacher:
        decoder = decoders.find(config.decoder, cast.denoiser, teacher=config.teacher)
    inputs: dict[str, Input] = {}
    if cast.teacher is not None:
        storage = roles.DTYPES[config.teacher_dtype] if config.teacher_dtype else None
        inputs["teacher"] = TeacherInput(config.teacher, cast.denoiser, storage, cast.teacher)
        if (weaker := cast.negative) is not None:
            inputs[NEGATIVE] = TeacherInput(weaker.source, weaker.model, storage, weaker)
    law = cast.denoiser.cond if isinstance(cast.denoiser, RecordDenoiser) else None
    if law is not None and holds_arrays(law):
        inputs[drawing.CONDITIONS] = LawInput(law)
    if data_input is not None:
        inputs[drawing.DATA] = data_input
        settings["in_order"] = data_input.is_streamed
    denoiser = cast.denoiser
    noise_levels.check(config, cls, denoiser)
    if cls.takes_own_loss:
        settings["own_loss"] = isinstance(denoiser, NetworkDenoiser) and denoiser.has_own_loss
    settings |= {} if cast.null is None else {"null": cast.null}
    method = cls(
        networks=cast.functions,
        batch=Batch(
            denoiser.shape,
            config.batch_size,
            config.get("accumulation", 1),
            denoiser.label_dim,
            cast.classes,
            cond=law,
            latent=cast.latent,
        ),
        sigma_min=denoiser.sigma_min,
        sigma_max=denoiser.sigma_max,
        sigma_data=denoiser.sigma_data,
        **settings,
    )
    rates = Rates(config, cast)
    return Experiment(
        update=Update(
            method=method,
            optimizers={
                each.name: optimizers.of_learner(config, each, rates) for each in cls.learners
            },
            averages=optimizers.averages(config),
            max_skipped_in_a_row=config.max_skipped_in_a_row,
            unroll=jax.default_backend() == "cpu",
            overwritten={
                name: model.normalized
                for name, model in cast.trained(cls.learners).items()
                if getattr(model, "overwrites_weights", False)
            },
            prepared={
                name: model.prepared
                for name, model in cast.trained(cls.learners).items()
                if getattr(model, "prepares_weights", False)
            },
        ),
        inputs=inputs,
        init_kwargs=dict(cast.init_kwargs),
        denoiser=denoiser,
        heun=heun_settings(config, denoiser),
        seed=config.seed,
        init_sigma=cast.init_sigma,
        initial=config.get(cls.samples_from, {}).get("initial", ""),
        teacher=config.get("teacher", ""),
        classes=cast.classes,
        method_name=config.method,
        networks=cast.others,
        heads=cast.heads,
        origin=cast.origin(cls.samples_from),
        remarks=remarks(rates, cls),
        decoder=decoder,
    )


def check_evaluation(config: ConfigDict, exp: Experiment | None = None) -> None:
    """Check `config.evaluate` without a look at any file.

    Args:
      config: of any method.
      exp: built from it; without it, its examples are taken for images.

    Raises:
      ValueError: naming the field.
    """
    settings = config.evaluate
    metrics, reference = tuple(settings.metrics), settings.reference
    is_images = exp is None or exp.examples.holds_images
    request = functools.partial(
        requests.check_request,
        metrics,
        count=settings.count,
        reference=reference,
        prefix="config.evaluate.",
    )
    if is_images:
        request(holds_images=references.holds_images(reference))
        return
    assert exp is not None
    try:
        requests.check_examples(
            metrics,
            settings.features,
            exp.denoiser.shape,
            reference=reference,
            prefix="config.evaluate.",
        )
    except ValueError as error:
        advice = f" They are latents: {decoders.ADVICE}." if exp.denoiser.is_latent else ""
        raise RefusedError(f"{error}{advice}") from error
    _refusing(request, holds_images=True)
    is_floats = sample_references.is_file(reference) or user_function.is_name(reference)
    if reference and not is_floats:
        raise RefusedError(
            f"config.evaluate.reference={reference!r}: examples of {exp.teacher} are floats of "
            f"{exp.denoiser.shape} in its own units; name an .npz or .npy of such, or "
            "'module:function', which makes them of (count, seed)."
        )


def make_evaluator(config: ConfigDict, exp: Experiment, mesh: Mesh) -> evaluator.Evaluator:
    """Make the evaluator that a config asks for, and read its reference.

    Raises:
      ValueError: naming the field, before anything is computed.
      OSError: a reference or weights that aren't there or can't be downloaded.
    """
    check_evaluation(config, exp)
    settings, examples = config.evaluate, exp.examples
    metrics = tuple(settings.metrics)
    extract = _features(settings) if requests.uses_features(metrics) else None
    requests.check_features(metrics, extract, prefix="config.evaluate.")
    if extract is not None and examples.holds_images:
        extract.check_channels(examples.shape[2], "the network's image")
    made = evaluator.Evaluator(
        features=extract,
        names=metrics,
        reference=_reference(settings, extract, exp, mesh),
        count=settings.count,
        batch_size=settings.batch_size,
        seed=settings.seed,
        mesh=mesh,
        classes=exp.classes,
        cond=exp.condition_law,
        sigma_data=examples.sigma_data,
        quantise=examples.holds_images,
    )
    runtime.agree("config.evaluate's measure", made.record)
    return made


def _features(settings: ConfigDict) -> features.Features:
    name = settings.features
    if not user_function.is_name(name) or settings.features_weights:
        try:
            return features.load(name, settings.features_weights)
        except ConnectionError as error:
            prefix = "--config.evaluate.features"
            raise ConnectionError(
                f"{error}: {prefix}_weights=PATH. Without Inception there is {prefix}=pixels."
            ) from error
    field = "config.evaluate.features"
    function = user_function.load(name, field=field)
    _, digest = user_function.file_of(name)
    return features.of_function(function, name, sha256=digest, field=field, errors=RefusedError)


def _reference(
    settings: ConfigDict, extract: features.Features | None, exp: Experiment, mesh: Mesh
) -> references.Reference | None:
    """Read what metrics compare with, if they compare with anything."""
    metrics, source = tuple(settings.metrics), settings.reference
    compares = any(measures.METRICS[n].needs or measures.METRICS[n].on_samples for n in metrics)
    if not source or not compares:
        return None
    shape, keep_rows = exp.examples.shape, requests.needs_rows(metrics)
    if exp.examples.holds_images:
        return references.load(
            source,
            extract,
            image_shape=shape,
            keep_rows=keep_rows,
            batch_size=settings.batch_size,
            mesh=mesh,
            prefix="config.evaluate.",
            keep_values=requests.uses_samples(metrics),
        )
    field = "config.evaluate.reference"
    if user_function.is_name(source):
        made = user_function.call(source, settings.count, settings.seed, field=field)
        what = f"{field}={source!r} returned"
    else:
        made, what = (
            _refusing(sample_references.read, source, field=field),
            f"{field}={source!r} holds",
        )
    reference: references.Reference = _refusing(
        sample_references.load,
        source,
        _refusing(sample_references.checked, made, shape, what),
        extract,
        keep_rows=keep_rows,
        batch_size=settings.batch_size,
        mesh=mesh,
    )
    return reference


def _refusing(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function whose errors are a mistake of the config."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def check_reporting(config: ConfigDict, exp: Experiment) -> None:
    """Check what a run that trains measures with and writes to, before anything is computed.

    Args:
      config: of any method.
      exp: built from it.

    Raises:
      ValueError: naming the field, and what would do.
      OSError: if a file isn't there.
    """
    metric_writer.load(config.metric_writer)
    if config.grid_kimg and exp.examples.is_latent:
        raise RefusedError(
            f"config.grid_kimg={config.grid_kimg:g} asks for pictures, and examples of "
            f"{exp.teacher or 'this network'}, {exp.denoiser.shape}, are latents: "
            f"{decoders.ADVICE}, or set config.grid_kimg to 0."
        )
    if config.evaluate.every_kimg:
        check_evaluation(config, exp)
        requests.check_best(
            config.evaluate.best,
            config.evaluate.metrics,
            field="config.evaluate.best",
            among="evaluate.metrics",
        )
    elif config.evaluate.best not in ("", bases.fields(config.method)["evaluate.best"]):
        warn_once(
            f"config.evaluate.best={config.evaluate.best!r} keeps none: evaluate.every_kimg is 0."
        )


# Parameters times pixels of a round, over which calling several programs takes no longer than they.
_WORTH_SEPARATE_PROGRAMS = 5e12


def compiles_apart(config: ConfigDict, exp: Experiment) -> bool:
    """Decide whether an update is several programs, as `config.compile_apart` says.

    "auto" is yes on one GPU, where that compiles sooner and is no slower if there is enough to do.
    It is no where several rounds share samples, since each keeps what its pass backward needs until
    then, and on several GPUs, where it was slower.

    Args:
      config: of any method.
      exp: built from it.
    """
    choice = config.get("compile_apart", "never")
    if choice != "auto":
        return bool(choice == "always")
    if jax.default_backend() != "gpu" or jax.device_count() > 1:
        return False
    if config.accumulation > 1 and any(turn.borrows for turn in exp.update.turns):
        return False
    params = int(parameter_overview.count_parameters(exp.denoiser.abstract_params()))
    places = math.prod(exp.denoiser.shape[:-1])
    return params * places * (exp.batch_size // config.accumulation) >= _WORTH_SEPARATE_PROGRAMS


def updates(config: ConfigDict, exp: Experiment, mesh: Mesh) -> Any:
    """Make what calls of a run update by, one program or several; nothing is compiled yet.

    Args:
      config: of any method.
      exp: built from it.
      mesh: the devices.
    """
    abstract = exp.abstract_state()
    if compiles_apart(config, exp):
        return SeparatePrograms(exp.update, abstract, mesh)
    return compilation.compile_updates(exp.update, abstract, mesh, config.updates_per_call)


def heun_settings(config: ConfigDict, denoiser: Denoiser) -> sampling.HeunSettings:
    """Read the settings of EDM's sampler.

    Raises:
      ValueError: if a network knows none of the noise levels.
    """
    settings = sampling.HeunSettings(**config.heun)
    try:
        settings.sigmas(denoiser)
    except ValueError as error:
        raise ValueError(f"config.{error}") from error
    return settings


def schedule(config: ConfigDict) -> Schedule:
    """Periods of a run in updates."""
    return Schedule.of_kimg(
        config.batch_size,
        duration=config.duration_kimg,
        log=config.log_kimg,
        grid=config.grid_kimg,
        checkpoint=config.checkpoint_kimg,
        evaluate=config.evaluate.every_kimg,
    )


def suspects(config: ConfigDict) -> dict[str, Any]:
    """Settings that are mostly to blame where numbers go wrong, field -> value."""
    return {field: checks.get(config, field) for field in methods.get(config.method).suspects}
