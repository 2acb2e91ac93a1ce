"""One update: the fake score follows the generator, the generator follows the teacher.

Functions of (state, teacher's parameters, draws) and nothing else, so that a published trajectory
can be replayed, and any loop, mesh or transformation can be put around them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax import augment, ema, guard, losses, noise
from diffjax.distill.draws import Draws, NetworkDraws
from diffjax.distill.methods import Method
from diffjax.distill.state import DistillState
from diffjax.types import Array, Denoiser, Generator, Params

Metrics = dict[str, Array]


@flax.struct.dataclass
class Attempt:
    """What an update would do, whatever its numbers are.

    Attributes:
      state: after it, its step and counters still those before it.
      metrics: see `Distillation.update`.
      gradients: those of the fake score's updates, then the generator's.
      finite: bool scalar, whether all losses and gradients are.
    """

    state: DistillState
    metrics: Metrics
    gradients: list[Params]
    finite: Array


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What an update needs besides its arguments.

    Attributes:
      teacher: D_φ.
      fake_score: D_ψ.
      generator: G.
      method: what the generator's loss is.
      fake_score_optimizer: of ψ.
      generator_optimizer: of θ.
      batch_size: examples an update.
      ema_halflife: of the generator's average, in examples.
      ema_rampup: see `ema.decay`.
      fake_score_loss_scale: factor on the fake score's loss.
      generator_loss_scale: factor on the generator's loss; SiD's is 100. Under Adam it matters
        through epsilon alone.
      unroll: whether rounds of gradient accumulation are unrolled; on a CPU convolutions inside
        a compiled loop run on one thread.
    """

    teacher: Denoiser
    fake_score: Denoiser
    generator: Generator
    method: Method
    fake_score_optimizer: optax.GradientTransformation
    generator_optimizer: optax.GradientTransformation
    batch_size: int
    ema_halflife: float = 500_000
    ema_rampup: float | None = 0.05
    fake_score_loss_scale: float = 1.0
    generator_loss_scale: float = 1.0
    unroll: bool = False

    def update(
        self, state: DistillState, teacher_params: Params, draws: Draws
    ) -> tuple[DistillState, Metrics]:
        """The fake score's updates, then the generator's, then the moving average.

        If a loss or gradient of any of them is not finite, all of them are left out: both networks,
        their optimisers and the average stay as they were, to the bit, and the state counts it.

        Args:
          state: before the update.
          teacher_params: φ.
          draws: all randomness.

        Returns:
          The state after it, and scalars: `fake_loss` and `generator_loss` (sums over an example,
          means over the batch, before loss scales), `delta` (mean |D_φ − D_ψ| over the
          generator's batch), `fake_grad_norm` and `generator_grad_norm` (with loss scales), as they
          came out, and `skipped`, 1 if the update was left out, else 0.
        """
        attempt = self.attempt(state, teacher_params, draws)
        skipped = 1 - attempt.finite.astype(jnp.float32)
        return (
            guard.settle(state, attempt.state, attempt.finite),
            {**attempt.metrics, "skipped": skipped},
        )

    def attempt(self, state: DistillState, teacher_params: Params, draws: Draws) -> Attempt:
        """The update before it is judged; arguments as `update` takes them."""
        gradients, finite = [], jnp.bool_(True)
        beta = ema.decay(
            state.step.astype(jnp.float32) * self.batch_size,
            self.batch_size,
            halflife=self.ema_halflife,
            rampup=self.ema_rampup,
        )
        for i in range(draws.fake_score.sigma.shape[0]):
            state, gradient, fake_metrics = self._update_fake_score(
                state, _index(draws.fake_score, i)
            )
            gradients.append(gradient)
            finite &= guard.all_finite(fake_metrics)
        state, gradient, generator_metrics = self._update_generator(
            state, teacher_params, draws.generator
        )
        gradients.append(gradient)
        average = ema.update(state.generator_ema, state.generator, beta)
        return Attempt(
            state=state.replace(generator_ema=average),  # type: ignore[attr-defined]
            metrics={**fake_metrics, **generator_metrics},
            gradients=gradients,
            finite=finite & guard.all_finite(generator_metrics),
        )

    def fake_score_losses(
        self, params: Params, generator_params: Params, draws: NetworkDraws
    ) -> Array:
        """The fake score's loss for each example of a round, [B].

        The generator is in evaluation mode, the fake score in training mode.
        """
        x = self.generator(generator_params, draws.z, labels=draws.labels)
        augment_labels = None
        if draws.augmentation is not None:
            x, augment_labels = augment.apply(x, draws.augmentation)
        x = jax.lax.stop_gradient(x)
        denoised = self.fake_score(
            params,
            _diffuse(x, draws),
            draws.sigma,
            labels=draws.labels,
            augment_labels=augment_labels,
            train=True,
            rng=draws.dropout,
        )
        return losses.denoising(x, denoised, weight=noise.edm_weight(draws.sigma))

    def fake_score_loss(
        self, params: Params, generator_params: Params, draws: NetworkDraws
    ) -> tuple[Array, Metrics]:
        """The fake score's loss, scaled, and its metrics, summed over a round's examples."""
        loss = self.fake_score_losses(params, generator_params, draws).sum()
        return self.fake_score_loss_scale * loss, {"fake_loss": loss}

    def generator_losses(
        self, params: Params, fake_score_params: Params, teacher_params: Params, draws: NetworkDraws
    ) -> tuple[Array, Array]:
        """The generator's loss, and mean |D_φ − D_ψ|, for each example of a round, both [B].

        The generator is in training mode; the method says in which mode the scores are.
        """
        generator_rng, scores_rng = jax.random.split(draws.dropout)
        x = self.generator(params, draws.z, labels=draws.labels, train=True, rng=generator_rng)
        y = _diffuse(jax.lax.stop_gradient(x) if self.method.constant_scores else x, draws)

        def denoise(denoiser: Denoiser, score_params: Params) -> Array:
            train = self.method.scores_train
            return denoiser(
                score_params,
                y,
                draws.sigma,
                labels=draws.labels,
                train=train,
                rng=scores_rng if train else None,
            )

        d_teacher = denoise(self.teacher, teacher_params)
        d_fake = denoise(self.fake_score, fake_score_params)
        delta = jnp.abs(d_teacher - d_fake).reshape(x.shape[0], -1).mean(axis=1)
        return self.method.generator_loss(x, d_teacher, d_fake), delta

    def generator_loss(
        self, params: Params, fake_score_params: Params, teacher_params: Params, draws: NetworkDraws
    ) -> tuple[Array, Metrics]:
        """The generator's loss, scaled, and its metrics, summed over a round's examples."""
        values, delta = self.generator_losses(params, fake_score_params, teacher_params, draws)
        loss = values.sum()
        return self.generator_loss_scale * loss, {"generator_loss": loss, "delta": delta.sum()}

    def _update_fake_score(
        self, state: DistillState, draws: NetworkDraws
    ) -> tuple[DistillState, Params, Metrics]:
        gradient, metrics = self._accumulate(
            lambda params, draw: self.fake_score_loss(params, state.generator, draw),
            state.fake_score,
            draws,
        )
        params, opt = _apply(
            self.fake_score_optimizer, gradient, state.fake_score_opt, state.fake_score
        )
        state = state.replace(fake_score=params, fake_score_opt=opt)  # type: ignore[attr-defined]
        return state, gradient, {**metrics, "fake_grad_norm": optax.global_norm(gradient)}

    def _update_generator(
        self, state: DistillState, teacher_params: Params, draws: NetworkDraws
    ) -> tuple[DistillState, Params, Metrics]:
        gradient, metrics = self._accumulate(
            lambda params, draw: self.generator_loss(
                params, state.fake_score, teacher_params, draw
            ),
            state.generator,
            draws,
        )
        params, opt = _apply(
            self.generator_optimizer, gradient, state.generator_opt, state.generator
        )
        state = state.replace(generator=params, generator_opt=opt)  # type: ignore[attr-defined]
        return state, gradient, {**metrics, "generator_grad_norm": optax.global_norm(gradient)}

    def _accumulate(
        self,
        loss: Callable[[Params, NetworkDraws], tuple[Array, Metrics]],
        params: Params,
        draws: NetworkDraws,
    ) -> tuple[Params, Metrics]:
        """Gradient and metrics of the batch's mean loss, a round at a time."""

        def round_(draw: NetworkDraws) -> tuple[Params, Metrics]:
            gradient, metrics = jax.grad(loss, has_aux=True)(params, draw)
            return jax.tree.map(lambda x: x / self.batch_size, (gradient, metrics))

        rounds = draws.sigma.shape[0]
        first = round_(_index(draws, 0))
        if rounds == 1:
            return first

        def add(total: Any, draw: NetworkDraws) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, round_(draw)), None

        rest = _index(draws, slice(1, None))
        total, _ = jax.lax.scan(add, first, rest, unroll=self.unroll)
        return total


def _diffuse(x: Array, draws: NetworkDraws) -> Array:
    """Noisy data y = x + σ n."""
    return x + draws.sigma.reshape(-1, *[1] * (x.ndim - 1)) * draws.noise


def _index(draws: NetworkDraws, index: int | slice) -> NetworkDraws:
    return jax.tree.map(lambda x: x[index], draws)


def _apply(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    opt_state: optax.OptState,
    params: Params,
) -> tuple[Params, optax.OptState]:
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
