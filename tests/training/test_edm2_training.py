"""EDM2's loss and updates against numbers from its PyTorch code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffjax.diffusion import learning_rate, noise
from diffjax.training import power_ema
from tests.support import edm2_cases, golden_cases


def loss_of(model, params, images, normal, n, labels, *, settings, train):
    """(Loss [B, H, W, C], what it is made of) from raw draws: L / exp(u) + u for each pixel."""
    normal = normal.ravel()
    sigma = noise.lognormal_sigma(normal, settings["P_mean"], settings["P_std"])
    denoised = model(params, images + n * sigma[:, None, None, None], sigma, labels, train=train)
    logvar = model.log_variance(params, sigma, train=train)
    weight = noise.edm_weight(sigma, settings["sigma_data"]) * jnp.exp(-logvar)
    loss = weight[:, None, None, None] * jnp.square(denoised - images)
    return loss + logvar[:, None, None, None], (sigma, denoised, logvar)


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_loss")))
def test_loss(name):
    case, model, params = edm2_cases.case_and_weights(name)
    train = case.meta["mode"].startswith("train")

    def total(params, images):
        loss, parts = loss_of(
            model,
            params,
            images,
            case["rnd_normal"],
            case["noise"],
            case.labels,
            settings=case.meta["loss_kwargs"],
            train=train,
        )
        return loss.sum() / len(loss), (loss, *parts)

    grad = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (value, found), (grad_params, grad_images) = grad(params, case["images"])
    assert golden_cases.relative_l2(value, case.exact("loss_total")) <= 2e-5
    for key, array in zip(("loss", "sigma", "D", "logvar"), found, strict=True):
        expected = case.expected(key)
        assert golden_cases.relative_l2(array.reshape(expected.shape), expected) <= 2e-5, key
    assert golden_cases.relative_l2(grad_images, case.expected("grad_images")) <= 2e-5
    by_name = edm2_cases.by_torch_name(model, grad_params)
    for i, torch_name in enumerate(case.meta["grad_param_names"]):
        bound = 2e-4 if torch_name.endswith("_gain") else 3e-5
        error = golden_cases.relative_l2(by_name[torch_name], case.exact(f"grad_p{i}"))
        assert error <= bound, torch_name


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_train")))
def test_updates(name):
    """Weights, losses, rates and averages over a few updates of two rounds each."""
    case, model, params = edm2_cases.case_and_weights(name)
    meta = case.meta
    rounds, batch_size = meta["rounds"], meta["batch_gpu"] * meta["rounds"]
    labels = jnp.asarray(case.raw("class_labels")) if case.kwargs["label_dim"] else None
    images, n, normal = case["images"], case["noise"], case["rnd_normal"]
    averages = power_ema.PowerAverages(tuple(meta["ema_stds"]))
    kept = averages.start(params["params"])
    b1, b2 = meta["adam"]["betas"]
    adam = optax.scale_by_adam(b1, b2, eps=meta["adam"]["eps"])
    state, seen = adam.init(params["params"]), meta["start_nimg"]

    @functools.partial(jax.jit, donate_argnums=())
    def gradient(params, images, normal, n, labels):
        def total(params):
            settings = meta["loss_kwargs"]
            loss, _ = loss_of(
                model, params, images, normal, n, labels, settings=settings, train=True
            )
            return loss.sum() / len(loss)

        return jax.value_and_grad(total)(params)

    def close(tree, prefix, step):
        tree = {"params": tree, "buffers": params["buffers"]}
        by_name = edm2_cases.by_torch_name(model, tree)
        for i, torch_name in enumerate(meta["param_names"]):
            expected = case.exact(prefix.format(i))[step]
            error = golden_cases.relative_l2(by_name[torch_name], expected)
            assert error <= 1e-5, (prefix, torch_name, step)

    for step in range(meta["steps"]):
        grads = jax.tree.map(jnp.zeros_like, params["params"])
        for r in range(rounds):
            now = (None if labels is None else labels[step, r],)
            value, grad = gradient(params, images[step, r], normal[step, r], n[step, r], *now)
            np.testing.assert_allclose(value, case.exact("loss")[step, r], rtol=1e-5)
            grads = jax.tree.map(lambda a, b: a + b / rounds, grads, grad["params"])
            params = model.normalized(params)  # as each training forward pass leaves them
        close(params["params"], "p{}_forward", step)
        names = edm2_cases.by_torch_name(model, {**params, "params": grads})
        norms = [np.linalg.norm(names[each]) for each in meta["all_param_names"]]
        np.testing.assert_allclose(norms, case.exact("grad_norm")[step], rtol=1e-3)
        lr = meta["lr_kwargs"]
        rate = learning_rate.inverse_square_root(
            seen,
            peak=lr["ref_lr"],
            batch_size=batch_size,
            decay_updates=lr["ref_batches"],
            rampup_images=lr["rampup_Mimg"] * 1e6,
        )
        np.testing.assert_allclose(rate, case.raw("lr")[step], rtol=1e-10)
        updates, state = adam.update(grads, state)
        updates = jax.tree.map(lambda u, rate=rate: -rate * u, updates)
        params = {**params, "params": optax.apply_updates(params["params"], updates)}
        close(params["params"], "p{}", step)
        seen += batch_size
        assert seen == case.raw("nimg_after")[step]
        now = jnp.float32(seen)
        kept = averages.follow(kept, params["params"], images_seen=now, batch_size=batch_size)
        for j, average in enumerate(kept):
            close(average, f"ema{j}_p{{}}", step)


def test_overwriting_is_left_out_where_it_is_switched_off():
    """SiDA's choice for its smallest network: then training computes as evaluation does."""
    kwargs = {"class_name": "Precond", "img_resolution": 4, "img_channels": 3, "model_channels": 8}
    kwargs |= {"channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    model = golden_cases.denoiser.from_edm_kwargs(kwargs)
    free = golden_cases.denoiser.from_edm_kwargs({**kwargs, "force_normalization": False})
    params, x, sigma = edm2_cases.weights(model), jnp.ones((2, 4, 4, 3)), jnp.ones(2)

    @jax.jit
    def outputs(params):
        trained, asked = (functools.partial(each, params, x, sigma) for each in (model, free))
        return asked(train=True), asked(), trained(train=True), trained()

    free_in_training, of_free, in_training, of_model = outputs(params)
    np.testing.assert_array_equal(free_in_training, of_free)
    assert np.any(in_training != of_model)
    assert free.normalized(params) is params
    assert model.function() == free.function()
    zeros = jax.tree.map(jnp.zeros_like, params)
    grads = jax.jit(jax.grad(lambda p: model(p, x, sigma, train=True).sum()))(zeros)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
