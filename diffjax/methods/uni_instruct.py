"""Uni-Instruct, an expanded f-divergence of scores (Wang et al. 2025, arXiv:2505.20755)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from diffjax import losses
from diffjax.interfaces import Array
from diffjax.methods.base import register
from diffjax.methods.settings import FLAG, POSITIVE, named, setting
from diffjax.methods.sida import Asked, SiDALoop

_NONE = "none"
# What the released code makes of divergences: factors of its part with a ratio and of that without.
_RELEASED = {"forward_kl": (1.0, 0.0), "jeffreys": (0.4, 0.6)}


@register("uni_instruct")
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniInstruct(SiDALoop):
    """Uni-Instruct's formula on the training loop that its released code took from SiDA.

    The generator learns by SiD's loss at α = 1, and once the discriminator counts by the
    divergence and the adversarial term. The logarithm of the density ratio is the mean logit.

    Attributes:
      divergence: a name of `losses.F_DIVERGENCES`; "none" leaves the adversarial term alone.
      max_logit: the greatest absolute logarithm of the density ratio; what the paper takes isn't
        known.
      through_ratio: whether gradients flow through the ratio's dependence on the sample, as in the
        gradient of the divergence; the released code stops its ratio. With trained networks it
        broke all runs down that were tried on photographs.
      ratio: "logit" for the paper's ratio; "released" for what the released code has in its place,
        which is 1 to a part in a thousand: to compare with that code, for which alone it is.
      reduce_variance: whether the released ratio is divided by its sum over the batch.
    """

    divergence: str = setting("forward_kl", named(*losses.F_DIVERGENCES, _NONE))
    max_logit: float = setting(10.0, POSITIVE)
    through_ratio: bool = setting(False, FLAG)
    ratio: str = setting("logit", named("logit", "released"))
    reduce_variance: bool = setting(False, FLAG)

    suspects: ClassVar = ("through_ratio", "divergence", "max_logit", *SiDALoop.suspects)

    def __post_init__(self) -> None:
        """Refuse what the released code can't do, and an option that does nothing."""
        released = self.ratio == "released"
        if released and self.divergence not in (*_RELEASED, _NONE):
            raise ValueError(
                f"divergence={self.divergence!r}: the released code runs "
                f"{', '.join(_RELEASED)} and {_NONE} alone; name one, or set ratio='logit'."
            )
        if self.through_ratio and released:
            raise ValueError("through_ratio=True is an option of ratio='logit'; set it to False.")
        if self.reduce_variance and not released:
            raise ValueError(
                "reduce_variance=True is an option of ratio='released'; set it to False."
            )

    def idle(self) -> dict[str, str]:
        """List settings of a ratio that isn't there, or weighs nothing."""
        if self.divergence == _NONE:
            of_ratio = ("through_ratio", "max_logit", "reduce_variance")
            found = dict.fromkeys(of_ratio, f"divergence={_NONE!r} has no density ratio")
            if not self.gan_scale:
                found["divergence"] = "generator.gan_scale=0 leaves no other loss"
            return found
        if self.ratio == "released":
            return {"max_logit": "ratio='released' isn't bounded"}
        if self.divergence == "reverse_kl":
            return {"max_logit": "divergence='reverse_kl' weighs every ratio by 1"}
        return {}

    def alone(self, asked: Asked) -> Array:
        """SiD's loss at α = 1 of each sample, [B]."""
        x, d_teacher, d_fake, *_ = asked
        return losses.sid(x, d_teacher, d_fake, alpha=1.0, weight=asked.weight)

    def joined(self, asked: Asked, adversarial: Array) -> Array:
        """The divergence's loss and the adversarial term, [B]."""
        loss = self.gan_scale * adversarial
        if self.divergence == _NONE:
            return loss
        x, d_teacher, d_fake, logits, sigma, weight = asked
        if self.ratio == "released":
            forward, reverse = _RELEASED[self.divergence]
            return losses.uni_instruct_released(
                x,
                d_teacher,
                d_fake,
                logits,
                forward=forward,
                reverse=reverse,
                gan_scale=self.gan_scale,
                reduce_variance=self.reduce_variance,
                weight=weight,
            )
        log_ratio = logits.reshape(len(x), -1).mean(axis=1)
        log_ratio = jnp.clip(log_ratio, -self.max_logit, self.max_logit)
        return loss + losses.uni_instruct(
            x,
            d_teacher,
            d_fake,
            log_ratio,
            sigma,
            divergence=self.divergence,
            through_ratio=self.through_ratio,
            weight=weight,
        )
