"""NaN and infinity in every place an update can meet them: it is left out whole, and counted."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.distributed import sharding
from diffjax.methods.denoising import Denoising
from diffjax.methods.draws import Batch, Draws
from diffjax.training import draws as drawing
from diffjax.training import guard, optimizer
from diffjax.training import state as train_state
from diffjax.training.update import Inline, Update
from tests.support import distilling, given_draws

BATCH, SHAPE = 8, (2, 2, 8)  # the last axis is sharded over eight devices
NAN, INF = float("nan"), float("inf")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def poisoned(x, value):
    """x itself; one element of its gradient is `value`."""
    return x


poisoned.defvjp(
    lambda x, value: (x, None),
    lambda value, _, gradient: (gradient.at[(-1,) * gradient.ndim].set(value),),
)


def params(value):
    """Two arrays, of which one is sharded over devices where there are some."""
    return {"shift": jnp.full(SHAPE, value, jnp.float32), "scale": jnp.ones(())}


def denoise(p, x, sigma, *, gradient=None, **_):
    shift = p["shift"] if gradient is None else poisoned(p["shift"], gradient)
    return 0.1 * p["scale"] * x + shift


def generate(p, z, *, gradient=None, **_):
    return denoise(p, z, None, gradient=gradient)


def distillation(method="sid", *, fake_gradient=None, generator_gradient=None, **changes):
    return distilling.build(
        method,
        teacher=denoise,
        fake_score=functools.partial(denoise, gradient=fake_gradient),
        generator=functools.partial(generate, gradient=generator_gradient),
        fake_score_optimizer=optimizer.adam(0.01),
        generator_optimizer=optimizer.adam(0.01, b1=0.9),
        batch_size=BATCH,
        ema_halflife=2 * BATCH,
        ema_rampup=None,
        **changes,
    )


def start(setup):
    return distilling.start(setup, params(0.3), params(-0.2))


def pretraining(denoiser, adam):
    method = Denoising(networks={"denoiser": denoiser}, batch=Batch(SHAPE, BATCH))
    return Update(method=method, optimizers={"denoiser": adam})


def real_draws(x, sigma, noise):
    """Draws of a teacher's training: real examples x, [B, ...] each."""
    draw = Draws(z=None, sigma=sigma, noise=noise, labels=None, dropout=jax.random.key(0), real=x)
    # A repetition of one round.
    return {"denoiser": jax.tree.map(lambda leaf: leaf[None, None], draw)}


def draws(seed=0, **kwargs):
    return given_draws.make(np.linspace(0.1, 2, BATCH), SHAPE, seed=seed, **kwargs)


def with_noise(draw, network, value):
    """The draws with one number of a network's noise replaced."""
    changed = draw[network]
    noise = changed.noise.at[(0,) * changed.noise.ndim].set(value)
    return {**draw, network: changed.replace(noise=noise)}


def counters(state):
    return int(state.step), int(state.skipped), int(state.skipped_in_a_row)


def without_counters(state):
    zero = jnp.zeros((), jnp.int32)
    return state.replace(step=zero, images=zero, skipped=zero, skipped_in_a_row=zero)


def assert_left_out(before, after, metrics):
    assert metrics["skipped"] == 1
    chex.assert_trees_all_equal(without_counters(after), without_counters(before))
    assert counters(after) == tuple(count + 1 for count in counters(before))


PLACES = {
    "nothing": {},
    "teacher_nan": {"teacher": NAN},
    "teacher_inf": {"teacher": INF},
    "fake_score_nan": {"noise": ("fake_score", NAN)},
    "generator_nan": {"noise": ("generator", NAN)},
    "fake_gradient_nan": {"fake_gradient": NAN},
    "fake_gradient_inf": {"fake_gradient": -INF},
    "generator_gradient_nan": {"generator_gradient": NAN},
    "generator_gradient_inf": {"generator_gradient": INF},
    # Finite, but its square isn't: Adam's second moment would stay infinite for ever.
    "fake_gradient_overflows": {"fake_gradient": 1e30},
    "generator_gradient_overflows": {"generator_gradient": 1e30},
}
# In the order in which an update computes them.
COMPUTED = ("fake_loss", "fake_grad_norm", "generator_loss", "generator_grad_norm")


def first_not_finite(place):
    if place == "fake_score_nan":
        return "fake_loss"
    if place.startswith("fake_gradient"):
        return "fake_grad_norm"
    return "generator_grad_norm" if "gradient" in place else "generator_loss"


@pytest.mark.parametrize(
    ("place", "method"),
    [
        *((place, "sid") for place in PLACES),
        *((place, "diff_instruct") for place in ("nothing", "teacher_nan", "fake_gradient_nan")),
    ],
)
def test_a_distillation_leaves_out_the_whole_update(place, method):
    where = dict(PLACES[place])
    teacher = params(where.pop("teacher", 0.5))
    draw = with_noise(draws(), *where.pop("noise", ("fake_score", 0.1)))
    setup = distillation(method, **where)
    # A state that has been somewhere, so that no tree is at its initial value.
    good = distillation(method)
    before, metrics = jax.jit(distilling.step(good))(start(good), params(0.5), draws(seed=1))
    assert metrics["skipped"] == 0
    # Donated, as a training loop does.
    kept = jax.tree.map(np.array, before)
    after, metrics = jax.jit(distilling.step(setup), donate_argnums=0)(before, teacher, draw)
    if place == "nothing":
        assert metrics["skipped"] == 0
        assert counters(after) == (2, 0, 0)
        for tree, old in zip(
            (after.params["generator"], after.averages["generator"], after.params["fake_score"]),
            (kept.params["generator"], kept.averages["generator"], kept.params["fake_score"]),
            strict=True,
        ):
            assert np.any(tree["shift"] != old["shift"])
        return
    assert_left_out(kept, after, metrics)
    assert next(name for name in COMPUTED if not np.isfinite(metrics[name])) == (
        first_not_finite(place)
    )


def test_the_first_of_two_fake_score_updates_counts_too():
    """Its gradient's square overflows, while everything after it is finite."""
    setup = distillation(fake_score_updates=2)
    draw = draws(fake_score_updates=2)
    fake = draw["fake_score"].replace(sigma=draw["fake_score"].sigma.at[0].set(1e-15))
    before = start(setup)
    step = jax.jit(distilling.step(setup))
    after, metrics = step(before, params(0.5), {**draw, "fake_score": fake})
    assert bool(guard.all_finite({k: v for k, v in metrics.items() if k != "skipped"}))
    assert_left_out(before, after, metrics)


def test_a_run_with_bad_updates_is_the_run_without_them():
    setup = distillation()
    step = jax.jit(distilling.step(setup))
    bad = with_noise(draws(), "generator", NAN)
    disturbed, undisturbed = start(setup), start(setup)
    seen = []
    for draw in (draws(seed=1), bad, bad, draws(seed=2), bad):
        disturbed, _ = step(disturbed, params(0.5), draw)
        seen.append(counters(disturbed))
    assert seen == [(1, 0, 0), (2, 1, 1), (3, 2, 2), (4, 2, 0), (5, 3, 1)]
    for draw in (draws(seed=1), draws(seed=2)):
        undisturbed, _ = step(undisturbed, params(0.5), draw)
    chex.assert_trees_all_equal(without_counters(disturbed), without_counters(undisturbed))


class Attempt(Inline):
    """An update before it is judged, and the gradients that it follows."""

    def __init__(self, update):
        super().__init__(update)
        self.gradients = []

    def step(self, turn, images, before, sums):
        self.gradients.append(jax.tree.map(lambda x: x / BATCH, sums[0]))
        return super().step(turn, images, before, sums)

    def finish(self, state, outcome, sums):
        turn = self._update.turns[-1]
        own = self._update.own(turn, state, outcome)
        return outcome.followed_by(self.step(turn, state.images, own, sums))


def test_a_finite_update_is_what_was_attempted():
    setup = distillation()
    before, attempt = start(setup), Attempt(setup)
    with jax.disable_jit():  # compiled apart, they may round differently
        after, metrics = distilling.step(setup)(before, params(0.5), draws())
        outcome = setup.follow(attempt, before, {"teacher": params(0.5)}, draws())
        averages = setup.averages.follow(
            before.averages, outcome.params, images_seen=0.0, batch_size=BATCH
        )
    attempted = before.replace(params=outcome.params, averages=averages, opt=outcome.opt)
    chex.assert_trees_all_equal(without_counters(after), without_counters(attempted))
    assert outcome.finite
    assert {**outcome.metrics, "skipped": 0} == metrics
    norms = [float(optax.global_norm(gradient)) for gradient in attempt.gradients]
    np.testing.assert_allclose(
        norms, [metrics["fake_grad_norm"], metrics["generator_grad_norm"]], rtol=1e-6
    )


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8)])
@pytest.mark.parametrize("place", ["fake_gradient_nan", "generator_gradient_inf", "generator_nan"])
def test_all_devices_agree(place, data, fsdp):
    """The bad number is in one example, or in the shard that one device holds."""
    mesh = sharding.make_mesh(data=data, fsdp=fsdp)
    where = dict(PLACES[place])
    draw = with_noise(draws(), *where.pop("noise", ("fake_score", 0.1)))
    setup = distillation(**where)
    before = start(setup)
    places = sharding.state(before, mesh)

    def sharded_update(state, teacher, draw):
        draw = sharding.constrain(draw, drawing.shardings(draw, mesh), mesh)
        return distilling.step(setup)(state, teacher, draw)

    after, metrics = jax.jit(sharded_update, out_shardings=(places, sharding.replicated(mesh)))(
        jax.device_put(before, places), params(0.5), draw
    )
    assert_left_out(before, after, metrics)
    for leaf in jax.tree.leaves(after):
        assert len(leaf.addressable_shards) == 8
    assert [int(shard.data) for shard in after.skipped.addressable_shards] == [1] * 8


@pytest.mark.parametrize("place", ["nothing", "data", "gradient"])
def test_a_teachers_training_leaves_out_the_whole_update(place):
    denoiser = functools.partial(denoise, gradient=INF if place == "gradient" else None)
    setup = pretraining(denoiser, optimizer.adam(0.01, b1=0.9))
    random = np.random.RandomState(0)
    x = jnp.asarray(random.standard_normal((BATCH, *SHAPE)), jnp.float32)
    draw = real_draws(
        x.at[3, 0, 0, 0].set(NAN) if place == "data" else x,
        sigma=jnp.linspace(0.1, 2, BATCH),
        noise=x[::-1],
    )
    before = train_state.create({"denoiser": params(0.3)}, setup.optimizers, setup.averaged)
    after, metrics = jax.jit(setup)(before, {}, draw)
    if place == "nothing":
        assert metrics["skipped"] == 0
        assert counters(after) == (1, 0, 0)
        shift, old = (each.params["denoiser"]["shift"] for each in (after, before))
        assert np.any(shift != old)
    else:
        assert_left_out(before, after, metrics)
        assert bool(jnp.isfinite(metrics["loss"])) == (place == "gradient")


@pytest.mark.parametrize("place", ["nothing", "noise"])
def test_a_halted_state_stays_as_it_is(place):
    setup = distillation()
    before = start(setup).replace(skipped_in_a_row=jnp.int32(3), step=jnp.int32(7))
    drawn = draws()
    if place == "noise":
        noise = drawn["generator"].noise.at[0, 0, 0].set(NAN)
        drawn["generator"] = drawn["generator"].replace(noise=noise)
    free, _ = distilling.step(setup)(before, params(0.5), drawn)
    assert counters(free) == ((8, 0, 0) if place == "nothing" else (8, 1, 4))
    for limit, expected in ((3, before), (4, free), (None, free)):
        limited = dataclasses.replace(setup, max_skipped_in_a_row=limit)
        after, _ = distilling.step(limited)(before, params(0.5), drawn)
        chex.assert_trees_all_equal(after, expected)
