"""Decoders by the names that configs have for them: what makes images of a teacher's latents."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffjax.convert import diffusers_vae
from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.distributed import sharding
from diffjax.evaluation.sampling import SampleBatch
from diffjax.files import digests
from diffjax.interfaces import Array, Params
from diffjax.models import latents
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.networks.edm2 import EDM2UNet
from diffjax.runs import user_function
from diffjax.runs.networks import Denoiser
from diffjax.runs.user_function import RefusedError

FIELD = "config.decoder"
ADVICE = (
    f"name in {FIELD} what makes images of them, a folder of Stable Diffusion's VAE or "
    "'module:function'"
)
_PIXELS = 1 << 19  # that a device decodes at a time, since a VAE's activations are large
_LARGEST = 10.0  # of what a function can have meant by values in [-1, 1]
_TRIED = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Decoder:
    """Decoder of a teacher's latents, and the images that its samples become by it.

    Attributes:
      source: its name in the config.
      latent_shape: of a teacher's example.
      function: (parameters, [B, *latent_shape]) -> [B, H, W, 1 or 3] in [-1, 1].
      is_compiled: whether `function` may be called inside `jax.jit`; otherwise it takes NumPy
        arrays.
      digest: makes the SHA-256 of what it is made of.
      read: reads its parameters.
      known_shape: (H, W, 1 or 3); None where the function has to be asked.
    """

    source: str
    latent_shape: tuple[int, ...]
    function: Callable[[Params, Any], Any]
    is_compiled: bool
    digest: Callable[[], str]
    read: Callable[[], Params] = dict
    known_shape: tuple[int, int, int] | None = None
    _programs: dict[Mesh, Callable[[Array], Array]] = dataclasses.field(default_factory=dict)

    holds_images = True  # as a denoiser says of its examples
    is_latent = False
    preview = None
    sigma_data = PUBLISHED_SIGMA_DATA

    @functools.cached_property
    def params(self) -> Params:
        """Parameters, as they were read."""
        try:
            return self.read()
        except (OSError, ValueError) as error:
            raise RefusedError(f"{FIELD}={self.source!r}: {error}") from error

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, (H, W, 1 or 3)."""
        if self.known_shape is not None:
            return self.known_shape
        made = self._called(np.zeros((_TRIED, *self.latent_shape), np.float32))
        if not np.abs(made).max() <= _LARGEST:
            raise RefusedError(
                f"{FIELD}={self.source!r} returned values up to {np.abs(made).max():.3g} for zeros;"
                " images in [-1, 1] are needed"
            )
        return made.shape[1:]

    @functools.cached_property
    def record(self) -> dict[str, str]:
        """Description of the decoder, for files that hold its images or numbers of them."""
        return {"source": self.source, "sha256": self.digest()}

    def check(self) -> None:
        """Read its parameters, and ask a user's function once, before anything long.

        Raises:
          RefusedError: in one line, naming the file or what the function gave.
        """
        _ = self.params, self.shape

    def decoded(self, sample: SampleBatch, mesh: Mesh) -> SampleBatch:
        """Make a sampler of latents one of images.

        Args:
          sample: gives latents; it is called outside of `jit`.
          mesh: the devices.
        """

        def decoded(params: Params, indices: Array, drawn: Any) -> Array:
            latents = sample(params, indices, drawn)
            if mesh not in self._programs:
                make = self._program if self.is_compiled else self._on_host
                self._programs[mesh] = make(mesh)
            return self._programs[mesh](latents)

        return decoded

    def _program(self, mesh: Mesh) -> Callable[[Array], Array]:
        at_once = max(1, _PIXELS // (self.shape[0] * self.shape[1]))
        params = sharding.put(self.params, sharding.replicated(mesh))

        @functools.partial(jax.jit, out_shardings=sharding.batch(mesh))
        def decode(params: Params, z: Array) -> Array:
            return _in_parts(functools.partial(self.function, params), z, mesh, at_once)

        return functools.partial(decode, params)

    def _on_host(self, mesh: Mesh) -> Callable[[Array], Array]:
        def decode(z: Array) -> Array:
            given = np.asarray(sharding.gather(z), np.float32)
            if not np.isfinite(given).all():
                raise FloatingPointError(
                    "the samples hold NaN or infinity: what made them has diverged"
                )
            images: Array = sharding.put(self._called(given), sharding.batch(mesh))
            return images

        return decode

    def _called(self, z: np.ndarray) -> np.ndarray:
        """Images float32 of latents, by a user's function."""
        what = f"{FIELD}={self.source!r}"
        given = f"float32 {list(z.shape)}"
        try:
            made: Any = self.function({}, z)
            array = np.asarray(made)
        except Exception as error:  # a user's function may fail in any way
            text = " ".join(str(error).split())
            raise RefusedError(
                f"{what} fails on {given} with {type(error).__name__}: {text}"
            ) from error
        is_image = array.ndim == 4 and len(array) == len(z) and array.shape[3] in (1, 3)
        if not is_image or not jax.numpy.issubdtype(array.dtype, jax.numpy.floating):
            found = f"{array.dtype} {list(array.shape)}"
            if array.dtype == object:
                found = type(made).__name__
            raise RefusedError(
                f"{what} returned {found} for {given}; floats [{len(z)}, H, W, 3] in [-1, 1] are "
                "needed"
            )
        return array.astype(np.float32)


def find(source: str, denoiser: Denoiser, *, teacher: str) -> Decoder | None:
    """Find the decoder that a config names, without reading its weights; None for "".

    Args:
      source: a folder or file of Stable Diffusion's VAE, or "module:function", a function
        [B, *shape] of latents in the teacher's units -> [B, H, W, 3] in [-1, 1].
      denoiser: the teacher's.
      teacher: its name, for errors.

    Raises:
      RefusedError: in one line, if there is no such thing, or it isn't for these latents.
    """
    if not source:
        return None
    what, shape = f"{FIELD}={source!r}", denoiser.shape
    if denoiser.holds_images:
        raise RefusedError(f"{what}: examples of {teacher} are images already; set it to ''.")
    if user_function.is_name(source):
        function = user_function.load(source, field=FIELD)
        return Decoder(
            source,
            shape,
            lambda _, z: function(z),
            is_compiled=isinstance(function, jax.stages.Wrapped),
            digest=lambda: user_function.file_of(source)[1],
        )
    try:
        description = diffusers_vae.describe(source)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{what}: {error}") from error
    network = description.network
    if len(shape) != 3 or shape[2] != network.latent_channels:
        raise RefusedError(
            f"{what} decodes latents [h, w, {network.latent_channels}], and examples of {teacher} "
            f"are of {shape}: name the decoder of their autoencoder."
        )
    if network.out_channels not in (1, 3):
        raise RefusedError(
            f"{what} makes images of {network.out_channels} channels; 1 or 3 are needed."
        )
    units = _units(denoiser, description)
    if units.channels not in (None, shape[2]):
        raise RefusedError(
            f"{what}: EDM2's latents have {units.channels} channels, and examples of {teacher} are "
            f"of {shape}; name a 'module:function' that knows their units."
        )

    def decode(params: Params, z: Array) -> Array:
        decoded: Any = network.apply(params, units.to_raw(z), method="decode")
        return units.images(decoded)

    folder = description.weights[0].parent
    names = [path.name for path in (*description.weights, folder / "config.json")]
    return Decoder(
        source,
        shape,
        decode,
        is_compiled=True,
        digest=lambda: str(digests.of_files(folder, names)["sha256"]),
        read=description.read_params,
        known_shape=(shape[0] * network.factor, shape[1] * network.factor, network.out_channels),
    )


def _units(denoiser: Denoiser, description: diffusers_vae.StoredAutoencoder) -> latents.LatentUnits:
    """Units of a teacher's latents: EDM2's of its networks, of others what the config says."""
    if isinstance(denoiser, NetworkDenoiser) and isinstance(denoiser.network, EDM2UNet):
        return latents.EDM2
    return latents.scaled(description.scaling_factor, description.shift_factor)


def _in_parts(function: Callable[[Array], Array], z: Array, mesh: Mesh, at_once: int) -> Array:
    """Apply a function to no more than `at_once` examples a device at a time, inside `jax.jit`."""
    each = len(z) // mesh.size
    size = max(part for part in range(1, min(each, at_once) + 1) if each % part == 0)
    if size == each:
        return function(z)
    # A part takes examples of every device, so that none crosses to another.
    parts = z.reshape(mesh.size, each // size, size, *z.shape[1:]).swapaxes(0, 1)
    parts = parts.reshape(each // size, mesh.size * size, *z.shape[1:])
    images = jax.lax.map(function, sharding.constrain_batch(parts, mesh, 1))
    shape = images.shape[2:]
    images = images.reshape(each // size, mesh.size, size, *shape).swapaxes(0, 1)
    return images.reshape(len(z), *shape)
