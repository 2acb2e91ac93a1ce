"""What a user's function may return as a teacher, and what each mistake is told."""

import dataclasses
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.models import teacher

FIELDS = {
    "denoise": lambda p, y, sigma, cond: p["w"] * y,
    "params": {"w": jnp.ones(())},
    "shape": (2,),
    "sigma_data": 1.5,
    "sigma_min": 0.05,
    "sigma_max": 148.0,
}


def duck(**changes):
    return types.SimpleNamespace(**(FIELDS | changes))


def test_importing_models_imports_no_framework():
    code = (
        "import sys, diffjax.models as m\n"
        "[getattr(m, name) for name in m.__all__]\n"
        "print(sorted({'flax', 'equinox', 'orbax', 'optax', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_any_object_with_the_names_is_a_teacher():
    got = teacher.checked(duck(), "my_teacher:sky")
    assert isinstance(got, models.Teacher)
    assert (got.shape, got.sigma_data, got.cond, got.process) == ((2,), 1.5, None, None)
    assert got.trainable(("w",), got.params["w"])


def test_what_is_almost_a_field_is_made_one():
    given = duck(
        shape=[np.int64(16), 1],
        sigma_data=np.float32(0.5),
        sigma_min=jnp.float32(0.002),
        sigma_max=80,
        cond=models.one_hot(10),
        preview=lambda x: x,
    )
    got = teacher.checked(given, "t")
    assert got.shape == (16, 1)
    assert all(type(each) is int for each in got.shape)
    for each in ("sigma_data", "sigma_min", "sigma_max"):
        assert type(getattr(got, each)) is float
    assert got.cond is given.cond
    assert got.preview is given.preview


def test_teachers_are_frozen_and_hashable():
    one = models.Teacher(**FIELDS)
    assert one != models.Teacher(**FIELDS)
    assert hash(one) == hash(one)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.sigma_data = 1.0


NAMES = "it must return denoise, params, shape, sigma_data, sigma_min, sigma_max"


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        (None, f"my_teacher:sky returned NoneType; {NAMES} (diffjax.models.Teacher)"),
        ((1, 2), f"my_teacher:sky returned tuple; {NAMES} (diffjax.models.Teacher)"),
        (FIELDS, f"my_teacher:sky returned dict; {NAMES} (diffjax.models.Teacher)"),
        (
            types.SimpleNamespace(**{k: FIELDS[k] for k in FIELDS if "sigma_m" not in k}),
            f"my_teacher:sky returned SimpleNamespace without sigma_min, sigma_max; {NAMES} "
            "(diffjax.models.Teacher)",
        ),
        (duck(denoise=3), "denoise is of type int; it must be a function"),
        (duck(trainable=("w",)), "trainable is of type tuple; it must be a function"),
        (duck(trainable=None), "trainable is of type NoneType; it must be a function"),
        (duck(gain=2.0), "gain is of type float; it must be a function or None"),
        (duck(gain=lambda sigma: -1.0), "gain(0.05)=-1.0 must be a positive finite number"),
        (duck(gain=lambda sigma: sigma[0]), "gain(0.05) failed (TypeError: "),
        (duck(preview="image"), "preview is of type str; it must be a function or None"),
        (duck(cond=10), "cond is of type int; it must be a function or None"),
        *((duck(shape=shape), "shape=") for shape in (2, (), (2.0,), (0,), (-1, 3), None, "22")),
        (duck(shape=(True,)), "shape=(True,) must be a tuple of positive integers"),
        *(
            (duck(**{field: value}), f"my_teacher:sky: {field}=")
            for field in ("sigma_data", "sigma_min", "sigma_max")
            for value in (0, -1.0, np.nan, np.inf, None, "1", True, 1j)
        ),
        (duck(sigma_data=jnp.ones(3)), "sigma_data=array of shape (3,) must be a positive finite"),
        (duck(sigma_min=148.0), "sigma_min=148 must be less than sigma_max=148"),
        (duck(params={}), "params (dict) holds no array of floating-point numbers"),
        (duck(params={"w": 1.0}), "params (dict) holds no array of floating-point numbers"),
        (duck(params=jnp.arange(3)), "holds no array of floating-point numbers"),
        (duck(params=object()), "params (object) holds no array of floating-point numbers"),
        (
            duck(params={"a": {"w": jnp.ones(2, jnp.complex64)}}),
            "params a/w is complex64, and real numbers are trained: keep its real and its",
        ),
        # Of arrays of one shape a checkpoint would hold the last one's values for both.
        (
            duck(params={"a": {"b": jnp.ones(2)}, "a.b": jnp.zeros(2)}),
            "params ('a', 'b') and ('a.b',) would be one array in a checkpoint, 'a.b'; rename",
        ),
        (
            duck(params={"a": {"b": jnp.ones(2), "b/": jnp.zeros(2)}}),
            "params ('a', 'b') and ('a', 'b/') would be one array in a checkpoint, 'a.b'",
        ),
        (duck(params={"": jnp.ones(2)}), "params '' has no name that a checkpoint could have"),
        (duck(params={"/": jnp.ones(2)}), "params '/' has no name that a checkpoint could have"),
        (duck(trainable=lambda p, x: p[3]), "trainable(path, leaf) failed (IndexError: "),
        (duck(cond=lambda key: key), "cond(key, 3) failed (TypeError: "),
        (duck(cond=lambda key, n: None), "cond(key, 3) gave no array; set cond=None"),
        (
            duck(cond=lambda key, n: {"a": {"b": jnp.ones((n + 1, 2))}}),
            "cond(key, 3)['a']['b'] has shape [4, 2]; its first axis must be the batch, 3",
        ),
        (
            duck(cond=models.uniform({"a": {"b": 3}, "a/b": (0.0, 1.0)})),
            "cond(key, 3)['a/b'] has the name of another array, 'a/b', in files of samples; rename",
        ),
        (duck(cond=lambda key, n: jnp.ones(())), "cond(key, 3) has shape []; its first axis"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(obj, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        teacher.checked(obj, "my_teacher:sky")
    assert str(error.value).startswith("my_teacher:sky")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "params",
    [
        {"w": jnp.ones(2), "frozen": {"c": jnp.ones(2, jnp.complex64)}},
        {"a/b": jnp.ones(2), "a": {"b": jnp.ones(2)}},
        {"a.b": jnp.ones(2), "a": jnp.ones(2), "": {"x": jnp.ones(2)}},
        {"w": jnp.ones(2), "none": jnp.ones((0, 3))},
        jnp.ones(2),
    ],
    ids=str,
)
def test_parameters_that_a_checkpoint_tells_apart(params):
    assert teacher.checked(duck(params=params), "t").params is params


def test_a_check_calls_no_network():
    def denoise(params, y, sigma, cond):
        raise AssertionError("called")

    teacher.checked(duck(denoise=denoise, cond=models.one_hot(3)), "t")


def test_abstract_parameters_do():
    params = jax.eval_shape(lambda: FIELDS["params"])
    assert teacher.checked(duck(params=params), "t").params is params
