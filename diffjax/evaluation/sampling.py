"""Sampling: from a student in one step, or from a teacher by EDM's sampler.

Every sample has a key of its own, from the seed and its index, so that sample i is the same, up to
rounding, whatever the batch size, the number of samples and the devices.

Samples of our own image networks become uint8 on the host, all others stay float32 in the units of
the data.
"""

import contextlib
import dataclasses
import functools
import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax.diffusion import samplers
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA, heun_sigmas
from diffjax.distributed import sharding
from diffjax.evaluation.drawing import (
    as_labels,
    classes_in_turn,
    keys,
    latents,
    random_conditions,
)
from diffjax.files import images, writing
from diffjax.interfaces import Array, Generator, Params
from diffjax.models import trainable
from diffjax.models.teacher import CondLaw

# (parameters, indices [B], conditions) -> samples [B, *shape], split over the devices. Conditions
# are classes [B] where a network has classes, else a pytree of [B, ...], or anything where it has
# none.
SampleBatch = Callable[[Params, Array, Any], Array]
# Samples [B, *shape], uint8 images or float32, and their conditions, a batch at a time.
Batches = Iterator[tuple[np.ndarray, Any]]


def one_step(
    generator: Generator,
    *,
    seed: int,
    shape: tuple[int, ...],
    label_dim: int,
    mesh: Mesh,
    cond: CondLaw | None = None,
    latent: CondLaw | None = None,
) -> SampleBatch:
    """One-step sampler, compiled over a mesh, which may be called inside `jax.jit` too.

    Args:
      generator: G(z).
      seed: of the latents.
      shape: of one latent, that of an example.
      label_dim: number of classes; 0 for none.
      mesh: the devices.
      cond: law of the conditions, where the generator takes others than classes.
      latent: law of the latents, in place of N(0, I).
    """

    @functools.partial(jax.jit, out_shardings=sharding.batch(mesh))
    def sample(params: Params, indices: Array, drawn: Any) -> Array:
        z = sharding.constrain_batch(latents(seed, indices, shape, latent), mesh, 0)
        return generator(params, z, labels=as_labels(drawn, label_dim, cond))

    return sample


@dataclasses.dataclass(frozen=True)
class HeunSettings:
    """Settings of EDM's sampler; see `samplers.edm_heun`.

    Noise levels are those of data of standard deviation 0.5, as published.

    Attributes:
      steps: N; the network is evaluated 2N − 1 times.
      sigma_min: the last σ before 0.
      sigma_max: the first σ.
      rho: exponent of the grid.
      s_churn: amount of stochasticity.
      s_min: σ below which no noise is added.
      s_max: σ above which no noise is added.
      s_noise: standard deviation of the noise.
    """

    steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = float("inf")
    s_noise: float = 1.0

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the network for an image."""
        return 2 * self.steps - 1

    def sigmas(self, denoiser: Any) -> np.ndarray:
        """Grid [steps + 1] of noise levels, in the units of the data and the range of a network.

        Args:
          denoiser: a network, whose `round_sigma` knows the levels that it was trained at.

        Raises:
          ValueError: if none of these noise levels is in the range.
        """
        unit = denoiser.sigma_data / PUBLISHED_SIGMA_DATA
        low = max(self.sigma_min * unit, denoiser.sigma_min)
        high = min(self.sigma_max * unit, denoiser.sigma_max)
        if low >= high:
            raise ValueError(
                f"heun.sigma_min={self.sigma_min:g} to heun.sigma_max={self.sigma_max:g} are "
                f"{self.sigma_min * unit:g} to {self.sigma_max * unit:g} for data of standard "
                f"deviation {denoiser.sigma_data:g}, and the network knows "
                f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}: set them to its range times "
                f"{1 / unit:g}."
            )
        grid = self._grid(low, high)
        return np.append(denoiser.round_sigma(grid[:-1]), 0.0)

    def _grid(self, low: float, high: float) -> np.ndarray:
        grid = None
        with np.errstate(over="ignore", invalid="ignore"), contextlib.suppress(OverflowError):
            grid = heun_sigmas(self.steps, low, high, self.rho)
        if grid is None or not np.isfinite(grid).all() or not (np.diff(grid) < 0).all():
            raise ValueError(
                f"heun.rho={self.rho:g}: powers of noise levels from {low:g} to {high:g} can't be "
                "told apart, or overflow; EDM takes 7."
            )
        return grid


def heun(
    denoiser: Any,
    *,
    settings: HeunSettings,
    seed: int,
    mesh: Mesh,
) -> SampleBatch:
    """Sampler by EDM's method over a mesh, one compiled network evaluation.

    Outside of `jit`, where all of diffjax calls it, the loop is Python's, so that a CPU keeps its
    threads. Inside it is one compiled loop.

    Args:
      denoiser: the network, a `NetworkDenoiser` or a `RecordDenoiser`.
      settings: of the sampler.
      seed: of latents and noise.
      mesh: the devices.
    """

    @functools.partial(jax.jit, out_shardings=sharding.batch(mesh))
    def denoise(params: Params, x: Array, sigma: Array, drawn: Any) -> Array:
        x = sharding.constrain_batch(x, mesh, 0)
        labels = as_labels(drawn, denoiser.label_dim, denoiser.cond)
        return denoiser(params, x, sigma, labels=labels)

    sigmas = settings.sigmas(denoiser)
    unit = denoiser.sigma_data / PUBLISHED_SIGMA_DATA

    def sample(params: Params, indices: Array, drawn: Any) -> Array:
        churn_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys(seed, indices))
        z = latents(seed, indices, denoiser.shape)
        return samplers.edm_heun(
            lambda x, sigma: denoise(params, x, sigma, drawn),
            sharding.put(z, sharding.batch(mesh)),
            sigmas,
            s_churn=settings.s_churn,
            s_min=settings.s_min * unit,
            s_max=settings.s_max * unit,
            s_noise=settings.s_noise,
            rng=churn_keys if settings.s_churn > 0 else None,
        )

    return sample


def first_images(
    sample: SampleBatch,
    params: Params,
    count: int,
    *,
    label_dim: int,
    mesh: Mesh,
    among: tuple[int, ...] = (),
    cond: CondLaw | None = None,
    seed: int = 0,
    quantise: bool = True,
) -> np.ndarray:
    """Sample the first `count` examples, that of index i of class i modulo the number of classes.

    Args:
      sample: function that makes samples.
      params: of its network.
      count: number of samples.
      label_dim: number of classes; 0 for none.
      mesh: the devices.
      among: classes that are taken in turn; () for all.
      cond: law by which conditions other than classes are drawn.
      seed: of that law's draws.
      quantise: whether samples are images in [-1, 1].

    Returns:
      [count, *shape], uint8 images or float32.

    Raises:
      FloatingPointError: if a sample holds NaN.
    """
    indices = jnp.arange(sharding.round_up(count, mesh), dtype=jnp.int32)
    if label_dim or cond is None:
        drawn = classes_in_turn(indices, label_dim, among)
    else:
        drawn = random_conditions(seed, indices, 0, law=cond)
    return _on_host(sample(params, indices, drawn), quantise)[:count]


def batches(
    sample: SampleBatch,
    params: Params,
    count: int,
    *,
    batch_size: int,
    classes: Callable[[Array], Any],
    quantise: bool = True,
) -> Batches:
    """Sample `count` examples, a batch at a time, every batch of one size so that one compiles.

    Args:
      sample: function that makes samples.
      params: of its network.
      count: number of samples.
      batch_size: samples a batch; the devices must divide it.
      classes: indices [B] -> classes [B], or conditions, a pytree of [B, ...].
      quantise: whether samples are images in [-1, 1].

    Yields:
      Samples [B, *shape], uint8 images or float32, and their conditions, the last batch cut to
      what is left.
    """
    for start in range(0, count, batch_size):
        indices = jnp.arange(start, start + batch_size, dtype=jnp.int32)
        chosen = classes(indices)
        samples = _on_host(sample(params, indices, chosen), quantise)
        left = min(batch_size, count - start)
        yield samples[:left], _first(jax.tree.map(_plain, chosen), left)


def look_ahead(produced: Batches, count: int) -> tuple[np.ndarray, Batches]:
    """Take the first samples off, and give them back.

    Args:
      produced: samples and conditions, as `batches` gives them, no fewer than `count`.
      count: of samples to look at.

    Returns:
      [count, *shape], and an iterator over all of `produced`.
    """
    seen, left = [], count
    for batch in produced:
        seen.append(batch)
        left -= len(batch[0])
        if left <= 0:
            break
    pictures = np.concatenate([pictures for pictures, _ in seen])
    return pictures[:count], itertools.chain(seen, produced)


def cut(produced: Batches, count: int) -> Batches:
    """End after `count` samples.

    Args:
      produced: samples and conditions, as `batches` gives them.
      count: of samples to let through.
    """
    for samples, drawn in produced:
        left = min(count, len(samples))
        yield samples[:left], _first(drawn, left)
        count -= left
        if count <= 0:
            return


def write_pngs(directory: Path, produced: Batches) -> int:
    """Write each image as a file `<index, 6 digits>.png`.

    Args:
      directory: folder of the files, which is made.
      produced: images and classes, as `batches` gives them.

    Returns:
      The number of files.

    Raises:
      OSError: if a file can't be written.
    """
    index = 0
    for pictures, _ in produced:
        for picture in pictures:
            images.save_png(directory / f"{index:06d}.png", picture)
            index += 1
    return index


def write_npz(
    path: Path,
    produced: Batches,
    count: int,
    *,
    name: str = "classes",
    images_name: str = "images",
) -> int:
    """Write one .npz with `images` [N, *shape], as samples come, and their conditions [N, ...].

    Batches are written as they come, so that memory stays that of a batch; the file has its name
    only once it is whole.

    Args:
      path: of the file, whose folder is made.
      produced: samples and conditions, as `batches` gives them.
      count: N, the number of samples that come.
      name: of the conditions; those in a tree have their path behind it, `condition/snr`.
      images_name: of the samples.

    Returns:
      N.

    Raises:
      OSError: if the file can't be written.
    """
    conditions: dict[str, list[np.ndarray]] = {}
    with (
        writing.replacing(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        with archive.open(f"{images_name}.npy", "w", force_zip64=True) as member:
            for position, (samples, drawn) in enumerate(produced):
                if position == 0:
                    header = np.lib.format.header_data_from_array_1_0(samples)
                    header |= {"fortran_order": False, "shape": (count, *samples.shape[1:])}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(samples.tobytes())
                for place, leaf in jax.tree_util.tree_leaves_with_path(drawn):
                    at = "/".join((name, *trainable.names(place)))
                    conditions.setdefault(at, []).append(leaf)
        for at, leaves in conditions.items():
            with archive.open(f"{at}.npy", "w") as member:
                np.lib.format.write_array(member, np.concatenate(leaves), allow_pickle=False)
    return count


def _plain(leaf: Array) -> np.ndarray:
    """Give a condition as NumPy's files hold it: keys as their integers, bfloat16 as float32."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    is_foreign = array.dtype.kind == "V" and jnp.issubdtype(leaf.dtype, jnp.floating)
    return array.astype(np.float32) if is_foreign else array


def _first(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:count], tree)


def _on_host(samples: Array, quantise: bool) -> np.ndarray:
    if quantise:
        return images.to_uint8(sharding.gather(samples))
    found = np.asarray(sharding.gather(samples), np.float32)
    if not np.isfinite(found).all():
        raise FloatingPointError("the samples hold NaN or infinity: what made them has diverged")
    return found
