"""Records of users as runs take them: functions of what is trained alone."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.process import Process
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models import conditions
from diffjax.models import teacher as teacher_lib
from diffjax.models import trainable as trainable_lib
from diffjax.models.arrays import Arrays
from diffjax.models.generator import Generator
from diffjax.models.teacher import Cond, CondLaw, Teacher


class _Record:
    """Parameters of a user's record, as runs have them."""

    read: Callable[[], Params] | None = None

    @property
    def _kept(self) -> tuple[Params, trainable_lib.Trainable]:
        raise NotImplementedError

    @functools.cached_property
    def arrays(self) -> Arrays:
        """Parameters, parted."""
        return Arrays(*self._kept, self.read)

    @property
    def dtype(self) -> Any:
        """Type of what it gives; it computes as its own function says."""
        return jnp.float32

    def init(self, rng: PRNGKey) -> Params:
        """Give the parameters that the record has; the key isn't used."""
        del rng
        return self.arrays.start()

    def abstract_params(self) -> Params:
        """Tree of parameters as `jax.ShapeDtypeStruct`s."""
        return self.arrays.abstract()


@dataclasses.dataclass(frozen=True, eq=False)
class RecordDenoiser(_Record):
    """Denoiser of a user's record, called as our own are.

    It has neither dropout nor augmentation: `train` and `rng` change nothing.

    Attributes:
      teacher: the record, as `teacher.checked` made it.
      name: where it comes from, such as "my_teacher:sky".
    """

    teacher: Teacher
    name: str

    @property
    def _kept(self) -> tuple[Params, trainable_lib.Trainable]:
        return self.teacher.params, self.teacher.trainable

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an example."""
        return self.teacher.shape

    @property
    def cond(self) -> CondLaw | None:
        """Law of the conditions; None: unconditional."""
        return self.teacher.cond

    @property
    def null(self) -> Any:
        """Condition that stands for none, of one example; None if the teacher has learnt none."""
        return self.teacher.null

    @property
    def label_dim(self) -> int:
        """Number of classes of a one-hot condition; 0 for other conditions, and for none."""
        return conditions.classes_of(self.cond)[0]

    @property
    def sigma_data(self) -> float:
        """Standard deviation of the data."""
        return self.teacher.sigma_data

    @property
    def sigma_min(self) -> float:
        """Least noise level at which the teacher is right."""
        return self.teacher.sigma_min

    @property
    def sigma_max(self) -> float:
        """Greatest such noise level."""
        return self.teacher.sigma_max

    @property
    def process(self) -> Process | None:
        """Diffusion process that the network was trained on; None where the record names none."""
        process = self.teacher.process
        return process if isinstance(process, Process) else None

    @property
    def augment_dim(self) -> int:
        """Number of augmentation labels: none."""
        return 0

    @property
    def holds_images(self) -> bool:
        """Whether examples are images in [-1, 1]: it isn't known."""
        return False

    @property
    def is_latent(self) -> bool:
        """Whether examples are an autoencoder's latents, not to be drawn: it isn't known."""
        return False

    @property
    def preview(self) -> Any:
        """Function that draws examples; None: by their shape."""
        return self.teacher.preview

    def gain(self, sigma: float) -> float:
        """Output of the denoiser per unit of its network's output at a noise level."""
        gain = teacher_lib.gain_of(self.teacher)
        return self.sigma_data if gain is None else float(gain(sigma))

    def round_sigma(self, sigma: np.ndarray) -> np.ndarray:
        """Round noise levels to the nearest that the network knows, in log σ: a table's, or any."""
        process = self.process
        if process is None or process.table is None:
            return sigma
        known = np.unique(process.table)
        known = known[(known >= self.sigma_min) & (known <= self.sigma_max)]
        distance = np.abs(np.log(np.asarray(sigma)[..., None]) - np.log(known))
        return known[distance.argmin(axis=-1)]

    def __call__(
        self,
        params: Params,
        x: Array,
        sigma: Array,
        labels: Cond = None,
        augment_labels: Array | None = None,
        *,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Denoise, as `interfaces.Denoiser` says.

        Args:
          params: what is trained, as `init` gives it.
          x: [B, *shape] noisy data in the teacher's units.
          sigma: [B] noise levels.
          labels: conditions, a pytree of [B, ...], or None.
          augment_labels: None.
          train: not looked at.
          rng: not looked at.

        Returns:
          [B, *shape] float32.

        Raises:
          ValueError: for augmentation labels.
        """
        del train, rng
        if augment_labels is not None:
            raise ValueError(f"{self.name} takes no augmentation labels.")
        whole = self.arrays.whole(params)
        return self.teacher.denoise(whole, x.astype(jnp.float32), sigma.astype(jnp.float32), labels)


@dataclasses.dataclass(frozen=True, eq=False)
class RecordGenerator(_Record):
    """Generator of a user's record, called as our own are.

    Attributes:
      generator: the record, as `generator.checked_generator` made it.
      name: where it comes from, such as "my_student:small".
      shape: of an example, which is the teacher's.
      read: reads the parameters, where the record's own stand for their shapes and types; those
        that aren't trained must then be without effect.
    """

    generator: Generator
    name: str
    shape: tuple[int, ...]
    read: Callable[[], Params] | None = None

    @property
    def _kept(self) -> tuple[Params, trainable_lib.Trainable]:
        return self.generator.params, self.generator.trainable

    @property
    def loaded(self) -> Generator:
        """The record with its own parameters, and not what stands for them until they are read."""
        return dataclasses.replace(self.generator, params=self.arrays.values)

    @property
    def latent(self) -> CondLaw:
        """Law of the latents."""
        return self.generator.latent

    def __call__(
        self,
        params: Params,
        z: Any,
        *,
        labels: Cond = None,
        train: bool = False,
        rng: PRNGKey | None = None,
    ) -> Array:
        """Generate, as `interfaces.Generator` says.

        Args:
          params: what is trained, as `init` gives it.
          z: latents, a pytree of [B, ...].
          labels: conditions, a pytree of [B, ...], or None.
          train: not looked at.
          rng: not looked at.

        Returns:
          [B, *shape] in the teacher's units.
        """
        del train, rng
        return self.generator.generate(self.arrays.whole(params), z, labels)
