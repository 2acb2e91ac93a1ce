"""One update: the fake score follows the generator, the generator follows the teacher.

Functions of (state, teacher's parameters, draws) and nothing else, so that a published trajectory
can be replayed, and any loop, mesh or transformation can be put around them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from diffjax import losses
from diffjax.diffusion import augmentation as augment
from diffjax.diffusion import noise
from diffjax.distill.draws import Draws, NetworkDraws
from diffjax.distill.methods import Method
from diffjax.distill.state import DistillState
from diffjax.interfaces import Array, Denoiser, Generator, Params
from diffjax.training import ema, guard

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


@flax.struct.dataclass
class FakeScoreTurn:
    """What the fake score's updates would do, whatever their numbers are.

    Attributes:
      fake_score: ψ after them.
      fake_score_opt: the state of its optimiser.
      metrics: see `Distillation.update`.
      gradients: one of each update; none where nobody asks for them.
      finite: bool scalar, whether all losses and gradients are.
    """

    fake_score: Params
    fake_score_opt: optax.OptState
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
      share_samples: whether the generator's update takes the samples that the last of the fake
        score's updates learnt from, latents and labels included, whatever the draws for the
        generator say. The generator then runs forward once for both, in training mode. The
        published loops draw new samples. With several rounds the activations of all of them are
        kept, which accumulation otherwise avoids.
      fake_score_every: the fake score is updated in every n-th update alone, the first included;
        published is 1.
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
    share_samples: bool = False
    fake_score_every: int = 1

    def update(
        self,
        state: DistillState,
        teacher_params: Params,
        draws: Draws,
        *,
        max_skipped_in_a_row: int | None = None,
    ) -> tuple[DistillState, Metrics]:
        """The fake score's updates, then the generator's, then the moving average.

        If a loss or gradient of any of them is not finite, all of them are left out: both networks,
        their optimisers and the average stay as they were, to the bit, and the state counts it.

        Args:
          state: before the update.
          teacher_params: φ.
          draws: all randomness.
          max_skipped_in_a_row: once so many updates in a row were left out, the state stays as it
            is, its counters too; None for never.

        Returns:
          The state after it, and scalars: `fake_loss` and `generator_loss` (sums over an example,
          means over the batch, before loss scales), `delta` (mean |D_φ − D_ψ| over the
          generator's batch), `fake_grad_norm` and `generator_grad_norm` (with loss scales), as they
          came out, and `skipped`, 1 if the update was left out, else 0. Where `fake_score_every` is
          over 1 there is also `fake_updates`, 1 if the fake score's turn had come; if not, this and
          the fake score's metrics are 0.
        """
        attempt = self.attempt(state, teacher_params, draws)
        return _settle(state, attempt, max_skipped_in_a_row)

    def attempt(self, state: DistillState, teacher_params: Params, draws: Draws) -> Attempt:
        """The update before it is judged; arguments as `update` takes them."""
        shared = self._share(state.generator, draws) if self.share_samples else None
        turn = self._fake_score_turn(state, draws.fake_score, shared)

        def loss(x: Array, draw: NetworkDraws) -> tuple[Array, Metrics]:
            return self.generator_loss(x, turn.fake_score, teacher_params, draw)

        draw = self.generator_draws(draws)
        if shared is None:
            gradient, metrics = self._accumulate(
                lambda params, draw: loss(self.samples(params, draw, train=True), draw),
                state.generator,
                draw,
            )
        else:
            gradient, metrics = self._pull_back(loss, draw, shared)
        return self._step_generator(state, turn, gradient, metrics)

    def fake_score_gradient(
        self, params: Params, x: Array, draws: NetworkDraws
    ) -> tuple[Params, Metrics]:
        """The gradient of `fake_score_loss`, and its metrics, summed over a round's examples."""
        return jax.grad(self.fake_score_loss, has_aux=True)(params, x, draws)

    def step_fake_score(
        self, state: DistillState, gradient: Params, metrics: Metrics
    ) -> FakeScoreTurn:
        """One of the fake score's updates, from its rounds' sums; ψ and its optimiser are read."""
        gradient, metrics = self._mean((gradient, metrics))
        params, opt = _apply(
            self.fake_score_optimizer, gradient, state.fake_score_opt, state.fake_score
        )
        metrics = {**metrics, "fake_grad_norm": optax.global_norm(gradient)}
        return FakeScoreTurn(params, opt, metrics, [gradient], guard.all_finite(metrics))

    def generator_samples(
        self, params: Params, draws: NetworkDraws
    ) -> tuple[Array, Callable[[Array], tuple[Params]]]:
        """The samples of a round, the generator in training mode, and the way back to its gradient.

        The latter takes a gradient of the samples; it is a tree of arrays and may leave a compiled
        function.
        """
        return jax.vjp(lambda params: self.samples(params, draws, train=True), params)

    def sample_gradient(
        self, x: Array, fake_score_params: Params, teacher_params: Params, draws: NetworkDraws
    ) -> tuple[Array, Metrics]:
        """The gradient of `generator_loss` by x, and its metrics, summed over a round."""
        loss = jax.grad(self.generator_loss, has_aux=True)
        return loss(x, fake_score_params, teacher_params, draws)

    def step_generator(
        self,
        state: DistillState,
        turn: FakeScoreTurn,
        gradient: Params,
        metrics: Metrics,
        *,
        max_skipped_in_a_row: int | None = None,
    ) -> tuple[DistillState, Metrics]:
        """The end of `update`: the generator's step, from its rounds' sums, and the average."""
        attempt = self._step_generator(state, turn, gradient, metrics)
        return _settle(state, attempt, max_skipped_in_a_row)

    def generator_draws(self, draws: Draws) -> NetworkDraws:
        """The draws of the generator's update, which may take latents and labels from before."""
        if not self.share_samples:
            return draws.generator
        last = _index(draws.fake_score, -1)
        return dataclasses.replace(draws.generator, z=last.z, labels=last.labels)

    def samples(self, params: Params, draws: NetworkDraws, *, train: bool) -> Array:
        """The generator's samples for a round.

        Args:
          params: θ.
          draws: of the round.
          train: whether the generator is in training mode, as it is in its own update.
        """
        rng = jax.random.split(draws.dropout)[0] if train else None
        return self.generator(params, draws.z, labels=draws.labels, train=train, rng=rng)

    def fake_score_samples(self, params: Params, draws: Draws, index: int) -> Array:
        """The samples [R, B, ...] that the fake score learns from in its update `index`."""
        if self.share_samples and index == draws.fake_score.sigma.shape[0] - 1:
            return self._share(params, draws).samples
        return self._each_round(
            lambda draw: self.samples(params, draw, train=False), _index(draws.fake_score, index)
        )

    def fake_score_losses(self, params: Params, x: Array, draws: NetworkDraws) -> Array:
        """The fake score's loss for each sample x of a round, [B], itself in training mode."""
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
        self, params: Params, x: Array, draws: NetworkDraws
    ) -> tuple[Array, Metrics]:
        """The fake score's loss, scaled, and its metrics, summed over a round's examples."""
        loss = self.fake_score_losses(params, x, draws).sum()
        return self.fake_score_loss_scale * loss, {"fake_loss": loss}

    def generator_losses(
        self, x: Array, fake_score_params: Params, teacher_params: Params, draws: NetworkDraws
    ) -> tuple[Array, Array]:
        """The generator's loss, and mean |D_φ − D_ψ|, for each sample x of a round, both [B].

        The method says in which mode the scores are.
        """
        scores_rng = jax.random.split(draws.dropout)[1]
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
        self, x: Array, fake_score_params: Params, teacher_params: Params, draws: NetworkDraws
    ) -> tuple[Array, Metrics]:
        """The generator's loss, scaled, and its metrics, summed over a round's examples."""
        values, delta = self.generator_losses(x, fake_score_params, teacher_params, draws)
        loss = values.sum()
        return self.generator_loss_scale * loss, {"generator_loss": loss, "delta": delta.sum()}

    def _share(self, params: Params, draws: Draws) -> "_Shared":
        """Samples for the updates of both networks."""
        draw = self.generator_draws(draws)
        return _Shared(
            *jax.vjp(
                lambda params: self._each_round(
                    lambda each: self.samples(params, each, train=True), draw
                ),
                params,
            )
        )

    def _fake_score_turn(
        self, state: DistillState, draws: NetworkDraws, shared: "_Shared | None"
    ) -> FakeScoreTurn:
        """The fake score's updates, if it is its turn."""
        updates = draws.sigma.shape[0]

        def take(state: DistillState) -> FakeScoreTurn:
            gradients, finite = [], jnp.bool_(True)
            for i in range(updates):
                samples = None if shared is None or i < updates - 1 else shared.samples
                turn = self._update_fake_score(state, _index(draws, i), samples)
                state = state.replace(  # type: ignore[attr-defined]
                    fake_score=turn.fake_score, fake_score_opt=turn.fake_score_opt
                )
                gradients += turn.gradients
                finite &= turn.finite
            return turn.replace(gradients=gradients, finite=finite)  # type: ignore[attr-defined]

        def leave(state: DistillState) -> FakeScoreTurn:
            zeros = jax.tree.map(jnp.zeros_like, state.fake_score)
            return self.rest(state).replace(  # type: ignore[attr-defined]
                gradients=[zeros] * updates
            )

        if self.fake_score_every == 1:
            return take(state)
        is_turn = state.step % self.fake_score_every == 0
        return self.count_turn(jax.lax.cond(is_turn, take, leave, state), is_turn)

    def rest(self, state: DistillState) -> FakeScoreTurn:
        """The fake score's turn in an update where it has none."""
        metrics = dict.fromkeys(_FAKE_METRICS, jnp.float32(0))
        return FakeScoreTurn(state.fake_score, state.fake_score_opt, metrics, [], jnp.bool_(True))

    def count_turn(self, turn: FakeScoreTurn, is_turn: Array) -> FakeScoreTurn:
        """The same with the metric `fake_updates`, where the fake score doesn't learn each time."""
        if self.fake_score_every == 1:
            return turn
        metrics = {**turn.metrics, "fake_updates": is_turn.astype(jnp.float32)}
        return turn.replace(metrics=metrics)  # type: ignore[attr-defined]

    def _update_fake_score(
        self, state: DistillState, draws: NetworkDraws, samples: Array | None
    ) -> FakeScoreTurn:
        """One of its updates, from samples [R, B, ...], or from such as it makes round by round."""

        def loss(
            params: Params, draw: NetworkDraws, x: Array | None = None
        ) -> tuple[Array, Metrics]:
            if x is None:
                x = self.samples(state.generator, draw, train=False)
            return self.fake_score_loss(params, x, draw)

        rounds = (draws,) if samples is None else (draws, samples)
        return self.step_fake_score(state, *self._accumulate(loss, state.fake_score, *rounds))

    def _step_generator(
        self, before: DistillState, turn: FakeScoreTurn, gradient: Params, metrics: Metrics
    ) -> Attempt:
        """The generator's step and its average, from its rounds' sums, after the fake score's."""
        gradient, metrics = self._mean((gradient, metrics))
        params, opt = _apply(
            self.generator_optimizer, gradient, before.generator_opt, before.generator
        )
        beta = ema.decay(
            before.step.astype(jnp.float32) * self.batch_size,
            self.batch_size,
            halflife=self.ema_halflife,
            rampup=self.ema_rampup,
        )
        metrics = {**metrics, "generator_grad_norm": optax.global_norm(gradient)}
        return Attempt(
            state=before.replace(  # type: ignore[attr-defined]
                generator=params,
                generator_opt=opt,
                generator_ema=ema.update(before.generator_ema, params, beta),
                fake_score=turn.fake_score,
                fake_score_opt=turn.fake_score_opt,
            ),
            metrics={**turn.metrics, **metrics},
            gradients=[*turn.gradients, gradient],
            finite=turn.finite & guard.all_finite(metrics),
        )

    def _accumulate(
        self, loss: Callable[..., tuple[Array, Metrics]], params: Params, *rounds: Any
    ) -> tuple[Params, Metrics]:
        """Gradient and metrics of loss(params, *round), a round at a time, summed over them."""
        round_ = jax.grad(loss, has_aux=True)
        if _length(rounds) == 1:
            return round_(params, *_index(rounds, 0))

        def add(total: Any, each: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, round_(params, *each)), None

        shapes = jax.eval_shape(round_, params, *_index(rounds, 0))
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, nothing, rounds, unroll=self.unroll)
        # To be divided once, after the loop: XLA moves each round's all-reduce out of it only then.
        return total

    def _pull_back(
        self,
        loss: Callable[[Array, NetworkDraws], tuple[Array, Metrics]],
        draws: NetworkDraws,
        shared: "_Shared",
    ) -> tuple[Params, Metrics]:
        """The same of a loss of samples, from samples that are there already."""
        gradients, metrics = self._each_round(jax.grad(loss, has_aux=True), shared.samples, draws)
        (gradient,) = shared.pullback(gradients)
        return gradient, jax.tree.map(lambda x: x.sum(axis=0), metrics)

    def _each_round(self, function: Callable[..., Any], *rounds: Any) -> Any:
        """The function's results, a round each, stacked."""
        if _length(rounds) == 1:
            return jax.tree.map(lambda x: x[None], function(*_index(rounds, 0)))

        def step(nothing: None, each: Any) -> tuple[None, Any]:
            return nothing, function(*each)

        return jax.lax.scan(step, None, rounds, unroll=self.unroll)[1]

    def _mean(self, sums: Any) -> Any:
        """Of sums over examples, the means over the batch."""
        return jax.tree.map(lambda x: x / self.batch_size, sums)


_FAKE_METRICS = ("fake_loss", "fake_grad_norm")


class _Shared(NamedTuple):
    """Samples for the updates of both networks.

    Attributes:
      samples: [R, B, ...].
      pullback: from gradients of the samples to the generator's.
    """

    samples: Array
    pullback: Callable[[Array], tuple[Params]]


def _settle(
    before: DistillState, attempt: Attempt, max_skipped_in_a_row: int | None
) -> tuple[DistillState, Metrics]:
    """The state after an attempt that is judged, and its metrics."""
    skipped = 1 - attempt.finite.astype(jnp.float32)
    return (
        guard.settle(
            before, attempt.state, attempt.finite, max_skipped_in_a_row=max_skipped_in_a_row
        ),
        {**attempt.metrics, "skipped": skipped},
    )


def _diffuse(x: Array, draws: NetworkDraws) -> Array:
    """Noisy data y = x + σ n."""
    return x + draws.sigma.reshape(-1, *[1] * (x.ndim - 1)) * draws.noise


def _index(tree: Any, index: int | slice) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


def _length(tree: Any) -> int:
    return int(jax.tree.leaves(tree)[0].shape[0])


def _apply(
    optimizer: optax.GradientTransformation,
    gradient: Params,
    opt_state: optax.OptState,
    params: Params,
) -> tuple[Params, optax.OptState]:
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
