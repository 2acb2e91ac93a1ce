"""Students of several steps: recorded ones, what is trained of them, their noise levels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion.process import Process
from diffjax.models import few_steps
from diffjax.models.few_steps import StepGenerator, StepLatents
from diffjax.models.generator import DenoiserGenerator
from tests.support import golden_cases

KEY = jax.random.key(3)
SHAPE, SIGMAS = (2, 3), (2.5, 1.0, 0.5)


@dataclasses.dataclass(frozen=True)
class Linear:
    """D = w y / (1 + σ) + c, with dropout that adds the noise of its key."""

    shape: tuple[int, ...] = SHAPE

    def __call__(self, params, x, sigma, *, labels=None, train=False, rng=None):
        shift = 0.0 if labels is None else labels[:, None, None]
        noise = jax.random.normal(rng, x.shape) if train else 0.0
        return params * x / (1 + sigma[:, None, None]) + shift + noise


def drawn(count=64, *, draws_step=True):
    return StepLatents(SHAPE, len(SIGMAS), draws_step)(KEY, count)


def by_hand(w, z, labels):
    """Each step's output, written out."""
    outputs, y = [], SIGMAS[0] * z["first"]
    for index, sigma in enumerate(SIGMAS):
        x = w * y / (1 + sigma) + labels[:, None, None]
        outputs.append(x)
        if index + 1 < len(SIGMAS):
            y = x + SIGMAS[index + 1] * z["later"][:, index]
    return outputs


@pytest.mark.parametrize(
    ("name", "steps"),
    golden_cases.cases(
        "multistep_generation", each=lambda case: case.meta["steps"], slow=lambda meta: True
    ),
)
def test_samples_and_gradients_of_the_released_code(name, steps):
    case = golden_cases.Case(name)
    model = case.denoiser()
    params = golden_cases.weights(model, case.meta["prefixes"]["gen"])
    init_sigma = case.meta["init_sigma"]
    if steps == 1:
        generator, z = DenoiserGenerator(model, init_sigma), case["z"]
    else:
        sigmas = few_steps.spaced(None, init_sigma, steps)
        generator = StepGenerator(model, sigmas, outputs="last", backward="all_steps")
        later = jnp.moveaxis(case[f"noise_k{steps}"], 0, 1)  # the code has the step first
        z = {"first": case["z"], "later": later}

    @jax.jit
    def sampled(params, z):
        def value(params):
            x = generator(params, z)
            return (x * case["probe"]).sum(), x

        return jax.grad(value, has_aux=True)(params)

    gradient, x = sampled(params, z)
    assert golden_cases.relative_l2(x, case.expected(f"images_k{steps}")) <= 1e-5
    by_name = golden_cases.by_torch_name(gradient)
    for i, parameter in enumerate(case.meta["grad_param_names"]):
        expected = case.exact(f"grad_k{steps}_p{i}")
        assert golden_cases.relative_l2(by_name[parameter], expected) <= 3e-5


def test_a_sample_is_the_last_steps_output_and_in_training_that_of_a_step():
    z, labels, w = drawn(), jnp.arange(64.0), jnp.float32(0.7)
    outputs = by_hand(w, z, labels)
    for backward in few_steps.BACKWARD:
        generator = StepGenerator(Linear(), SIGMAS, backward=backward)
        x = generator(w, {"first": z["first"], "later": z["later"]}, labels=labels)
        np.testing.assert_allclose(x, outputs[-1], rtol=1e-5)
        trained = generator(w, z, labels=labels)
        for index, step in enumerate(np.asarray(z["step"])):
            np.testing.assert_allclose(trained[index], outputs[step][index], rtol=1e-5)
    assert set(np.asarray(z["step"])) == {0, 1, 2}


def test_the_gradient_flows_through_the_trained_step_alone_or_all_up_to_it():
    z, labels, w = drawn(), jnp.zeros(64), jnp.float32(0.7)

    def slopes(backward, z):
        generator = StepGenerator(Linear(), SIGMAS, backward=backward)
        return jax.jacfwd(lambda w: generator(w, z, labels=labels).sum(axis=(1, 2)))(w)

    full = jax.jacfwd(lambda w: jnp.stack(by_hand(w, z, labels)).sum(axis=(2, 3)))(w)
    outputs = jnp.stack(by_hand(w, z, labels)).sum(axis=(2, 3))
    step, every = z["step"], jnp.arange(64)
    np.testing.assert_allclose(slopes("all_steps", z), full[step, every], rtol=1e-4)
    # Of x_k = w y_k/(1 + σ_k), y_k being held, it is x_k/w.
    np.testing.assert_allclose(slopes("one_step", z), outputs[step, every] / w, rtol=1e-4)
    first = np.asarray(step) == 0
    np.testing.assert_allclose(slopes("one_step", z)[first], full[0][first], rtol=1e-4)
    assert not np.allclose(slopes("one_step", z)[~first], full[step, every][~first], rtol=1e-2)


def test_later_steps_may_begin_from_data():
    z, w = drawn(), jnp.float32(0.7)
    real = jax.random.normal(jax.random.key(9), (64, *SHAPE))
    x = StepGenerator(Linear(), SIGMAS)(w, {**z, "real": real})
    for index, step in enumerate(np.asarray(z["step"])):
        y = SIGMAS[0] * z["first"][index]
        if step:
            y = real[index] + SIGMAS[step] * z["later"][index, step - 1]
        np.testing.assert_allclose(x[index], w * y / (1 + SIGMAS[step]), rtol=1e-5)


def test_dropout_is_on_in_what_is_trained_and_another_in_each_step():
    z, w = drawn(8, draws_step=False), jnp.float32(0.0)  # D is the dropout's noise alone
    for backward in few_steps.BACKWARD:
        generator = StepGenerator(Linear(), SIGMAS, backward=backward)
        assert np.std(generator(w, z, train=True, rng=KEY)) > 0.5
        np.testing.assert_array_equal(generator(w, z), 0)
    generator = StepGenerator(Linear(), SIGMAS, backward="all_steps")
    outputs = [
        generator(w, {**z, "step": jnp.full(8, step)}, train=True, rng=KEY) for step in range(3)
    ]
    assert len({np.asarray(each).tobytes() for each in outputs}) == 3
    # Steps that nothing is learnt of are as they will be in sampling.
    held = StepGenerator(Linear(), SIGMAS)
    np.testing.assert_array_equal(held(w, z, train=True, rng=KEY), outputs[2])


def test_the_first_latents_are_those_of_a_student_of_one_step():
    z = drawn(5)
    np.testing.assert_array_equal(z["first"], jax.random.normal(KEY, (5, *SHAPE)))
    assert z["later"].shape == (5, 2, *SHAPE)
    assert (
        abs(np.corrcoef(z["later"].reshape(5, 2, -1)[:, 0].ravel(), z["first"].ravel())[0, 1]) < 0.5
    )
    many = drawn(3000)
    counts = np.bincount(np.asarray(many["step"]))
    np.testing.assert_allclose(counts, 1000, atol=100)


def test_levels_are_evenly_spaced_in_time():
    assert few_steps.spaced(None, 2.5, 4) == (2.5, 1.875, 1.25, 0.625)
    table = Process.ddpm(betas=np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    init_sigma = float(table.sigma(625))
    expected = [float(table.sigma(t)) for t in (625, 416, 208)]  # 416.67 and 208.33, cut
    np.testing.assert_allclose(few_steps.spaced(table, init_sigma, 3), expected, rtol=1e-6)
    flow = Process.rectified_flow(data_at=0)
    other = Process.rectified_flow(data_at=1)  # time runs the other way
    found = few_steps.spaced(flow, 4.0, 2)  # t = 0.8, halved to 0.4 but for t_min's 0.001
    np.testing.assert_allclose(found, (4.0, 0.4005 / 0.5995), rtol=1e-4)
    np.testing.assert_allclose(few_steps.spaced(other, 4.0, 2), found, rtol=1e-4)
    few_steps.check_sigmas((2.5, 1.0), 0.5)
    with pytest.raises(ValueError, match=r"must fall, and 2\.5, 2\.5 don't"):
        few_steps.check_sigmas((2.5, 2.5), 0.0)
    with pytest.raises(ValueError, match=r"below 0\.5, the least"):
        few_steps.check_sigmas((2.5, 0.1), 0.5)
