"""Networks of a config by their role: the teacher, and one for each learner."""

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from diffjax.diffusion import augmentation
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.distributed import numerics
from diffjax.files.progress import warn_once
from diffjax.methods import Learner, Method
from diffjax.models import conditions, discriminator
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs
from diffjax.models.discriminator import Headed
from diffjax.models.few_steps import StepGenerator
from diffjax.models.record_folder import Origin
from diffjax.models.records import RecordGenerator
from diffjax.runs import bases, guiding, networks, ranges, students
from diffjax.runs.inputs import DataInput
from diffjax.runs.networks import Network

DTYPES = {name: getattr(jnp, name) for name in ranges.DTYPES}


@dataclasses.dataclass(frozen=True)
class Roles:
    """Networks of a method, as a config casts them.

    Attributes:
      denoiser: the teacher's network as learners compute it, or the one that is trained.
      functions: of the learners and the teacher, as `Method.networks`.
      others: learner -> its network, where that isn't `denoiser`'s.
      init_kwargs: of the network that is sampled, as `Network` has them.
      init_sigma: σ_init in the units of the data, within the range that the denoiser knows.
      classes: those to draw; () for all.
      teacher: the network that learners start from, if the method reads one.
      heads: learner -> its network with a discriminator's head, where it has one.
      negative: the weaker network that the teacher is led away from, if one is named.
      null: condition that stands for none, where labels are dropped.
    """

    denoiser: networks.Denoiser
    functions: Mapping[str, Any]
    others: Mapping[str, Network]
    init_kwargs: Mapping[str, Any]
    init_sigma: float
    classes: tuple[int, ...]
    teacher: Network | None = None
    heads: Mapping[str, Headed] = dataclasses.field(default_factory=dict)
    negative: Network | None = None
    null: Any = None

    @property
    def latent(self) -> Any:
        """Law of the latents in training, where the student has one of its own."""
        for each in self.functions.values():
            if isinstance(each, RecordGenerator):
                return each.latent
            if isinstance(each, StepGenerator):
                return each.training_latent
        return None

    def origin(self, sampled: str) -> Origin | None:
        """Functions that make the network that is sampled, of a user's.

        Args:
          sampled: the learner that is sampled.
        """
        network = self.others.get(sampled, self.teacher)
        return None if network is None else network.origin

    def model_of(self, learner: Learner) -> Any:
        """Model of a learner."""
        other = self.others.get(learner.name)
        return self.denoiser if other is None else other.model

    def trained(self, learners: Iterable[Learner]) -> dict[str, Any]:
        """Learner -> the model of its parameters, with its head where it has one."""
        return {each.name: self.heads.get(each.name, self.model_of(each)) for each in learners}


def cast(
    config: ConfigDict,
    cls: type[Method],
    data_input: DataInput | None,
    settings: Mapping[str, Any] = types.MappingProxyType({}),
) -> Roles:
    """Open and check all networks of a config.

    Args:
      config: of any method.
      cls: the method.
      data_input: real images that describe the network, where no teacher does.
      settings: of the method, by the names of its attributes.

    Raises:
      ValueError: naming the field.
      FileNotFoundError: if a network isn't there.
    """
    functions: dict[str, Any] = {}
    others: dict[str, Network] = {}
    teacher = None
    if "teacher" in cls.reads:
        teacher = networks.teacher(config.teacher)
        _check_teacher(config, teacher.model)
        fitted = _fitted(config, teacher, config.dtype)
        denoiser, classes = fitted.model, _classes(config, teacher)
        others = dict(_others(config, cls, teacher))
        init_kwargs = others.get(cls.samples_from, fitted).init_kwargs
        functions["teacher"] = _fitted(config, teacher, config.teacher_dtype or config.dtype).model
    else:
        init_kwargs = _described(config, data_input)
        denoiser = _denoiser(config, init_kwargs, config.dtype)
        classes = _classes_of_data(denoiser, data_input)
    functions |= {
        each.name: others[each.name].model if each.name in others else denoiser
        for each in cls.learners
        if each.is_network
    }
    _check_augmentation(config, functions.get("fake_score", denoiser))
    _add_log_variance(functions, cls, settings)
    heads = _add_discriminator(functions, cls, settings)
    negative, null = _guide(functions, config, cls, teacher) if teacher else (None, None)
    init_sigma = _init_sigma(config, denoiser)
    if cls.sampled_by == "one_step":
        functions[cls.samples_from] = students.generator(
            config, cls, functions[cls.samples_from], init_sigma, settings
        )
    return Roles(
        denoiser,
        functions,
        others,
        init_kwargs,
        init_sigma,
        classes,
        teacher,
        heads,
        negative,
        null,
    )


def _guide(
    functions: dict[str, Any], config: ConfigDict, cls: type[Method], teacher: Network
) -> tuple[Network | None, Any]:
    """Guide the teacher and the fake score.

    Returns:
      The negative, and the condition that stands for none, where they are asked for.
    """
    negative = guiding.negative(config, teacher)
    if negative is not None:
        negative = _fitted(config, negative, config.teacher_dtype or config.dtype)
    weaker = None if negative is None else negative.model
    plain = functions["teacher"]
    guided = functions["teacher"] = guiding.of_teacher(config, teacher, plain, weaker)
    if cls.judged_by == "teacher" and guided is not plain:
        functions["features"] = guided.features
    scores, null = guiding.of_fake_score(config, cls, teacher, functions.get("fake_score"))
    functions |= scores
    return negative, null


def _add_log_variance(
    functions: dict[str, Any], cls: type[Method], settings: Mapping[str, Any]
) -> None:
    """Add the log-variance of the loss by which a denoiser learns, where a method weighs by it."""
    if not settings.get("uncertainty_weighting"):
        return
    name = "fake_score" if "fake_score" in functions else cls.samples_from
    model = functions[name]
    if not getattr(model, "has_log_variance", False):
        raise ValueError(
            f"config.edm2.uncertainty_weighting=True but the network of {name} predicts no "
            "log-variance of its loss, as EDM2's do; set it to False."
        )
    functions["log_variance"] = model.log_variance


def _check_levels(head: Headed, asked: int) -> None:
    if asked > 1 and asked > head.levels:
        raise ValueError(
            f"config.head_levels={asked} is more than the {head.levels} levels of the encoder that "
            "is judged; set it to these at most, or to 0 for all."
        )


def _add_discriminator(
    functions: dict[str, Any], cls: type[Method], settings: Mapping[str, Any]
) -> dict[str, Headed]:
    """Add what judges, and give learners that have its head one; learner -> its network."""
    if not cls.judged_by:
        return {}
    model = functions[cls.judged_by]
    discriminator.features_of(model, getattr(model, "name", cls.judged_by))
    module = cls.head(settings)
    heads = {
        each.name: Headed(functions[each.name], module, model)
        for each in cls.learners
        if each.has_head and module is not None
    }
    for head in heads.values():
        _check_levels(head, settings.get("head_levels", 1))
    functions |= heads
    functions["features"] = functions[cls.judged_by].features
    functions["head"] = next((each.logits for each in heads.values()), discriminator.channel_mean)
    return heads


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


def _described(config: ConfigDict, data_input: DataInput | None) -> dict[str, Any]:
    """Constructor arguments of a network that is trained on images."""
    assert data_input is not None, "a network is described by a teacher or by its data"
    resolution, _, channels = data_input.source.image_shape
    init_kwargs = {
        **config.network.to_dict(),
        "img_resolution": resolution,
        "img_channels": channels,
        "label_dim": data_input.source.num_classes if config.conditional else 0,
    }
    if init_kwargs["class_name"] == "Precond" and not init_kwargs["augment_dim"]:
        del init_kwargs["augment_dim"]  # which EDM2's networks haven't
    if "edm2" in config and from_edm_kwargs(init_kwargs).has_log_variance:
        init_kwargs["force_normalization"] = config.edm2.force_normalization
    return init_kwargs


def _others(
    config: ConfigDict, cls: type[Method], teacher: Network
) -> Iterator[tuple[str, Network]]:
    """Open the networks of learners that aren't copies of the teacher."""
    for learner in cls.learners:
        student = config.get("student", "") if learner.name == cls.samples_from else ""
        if student == "network":
            yield learner.name, _own_student(config, teacher)
        elif student and isinstance(student, str):
            yield learner.name, networks.student(student, teacher, dtype=DTYPES[config.dtype])
        elif name := config.get(learner.name, {}).get("network", ""):
            field = f"config.{learner.name}.network"
            yield learner.name, networks.fake_score(name, teacher, field=field)


def _own_student(config: ConfigDict, teacher: Network) -> Network:
    """One of our own networks for the teacher's examples, from fresh weights."""
    shape, model = teacher.model.shape, teacher.model
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(
            f"config.student='network' makes square images [H, H, C], and {teacher.source} "
            f"denoises {shape}: name a function, as 'module:function'."
        )
    if model.cond is not None and not model.label_dim:
        raise ValueError(
            f"config.student='network' takes one-hot classes, and the condition of "
            f"{teacher.source} is something else: name a function, as 'module:function'."
        )
    init_kwargs = {
        **config.network.to_dict(),
        "img_resolution": shape[0],
        "img_channels": shape[2],
        "label_dim": model.label_dim,
    }
    if init_kwargs.get("label_dropout"):
        init_kwargs["label_dropout"] = 0.0  # as in the teacher's copies
    is_scaled = bases.is_transformer(config) or init_kwargs["class_name"] == "EDMPrecond"
    if is_scaled and model.sigma_data != PUBLISHED_SIGMA_DATA:
        init_kwargs["sigma_data"] = model.sigma_data
    denoiser = _denoiser(config, init_kwargs, config.dtype)
    return Network(
        "network",
        denoiser,
        init_kwargs,
        load=lambda: denoiser.init(numerics.key(config.seed)),
        content=dict,
    )


def _fitted(config: ConfigDict, network: Network, dtype: str) -> Network:
    """Have a network compute as a config says; a user's computes as its own function says."""
    if not isinstance(network.model, NetworkDenoiser):
        networks.check_computation(network.source, config)
        return network
    init_kwargs = {**network.init_kwargs, "dropout": config.dropout}
    if init_kwargs.get("label_dropout"):
        # A distillation's draws drop labels, so that all networks are told of the same samples.
        init_kwargs["label_dropout"] = 0.0
    if "edm2" in config:
        if not network.model.has_log_variance:
            raise ValueError(
                f"config.edm2 says how networks of EDM2 are trained, and {network.source} is "
                "another; leave it out."
            )
        init_kwargs["force_normalization"] = config.edm2.force_normalization
    return dataclasses.replace(
        network, model=_denoiser(config, init_kwargs, dtype), init_kwargs=init_kwargs
    )


def _classes(config: ConfigDict, teacher: Network) -> tuple[int, ...]:
    """Classes to draw: those that the teacher was trained on; () for all."""
    if not isinstance(teacher.model, NetworkDenoiser):
        return conditions.classes_of(teacher.model.cond)[1]
    label_dim = teacher.model.label_dim
    if not label_dim:
        return ()
    whose = f"config.teacher={config.teacher!r} was trained on"
    return drawn_classes(teacher.classes, label_dim, whose)


def _classes_of_data(denoiser: NetworkDenoiser, data_input: DataInput | None) -> tuple[int, ...]:
    """Classes to draw: those that there are images of; () for all."""
    if not denoiser.label_dim:
        return ()
    assert data_input is not None, "a network is described by a teacher or by its data"
    source = data_input.source
    return drawn_classes(
        source.classes_with_images, denoiser.label_dim, f"the data set {source.name!r} has"
    )


def _init_sigma(config: ConfigDict, denoiser: networks.Denoiser) -> float:
    """σ_init in the units of the data, within the range that the denoiser knows."""
    published = config.get("init_sigma", 1.0)
    sigma = published * denoiser.sigma_data / PUBLISHED_SIGMA_DATA
    return float(min(max(sigma, denoiser.sigma_min), denoiser.sigma_max))


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


def _check_teacher(config: ConfigDict, denoiser: networks.Denoiser) -> None:
    """Compare what a config says of its teacher, if it does, with the teacher."""
    shape = tuple(config.get("image_shape", denoiser.shape))
    if shape != denoiser.shape:
        raise ValueError(
            f"config.image_shape={shape} but the teacher {config.teacher} denoises "
            f"{denoiser.shape}; set image_shape to that, or name another teacher."
        )
    label_dim = config.get("label_dim", denoiser.label_dim)
    if label_dim != denoiser.label_dim:
        raise ValueError(
            f"config.label_dim={label_dim} but the teacher {config.teacher} has "
            f"{denoiser.label_dim} classes; set label_dim to that, or name another teacher."
        )


def _check_augmentation(config: ConfigDict, denoiser: networks.Denoiser) -> None:
    if config.get("augment_probability", 0.0) and denoiser.augment_dim != augmentation.NUM_LABELS:
        raise ValueError(
            f"config.augment_probability={config.augment_probability} but the network takes "
            f"{denoiser.augment_dim} augmentation labels, not {augmentation.NUM_LABELS}; set it to "
            "0."
        )
