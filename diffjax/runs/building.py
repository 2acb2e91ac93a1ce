"""From a config to what the loop runs. ConfigDict stops here: below it, plain arguments."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.convert import teacher as teachers
from diffjax.data import DataSource
from diffjax.diffusion import augmentation, noise
from diffjax.distill import draws as distill_draws
from diffjax.distill import methods
from diffjax.distill import update as distill_update
from diffjax.evaluation import evaluator, features, references, sampling
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs
from diffjax.models.generator import DenoiserGenerator
from diffjax.pretrain import update as pretrain_update
from diffjax.runs import checks
from diffjax.runs.experiment import DistillExperiment, Experiment, PretrainExperiment
from diffjax.training import dataset, optimizer

DTYPES = {name: getattr(jnp, name) for name in checks.DTYPES}


def build(config: ConfigDict, *, source: DataSource | None = None) -> Experiment:
    """Checks a config and builds what it describes, without computing or downloading anything.

    Args:
      config: of any task.
      source: real images for pretraining instead of those of `config.dataset`, which isn't opened.

    Raises:
      ValueError: naming the field, its value and what would do.
      FileNotFoundError: if a path of the config isn't there.
    """
    checks.check(config)
    return _distill(config) if config.task == "distill" else _pretrain(config, source)


def check_evaluation(config: ConfigDict) -> None:
    """Checks what `config.evaluate` asks for, without a look at any file.

    Raises:
      ValueError: naming the field.
    """
    settings = config.evaluate
    evaluator.check_request(
        tuple(settings.metrics),
        count=settings.count,
        reference=settings.reference,
        holds_images=references.holds_images(settings.reference),
    )


def make_evaluator(config: ConfigDict, exp: Experiment, mesh: Mesh) -> evaluator.Evaluator:
    """What measures samples, its reference read.

    Raises:
      ValueError: naming the field, before anything is computed.
      OSError: a reference or weights that aren't there or can't be downloaded.
    """
    check_evaluation(config)
    settings = config.evaluate
    metrics = tuple(settings.metrics)
    extract = features.load(settings.features, settings.features_weights)
    evaluator.check_features(metrics, extract)
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
        )
    return evaluator.Evaluator(
        features=extract,
        names=metrics,
        reference=reference,
        count=settings.count,
        batch_size=settings.batch_size,
        seed=settings.seed,
        mesh=mesh,
    )


# Parameters times pixels of a round, over which calling several programs takes no longer than they.
_WORTH_CALLING_APART = 5e12


def compiles_apart(config: ConfigDict, exp: Experiment) -> bool:
    """Whether an update is several programs, as `config.compile_apart` says.

    "auto" is yes on one GPU, where that compiles in 40 % of the time and is no slower if there is
    enough to do: an update of CIFAR-10's DDPM++ takes 0.12 s so of 16 images as of 64, and 0.18 s
    of 128. It is no where several rounds share samples, since each keeps what its pass backward
    needs until then. On two GPUs several programs were 0.8 % slower.

    Args:
      config: of any task.
      exp: what `build` makes of it.
    """
    if not isinstance(exp, DistillExperiment) or config.compile_apart == "never":
        return False
    if config.compile_apart == "always":
        return True
    if jax.default_backend() != "gpu" or jax.device_count() > 1:
        return False
    if config.share_samples and config.accumulation > 1:
        return False
    params = int(parameter_overview.count_parameters(exp.denoiser.abstract_params()))
    height, width, _ = exp.denoiser.image_shape
    round_ = exp.batch_size // config.accumulation
    return params * height * width * round_ >= _WORTH_CALLING_APART


def heun_settings(config: ConfigDict) -> sampling.HeunSettings:
    """The settings of EDM's sampler."""
    return sampling.HeunSettings(**config.heun)


def total_steps(config: ConfigDict) -> int:
    """Updates of a run."""
    return math.ceil(config.duration_kimg * 1000 / config.batch_size)


def suspects(config: ConfigDict) -> dict[str, Any]:
    """The settings that are mostly to blame where numbers go wrong, field -> value."""
    fields = ["optimizer.learning_rate", "optimizer.max_grad_norm"]
    if config.task == "distill":
        rates = ["generator.learning_rate", "fake_score.learning_rate"]
        fields = [*rates, "init_sigma", "generator.max_grad_norm"]
        fields = [*(["alpha"] if config.method == "sid" else []), *fields]
    return {field: checks.get(config, field) for field in fields}


def _distill(config: ConfigDict) -> DistillExperiment:
    init_kwargs = {**teachers.describe(config.teacher), "dropout": config.dropout}
    denoiser = _denoiser(config, init_kwargs, config.dtype)
    _check_teacher(config, denoiser)
    in_range = {"sigma_min": denoiser.sigma_min, "sigma_max": denoiser.sigma_max}
    lognormal = noise.LogNormal(**in_range)
    generator_sigma: noise.SigmaDistribution
    if config.method == "sid":
        method = methods.sid(config.alpha)
        generator_sigma = noise.KarrasUniform(t_max=config.t_max, **in_range)
    else:
        method = methods.diff_instruct()
        generator_sigma = lognormal
    setup = distill_update.Distillation(
        teacher=_denoiser(config, init_kwargs, config.teacher_dtype or config.dtype),
        fake_score=denoiser,
        generator=DenoiserGenerator(denoiser, config.init_sigma),
        method=method,
        fake_score_optimizer=_adam(config, "fake_score"),
        generator_optimizer=_adam(config, "generator", _generator_rate(config)),
        batch_size=config.batch_size,
        ema_halflife=config.ema_halflife_kimg * 1000,
        ema_rampup=config.ema_rampup or None,
        fake_score_loss_scale=config.fake_score.loss_scale,
        generator_loss_scale=config.generator.loss_scale,
        unroll=jax.default_backend() == "cpu",
        share_samples=config.share_samples,
        fake_score_every=config.fake_score.every,
    )
    draw = distill_draws.Sampler(
        data_shape=denoiser.image_shape,
        batch_size=config.batch_size,
        fake_score_sigma=lognormal,
        generator_sigma=generator_sigma,
        rounds=config.accumulation,
        fake_score_updates=config.fake_score.updates,
        label_dim=denoiser.label_dim,
        new_labels=method.new_labels,
        augment_probability=config.augment_probability,
    )
    return DistillExperiment(
        teacher=config.teacher,
        init_kwargs=init_kwargs,
        denoiser=denoiser,
        setup=setup,
        draw=draw,
        heun=heun_settings(config),
        init_sigma=config.init_sigma,
        initial=config.generator.initial,
        teacher_storage=DTYPES[config.teacher_dtype] if config.teacher_dtype else None,
        max_skipped_in_a_row=config.max_skipped_in_a_row,
    )


def _pretrain(config: ConfigDict, source: DataSource | None) -> PretrainExperiment:
    if source is None:
        source = dataset.open_square(config.dataset, conditional=config.conditional)
    resolution, _, channels = source.image_shape
    is_resident = dataset.is_resident(source)
    if not is_resident and config.updates_per_call != 1:
        raise ValueError(
            f"config.updates_per_call={config.updates_per_call} needs a data set that fits on the "
            f"devices, and config.dataset={config.dataset!r} is streamed to them; set it to 1."
        )
    init_kwargs = {
        **config.network.to_dict(),
        "img_resolution": resolution,
        "img_channels": channels,
        "label_dim": source.num_classes if config.conditional else 0,
    }
    denoiser = _denoiser(config, init_kwargs, config.dtype)
    _check_augmentation(config, denoiser)
    rate = config.optimizer.learning_rate
    if config.optimizer.rampup_kimg:
        ramp_updates = math.ceil(config.optimizer.rampup_kimg * 1000 / config.batch_size)
        rate = optax.linear_schedule(0.0, rate, ramp_updates)
    return PretrainExperiment(
        source=source,
        init_kwargs=init_kwargs,
        denoiser=denoiser,
        setup=pretrain_update.Pretraining(
            denoiser=denoiser,
            optimizer=_adam(config, "optimizer", rate),
            batch_size=config.batch_size,
            ema_halflife=config.ema_halflife_kimg * 1000,
            ema_rampup=config.ema_rampup or None,
        ),
        draw=pretrain_update.Sampler(
            batch_size=config.batch_size,
            sigma=noise.LogNormal(),
            label_dim=denoiser.label_dim,
            augment_probability=config.augment_probability,
            x_flip=config.x_flip,
            in_order=not is_resident,
        ),
        heun=heun_settings(config),
        seed=config.seed,
        max_skipped_in_a_row=config.max_skipped_in_a_row,
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


def _adam(
    config: ConfigDict, group: str, learning_rate: optax.ScalarOrSchedule | None = None
) -> optax.GradientTransformation:
    settings = config[group]
    return optimizer.adam(
        settings.learning_rate if learning_rate is None else learning_rate,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        max_grad_norm=settings.max_grad_norm,
        bfloat16_state=config.get("optimizer_state_dtype") == "bfloat16",
    )


def _generator_rate(config: ConfigDict) -> optax.ScalarOrSchedule:
    """A number where it is one all the time, as published, and else a schedule."""
    rate: float = config.generator.learning_rate
    frozen, decay = (
        math.ceil(config.generator[name] * 1000 / config.batch_size)
        for name in ("frozen_kimg", "decay_kimg")
    )
    if not frozen and not decay:
        return rate
    schedules = [optax.constant_schedule(0.0), optax.constant_schedule(rate)]
    boundaries = [frozen]
    if decay:
        schedules.append(optax.linear_schedule(rate, 0.0, decay))
        boundaries.append(max(frozen, total_steps(config) - decay))
    return optax.join_schedules(schedules, boundaries)


def _check_teacher(config: ConfigDict, denoiser: NetworkDenoiser) -> None:
    if tuple(config.image_shape) != denoiser.image_shape:
        raise ValueError(
            f"config.image_shape={tuple(config.image_shape)} but the teacher {config.teacher} "
            f"denoises {denoiser.image_shape}; set image_shape to that, or name another teacher."
        )
    if config.label_dim != denoiser.label_dim:
        raise ValueError(
            f"config.label_dim={config.label_dim} but the teacher {config.teacher} has "
            f"{denoiser.label_dim} classes; set label_dim to that, or name another teacher."
        )
    _check_augmentation(config, denoiser)


def _check_augmentation(config: ConfigDict, denoiser: NetworkDenoiser) -> None:
    if config.augment_probability and denoiser.augment_dim != augmentation.NUM_LABELS:
        raise ValueError(
            f"config.augment_probability={config.augment_probability} but the network takes "
            f"{denoiser.augment_dim} augmentation labels, not {augmentation.NUM_LABELS}; set it to "
            "0."
        )
