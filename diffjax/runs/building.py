"""From a config to what the loop runs. ConfigDict stops here: below it, plain arguments."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax import methods
from diffjax.convert import teacher as teachers
from diffjax.data import DataSource
from diffjax.diffusion import augmentation
from diffjax.evaluation import evaluator, features, references, sampling
from diffjax.files.progress import warn_once
from diffjax.methods import Learner, Method
from diffjax.methods.draws import Batch
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs
from diffjax.models.generator import DenoiserGenerator
from diffjax.runs import checks
from diffjax.runs.experiment import Experiment
from diffjax.runs.inputs import DataInput, Input, TeacherInput
from diffjax.training import dataset, optimizer
from diffjax.training.ema import Averages
from diffjax.training.schedule import Schedule, images_of_kimg
from diffjax.training.update import Update

DTYPES = {name: getattr(jnp, name) for name in checks.DTYPES}


def build(config: ConfigDict, *, source: DataSource | None = None) -> Experiment:
    """Check a config and build what it describes, without computing or downloading anything.

    Args:
      config: of any method.
      source: real images instead of those of `config.dataset`, which isn't opened.

    Raises:
      ValueError: naming the field, its value and what would do.
      FileNotFoundError: if a path of the config isn't there.
    """
    checks.check(config)
    cls = methods.get(config.method)
    init_kwargs, data_input = _network(config, cls, source)
    denoiser = _denoiser(config, init_kwargs, config.dtype)
    inputs: dict[str, Input] = {}
    networks: dict[str, Any] = {}
    if "teacher" in cls.reads:
        _check_teacher(config, denoiser)
        teacher_dtype = config.teacher_dtype
        networks["teacher"] = _denoiser(config, init_kwargs, teacher_dtype or config.dtype)
        storage = DTYPES[teacher_dtype] if teacher_dtype else None
        inputs["teacher"] = TeacherInput(config.teacher, denoiser, storage)
    if data_input is not None:
        inputs["data"] = data_input
    _check_augmentation(config, denoiser)
    for learner in cls.learners:
        networks[learner.name] = denoiser
    if cls.sampled_by == "one_step":
        networks[cls.samples_from] = DenoiserGenerator(denoiser, config.init_sigma)
    settings = {each.name: checks.get(config, each.field) for each in cls.settings()}
    if data_input is not None:
        settings["in_order"] = data_input.is_streamed
    classes = _classes(config, cls, denoiser, data_input)
    batch = Batch(
        denoiser.image_shape,
        config.batch_size,
        config.get("accumulation", 1),
        denoiser.label_dim,
        classes,
    )
    method = cls(
        networks=networks,
        batch=batch,
        sigma_min=denoiser.sigma_min,
        sigma_max=denoiser.sigma_max,
        **settings,
    )
    return Experiment(
        update=Update(
            method=method,
            optimizers={learner.name: _adam(config, learner) for learner in cls.learners},
            averages=Averages(config.ema_halflife_kimg * 1000, config.ema_rampup or None),
            max_skipped_in_a_row=config.max_skipped_in_a_row,
            unroll=jax.default_backend() == "cpu",
        ),
        inputs=inputs,
        init_kwargs=init_kwargs,
        denoiser=denoiser,
        heun=heun_settings(config),
        seed=config.seed,
        init_sigma=config.get("init_sigma", 1.0),
        initial=config.get(cls.samples_from, {}).get("initial", ""),
        teacher=config.get("teacher", ""),
        classes=classes,
        method_name=config.method,
    )


def check_evaluation(config: ConfigDict) -> None:
    """Check `config.evaluate` without a look at any file.

    Raises:
      ValueError: naming the field.
    """
    settings = config.evaluate
    evaluator.check_request(
        tuple(settings.metrics),
        count=settings.count,
        reference=settings.reference,
        holds_images=references.holds_images(settings.reference),
        prefix="config.evaluate.",
    )


def make_evaluator(config: ConfigDict, exp: Experiment, mesh: Mesh) -> evaluator.Evaluator:
    """Make the evaluator that a config asks for, and read its reference.

    Raises:
      ValueError: naming the field, before anything is computed.
      OSError: a reference or weights that aren't there or can't be downloaded.
    """
    check_evaluation(config)
    settings = config.evaluate
    metrics = tuple(settings.metrics)
    extract = features.load(settings.features, settings.features_weights)
    evaluator.check_features(metrics, extract, prefix="config.evaluate.")
    extract.check_channels(exp.denoiser.image_shape[2], "the network's image")
    reference = None
    if any(evaluator.METRICS[name].needs for name in metrics):
        reference = references.load(
            settings.reference,
            extract,
            image_shape=exp.denoiser.image_shape,
            keep_rows=evaluator.needs_rows(metrics),
            batch_size=settings.batch_size,
            mesh=mesh,
            prefix="config.evaluate.",
        )
    return evaluator.Evaluator(
        features=extract,
        names=metrics,
        reference=reference,
        count=settings.count,
        batch_size=settings.batch_size,
        seed=settings.seed,
        mesh=mesh,
        classes=exp.classes,
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
    height, width, _ = exp.denoiser.image_shape
    round_ = exp.batch_size // config.accumulation
    return params * height * width * round_ >= _WORTH_SEPARATE_PROGRAMS


def drawn_classes(found: tuple[int, ...], label_dim: int, whose: str) -> tuple[int, ...]:
    """Leave classes that no image was seen of out of draws, and tell.

    Args:
      found: classes with images; () for all.
      label_dim: number of classes.
      whose: images, as the start of a sentence that goes on "no images of".

    Returns:
      The classes to draw; () for all.
    """
    absent = sorted(set(range(label_dim)) - set(found)) if found else []
    if not absent:
        return ()
    warn_once(
        f"{whose} no images of {len(absent)} of {label_dim} classes, the first being {absent[0]}: "
        "they aren't drawn, in training, in pictures or to evaluate."
    )
    return found


def heun_settings(config: ConfigDict) -> sampling.HeunSettings:
    """Read the settings of EDM's sampler."""
    return sampling.HeunSettings(**config.heun)


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


def _network(
    config: ConfigDict, cls: type[Method], source: DataSource | None
) -> tuple[dict[str, Any], DataInput | None]:
    """Constructor arguments of the network, and the real images that the method reads, if any."""
    data_input = None
    if "data" in cls.reads:
        if source is None:
            source = dataset.open_square(
                config.dataset, conditional=config.conditional, prefix="config."
            )
        data_input = DataInput(source, config.batch_size, config.seed, config.x_flip)
        if data_input.is_streamed and config.updates_per_call != 1:
            raise ValueError(
                f"config.updates_per_call={config.updates_per_call} needs a data set that fits on "
                f"the devices, and config.dataset={config.dataset!r} is streamed to them; set it "
                "to 1."
            )
    if "teacher" in cls.reads:
        described = teachers.describe(config.teacher)
        return {**described, "dropout": config.dropout}, data_input
    assert source is not None, "a network is described by a teacher or by its data"
    resolution, _, channels = source.image_shape
    return {
        **config.network.to_dict(),
        "img_resolution": resolution,
        "img_channels": channels,
        "label_dim": source.num_classes if config.conditional else 0,
    }, data_input


def _classes(
    config: ConfigDict, cls: type[Method], denoiser: NetworkDenoiser, data_input: DataInput | None
) -> tuple[int, ...]:
    """Classes to draw: those that the teacher was trained on, or else will be; () for all."""
    if not denoiser.label_dim:
        return ()
    if "teacher" in cls.reads:
        found = teachers.classes(config.teacher)
        return drawn_classes(
            found, denoiser.label_dim, f"config.teacher={config.teacher!r} was trained on"
        )
    assert data_input is not None, "a network is described by a teacher or by its data"
    source = data_input.source
    return drawn_classes(
        source.classes_with_images, denoiser.label_dim, f"the data set {source.name!r} has"
    )


def _denoiser(config: ConfigDict, init_kwargs: dict[str, Any], dtype: str) -> NetworkDenoiser:
    return from_edm_kwargs(
        init_kwargs,
        dtype=DTYPES[dtype],
        attention=_attention(config, dtype),
        rematerialize=config.rematerialize,
    )


def _attention(config: ConfigDict, dtype: str) -> str:
    name: str = config.attention
    if name == "cudnn" and jax.default_backend() != "gpu":
        devices = f"{jax.device_count()} x {jax.default_backend()}"
        raise ValueError(
            f"config.attention='cudnn' runs on NVIDIA GPUs, and here there is {devices}; "
            "set it to 'xla'."
        )
    if name == "cudnn" and dtype == "float32":
        raise ValueError(
            "config.attention='cudnn' computes in bfloat16 or float16, and here a network is "
            "float32; set config.dtype, or config.attention='xla'."
        )
    return name


def _adam(config: ConfigDict, learner: Learner) -> optax.GradientTransformation:
    settings = config[learner.optimizer or learner.name]
    return optimizer.adam(
        _learning_rate(config, settings),
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        max_grad_norm=settings.max_grad_norm,
        bfloat16_state=config.get("optimizer_state_dtype") == "bfloat16",
    )


def _learning_rate(config: ConfigDict, settings: ConfigDict) -> float | optimizer.Rate:
    """Make a number where the rate is constant, as published, and else a function of images."""
    rate: float = settings.learning_rate
    changes = {
        name: images_of_kimg(settings.get(f"{name}_kimg", 0.0))
        for name in ("rampup", "frozen", "decay")
    }
    if not any(changes.values()):
        return rate
    return optimizer.ramps(rate, **changes, end=images_of_kimg(config.duration_kimg))


def _check_teacher(config: ConfigDict, denoiser: NetworkDenoiser) -> None:
    """Compare what a config says of its teacher, if it does, with the teacher."""
    image_shape = tuple(config.get("image_shape", denoiser.image_shape))
    if image_shape != denoiser.image_shape:
        raise ValueError(
            f"config.image_shape={image_shape} but the teacher {config.teacher} denoises "
            f"{denoiser.image_shape}; set image_shape to that, or name another teacher."
        )
    label_dim = config.get("label_dim", denoiser.label_dim)
    if label_dim != denoiser.label_dim:
        raise ValueError(
            f"config.label_dim={label_dim} but the teacher {config.teacher} has "
            f"{denoiser.label_dim} classes; set label_dim to that, or name another teacher."
        )


def _check_augmentation(config: ConfigDict, denoiser: NetworkDenoiser) -> None:
    if config.get("augment_probability", 0.0) and denoiser.augment_dim != augmentation.NUM_LABELS:
        raise ValueError(
            f"config.augment_probability={config.augment_probability} but the network takes "
            f"{denoiser.augment_dim} augmentation labels, not {augmentation.NUM_LABELS}; set it to "
            "0."
        )
