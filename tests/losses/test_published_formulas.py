"""Losses of published code, called there with given arrays in place of networks.

Compared example by example, since examples with a small mean|x − D_φ| dominate any norm.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import losses, noise
from tests.support import golden_cases

BOUND = 1e-5


def with_arrays(*names):
    """Cases of the kind `formula` that have these arrays."""
    return golden_cases.cases("formula", where=lambda case: all(name in case for name in names))


def inputs(name, *keys):
    case = golden_cases.Case(name)
    return case, *(jnp.asarray(case.raw(key)) for key in keys)


def assert_same(actual, expected):
    """Relative L2 error of each example, or of a number; zeros are to be zeros."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.size == expected.size, (actual.shape, expected.shape)
    rows = expected.shape[0] if expected.ndim else 1
    actual, expected = actual.reshape(rows, -1), expected.reshape(rows, -1)
    norms = np.linalg.norm(expected, axis=1)
    assert (np.linalg.norm(actual - expected, axis=1) <= BOUND * norms).all()


def summed(elements):
    return np.asarray(elements, np.float64).sum(axis=(1, 2, 3))


def gradients(loss, *arrays):
    return jax.grad(lambda *a: loss(*a).sum(), tuple(range(len(arrays))))(*arrays)


def karras_sigmas(case, timesteps):
    """Noise levels of DMD2 by index: ascending."""
    grid = case.meta["karras"]
    low, high = (grid[key] ** (1 / grid["rho"]) for key in ("sigma_min", "sigma_max"))
    share = case.raw(timesteps).reshape(-1) / (grid["n"] - 1)
    return jnp.asarray((low + share * (high - low)) ** grid["rho"], jnp.float32)


# ---- SiDA and Uni-Instruct ---------------------------------------------------------------------

ADVERSARIAL = with_arrays("g_loss_gan")


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_score_term(name):
    case, *arrays = inputs(name, "images", "D_real", "D_fake")
    alpha = 1.0 if "fsim" in case.meta["source"] else case.meta["alpha"]  # which has no alpha
    loss = functools.partial(losses.sid, alpha=alpha)
    assert_same(loss(*arrays), summed(case.exact("g_loss")))
    for key, gradient in zip(("images", "D_real", "D_fake"), gradients(loss, *arrays), strict=True):
        assert_same(gradient, case.exact(f"grad_g_sid_{key}"))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_term_of_the_generator(name):
    case, x, d_teacher, logits = inputs(name, "images", "D_real", "logits_fake")

    def loss(x, d_teacher, logits):
        weight = losses.normalizing_weight(x, d_teacher)
        return losses.sida_gan_generator(logits, weight=weight)

    assert_same(loss(x, d_teacher, logits), case.exact("g_loss_gan"))
    found = gradients(loss, x, d_teacher, logits)
    for key, gradient in zip(("images", "D_real", "logits"), found, strict=True):
        assert_same(gradient, case.exact(f"grad_g_gan_{key}"))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_totals_of_the_generator(name):
    """Sums are linear, so that the parts' gradients make the totals'."""
    case, x, d_teacher, d_fake, logits = inputs(name, "images", "D_real", "D_fake", "logits_fake")
    score, adversarial = summed(case.exact("g_loss")), case.exact("g_loss_gan").reshape(-1)
    if "fsim" in case.meta["source"]:
        total = losses.uni_instruct_released(
            x, d_teacher, d_fake, logits, forward=0.0, reverse=0.6, gan_scale=1e-4
        )
        expected = 0.6 * score + 1e-4 * x[0].size * adversarial
    else:
        total = losses.sida(x, d_teacher, d_fake, logits, alpha=case.meta["alpha"])
        expected = (score + 1e-4 * x[0].size * adversarial) / 2
    assert_same(total, expected)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_terms_of_the_fake_score(name):
    case, x, d_fake, real, fake = inputs(name, "images", "D_fake", "logits_real", "logits_fake")
    weight = noise.edm_weight(jnp.exp(-1.2 + 1.2 * case.raw("f_rnd_normal").reshape(-1)))
    denoising = functools.partial(losses.denoising, x, weight=weight)
    assert_same(denoising(d_fake), summed(case.exact("f_loss")))
    assert_same(gradients(denoising, d_fake)[0], case.exact("grad_f_D_fake"))
    adversarial = functools.partial(losses.sida_gan_discriminator, weight=weight)
    assert_same(adversarial(real, fake), case.exact("f_loss_D"))
    for key, gradient in zip(("real", "fake"), gradients(adversarial, real, fake), strict=True):
        assert_same(gradient, case.exact(f"grad_f_logits_{key}"))


# ---- DMD2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", with_arrays("loss_dm"))
def test_dmd2(name):
    case, x, d_teacher, d_fake = inputs(name, "images", "D_real", "D_fake")

    def loss(x):
        return losses.dmd(x, d_teacher, d_fake)

    assert_same(loss(x).sum() / x.size, case.exact("loss_dm"))
    (gradient,) = gradients(loss, x)
    assert_same(gradient, case.exact("grad_term"))
    assert_same(gradient / x.size, case.exact("grad_dm_images"))


@pytest.mark.parametrize("name", with_arrays("loss_dm"))
def test_dmd2s_adversarial_terms(name):
    case, real, fake = inputs(name, "logits_real", "logits")
    batch = fake.shape[0]
    assert_same(losses.gan_generator(fake).mean(), case.exact("gen_cls_loss"))
    (gradient,) = gradients(losses.gan_generator, fake)
    assert_same(gradient / batch, case.exact("grad_gen_cls_logits"))
    assert_same(losses.gan_discriminator(real, fake).mean(), case.exact("guidance_cls_loss"))
    grad_real, grad_fake = gradients(losses.gan_discriminator, real, fake)
    assert_same(grad_real / batch, case.exact("grad_guidance_logits_real"))
    assert_same(grad_fake / batch, case.exact("grad_guidance_logits"))


@pytest.mark.parametrize("name", with_arrays("loss_dm"))
def test_dmd2s_fake_score(name):
    case, x, d_fake = inputs(name, "images", "D_fake")
    weight = noise.edm_weight(karras_sigmas(case, "fake_timesteps"))

    def loss(d_fake):
        return losses.denoising(x, d_fake, weight=weight) / x.size

    assert_same(loss(d_fake).sum(), case.exact("loss_fake_mean"))
    assert_same(gradients(loss, d_fake)[0], case.exact("grad_fake_D_fake"))


# ---- SMD ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", with_arrays("critic_alphas"))
def test_smd(name):
    case, x, d_teacher, d_fake, logits, skew = inputs(
        name, "images", "D_real", "D_fake", "logits", "alphas"
    )

    def step(x, logits):
        return losses.smd(x, d_teacher, d_fake, logits, skew=skew)

    def loss(x, logits):
        adversarial = losses.gan_generator(losses.skewed_logits(logits, skew))
        return step(x, logits) / x.size + 3e-3 * adversarial / x.shape[0]

    assert_same(gradients(step, x, logits)[0], case.exact("grad_term"))
    probability = jax.nn.sigmoid(losses.skewed_logits(logits, skew))
    assert_same(probability, case.exact("scale"))
    assert_same(loss(x, logits).sum(), case.exact("g_loss"))
    grad_x, grad_logits = gradients(loss, x, logits)
    assert_same(grad_x, case.exact("grad_g_images"))
    assert_same(grad_logits, case.exact("grad_g_logits"))


@pytest.mark.parametrize("name", with_arrays("critic_alphas"))
def test_smds_critic(name):
    case, d_teacher, d_fake, logits, skew = inputs(
        name, "D_real", "D_fake", "logits", "critic_alphas"
    )
    weight = noise.edm_weight(karras_sigmas(case, "critic_timesteps"))

    def loss(logits, real):
        values = losses.smd_critic(d_teacher, d_fake, logits, skew=skew, real=real, weight=weight)
        return values / d_fake.size

    assert_same(loss(logits, False).sum(), case.exact("loss_interpolated_fake_mean"))
    assert_same(loss(logits, True).sum(), case.exact("loss_interpolated_real_mean"))
    (gradient,) = gradients(lambda logits: loss(logits, False) + loss(logits, True), logits)
    assert_same(gradient, case.exact("grad_critic_logits"))


# ---- FastGen: DMD2 and f-distill ---------------------------------------------------------------


@pytest.mark.parametrize("name", with_arrays("loss_vsd"))
@pytest.mark.parametrize("weighted", [False, True])
def test_fastgens_distribution_matching(name, weighted):
    case, x, d_teacher, d_fake, h = inputs(name, "images", "D_real", "D_fake", "h")
    weight = losses.normalizing_weight(x, d_teacher, floor=0.0, epsilon=1e-6)

    def loss(x):
        if weighted:
            return losses.dmd(x, d_teacher, d_fake, weight=h * weight) / x.size
        return losses.dmd(x, d_teacher, d_fake, epsilon=1e-6) / x.size

    key = "vsd_h" if weighted else "vsd"
    assert_same(loss(x).sum(), case.exact(f"loss_{key}"))
    assert_same(gradients(loss, x)[0], case.exact(f"grad_{key}_images"))


@pytest.mark.parametrize("name", with_arrays("loss_vsd"))
def test_fastgens_adversarial_terms_and_fake_score(name):
    case, real, fake = inputs(name, "logits_real", "logits_fake")
    batch = fake.shape[0]
    assert_same(losses.gan_generator(fake).mean(), case.exact("gan_loss_generator"))
    assert_same(gradients(losses.gan_generator, fake)[0] / batch, case.exact("grad_gan_generator"))
    assert_same(losses.gan_discriminator(real, fake).mean(), case.exact("gan_loss_discriminator"))
    grad_real, grad_fake = gradients(losses.gan_discriminator, real, fake)
    assert_same(grad_real / batch, case.exact("grad_gan_disc_real"))
    assert_same(grad_fake / batch, case.exact("grad_gan_disc_fake"))
    case, x, d_fake = inputs(name, "images", "D_fake")
    denoising = functools.partial(losses.denoising, x, weight=1 / x.size)
    assert_same(denoising(d_fake).sum(), case.exact("loss_dsm_x0"))
    assert_same(gradients(denoising, d_fake)[0], case.exact("grad_dsm_D_fake"))


def weight_runs(case):
    """h_DIVERGENCE_norm{0,1}_emaX, as recorded."""
    return [key for key in case.names if key.startswith("h_") and not key.endswith("_f64")]


@pytest.mark.parametrize(("name", "run"), golden_cases.cases("fdistill_weights", each=weight_runs))
def test_f_distills_weights(name, run):
    case, logits, sigma = inputs(name, "logits", "t")
    options = case.meta["options"]
    divergence, normalized, decay = run.removeprefix("h_").split("_")
    bins = jnp.full((options["bin_num"],), float(options["initial_bins"]))
    weigh = functools.partial(
        losses.normalized_f_divergence_weight,
        divergence=divergence,  # FastGen's short names
        decay=float(decay.removeprefix("ema")),
        max_logit=options["logit_clamp"],
        ratio_range=(options["ratio_lower"], options["ratio_upper"]),
        sigma_range=(options["min_t"], options["max_t"]),
        normalize_ratio=normalized == "norm1",
    )
    for call in range(logits.shape[0]):
        h, bins = weigh(logits[call], sigma[call], bins)
        np.testing.assert_allclose(h, case.exact(run)[call], rtol=BOUND)
        if normalized == "norm1":
            expected = case.exact(f"bins_{run.removeprefix('h_')}")[call]
            np.testing.assert_allclose(bins, expected, rtol=BOUND)
