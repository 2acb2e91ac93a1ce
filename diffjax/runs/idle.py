"""Settings that were changed and could do nothing beside the others, refused before a run."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffjax import methods
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.distributed import numerics
from diffjax.files.progress import warn_once
from diffjax.models.guidance import Guided
from diffjax.runs import bases, checks, saved_config
from diffjax.runs.experiment import Experiment

_LEAVE_OUT = "leave it out"
_DRAWN = 4096  # noise levels, beyond which hardly any lies


def check(config: ConfigDict, exp: Experiment, workdir: Path) -> None:
    """Check that each setting which isn't its base's can act, and tell of what comes too late.

    What is off, such as 0 or "", passes, and so does what a run in the work directory was begun
    with, by a version that didn't ask.

    Args:
      config: of any method.
      exp: built from it.
      workdir: of the run.

    Raises:
      ValueError: naming the first such field, why it does nothing, and what would do.
    """
    defaults = _defaults(config)
    present = bases.flat(config.to_dict())
    for field, why, mend in _idle(config, exp):
        given = present.get(field)
        if not given or _plain(given) in (_plain(defaults.get(field)), _kept(workdir, field)):
            continue
        raise ValueError(f"config.{field}={given!r} does nothing, since {why}; {mend}.")
    _tell_what_is_missed(config, exp)


def _tell_what_is_missed(config: ConfigDict, exp: Experiment) -> None:
    """Tell of settings by which something never happens that a shorter run may do without."""
    present = bases.flat(config.to_dict()).keys()
    known = {field for name in methods.names() for field in bases.fields(name)}
    others = (known - bases.fields(config.method).keys()) & present
    if left := sorted(field for field in others if not field.startswith("network.")):
        warn_once(
            f"config.{left[0]} isn't of method={config.method!r} ({len(left)} such field(s)): the "
            "config is of another method, whose defaults stay; start from this one's base."
        )
    begins, ends = config.get("gan_from_kimg", 0.0), config.duration_kimg
    if begins >= ends:
        warn_once(
            f"config.gan_from_kimg={begins:g} isn't reached by duration_kimg={ends:g}: the "
            "generator never learns by the discriminator."
        )
    ratio = {"max_logit", "ratio_max"} & set(config) - exp.method.idle().keys()
    judge, own = (config.get(each, {}).get("gan_scale") for each in ("fake_score", "generator"))
    if judge == 0 and (ratio or own):
        warn_once(
            f"config.fake_score.gan_scale=0: {config.method} heeds an untrained discriminator."
        )
    if "network" in config and not _trains_own_network(config):
        warn_once(f"config.network.* do nothing, since student={config.student!r}.")
    if not _trains_own_network(config) or bases.is_transformer(config):
        return
    size, asked = exp.sampled.shape[0], tuple(config.network.attn_resolutions)
    found = [size >> level for level in range(len(config.network.channel_mult))]
    if asked and not set(found) & set(asked):
        shown = ", ".join(map(str, found))
        warn_once(
            f"config.network.attn_resolutions={asked}: the network has the resolutions {shown}, "
            "and so no attention."
        )


def _idle(config: ConfigDict, exp: Experiment) -> Iterator[tuple[str, str, str]]:
    """List fields that do nothing here: (field, why, what would do)."""
    for field, why in exp.method.idle().items():
        yield field, why, _LEAVE_OUT
    yield from _of_guidance(config, exp)
    yield from _of_sampler(config, exp)
    if _trains_own_network(config) and bases.is_transformer(config):
        yield from _of_transformer(config, exp)


def _of_guidance(config: ConfigDict, exp: Experiment) -> Iterator[tuple[str, str, str]]:
    settings = config.get("guidance", ConfigDict())
    scales = {name: settings.get(name, 1.0) for name in ("teacher", "fake_training", "fake_loss")}
    if settings.get("negative"):
        scales["teacher"] = 1.0
    drops = config.get("fake_score", ConfigDict()).get("label_dropout", 0.0)
    if set(scales.values()) == {1.0} and not drops:
        why = "nothing is guided by leaving the condition out"
        yield "guidance.null", why, f"set a scale of guidance, or {_LEAVE_OUT}"
    teacher = exp.method.networks.get("teacher")
    if isinstance(teacher, Guided) and (teacher.low, teacher.high) != (0.0, math.inf):
        low, high = _asked(exp)
        if teacher.high < low or teacher.low > high:
            unit = exp.denoiser.sigma_data / PUBLISHED_SIGMA_DATA
            why = f"the teacher is asked from {low / unit:.4g} to {high / unit:.4g}"
            yield "guidance.interval", why, "name levels of these"


def _asked(exp: Experiment) -> tuple[float, float]:
    """Find the noise levels between which a teacher is asked, by the sampler and by some draws."""
    levels = [exp.heun.sigmas(exp.denoiser)[:-1]]
    for name in ("generator_sigma", "fake_score_sigma"):
        if law := getattr(exp.method, name, None):
            levels.append(np.asarray(law()(numerics.key(0), (_DRAWN,))))
    return float(min(map(np.min, levels))), float(max(map(np.max, levels)))


def _of_sampler(config: ConfigDict, exp: Experiment) -> Iterator[tuple[str, str, str]]:
    unit = exp.denoiser.sigma_data / PUBLISHED_SIGMA_DATA
    levels = exp.heun.sigmas(exp.denoiser)[:-1] / unit
    low, high = config.heun.s_min, config.heun.s_max
    if not any(low <= level <= high for level in levels):
        why = f"none of the sampler's noise levels lies from heun.s_min={low:g} to s_max={high:g}"
        yield "heun.s_churn", why, f"widen that, or {_LEAVE_OUT}"


def _of_transformer(config: ConfigDict, exp: Experiment) -> Iterator[tuple[str, str, str]]:
    field = "network.label_dropout"
    if "teacher" in config:
        why = "in a distillation no network drops labels by itself"
        yield field, why, f"{_LEAVE_OUT}; fake_score.label_dropout is for that"
    elif not exp.sampled.label_dim:
        yield field, "the network has no classes", _LEAVE_OUT


def _trains_own_network(config: ConfigDict) -> bool:
    return "network" in config and config.get("student", "network") == "network"


def _defaults(config: ConfigDict) -> dict[str, Any]:
    """List the dotted fields of a config's bases with their values."""
    found = bases.fields(config.method)
    if bases.is_transformer(config):
        fields = bases.transformer_fields(config.network.class_name)
        found |= {f"network.{name}": value for name, value in fields.items()}
    if "edm2" in config:
        found |= bases.flat({"edm2": bases.edm2_fields(config.method)})
    return found


def _kept(workdir: Path, field: str) -> Any:
    """Look up a field in the config of the run so far; None without one."""
    if not (workdir / saved_config.FILE).exists():
        return None
    kept = saved_config.load(workdir)
    try:
        return _plain(checks.get(kept, field))
    except ValueError:  # it is newer
        return None


def _plain(value: Any) -> Any:
    """Make a list, as files give it, a tuple, and a number a float."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else value
