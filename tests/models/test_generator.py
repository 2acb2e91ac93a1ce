"""Students: the teacher's copy at σ_init, and any generator with latents of its own."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.models import generator


def teacher(sigma_data=0.5, sigma_min=0.002, sigma_max=1000.0):
    def denoise(params, y, sigma, cond):
        assert sigma.dtype == jnp.float32
        out = params["w"] * y / sigma.reshape(-1, *[1] * (y.ndim - 1))
        return out if cond is None else out + cond

    return models.Teacher(
        denoise,
        {"w": jnp.float32(3), "stats": jnp.float32(1)},
        (4, 2),
        sigma_data,
        sigma_min,
        sigma_max,
        trainable=lambda path, leaf: path[-1] != "stats",
    )


def test_a_teachers_copy_generates_at_one_noise_level():
    student = models.denoiser_generator(teacher(), sigma_init=2.0)
    z = student.latent(jax.random.key(0), 5)
    assert (z.shape, z.dtype) == ((5, 4, 2), jnp.float32)
    np.testing.assert_array_equal(z, jax.random.normal(jax.random.key(0), (5, 4, 2)))
    out = jax.jit(student.generate)(student.params, z, None)
    np.testing.assert_allclose(out, 3 * z, rtol=1e-6)  # 3 (2 z) / 2
    np.testing.assert_allclose(student.generate(student.params, z, 1.0), 3 * z + 1, rtol=1e-6)
    assert student.trainable(("w",), z)
    assert not student.trainable(("stats",), z)


@pytest.mark.parametrize(
    ("method", "published"),
    [("sid", 2.5), ("diff_instruct", 1.0), ("dmd2", 80.0), ("f_distill", 80.0)],
)
def test_sigma_init_is_the_methods_times_the_datas_scale(method, published):
    assert generator.default_sigma_init(teacher(), method) == published
    assert generator.default_sigma_init(teacher(1.25), method) == published * 2.5
    seen = []

    def denoise(params, y, sigma, cond):
        seen.append(float(sigma[0]))
        return y

    scaled = models.Teacher(denoise, {"w": jnp.ones(1)}, (2,), 1.25, 0.002, 1000.0)
    student = models.denoiser_generator(scaled, method=method)
    student.generate(student.params, jnp.ones((1, 2)), None)
    assert seen == [published * 2.5]


def test_a_derived_sigma_init_stays_where_the_teacher_is_right():
    assert generator.default_sigma_init(teacher(sigma_max=60.0), "dmd2") == 60
    assert generator.default_sigma_init(teacher(sigma_min=1.5), "diff_instruct") == 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "sidd"}, "method='sidd' has no published sigma_init (sid, diff_instruct, dmd2"),
        ({"sigma_init": 0.0}, "denoiser_generator: sigma_init=0.0 must be a positive finite"),
        ({"sigma_init": "2"}, "denoiser_generator: sigma_init='2' must be a positive finite"),
    ],
)
def test_a_sigma_init_that_is_none(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        models.denoiser_generator(teacher(), **arguments)


def latent(key, batch):
    """A style vector and a map of noise, as one pytree."""
    w, noise = jax.random.split(key)
    return {"w": models.normal((3,))(w, batch), "noise": models.normal((4, 4, 1))(noise, batch)}


FIELDS = {"generate": lambda p, z, c: z["noise"], "params": {"w": jnp.ones(1)}, "latent": latent}


def test_any_object_with_the_names_is_a_generator():
    got = generator.checked_generator(types.SimpleNamespace(**FIELDS), "my_gan:faces")
    assert isinstance(got, models.Generator)
    assert hash(got) == hash(got)
    z = got.latent(jax.random.key(0), 2)
    assert got.generate(got.params, z, None).shape == (2, 4, 4, 1)


NAMES = "it must return generate, params, latent (diffjax.models.Generator)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, f"my_gan:faces returned NoneType; {NAMES}"),
        ({"latent": None}, "my_gan:faces: latent is of type NoneType; it must be a function"),
        ({"generate": 3}, "my_gan:faces: generate is of type int; it must be a function"),
        ({"params": {}}, "my_gan:faces: params (dict) holds no array"),
        ({"latent": lambda key, n: jnp.ones(2)}, "latent(key, 3) has shape [2]; its first axis"),
        ({"latent": lambda key, n: None}, "latent(key, 3) gave no array; see diffjax.models.norm"),
    ],
)
def test_what_is_no_generator_is_told_in_one_line(changes, message):
    obj = changes if changes is None else types.SimpleNamespace(**(FIELDS | changes))
    with pytest.raises(ValueError, match=re.escape(message)):
        generator.checked_generator(obj, "my_gan:faces")
