"""One update of EDM's training (Karras et al. 2022, arXiv:2206.00364, Table 1 and appendix F)."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax import losses
from diffjax.diffusion import augmentation as augment
from diffjax.diffusion import noise
from diffjax.interfaces import Array, Denoiser, Params, PRNGKey
from diffjax.pretrain.state import PretrainState
from diffjax.training import ema, guard

Metrics = dict[str, Array]


@flax.struct.dataclass
class Draws:
    """The data and the randomness of one update.

    Attributes:
      x: [B, H, W, C] real images in [-1, 1].
      labels: [B, K] one-hot classes, or None.
      sigma: [B] noise levels.
      noise: [B, H, W, C] ~ N(0, I).
      dropout: key.
      augmentation: draws of EDM's augmentation, or None.
    """

    x: Array
    labels: Array | None
    sigma: Array
    noise: Array
    dropout: PRNGKey
    augmentation: augment.Draws | None = None


@flax.struct.dataclass
class Dataset:
    """Real images that lie on the device.

    Attributes:
      images: [N, H, W, C], uint8, or float32 in [-1, 1].
      classes: [N] int.
    """

    images: Array
    classes: Array


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Draws a batch of real images, and what its update needs.

    Attributes:
      batch_size: examples an update.
      sigma: distribution of σ.
      label_dim: number of classes; 0 for none.
      augment_probability: of each of EDM's augmentations; 0 for none.
      x_flip: whether to mirror half of the images left to right.
      in_order: whether the data set is a stream's batch, taken as it comes, mirrored already;
        otherwise images are drawn from it with replacement.
    """

    batch_size: int
    sigma: noise.SigmaDistribution
    label_dim: int = 0
    augment_probability: float = 0.0
    x_flip: bool = False
    in_order: bool = False

    def __call__(self, key: PRNGKey, dataset: Dataset) -> Draws:
        """The draws of the update that `key` stands for."""
        index_key, sigma_key, noise_key, dropout_key, augment_key = jax.random.split(key, 5)
        x, classes = dataset.images, dataset.classes
        if not self.in_order:
            index = jax.random.randint(index_key, (self.batch_size,), 0, x.shape[0])
            x, classes = x[index], classes[index]
            if self.x_flip:
                flip = jax.random.bernoulli(jax.random.fold_in(index_key, 1), 0.5, (len(x),))
                x = jnp.where(flip[:, None, None, None], x[:, :, ::-1], x)
        if x.dtype == jnp.uint8:
            x = x.astype(jnp.float32) / 127.5 - 1
        drawn = None
        if self.augment_probability:
            drawn = augment.draw(augment_key, self.batch_size, p=self.augment_probability)
        return Draws(
            x=x,
            labels=jax.nn.one_hot(classes, self.label_dim) if self.label_dim else None,
            sigma=self.sigma(sigma_key, (self.batch_size,)),
            noise=jax.random.normal(noise_key, x.shape),
            dropout=dropout_key,
            augmentation=drawn,
        )


@flax.struct.dataclass
class Attempt:
    """What an update would do, whatever its numbers are.

    Attributes:
      state: after it, its step and counters still those before it.
      metrics: see `Pretraining.update`.
      gradient: of the loss.
      finite: bool scalar, whether loss and gradient are.
    """

    state: PretrainState
    metrics: Metrics
    gradient: Params
    finite: Array


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """What an update needs besides its arguments.

    Attributes:
      denoiser: the network with its preconditioning.
      optimizer: of its parameters.
      batch_size: examples an update.
      ema_halflife: of the average, in examples.
      ema_rampup: see `ema.decay`.
    """

    denoiser: Denoiser
    optimizer: optax.GradientTransformation
    batch_size: int
    ema_halflife: float = 500_000
    ema_rampup: float | None = 0.05

    def losses(self, params: Params, draws: Draws) -> Array:
        """λ(σ) ‖D(x + σn; σ) − x‖², summed over pixels, for each example, [B]."""
        x, augment_labels = draws.x, None
        if draws.augmentation is not None:
            x, augment_labels = augment.apply(x, draws.augmentation)
        y = x + draws.sigma[:, None, None, None] * draws.noise
        denoised = self.denoiser(
            params,
            y,
            draws.sigma,
            labels=draws.labels,
            augment_labels=augment_labels,
            train=True,
            rng=draws.dropout,
        )
        return losses.denoising(x, denoised, weight=noise.edm_weight(draws.sigma))

    def loss(self, params: Params, draws: Draws) -> Array:
        """The losses' mean over the batch."""
        return self.losses(params, draws).mean()

    def update(
        self, state: PretrainState, draws: Draws, *, max_skipped_in_a_row: int | None = None
    ) -> tuple[PretrainState, Metrics]:
        """One step of the optimiser, then of the moving average.

        If the loss or gradient is not finite, both are left out: the state stays as it was, to the
        bit, and counts it. Once `max_skipped_in_a_row` in a row were, nothing changes any more.

        Returns:
          The state after it, and scalars: `loss` and `grad_norm` as they came out, and `skipped`,
          1 if the update was left out, else 0.
        """
        attempt = self.attempt(state, draws)
        skipped = 1 - attempt.finite.astype(jnp.float32)
        return (
            guard.settle(
                state, attempt.state, attempt.finite, max_skipped_in_a_row=max_skipped_in_a_row
            ),
            {**attempt.metrics, "skipped": skipped},
        )

    def attempt(self, state: PretrainState, draws: Draws) -> Attempt:
        """The update before it is judged; arguments as `update` takes them."""
        loss, gradient = jax.value_and_grad(self.loss)(state.denoiser, draws)
        updates, opt = self.optimizer.update(gradient, state.opt, state.denoiser)
        params = optax.apply_updates(state.denoiser, updates)
        images_seen = state.step.astype(jnp.float32) * self.batch_size
        beta = ema.decay(
            images_seen, self.batch_size, halflife=self.ema_halflife, rampup=self.ema_rampup
        )
        after = state.replace(  # type: ignore[attr-defined]
            denoiser=params, denoiser_ema=ema.update(state.denoiser_ema, params, beta), opt=opt
        )
        metrics = {"loss": loss, "grad_norm": optax.global_norm(gradient)}
        return Attempt(
            state=after, metrics=metrics, gradient=gradient, finite=guard.all_finite(metrics)
        )
