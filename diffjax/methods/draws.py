"""Randomness of a method's turns, drawn in one place so that an update can be replayed."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.diffusion import augmentation as augment
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array, PRNGKey
from diffjax.models import conditions
from diffjax.models.teacher import CondLaw


@flax.struct.dataclass
class Draws:
    """Randomness of one turn: a repetition T, a round of gradient accumulation R at a time.

    Attributes:
      z: [T, R, B, ...] latents, a pytree, mostly ~ N(0, I); None where nothing is generated.
      sigma: [T, R, B] noise levels.
      noise: [T, R, B, ...] ~ N(0, I).
      labels: [T, R, B, ...] conditions, a pytree: one-hot classes of our own networks; or None.
      dropout: [T, R] keys.
      augmentation: [T, R, B, ...] draws of EDM's augmentation, or None.
      real: [T, R, B, ...] real examples in the data's units, or None.
      real_labels: conditions of the real examples, where these aren't `labels`; or None.
      more: what a method draws besides, each [T, R, ...] or [T, R, B, ...], by name.
    """

    z: Any
    sigma: Array
    noise: Array
    labels: Any
    dropout: PRNGKey
    augmentation: augment.Draws | None = None
    real: Array | None = None
    real_labels: Any = None
    more: dict[str, Any] = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Dataset:
    """Real images, or other examples, that lie on the devices.

    Attributes:
      images: [N, H, W, C], uint8, or float32 in [-1, 1]; of other examples in their own units.
      classes: [N] int.
      std: float32 of the shape of `images` where these are means, such as an autoencoder's, and
        examples are drawn from a normal law around them; None where they are the examples.
    """

    images: Array
    classes: Array
    std: Array | None = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Shape of what an update draws.

    Attributes:
      example_shape: of one example, (H, W, C) for images.
      size: examples an update, over all rounds.
      rounds: rounds of gradient accumulation.
      label_dim: number of classes, drawn uniformly; 0 for none.
      classes: those that are drawn; () for all.
      cond: law of conditions in place of uniform classes.
      latent: law of latents; None: z ~ N(0, I) of the shape of an example.
    """

    example_shape: tuple[int, ...]
    size: int
    rounds: int = 1
    label_dim: int = 0
    classes: tuple[int, ...] = ()
    cond: CondLaw | None = None
    latent: CondLaw | None = None

    def __post_init__(self) -> None:
        if self.size % self.rounds:
            raise ValueError(f"batch_size={self.size} does not divide into rounds={self.rounds}.")

    @property
    def lead(self) -> tuple[int, int]:
        """Rounds, and examples a round."""
        return self.rounds, self.size // self.rounds

    def drawn(self, law: CondLaw, key: PRNGKey) -> Any:
        """Draw by a law for every example, [R, B, ...].

        Args:
          law: (key, count) -> pytree of [count, ...].
          key: of this repetition.
        """
        tree = law(key, self.size)
        return jax.tree.map(lambda x: x.reshape(*self.lead, *x.shape[1:]), tree)

    def latents(self, key: PRNGKey, sigma: SigmaDistribution, labels: Any = None) -> Draws:
        """Draw one repetition of a turn that generates its examples, [R, B, ...].

        Args:
          key: of this repetition.
          sigma: distribution of the noise levels.
          labels: conditions [R, B, ...] to take instead of new ones.
        """
        z_key, sigma_key, noise_key, label_key, dropout_key = jax.random.split(key, 5)
        cond = self.cond
        if cond is None and self.label_dim:
            cond = conditions.one_hot(self.label_dim, self.classes)
        if cond is not None and labels is None:
            labels = self.drawn(cond, label_key)
        latent = self.latent or conditions.normal(self.example_shape)
        return Draws(
            z=self.drawn(latent, z_key),
            sigma=sigma(sigma_key, self.lead),
            noise=jax.random.normal(noise_key, (*self.lead, *self.example_shape), jnp.float32),
            labels=labels,
            dropout=jax.random.split(dropout_key, self.rounds),
        )

    def augmentation(self, key: PRNGKey, probability: float) -> augment.Draws:
        """Draw EDM's augmentation for each example, [R, B, ...].

        Args:
          key: of this repetition.
          probability: of each kind of augmentation, in (0, 1].
        """
        keys = jax.random.split(key, self.rounds)
        return jax.vmap(lambda k: augment.draw(k, self.lead[1], p=probability))(keys)

    def in_rounds(self, tree: Any) -> Any:
        """Split arrays of `size` examples into one repetition of rounds, [1, R, B, ...]."""
        return jax.tree.map(lambda x: x.reshape(1, *self.lead, *x.shape[1:]), tree)


def once(tree: Any) -> Any:
    """Give one repetition's draws the axis of repetitions."""
    return jax.tree.map(lambda x: x[None], tree)


def real_batch(
    key: PRNGKey, dataset: Dataset, batch: Batch, *, x_flip: bool, in_order: bool
) -> tuple[Array, Array | None]:
    """Draw real examples and their one-hot classes, [B, ...] each.

    Args:
      key: of the draw.
      dataset: real examples.
      batch: how many.
      x_flip: whether half of the images are mirrored left to right.
      in_order: whether the data set is a stream's batch, taken as it comes, mirrored already;
        otherwise images are drawn from it with replacement.

    Returns:
      (examples, images in [-1, 1]; labels, None without classes).
    """
    x, classes, std = dataset.images, dataset.classes, dataset.std
    if not in_order:
        index = jax.random.randint(key, (batch.size,), 0, x.shape[0], jnp.int32)
        x, classes, std = jax.tree.map(lambda a: a[index], (x, classes, std))
        if x_flip:
            fair = jnp.float32(0.5)  # whose type decides the draws
            flip = jax.random.bernoulli(jax.random.fold_in(key, 1), fair, (len(x),))
            flipped = jax.tree.map(lambda a: a[:, :, ::-1], (x, std))
            where = flip[:, None, None, None]
            x, std = jax.tree.map(lambda a, b: jnp.where(where, a, b), flipped, (x, std))
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 127.5 - 1
    if std is not None:
        x = x + std * jax.random.normal(jax.random.fold_in(key, 2), x.shape, jnp.float32)
    if not batch.label_dim:
        return x, None
    return x, jax.nn.one_hot(classes, batch.label_dim, dtype=jnp.float32)
