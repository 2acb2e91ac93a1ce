"""Sampling of images: from a student in one step, or from a teacher by EDM's sampler.

Every image has a key of its own, from the seed and its index, so that image i is the same, up to
rounding, whatever the batch size, the number of images and the devices.
"""

import dataclasses
import functools
import itertools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffjax.diffusion import samplers
from diffjax.diffusion.noise import heun_sigmas
from diffjax.distributed import numerics, sharding
from diffjax.files import images, writing
from diffjax.interfaces import Array, Generator, Params, PRNGKey
from diffjax.models.denoiser import NetworkDenoiser

# (parameters, indices [B], classes [B]) -> images [B, H, W, C] in [-1, 1], split over the devices.
SampleBatch = Callable[[Params, Array, Array], Array]
# uint8 images [B, H, W, C] and their classes [B], a batch at a time.
Batches = Iterator[tuple[np.ndarray, np.ndarray]]


def keys(seed: int, indices: Array) -> PRNGKey:
    """Key of each image, [B], from the seed and its index.

    Args:
      seed: of all images.
      indices: [B] numbers of these images.
    """
    return jax.vmap(lambda i: jax.random.fold_in(numerics.key(seed), i))(indices)


def latents(seed: int, indices: Array, shape: tuple[int, ...]) -> Array:
    """Latents [B, *shape] ~ N(0, I), that of image i from its own key.

    Args:
      seed: of all images.
      indices: [B] numbers of these images.
      shape: of one latent.
    """

    def latent(key: PRNGKey) -> Array:
        return jax.random.normal(jax.random.fold_in(key, 0), shape, jnp.float32)

    return jax.vmap(latent)(keys(seed, indices))


def random_classes(seed: int, indices: Array, label_dim: int, among: tuple[int, ...] = ()) -> Array:
    """Uniform classes [B], that of image i from its own key; 0 where `label_dim` is 0.

    Args:
      seed: of all images.
      indices: [B] numbers of these images.
      label_dim: number of classes.
      among: those that are drawn; () for all.
    """
    count = len(among) or max(label_dim, 1)

    def drawn(key: PRNGKey) -> Array:
        return jax.random.randint(jax.random.fold_in(key, 1), (), 0, count, jnp.int32)

    classes = jax.vmap(drawn)(keys(seed, indices))
    return jnp.asarray(among, jnp.int32)[classes] if among else classes


def one_step(
    generator: Generator, *, seed: int, shape: tuple[int, ...], label_dim: int, mesh: Mesh
) -> SampleBatch:
    """One-step sampler, compiled over a mesh, which may be called inside `jax.jit` too.

    Args:
      generator: G(z).
      seed: of the latents.
      shape: of one latent, (H, W, C).
      label_dim: number of classes; 0 for none.
      mesh: the devices.
    """

    @functools.partial(jax.jit, out_shardings=sharding.batch(mesh))
    def sample(params: Params, indices: Array, classes: Array) -> Array:
        z = sharding.constrain_batch(latents(seed, indices, shape), mesh, 0)
        return generator(params, z, labels=_one_hot(classes, label_dim))

    return sample


@dataclasses.dataclass(frozen=True)
class HeunSettings:
    """Settings of EDM's sampler; see `samplers.edm_heun`.

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

    def sigmas(self, denoiser: NetworkDenoiser) -> np.ndarray:
        """Grid [steps + 1] of noise levels, in the range and on the levels of the network."""
        low = max(self.sigma_min, denoiser.sigma_min)
        high = min(self.sigma_max, denoiser.sigma_max)
        grid = heun_sigmas(self.steps, low, high, self.rho)
        return np.append(denoiser.round_sigma(grid[:-1]), 0.0)


def heun(
    denoiser: NetworkDenoiser,
    *,
    settings: HeunSettings,
    seed: int,
    mesh: Mesh,
) -> SampleBatch:
    """Sampler by EDM's method over a mesh, one compiled network evaluation.

    Outside of `jit`, where all of diffjax calls it, the loop is Python's, so that a CPU keeps its
    threads. Inside it is one compiled loop.

    Args:
      denoiser: the network.
      settings: of the sampler.
      seed: of latents and noise.
      mesh: the devices.
    """

    @functools.partial(jax.jit, out_shardings=sharding.batch(mesh))
    def denoise(params: Params, x: Array, sigma: Array, classes: Array) -> Array:
        x = sharding.constrain_batch(x, mesh, 0)
        return denoiser(params, x, sigma, labels=_one_hot(classes, denoiser.label_dim))

    sigmas = settings.sigmas(denoiser)

    def sample(params: Params, indices: Array, classes: Array) -> Array:
        churn_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2))(keys(seed, indices))
        z = latents(seed, indices, denoiser.image_shape)
        return samplers.edm_heun(
            lambda x, sigma: denoise(params, x, sigma, classes),
            sharding.put(z, sharding.batch(mesh)),
            sigmas,
            s_churn=settings.s_churn,
            s_min=settings.s_min,
            s_max=settings.s_max,
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
) -> np.ndarray:
    """Sample the first `count` images, image i of class i modulo the number of classes.

    Args:
      sample: function that makes images.
      params: of its network.
      count: number of images.
      label_dim: number of classes; 0 for none.
      mesh: the devices.
      among: classes that are taken in turn; () for all.

    Returns:
      uint8 [count, H, W, C].

    Raises:
      FloatingPointError: if an image holds NaN.
    """
    indices = jnp.arange(sharding.round_up(count, mesh), dtype=jnp.int32)
    classes = indices % (len(among) or max(label_dim, 1))
    classes = jnp.asarray(among, jnp.int32)[classes] if among else classes
    return images.to_uint8(sharding.gather(sample(params, indices, classes)))[:count]


def batches(
    sample: SampleBatch,
    params: Params,
    count: int,
    *,
    batch_size: int,
    classes: Callable[[Array], Array],
) -> Batches:
    """Sample `count` images, a batch at a time, every batch of one size so that one compiles.

    Args:
      sample: function that makes images.
      params: of its network.
      count: number of images.
      batch_size: images a batch; the devices must divide it.
      classes: indices [B] -> classes [B].

    Yields:
      uint8 images [B, H, W, C] and their classes [B], the last batch cut to what is left.
    """
    for start in range(0, count, batch_size):
        indices = jnp.arange(start, start + batch_size, dtype=jnp.int32)
        chosen = classes(indices)
        pictures = images.to_uint8(sharding.gather(sample(params, indices, chosen)))
        left = min(batch_size, count - start)
        yield pictures[:left], np.asarray(chosen)[:left]


def look_ahead(produced: Batches, count: int) -> tuple[np.ndarray, Batches]:
    """Take the first images off, and give them back.

    Args:
      produced: images and classes, as `batches` gives them, no fewer than `count`.
      count: of images to look at.

    Returns:
      uint8 [count, H, W, C], and an iterator over all of `produced`.
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
    """End after `count` images.

    Args:
      produced: images and classes, as `batches` gives them.
      count: of images to let through.
    """
    for pictures, classes in produced:
        yield pictures[:count], classes[:count]
        count -= len(pictures)
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


def write_npz(path: Path, produced: Batches, count: int) -> int:
    """Write one .npz with `images` [N, H, W, C] uint8 and `classes` [N].

    Batches are written as they come, so that memory stays that of a batch; the file has its name
    only once it is whole.

    Args:
      path: of the file, whose folder is made.
      produced: images and classes, as `batches` gives them.
      count: N, the number of images that come.

    Returns:
      N.

    Raises:
      OSError: if the file can't be written.
    """
    all_classes = []
    with (
        writing.replacing(path) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
    ):
        with archive.open("images.npy", "w", force_zip64=True) as member:
            for position, (pictures, classes) in enumerate(produced):
                if position == 0:
                    shape = (count, *pictures.shape[1:])
                    np.lib.format.write_array_header_1_0(
                        member, {"descr": "|u1", "fortran_order": False, "shape": shape}
                    )
                member.write(pictures.tobytes())
                all_classes.append(classes)
        with archive.open("classes.npy", "w") as member:
            np.lib.format.write_array(member, np.concatenate(all_classes))
    return count


def _one_hot(classes: Array, label_dim: int) -> Array | None:
    return jax.nn.one_hot(classes, label_dim, dtype=jnp.float32) if label_dim else None
