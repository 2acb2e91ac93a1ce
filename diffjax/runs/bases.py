"""Bases of configs: a value for each field, so that a config says what its paper fixes alone.

    def get_config():
        config = bases.distillation("sid")
        config.teacher = "edm-cifar10-32x32-uncond-vp"
        ...
        return config

`teacher`, `dataset`, `data` and `evaluate.reference` are empty, for configs to fill in. Settings of
a method, such as `alpha`, come from its class in `diffjax.methods`, which describes them.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

from diffjax import methods
from diffjax.methods import Learner, Method

_TEACHER = {
    "teacher": "",  # a name, a network's folder, file or URL, or "module:function"
    "decoder": "",  # of a teacher of latents: a VAE's folder or file, or "module:function"
    "dropout": 0.0,
    "init_sigma": 2.5,  # noise level at which the generator asks its network; see `heun`
    "accumulation": 1,  # rounds that a batch is split into, for memory
    "compile_apart": "auto",  # in several programs; or "always", "never"
    # Savings that the published loops don't make; each changes the result a little.
    "teacher_dtype": "",  # computed and kept in; "" computes in dtype, keeps float32
    "optimizer_state_dtype": "float32",  # or "bfloat16", of Adam's moments
    # Guidance, D₋ + s (D₊ − D₋); 1 for none. Sampling the student takes no more evaluations.
    "guidance.teacher": 1.0,
    "guidance.interval": (0.0, float("inf")),  # of σ, in which the teacher is guided
    "guidance.negative": "",  # a weaker network, as `teacher` is named; "": D₊ with no condition
    "guidance.null": "",  # or "zeros", where the teacher has learnt no condition for none
}
_GUIDED_FAKE_SCORE = {
    "guidance.fake_training": 1.0,  # as it learns
    "guidance.fake_loss": 1.0,  # in the generator's loss
}
_OTHER_STUDENT = {  # than the teacher's copy
    # "module:function", a StyleGAN2 pickle or its name, or "network" after `with_network`.
    "student": "",
}
_DATA = {
    "dataset": "",  # a name, a zip, a folder, or tfds:NAME
    "conditional": False,
    "x_flip": False,
}
_REAL_DATA = {  # of a distillation that compares with real images
    "data": "",  # a name, a zip, a folder, or tfds:NAME
}
_NETWORK = {  # DDPM++ as EDM trains it on CIFAR-10
    "network.class_name": "EDMPrecond",
    "network.model_type": "SongUNet",
    "network.augment_dim": 9,
    "network.model_channels": 128,
    "network.channel_mult": (2, 2, 2),
    "network.num_blocks": 4,
    "network.attn_resolutions": (16,),
    "network.dropout": 0.13,
}
_TRANSFORMER = {  # SiT-S/2
    "class_name": "SiT",
    "patch_size": 2,
    "hidden_size": 384,
    "depth": 12,
    "num_heads": 6,
    "mlp_ratio": 4.0,
    "learn_sigma": False,
    "dropout": 0.0,
    "label_dropout": 0.1,  # by which it has an answer without a class
}
_OF_TRANSFORMER = {
    "SiT": {"path": "linear", "predicts": "velocity"},
    "DiT": {"schedule": "linear"},
}
_EDM2 = {  # how networks of EDM2 are trained (Karras et al. 2024), at 512 pixels
    "p_mean": -0.4,  # of the logarithm of the noise level, in a denoiser's own training
    "p_std": 1.0,
    "uncertainty_weighting": True,  # by the network's log-variance of its loss
    "force_normalization": True,  # weights are overwritten by their normalised selves
    # Lengths of power-function averages that are kept besides, such as (0.05, 0.1): `sigma_rel`.
    "power_stds": (),
}
_EDM2_FROM_NOTHING = {"decay_updates": 70_000.0}  # after which the rate falls; 0 for never
RATE = 1e-5  # that "auto" divides by a network's gain
_ADAM = {
    "learning_rate": RATE,  # or "auto", less where a network's output has a gain over sigma_data
    "b1": 0.0,
    "b2": 0.999,
    "eps": 1e-8,
    "max_grad_norm": 0.0,  # 0: gradients are not clipped
}
_FRESH_LEARNER = {
    "learning_rate": 1e-3,
    "b1": 0.9,
    "rampup_kimg": 10_000.0,  # at the start, in which the rate rises from 0; 0 for none
}
_STUDENT = {
    "initial": "",  # a network to start from, such as a student; "" is the teacher
    "frozen_kimg": 0.0,  # at the start, in which the fake score alone learns
    "decay_kimg": 0.0,  # at the end, in which the rate falls to 0; 0 for none
}
_STEPS = {  # of a student that is a denoiser
    "steps": 1,  # network evaluations a sample
    "step_sigmas": (),  # noise levels after init_sigma, falling; (): evenly spaced in time
    "outputs": "mixture",  # of all steps, one drawn for each sample, is trained; or "last"
    "backward": "one_step",  # the gradient flows through that step; or "all_steps" up to it
}
_COMMON = {
    "batch_size": 128,
    "duration_kimg": 500_000.0,
    "ema_halflife_kimg": 500.0,
    "ema_rampup": 0.05,  # 0 for none
    "dtype": "float32",
    "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
    "rematerialize": False,  # blocks computed twice, for memory
    "seed": 0,
    "deterministic": False,
    "distributed": False,
    "mesh.data": -1,
    "mesh.fsdp": 1,
    "compilation_cache": "",  # a folder, or "" for none
    "metric_writer": "",  # "module:function", or "" for none besides the run's own files
    "updates_per_call": 16,
    "max_skipped_in_a_row": 10,  # updates that are not finite, before the run stops
    # Seconds: an update is reported that takes slow_factor medians and slow_seconds; a run ends
    # where nothing is done for hang_seconds (0: never), or a process is silent.
    "watchdog.slow_factor": 10.0,
    "watchdog.slow_seconds": 10.0,
    "watchdog.hang_seconds": 3600.0,
    "watchdog.peer_seconds": 60.0,
    "log_kimg": 40.96,
    "grid_kimg": 491.52,
    "grid.rows": 8,
    "grid.columns": 8,
    "grid.seed": 0,
    "checkpoint_kimg": 2457.6,
    "keep_checkpoints": 3,
    "heun.steps": 18,
    "heun.sigma_min": 0.002,
    "heun.sigma_max": 80.0,
    "heun.rho": 7.0,
    "heun.s_churn": 0.0,
    "heun.s_min": 0.0,
    "heun.s_max": float("inf"),
    "heun.s_noise": 1.0,
    "evaluate.source": "student",
    "evaluate.reference": "",  # a name, a file of statistics, or a data set
    "evaluate.features": "inception",
    "evaluate.features_weights": "",
    "evaluate.metrics": ("fid",),
    "evaluate.count": 50_000,
    "evaluate.batch_size": 256,
    "evaluate.seed": 1,
    "evaluate.seeds": 1,
    "evaluate.every_kimg": 0.0,
    "evaluate.best": "fid",
    "sample.source": "student",
    "sample.label": -1,
    "sample.count": 0,
    "sample.batch_size": 256,
    "sample.seed": 0,
    "sample.format": "png",
}
# In place of these, where a network is trained from nothing.
_WITHOUT_TEACHER = {
    "batch_size": 512,
    "duration_kimg": 200_000.0,
    "dtype": "bfloat16",
    "log_kimg": 51.2,
    "grid_kimg": 2048.0,
    "grid.rows": 10,
    "grid.columns": 10,
    "checkpoint_kimg": 5120.0,
    "evaluate.batch_size": 500,
    "sample.batch_size": 500,
}


def distillation(method: str) -> ConfigDict:
    """Make the base of a config that distils a teacher.

    Args:
      method: a registered one that reads a teacher, such as "sid".

    Returns:
      The config, locked, so that a misspelt field is an error.

    Raises:
      ValueError: if there is no such method, or it reads no teacher.
    """
    if "teacher" not in methods.get(method).reads:
        raise ValueError(f"method={method!r} reads no teacher: bases.denoising() is its base.")
    return _config(fields(method))


def denoising() -> ConfigDict:
    """Make the base of a config that trains a teacher on images, locked."""
    return _config(fields("denoising"))


def with_network(config: ConfigDict, **arguments: Any) -> ConfigDict:
    """Have a distillation's student be one of our own networks, from fresh weights.

    Args:
      config: of a distillation; it gets the fields `network.*` and `student = "network"`.
      **arguments: values of these fields, such as `model_channels=32`; others are as EDM's network
        for CIFAR-10 has them. Size, channels and classes are the teacher's.

    Returns:
      The config.

    Raises:
      ValueError: if there is no such field.
    """
    known = {field.partition(".")[2]: value for field, value in _NETWORK.items()}
    known |= {"augment_dim": 0, "dropout": 0.0}
    if unknown := sorted(arguments.keys() - known.keys()):
        raise ValueError(f"network.{unknown[0]} is no field; there are: {', '.join(known)}.")
    with config.unlocked():
        config.student = "network"
        config.network = ConfigDict({**known, **arguments})
    return config


def with_transformer(config: ConfigDict, **arguments: Any) -> ConfigDict:
    """Have the network that a run trains from fresh weights be a SiT or a DiT.

    Args:
      config: of `denoising()`; or of a distillation, whose student it then is (`student =
        "network"`).
      **arguments: values of the fields `network.*`, such as `class_name="DiT"` and `depth=28`;
        others are SiT-S/2's. Size, channels and classes are the data's, or the teacher's.

    Returns:
      The config.

    Raises:
      ValueError: if there is no such network or field.
    """
    class_name = arguments.get("class_name", "SiT")
    if class_name not in _OF_TRANSFORMER:
        raise ValueError(f"network.class_name={class_name!r} is none of SiT and DiT.")
    known = transformer_fields(class_name)
    if unknown := sorted(arguments.keys() - known.keys()):
        raise ValueError(f"network.{unknown[0]} is no field; there are: {', '.join(known)}.")
    with config.unlocked():
        config.network = ConfigDict({**known, **arguments})
        if "teacher" in config:
            config.student = "network"
    return config


def transformer_fields(class_name: str) -> dict[str, Any]:
    """List the fields `network.*` of a transformer, with SiT-S/2's values.

    Args:
      class_name: "SiT" or "DiT".
    """
    return _TRANSFORMER | _OF_TRANSFORMER[class_name]


def is_transformer(config: ConfigDict) -> bool:
    """Tell whether a config's `network` is a SiT or a DiT.

    Args:
      config: with or without fields `network.*`.
    """
    return config.get("network", {}).get("class_name") in _OF_TRANSFORMER


def with_edm2(config: ConfigDict, **settings: Any) -> ConfigDict:
    """Have a run train networks of EDM2 as their authors do.

    Args:
      config: of a method that can; it gets the fields `edm2.*`. Without them such networks are
        trained like all others, but that their weights are overwritten too.
      **settings: values of these fields, such as `p_mean=-0.8`.

    Returns:
      The config.

    Raises:
      ValueError: if there is no such field.
    """
    known = edm2_fields(config.method)
    if unknown := sorted(settings.keys() - known.keys()):
        raise ValueError(f"edm2.{unknown[0]} is no field; there are: {', '.join(known)}.")
    with config.unlocked():
        config.edm2 = ConfigDict({**known, **settings})
    return config


def edm2_fields(method: str) -> dict[str, Any]:
    """List the fields of `edm2`, in a config that has them, with EDM2's values.

    Args:
      method: of the config.
    """
    return _EDM2 | (_EDM2_FROM_NOTHING if method == "denoising" else {})


def _config(dotted: Mapping[str, Any]) -> ConfigDict:
    free = {  # of a type that takes "auto" too
        field: FieldReference(value, field_type=object)
        for field, value in dotted.items()
        if field.endswith(".learning_rate")
    }
    return ConfigDict(_nested({**dotted, **free})).lock()


def fields(method: str) -> dict[str, Any]:
    """List the dotted fields of a method's base, in an order for people, with their values.

    Args:
      method: a registered one.

    Raises:
      ValueError: if there is no such method.
    """
    cls = methods.get(method)
    has_teacher = "teacher" in cls.reads
    settings = {each.field: each.default for each in cls.settings()}
    found: dict[str, Any] = {"method": method}
    found |= _TEACHER if has_teacher else {}
    if "fake_score" in [learner.name for learner in cls.learners] and has_teacher:
        found |= _GUIDED_FAKE_SCORE
    found |= _OTHER_STUDENT if takes_student(cls) else {}
    if "data" in cls.reads:
        found |= _REAL_DATA if cls.data_field == "data" else _DATA
    found |= {} if has_teacher else _NETWORK
    found |= {field: value for field, value in settings.items() if "." not in field}
    for learner in sorted(networks_of(cls), key=lambda each: each.name != cls.samples_from):
        group = f"{learner.optimizer or learner.name}."
        found |= {group + name: value for name, value in _optimizer(learner, cls).items()}
        found |= {field: value for field, value in settings.items() if field.startswith(group)}
        if learner.name == "fake_score":
            found[f"{group}network"] = ""  # "module:function"; "" is the teacher's copy
    return found | settings | _COMMON | ({} if has_teacher else _WITHOUT_TEACHER)


def networks_of(method: type[Method]) -> list[Learner]:
    """List the learners of a method that are networks, of which a config has settings."""
    return [each for each in method.learners if each.is_network]


def takes_student(method: type[Method]) -> bool:
    """Tell whether configs of a method can name a student of another architecture.

    Args:
      method: any; one that calls a learner "student" has settings by that name.
    """
    names = [learner.optimizer or learner.name for learner in method.learners]
    return "teacher" in method.reads and method.sampled_by == "one_step" and "student" not in names


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten groups of fields into dotted names.

    Args:
      values: of a config, as `ConfigDict.to_dict` gives them.
      prefix: of the names.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _optimizer(learner: Learner, method: type[Method]) -> dict[str, Any]:
    if learner.starts_as == "fresh":
        return _ADAM | _FRESH_LEARNER | dict(learner.fields)
    if learner.name != method.samples_from:
        return _ADAM | dict(learner.fields)
    steps = _STEPS if method.sampled_by == "one_step" else {}
    return _ADAM | _STUDENT | steps | dict(learner.fields)


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for field, value in dotted.items():
        *path, name = field.split(".")
        group = groups
        for part in path:
            group = group.setdefault(part, {})
        group[name] = value
    return groups
