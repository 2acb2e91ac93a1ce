"""Teachers of ours as the record that anyone's teacher is: one line, from whatever holds them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models
from diffjax.convert import teacher as teachers
from diffjax.models import contract, model_card, network_folder
from diffjax.models.denoiser import from_edm_kwargs
from tests.support import edm_cases, fabricate


def noisy(teacher):
    y = jax.random.normal(jax.random.key(0), (2, *teacher.shape))
    return teacher.params, y, jnp.array([0.5, 2.0])


def test_a_shipped_one_is_read_in_a_line():
    record = teachers.read("digits")
    assert isinstance(record, models.Teacher)
    contract.short(record, "digits")
    assert (record.shape, record.sigma_data) == ((8, 8, 1), 0.5)
    loaded = teachers.load("digits")
    cond = record.cond(jax.random.key(1), 2)
    params, y, sigma = noisy(record)
    wanted = from_edm_kwargs(loaded.init_kwargs)(loaded.params, y, sigma, labels=cond)
    np.testing.assert_array_equal(record.denoise(params, y, sigma, cond), wanted)


def test_it_goes_into_guidance_and_points():
    record = teachers.read("digits")
    guided = models.guided(record, 3.0, jnp.zeros(10))
    params, y, sigma = noisy(guided)
    cond = jnp.eye(10)[:2]
    given, without = (record.denoise(params, y, sigma, c) for c in (cond, jnp.zeros((2, 10))))
    np.testing.assert_allclose(
        guided.denoise(params, y, sigma, cond), without + 3 * (given - without), atol=1e-4
    )
    assert models.points(guided, 2).params["points"].shape == (10, 2, 8, 8, 1)


def test_a_folder_keeps_its_classes_and_a_type_is_taken(tmp_path):
    ours = teachers.load("digits")
    network_folder.save_denoiser(
        tmp_path / "some", ours.init_kwargs, ours.params, classes=(1, 4), card=ours.card
    )
    record = teachers.read(str(tmp_path / "some"), dtype=jnp.bfloat16)
    drawn = np.asarray(record.cond(jax.random.key(0), 64)).argmax(axis=1)
    assert set(drawn) == {1, 4}
    params, y, sigma = noisy(record)
    cond = jnp.eye(10)[:2]
    exact = teachers.read("digits").denoise(params, y, sigma, cond)
    half = record.denoise(params, y, sigma, cond)
    assert half.dtype == jnp.float32
    assert 1e-4 < float(jnp.abs(half - exact).max()) < 0.1


def test_a_pickle_is_read(tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(fabricate.edm_pickle(*edm_cases.small_network()))
    contract.short(teachers.read(str(path)), "pickle")


def test_a_student_and_what_is_not_there_are_refused_in_one_line(tmp_path):
    ours = teachers.load("digits")
    student = dataclasses.replace(ours.card, kind=model_card.STUDENT, init_sigma=2.5)
    network_folder.save_denoiser(tmp_path / "a", ours.init_kwargs, ours.params, card=student)
    with pytest.raises(ValueError, match="takes no noise off any more: name a denoiser") as told:
        teachers.read(str(tmp_path / "a"), field="--teacher")
    assert str(told.value).startswith(f"--teacher={tmp_path / 'a'} is ")
    with pytest.raises(ValueError, match=r"^--teacher='digit' is unknown; the nearest is 'digits'"):
        teachers.read("digit", field="--teacher")
    with pytest.raises(FileNotFoundError, match="there is no such file or folder"):
        teachers.read(str(tmp_path / "none"))
