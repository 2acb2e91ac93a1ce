"""All randomness of an update, drawn in one place."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from diffjax.diffusion import augmentation as augment
from diffjax.diffusion.noise import SigmaDistribution
from diffjax.interfaces import Array, PRNGKey


@flax.struct.dataclass
class NetworkDraws:
    """The randomness of one network's update, a round of gradient accumulation at a time.

    Attributes:
      z: [R, B, ...] latents ~ N(0, I).
      sigma: [R, B] noise levels.
      noise: [R, B, ...] ~ N(0, I).
      labels: [R, B, K] one-hot classes, or None.
      dropout: [R] keys.
      augmentation: [R, B, ...] draws of EDM's augmentation, or None.
    """

    z: Array
    sigma: Array
    noise: Array
    labels: Array | None
    dropout: PRNGKey
    augmentation: augment.Draws | None = None


@flax.struct.dataclass
class Draws:
    """The randomness of one update.

    Attributes:
      fake_score: that of the fake score's updates, with an axis [F] in front.
      generator: that of the generator's update.
    """

    fake_score: NetworkDraws
    generator: NetworkDraws


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws what one update needs.

    Attributes:
      data_shape: shape of one example, (H, W, C) for images.
      batch_size: examples an update, over all rounds.
      rounds: rounds of gradient accumulation.
      fake_score_updates: updates of the fake score an update of the generator.
      label_dim: number of classes, drawn uniformly; 0 for none.
      new_labels: see `Method`.
      fake_score_sigma: distribution of σ in the fake score's update.
      generator_sigma: distribution of σ in the generator's.
      augment_probability: of each of EDM's augmentations in the fake score's update; 0 for none.
    """

    data_shape: tuple[int, ...]
    batch_size: int
    fake_score_sigma: SigmaDistribution
    generator_sigma: SigmaDistribution
    rounds: int = 1
    fake_score_updates: int = 1
    label_dim: int = 0
    new_labels: bool = True
    augment_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_size % self.rounds:
            raise ValueError(
                f"batch_size={self.batch_size} does not divide into rounds={self.rounds}."
            )

    def __call__(self, key: PRNGKey) -> Draws:
        """The draws of the update that `key` stands for."""
        fake_key, generator_key = jax.random.split(key)
        fake_keys = jax.random.split(fake_key, self.fake_score_updates)
        fake_score = jax.vmap(self._fake_score)(fake_keys)
        labels = None
        if fake_score.labels is not None and not self.new_labels:
            last = fake_score.labels[-1, -1]
            labels = jnp.broadcast_to(last, (self.rounds, *last.shape))
        return Draws(
            fake_score=fake_score,
            generator=self._network(generator_key, self.generator_sigma, labels),
        )

    def _fake_score(self, key: PRNGKey) -> NetworkDraws:
        draws = self._network(key, self.fake_score_sigma)
        if not self.augment_probability:
            return draws
        keys = jax.random.split(jax.random.fold_in(key, 1), self.rounds)
        batch = self.batch_size // self.rounds
        augmentation = jax.vmap(lambda k: augment.draw(k, batch, p=self.augment_probability))(keys)
        return draws.replace(augmentation=augmentation)  # type: ignore[attr-defined]

    def _network(
        self, key: PRNGKey, sigma: SigmaDistribution, labels: Array | None = None
    ) -> NetworkDraws:
        lead = (self.rounds, self.batch_size // self.rounds)
        z_key, sigma_key, noise_key, label_key, dropout_key = jax.random.split(key, 5)
        if self.label_dim and labels is None:
            classes = jax.random.randint(label_key, lead, 0, self.label_dim)
            labels = jax.nn.one_hot(classes, self.label_dim)
        return NetworkDraws(
            z=jax.random.normal(z_key, (*lead, *self.data_shape)),
            sigma=sigma(sigma_key, lead),
            noise=jax.random.normal(noise_key, (*lead, *self.data_shape)),
            labels=labels,
            dropout=jax.random.split(dropout_key, self.rounds),
        )
