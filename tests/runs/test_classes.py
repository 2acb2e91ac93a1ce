"""Classes without images: told, and drawn nowhere, from a teacher's data to a student's images."""

import json
import logging
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import teacher as teachers
from diffjax.data.source import ArraySource
from diffjax.distributed import sharding
from diffjax.evaluation import references, sampling
from diffjax.files import progress
from diffjax.methods.draws import Batch
from diffjax.models import network_folder
from diffjax.runs import building, subjects
from diffjax.runs.reporting import Reporter
from diffjax.runs.sample import sample
from tests.runs.test_train import miniature as distillation
from tests.support import image_files
from tests.training.test_dataset import miniature, write_zip

LABELS = [1, 3, 4]  # of 5 classes


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture(autouse=True)
def nothing_is_told_yet():
    progress.warn_once.cache_clear()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    classes = [LABELS[i % 3] for i in range(12)]
    return write_zip(tmp_path_factory.mktemp("data"), image_files.pictures(12), classes)


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    """What a run leaves after its last update."""
    workdir, mesh = tmp_path_factory.mktemp("teacher"), sharding.make_mesh()
    config = measured(dataset)
    exp = building.build(config)
    reporter = Reporter(
        workdir,
        exp,
        mesh,
        rows=1,
        columns=2,
        seed=0,
        evaluator=building.make_evaluator(config, exp, mesh),
        best="fd",
        reference=dataset,
        logger=mock.Mock(),
    )
    state = exp.init_state({})
    reporter.open_best(0)
    reporter.evaluate(state, 1, 0.02)
    reporter.finish(state, {}, 1, 0.02)
    return workdir


def measured(dataset, **changes):
    """One update, and what it makes compared with the data."""
    config = miniature(dataset, **changes)
    settings = {"metrics": ("fd",), "features": "pixels", "reference": dataset, "best": "fd"}
    config.evaluate.update({**settings, "count": 20, "batch_size": 20})
    return config


def classes_of(labels):
    return set(np.asarray(labels).argmax(axis=-1).ravel().tolist())


def test_a_data_set_tells_which_classes_it_lacks(caplog):
    images = image_files.pictures(10)
    source = ArraySource("shifted", images, np.arange(1, 11, dtype=np.int32), 11)
    exp = building.build(miniature("digits"), source=source)
    assert exp.denoiser.label_dim == 11
    assert exp.classes == tuple(range(1, 11))
    message = "the data set 'shifted' has no images of 1 of 11 classes, the first being 0: "
    assert any(message in line for line in told(caplog))
    without = building.build(miniature("digits", conditional=False), source=source)
    assert without.classes == ()


def test_with_all_classes_nothing_is_told(caplog):
    assert building.build(miniature("digits")).classes == ()
    assert not told(caplog)


def test_a_student_draws_the_classes_of_its_teacher(teacher, caplog):
    folder = teacher / "network"
    for each in (folder, teacher / "best" / "1"):
        assert json.loads((each / "denoiser.json").read_text())["classes"] == LABELS
    assert teachers.classes(str(folder)) == tuple(LABELS)
    config = distillation("sid_digits", teacher=str(folder), batch_size=64)
    exp = building.build(config)
    assert any("was trained on no images of 2 of 5 classes" in line for line in told(caplog))
    for draws in exp.method.draw(jax.random.key(0)).values():
        assert draws.labels.shape[-1] == 5
        assert classes_of(draws.labels) == set(LABELS)


def test_samples_are_of_these_classes(teacher, dataset, tmp_path, caplog):
    settings = {"source": str(teacher / "network"), "batch_size": 20}
    many = {**settings, "count": 20, "format": "npz"}
    sample(measured(dataset, sample=many), str(tmp_path))
    [path] = (tmp_path / "samples").glob("*.npz")
    assert set(np.load(path)["classes"].tolist()) == set(LABELS)
    sample(measured(dataset, sample={**settings, "label": 2}), str(tmp_path))
    assert any("config.sample.label=2: no images of this class" in line for line in told(caplog))


def test_another_network_is_asked_for_its_own_classes(teacher, tmp_path, caplog):
    source = ArraySource("all", image_files.pictures(5), np.arange(5), 5)
    exp = building.build(miniature("digits"), source=source)
    assert exp.classes == ()
    found = subjects.find(str(teacher / "network"), tmp_path, exp, 0, sharding.make_mesh())
    assert found.classes == tuple(LABELS)
    assert any("was trained on no images of 2 of 5 classes" in line for line in told(caplog))


def test_grids_take_them_in_turn():
    def show(params, indices, classes):
        del params, indices
        return jnp.broadcast_to(classes[:, None, None, None] / 127.5 - 1, (len(classes), 1, 1, 1))

    mesh = sharding.make_mesh()
    shown = sampling.first_images(show, None, 7, label_dim=5, mesh=mesh, among=(1, 3, 4))
    assert shown.ravel().tolist() == [1, 3, 4, 1, 3, 4, 1]


def test_real_examples_stand_beside_their_classes(dataset):
    shown = references.examples(dataset, 6, label_dim=5, among=tuple(LABELS))
    known = {picture.tobytes(): LABELS[i % 3] for i, picture in enumerate(image_files.pictures(12))}
    assert [known[picture.tobytes()] for picture in shown] == [1, 3, 4, 1, 3, 4]


def test_evaluation_draws_these_classes(dataset):
    drawn = []

    def show(params, indices, classes):
        del params
        drawn.extend(np.asarray(classes).tolist())
        return jnp.zeros((len(indices), 8, 8, 3))

    config, mesh = measured(dataset), sharding.make_mesh(data=1)
    config.evaluate.count = 100
    evaluate = building.make_evaluator(config, building.build(config), mesh)
    evaluate(show, None, label_dim=5)
    assert len(drawn) == 100
    assert set(drawn) == set(LABELS)
    assert min(drawn.count(label) for label in LABELS) > 20


def test_all_classes_are_drawn_as_before():
    key = jax.random.key(3)
    batch = Batch((1,), 50, label_dim=10)
    expected = jax.random.randint(jax.random.split(key, 5)[3], (1, 50), 0, 10)
    draws = batch.latents(key, lambda key, shape: jnp.zeros(shape))
    np.testing.assert_array_equal(draws.labels.argmax(-1), expected)


def test_a_folder_says_only_what_is_unusual(tmp_path):
    kwargs = {"class_name": "EDMPrecond", "label_dim": 3}
    for name, given, read in (("all", (), ()), ("some", (0, 2), (0, 2)), ("each", (0, 1, 2), ())):
        network_folder.save_denoiser(tmp_path / name, kwargs, {"a": np.zeros(1)}, classes=given)
        assert network_folder.load_classes(tmp_path / name) == read
    path = tmp_path / "some" / "denoiser.json"
    path.write_text(path.read_text().replace("2\n  ]", "3\n  ]"))
    with pytest.raises(ValueError, match="classes aren't a list of numbers from 0 to 2"):
        network_folder.load_denoiser_kwargs(tmp_path / "some")
