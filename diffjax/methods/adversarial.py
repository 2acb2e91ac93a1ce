"""Score distillation with real data, and a discriminator on the encoder of one of the scores."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, PRNGKey
from diffjax.methods.base import AllParams
from diffjax.methods.draws import Dataset, Draws, real_batch
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.methods.settings import FLAG, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial(ScoreDistillation):
    """Score distillation whose fake score sees real examples beside the generator's.

    Attributes:
      x_flip: whether half of the real images are mirrored left to right.
      in_order: whether data is a stream's batches, taken as they come, mirrored already.
      noised_data: whether the later steps of a student of several are trained on real examples with
        noise on them, and their conditions, not on its own samples. Latents then are those of
        `models.few_steps`.
    """

    x_flip: bool = setting(False, FLAG)
    in_order: bool = False
    noised_data: bool = setting(False, FLAG, field="generator.noised_data")

    reads: ClassVar = ("teacher", "data")
    data_field: ClassVar = "data"
    judged_by: ClassVar = "fake_score"

    @classmethod
    def real_batches(cls, settings: Mapping[str, Any]) -> int:
        """One for each update of the fake score."""
        return int(settings.get("fake_score_updates", 1))

    def judged(
        self, params: AllParams, y: Array, sigma: Array, labels: Any, **options: Any
    ) -> tuple[Array, Array]:
        """Ask the network that judges about noisy data: what is clean, and what is real.

        Args:
          params: of all networks.
          y: [B, ...] noisy data.
          sigma: [B].
          labels: conditions, or None.
          **options: of a denoiser: `augment_labels`, `train`, `rng`.

        Returns:
          (D, logits [B, ...], greater where y is more likely real).
        """
        network = params[self.judged_by]
        denoised, features = self.networks["features"](network, y, sigma, labels=labels, **options)
        return denoised, self.networks["head"](params["fake_score"], features)

    def draw(self, key: PRNGKey, data: Dataset | None = None) -> dict[str, Draws]:
        """Draw the randomness of an update, and real examples for each turn of the fake score."""
        assert data is not None, f"{type(self).__name__} reads data"
        data = jax.tree.map(jnp.asarray, data)
        draws = super().draw(key)
        fake_score = draws["fake_score"]
        times = self.fake_score_updates
        keys = jax.random.split(jax.random.fold_in(key, 2), times)
        parts = self._parts(data, times)
        x, labels = jax.vmap(self._real, in_axes=(0, 0 if self.in_order else None))(keys, parts)
        lead = (times, *self.batch.lead)
        x, labels = jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[2:]), (x, labels))
        draws["fake_score"] = dataclasses.replace(fake_score, real=x, real_labels=labels)
        if self.noised_data:
            draws = self._given_data(draws)
        return self.with_more(jax.random.fold_in(key, 3), draws)

    def with_more(self, key: PRNGKey, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Add what a method draws besides; nothing here.

        Args:
          key: for it.
          draws: of the generator and of the fake score, real examples among the latter's.
        """
        del key
        return draws

    def _given_data(self, draws: dict[str, Draws]) -> dict[str, Draws]:
        """Have the latents of both turns hold real examples, for later steps to begin from."""
        seen = draws["fake_score"].real, draws["fake_score"].real_labels
        last = jax.tree.map(lambda leaf: leaf[-1:], seen)
        found = {}
        for name, (x, labels) in (("fake_score", seen), ("generator", last)):
            z = {**draws[name].z, "real": x}
            found[name] = dataclasses.replace(draws[name], z=z, labels=labels)
        return self.aligned({**draws, **found})

    def _parts(self, data: Dataset, times: int) -> Dataset:
        if not self.in_order:
            return data
        return jax.tree.map(lambda leaf: leaf.reshape(times, -1, *leaf.shape[1:]), data)

    def _real(self, key: PRNGKey, data: Dataset) -> tuple[Array, Array | None]:
        return real_batch(key, data, self.batch, x_flip=self.x_flip, in_order=self.in_order)


def like(draws: Draws, key: PRNGKey, sigma: Any) -> tuple[Array, Array]:
    """Draw further noise levels and noise of the shapes that a turn has.

    Args:
      draws: of the turn.
      key: for them.
      sigma: distribution of the noise levels.

    Returns:
      (σ [T, R, B], n [T, R, B, ...]).
    """
    sigma_key, noise_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, draws.noise.shape, jnp.float32)
    return sigma(sigma_key, draws.sigma.shape), noise
