"""Generators: one-step maps from noise to data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.interfaces import Array, Denoiser, Params, PRNGKey
from diffjax.models import conditions
from diffjax.models import teacher as teacher_lib
from diffjax.models import trainable as trainable_lib
from diffjax.models.teacher import Cond, Teacher

Latent = Any  # a pytree of [B, ...]

# Of the methods' publications and released code, for data of standard deviation 0.5: SiD (Zhou et
# al. 2024), SiDA (Zhou et al. 2025) and SIM (Luo et al. 2024), Diff-Instruct's code, DMD and DMD2
# (Yin et al. 2024) and f-distill (Xu et al. 2025).
_SIGMA_INIT = {
    "sid": 2.5,
    "diff_instruct": 1.0,
    "dmd2": 80.0,
    "f_distill": 80.0,
    "dmd": 80.0,
    "sida": 2.5,
    "sim": 2.5,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """Student of any architecture, with latents of its own.

    Any object with these names will do where a student is asked for; `trainable` may be absent.

    Attributes:
      generate: (params, z, cond) -> [B, *teacher.shape], in the teacher's units. Pure.
      params: pytree. Its inexact arrays are trained, cast and sharded; all else is carried along.
      latent: law of the latents, (key, batch) -> z, a pytree of [batch, ...]. Where it has a method
        `in_turn`, numbers of samples [B] -> z, that gives pictures and samples theirs.
      trainable: (path, leaf) -> whether the leaf is trained; False for batch statistics.
    """

    generate: Callable[[Params, Latent, Cond], Array]
    params: Params
    latent: Callable[[PRNGKey, int], Latent]
    trainable: trainable_lib.Trainable = trainable_lib.not_frozen


def default_sigma_init(teacher: Teacher, method: str = "sid") -> float:
    """Scale a method's published σ_init to a teacher's data, σ_init sigma_data/0.5.

    Args:
      teacher: whose sigma_data counts, and whose range of noise levels σ_init is clipped to.
      method: "sid", "sida" or "sim" (2.5), "diff_instruct" (1), "dmd", "dmd2" or "f_distill" (80).

    Returns:
      σ_init, in the teacher's units.

    Raises:
      ValueError: if nothing is published for the method.
    """
    if method not in _SIGMA_INIT:
        known = ", ".join(_SIGMA_INIT)
        raise ValueError(f"method={method!r} has no published sigma_init ({known}): give one")
    scaled = _SIGMA_INIT[method] * teacher.sigma_data / PUBLISHED_SIGMA_DATA
    return float(min(max(scaled, teacher.sigma_min), teacher.sigma_max))


def denoiser_generator(
    teacher: Teacher, sigma_init: float | None = None, method: str = "sid"
) -> Generator:
    """Make a student of a teacher's copy, G(z) = D_θ(σ_init z; σ_init), z ~ N(0, I).

    Args:
      teacher: whose network, parameters and shape the student has.
      sigma_init: σ_init, in the teacher's units, taken as it stands; None for
        `default_sigma_init`.
      method: whose σ_init is taken where none is given.

    Returns:
      The student. Its condition is the teacher's.

    Raises:
      ValueError: if `sigma_init` isn't a positive number, or nothing is published for the method.
    """
    teacher = teacher_lib.checked(teacher, "denoiser_generator")
    if sigma_init is None:
        sigma = default_sigma_init(teacher, method)
    else:
        sigma = teacher_lib.positive(sigma_init, "denoiser_generator: sigma_init")

    def generate(params: Params, z: Array, cond: Cond = None) -> Array:
        levels = jnp.full((z.shape[0],), sigma, jnp.float32)
        return teacher.denoise(params, sigma * z, levels, cond)

    latent = conditions.normal(teacher.shape)
    return Generator(generate, teacher.params, latent, teacher.trainable)


def checked_generator(obj: Any, name: str) -> Generator:
    """Make a `Generator` of what a user's function returned, or say what is wrong with it.

    Nothing is computed: the law of latents is traced, `generate` isn't called.

    Args:
      obj: any object with the names of `Generator`.
      name: where it comes from, such as "my_student:small", for the message.

    Raises:
      ValueError: in one line, naming the field.
    """
    needed = ("generate", "params", "latent")
    teacher_lib.check_names(obj, needed, name, "diffjax.models.Generator")
    fields = teacher_lib.fields_of(obj, Generator)
    teacher_lib.check_callables(fields, (*needed[::2], "trainable"), (), name)
    generator = Generator(**fields)
    teacher_lib.check_params(generator.params, generator.trainable, name)
    teacher_lib.drawn(generator.latent, f"{name}: latent", "see diffjax.models.normal")
    return generator


@dataclasses.dataclass(frozen=True)
class DenoiserGenerator:
    """One-step generator G(z) = D_θ(σ_init z; σ_init) (Zhou et al. 2024, section 4).

    Attributes:
      denoiser: D, whose parameters the generator has.
      init_sigma: σ_init; 2.5 in SiD, 1.0 in Diff-Instruct's released code.
    """

    denoiser: Denoiser
    init_sigma: float

    def __call__(
        self,
        params: Params,
        z: Array,
        *,
        labels: Array | None = None,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Generate, as `interfaces.Generator` says.

        Args:
          params: of the denoiser.
          z: [B, ...] latents ~ N(0, I).
          labels: [B, K] one-hot classes, or None.
          train: whether dropout is on; it then needs `rng`.
          rng: key of the dropout masks.

        Returns:
          [B, ...] float32 data, images being [B, H, W, C] in [-1, 1].
        """
        sigma = jnp.full((z.shape[0],), self.init_sigma, jnp.float32)
        return self.denoiser(
            params, self.init_sigma * z, sigma, labels=labels, train=train, rng=rng
        )
