"""Stable Diffusion's autoencoder, and latents' units, against numbers of published code."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import _diffusers_models, diffusers_vae
from diffjax.files import images
from diffjax.models import latents
from tests.support import edm2_cases, golden_cases, vae_cases

BOUND = 3e-5
CASES = edm2_cases.or_skip(golden_cases.cases("vae"))
kept = functools.cache(vae_cases.case_and_weights)


def close(ours, case, key):
    error = golden_cases.relative_l2(ours, vae_cases.nhwc(case.exact(key)))
    assert error <= BOUND, key


@pytest.mark.parametrize("name", CASES)
def test_latents_and_their_gradient(name):
    case, network, variables = kept(name)

    def probe(x):
        law = network.apply(variables, x, method="encode")
        return jnp.sum(law.mean * vae_cases.nhwc(case.raw("probe_latent"))), law

    x = vae_cases.nhwc(case.raw("x"))
    gradient, law = jax.jit(jax.grad(probe, has_aux=True))(x)
    close(law.mean, case, "mean")
    close(law.log_variance, case, "logvar")
    close(law.std, case, "std")
    close(gradient, case, "grad_x")
    scaled = latents.scaled(0.18215).draw(law, vae_cases.nhwc(case.raw("noise")))
    close(scaled, case, "sample_scaled")


@pytest.mark.parametrize("name", CASES)
def test_images_and_their_gradients(name):
    case, network, variables = kept(name)

    def probe(variables, z):
        out = network.apply(variables, z, method="decode")
        return jnp.sum(out * vae_cases.nhwc(case.raw("probe"))), out

    z = vae_cases.nhwc(case.raw("z"))
    grads, out = jax.jit(jax.grad(probe, argnums=(0, 1), has_aux=True))(variables, z)
    close(out, case, "decoded")
    close(grads[1], case, "grad_z")
    places = _diffusers_models.expected(grads[0])
    assert case.meta["grad_param_names"]
    for i, torch_name in enumerate(case.meta["grad_param_names"]):
        ours = golden_cases.to_torch(np.asarray(places[torch_name][1]))
        assert golden_cases.relative_l2(ours, case.exact(f"grad_p{i}")) <= BOUND, torch_name


@pytest.mark.parametrize("name", CASES)
def test_edm2_takes_and_gives_other_pixels_and_latents(name):
    case, network, variables = kept(name)
    units = latents.EDM2
    for mine, key in ((units.scale, "edm2_scale"), (units.bias, "edm2_bias")):
        np.testing.assert_allclose(mine, case.raw(key), rtol=1e-6)
    pixels = units.pixels(vae_cases.nhwc(case.raw("pixels")))
    law = network.apply(variables, pixels, method="encode")
    close(jnp.concatenate([law.mean, law.std], axis=-1), case, "edm2_raw")
    close(units.draw(law, vae_cases.nhwc(case.raw("noise"))), case, "edm2_final")
    raw = units.to_raw(vae_cases.nhwc(case.raw("edm2_decode_in")))
    decoded = network.apply(variables, raw, method="decode")
    close(decoded, case, "edm2_decoded_float")
    ours = images.to_uint8(np.asarray(units.images(decoded))).astype(int)
    levels = np.abs(ours - np.moveaxis(case.raw("edm2_decoded_uint8"), 1, -1).astype(int))
    assert levels.max() <= 1
    assert (levels > 0).mean() < 0.01


def test_levels_are_cut_as_edm2_cuts_them():
    decoded = np.float32([-1.0, 0.0, 1.0, 2.0, *(np.arange(256) / 255)]).reshape(-1, 1, 1, 1)
    ours = images.to_uint8(np.asarray(latents.EDM2.images(decoded))).ravel()
    np.testing.assert_array_equal(ours, [0, 0, 255, 255, *range(256)])


def test_names_and_shapes_of_the_released_autoencoder():
    names = json.loads((golden_cases.OWN / "vae_state_dict_names.json").read_text())
    network = diffusers_vae.autoencoder(names["config"])
    shapes = diffusers_vae.shapes(network)
    assert shapes == {name: tuple(shape) for name, shape in names["state_dict"]}
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == names["num_params"]
    assert names["deprecated_names"]
    for new, old in names["deprecated_names"].items():
        assert vae_cases.old_name(new) == old
        assert _diffusers_models._new_name(old) == new
