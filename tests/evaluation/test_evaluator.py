"""Features by name, metrics by name, one pass over the images, and the best network."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import metrics
from diffjax.distributed import sharding
from diffjax.evaluation import evaluator as evaluating
from diffjax.evaluation import features, requests
from diffjax.evaluation.references import Reference
from diffjax.models import network_folder
from diffjax.runs import best_network

IMAGES = np.random.default_rng(0).integers(0, 256, (45, 4, 4, 3), np.uint8)
MODULE = """
import jax
import numpy as np

def mean_colour(images):
    assert isinstance(images, np.ndarray)
    return images.mean(axis=(1, 2)) / 255

mean_colour_on_devices = jax.jit(lambda images: images.astype("float32").mean(axis=(1, 2)) / 255)
integers = lambda images: images.sum(axis=(1, 2))
"""


def mesh_of(devices):
    return sharding.make_mesh(data=devices)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_features.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)


@jax.jit
def show(params, indices, classes):
    """A generator whose image i is picture i, brightened by its parameters."""
    pictures = jnp.asarray(IMAGES, jnp.float32)[indices % len(IMAGES)]
    return (pictures - 128 + 0.5) / 127.5 + params


def tiny_inception(name="inception"):
    """Features that claim to be Inception's, with logits and a bias."""
    weights = np.random.default_rng(1).normal(size=(48, 6)).astype(np.float32) / 8

    def apply(variables, images):
        rows = images.reshape(len(images), -1).astype(jnp.float32) / 255
        return rows @ variables, 3 * rows @ variables + 1

    return features.Features(
        name,
        apply,
        jnp.asarray(weights),
        compiled=True,
        channels=3,
        logit_bias=np.arange(6.0, dtype=np.float32),
    )


def rows_of(extract, images=IMAGES, devices=1, batch_size=8):
    pieces = [images[i : i + batch_size] for i in range(0, len(images), batch_size)]
    found = list(features.compute(extract, pieces, mesh=mesh_of(devices), batch_size=batch_size))
    logits = None if found[0][1] is None else np.concatenate([each for _, each in found])
    return np.concatenate([rows for rows, _ in found]), logits


def reference_of(rows):
    moments = metrics.Moments.empty(rows.shape[1]).update(rows)
    return Reference(moments.mean, moments.cov, rows)


def evaluator(extract, names, *, reference=None, count=40, devices=1, batch_size=8, seed=0):
    return evaluating.Evaluator(
        features=extract,
        names=names,
        reference=reference,
        count=count,
        batch_size=batch_size,
        seed=seed,
        mesh=mesh_of(devices),
    )


def test_pixels_lie_between_minus_one_and_one():
    rows, logits = rows_of(features.load("pixels"))
    np.testing.assert_array_equal(rows, IMAGES.reshape(45, 48) / 127.5 - 1)
    assert logits is None


@pytest.mark.parametrize("devices", [1, 8])
def test_the_last_batch_is_padded_and_nothing_is_dropped(devices):
    extract = tiny_inception()
    rows, logits = rows_of(extract, devices=devices, batch_size=16)
    expected_rows, expected_logits = extract.apply(np.asarray(extract.variables), IMAGES)
    np.testing.assert_allclose(rows, expected_rows, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", ["mean_colour", "mean_colour_on_devices"])
def test_a_function_of_ones_own(own_module, function):
    extract = features.load(f"own_features:{function}")
    assert extract.compiled == function.endswith("devices")
    rows, _ = rows_of(extract)
    np.testing.assert_allclose(rows, IMAGES.mean(axis=(1, 2)) / 255, rtol=1e-5)
    measure = evaluator(extract, ("fd",), reference=reference_of(rows))
    values = measure(show, jnp.float32(0), label_dim=0)
    # 40 of the 45 images themselves.
    moments = metrics.Moments.empty(3).update(rows[:40])
    everything = metrics.Moments.empty(3).update(rows)
    expected = metrics.frechet_distance(moments.mean, moments.cov, everything.mean, everything.cov)
    assert values == {f"fd_{function}_40": pytest.approx(expected, rel=1e-4)}


def test_samples_are_collected_first_and_measured_afterwards(own_module):
    extract = features.load("own_features:mean_colour")
    rows, _ = rows_of(extract)
    measure = evaluator(extract, ("fd", "precision"), reference=reference_of(rows))
    sampled = []

    def counted(params, indices, drawn):
        sampled.append(len(indices))
        return show(params, indices, drawn)

    measure.compile(counted, jnp.float32(0), label_dim=0)
    assert sum(sampled) < 40
    tally = measure.collect(counted, jnp.float32(0), label_dim=0)
    np.testing.assert_array_equal(tally.rows, rows[:40])
    assert measure.values(tally) == measure(show, jnp.float32(0), label_dim=0)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("pixel", "", "features='pixel' is unknown; known are: inception, pixels, module:function"),
        ("pixels", "random", "features_weights='random' is for features='inception' only"),
        ("own_features:median", "", "own_features has no function 'median'"),
        ("no_such_module:f", "", "there is no module no_such_module"),
    ],
)
def test_features_that_are_not_there(own_module, name, weights, message):
    with pytest.raises(ValueError, match=re.escape(message).replace("pixels,\\ mod", ".*mod")):
        features.load(name, weights)


def test_a_function_that_returns_something_else(own_module):
    with pytest.raises(ValueError, match=r"'integers' must return floating-point \[N, D\]"):
        rows_of(features.load("own_features:integers"))


def test_weights_that_cannot_be_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        features.load("inception", str(tmp_path / "nothing.pth"))


def test_a_channel_count_that_features_do_not_take():
    with pytest.raises(ValueError, match="digits has 1 channels, but features='inception' takes 3"):
        tiny_inception().check_channels(1, "digits")


@pytest.mark.parametrize(
    ("metric", "name", "count", "expected"),
    [
        ("fid", "inception", 50_000, "fid50k"),
        ("fid", "inception", 5_000, "fid5k"),
        ("fid", "inception", 1_797, "fid1797"),
        ("kid", "inception", 50_000, "kid50k"),
        ("is", "inception", 10_000, "is10k"),
        ("fd", "inception_random", 50_000, "fd_inception_random_50k"),
        ("fd", "pixels", 1_797, "fd_pixels_1797"),
        ("recall", "inception", 50_000, "recall_inception_50k"),
    ],
)
def test_names_say_what_was_measured(metric, name, count, expected):
    assert evaluating.result_name(metric, features=name, count=count) == expected


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (("fdi",), {}, "metrics has 'fdi'; known are: fid, kid, is, fd, kd, precision, recall"),
        ((), {}, "metrics is empty"),
        (("fid",), {"reference": ""}, "metrics has 'fid', but .*reference is empty"),
        (("recall",), {"reference": "a.npz", "holds_images": False}, "'recall', .*statistics only"),
        (("kd",), {"count": 999}, "count=999: 'kd' needs at least 1000 images"),
    ],
)
def test_a_request_that_cannot_be_met(names, changes, message):
    settings = {"count": 5000, "reference": "digits", "holds_images": True} | changes
    with pytest.raises(ValueError, match=message):
        requests.check_request(names, **settings)


def test_the_best_network_is_kept_by_a_metric_that_is_measured():
    requests.check_best("", ("fd",))
    requests.check_best("fd", ("kd", "fd"))
    with pytest.raises(ValueError, match=r"best='recall' isn't among metrics=\('fd',\)"):
        requests.check_best("recall", ("fd",))


def test_an_inception_score_needs_no_reference():
    requests.check_request(("is",), count=50_000, reference="", holds_images=False)


@pytest.mark.parametrize("metric", ["fid", "kid", "is"])
@pytest.mark.parametrize("name", ["pixels", "inception_random", "inception_0123abcd"])
def test_only_published_inception_weights_may_be_called_so(metric, name):
    with pytest.raises(ValueError, match=f"{metric!r}, which is defined .* features are {name!r}"):
        evaluator(tiny_inception(name), (metric,))


def test_every_metric_is_that_of_the_metrics_room():
    extract = tiny_inception()
    real, _ = rows_of(extract)
    count = 1003
    names = ("fid", "is", "precision", "recall", "kid")
    real_repeated = np.concatenate([real + 0.01 * i for i in range(23)])
    measure = evaluator(
        extract, names, reference=reference_of(real_repeated), count=count, batch_size=100
    )
    values = measure(show, jnp.float32(0.1), label_dim=0)
    brighter = np.asarray(show(0.1, np.arange(count), None))
    made = np.clip(brighter * 127.5 + 128, 0, 255).astype(np.uint8)
    rows, logits = rows_of(extract, made)
    a, b = (reference_of(each) for each in (rows, real_repeated))
    score, deviation = metrics.inception_score(logits - np.arange(6))
    precision, recall = metrics.precision_recall(real_repeated, rows)
    expected = {
        "fid1003": metrics.frechet_distance(a.mean, a.cov, b.mean, b.cov),
        "is1003": score,
        "is1003_std": deviation,
        "precision_inception_1003": precision,
        "recall_inception_1003": recall,
        "kid1003": metrics.kernel_distance(rows, real_repeated),
    }
    assert list(values) == list(expected)
    assert values == pytest.approx(expected, rel=1e-4)


def test_repeats_share_no_image():
    extract = features.load("pixels")
    seen = []

    def watch(_, images):
        seen.append(images)
        return extract.apply(None, images)

    spy = features.Features("pixels", watch)
    measure = evaluator(spy, ("fd",), reference=reference_of(rows_of(extract)[0]), count=20)
    for repeat in (0, 1):
        measure(show, jnp.float32(0), label_dim=0, repeat=repeat)
    np.testing.assert_array_equal(np.concatenate(seen), IMAGES[:40])


def test_images_that_hold_nan_stop_the_evaluation():
    measure = evaluator(tiny_inception(), ("is",))
    with pytest.raises(FloatingPointError, match="hold NaN"):
        measure(show, jnp.float32("nan"), label_dim=0)


def test_too_few_images_for_the_covariance_are_told(caplog):
    reference = reference_of(np.random.default_rng(0).normal(size=(100, 48)))
    evaluator(features.load("pixels"), ("fd",), reference=reference, count=47)
    assert "47 images can't fill a covariance of 48 features" in caplog.text
    caplog.clear()
    evaluator(features.load("pixels"), ("fd",), reference=reference, count=48)
    assert not caplog.text


@pytest.mark.parametrize("is_compiled", [True, False])
def test_one_compiled_call_a_batch(is_compiled):
    """The generator is traced once, whatever the number of batches; and not at all if it loops."""
    traces = []

    def sample(params, indices, classes):
        traces.append(isinstance(indices, jax.core.Tracer))
        return show(params, indices, classes)

    measure = evaluator(tiny_inception(), ("is",), count=40, batch_size=8)
    measure(jax.jit(sample) if is_compiled else sample, jnp.float32(0), label_dim=0)
    assert traces == ([True] if is_compiled else [False] * 5)


def conv_features():
    """Two convolutions and a mean: float32 sums whose order could depend on the devices."""
    kernels = [
        np.random.default_rng(i).normal(size=shape).astype(np.float32) / 8
        for i, shape in enumerate([(3, 3, 1, 32), (3, 3, 32, 64)])
    ]

    def apply(variables, images):
        x = images.astype(jnp.float32) / 255
        for kernel in variables:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x)
        return x.mean(axis=(1, 2)), None

    return features.Features("conv", apply, kernels, compiled=True)


@pytest.mark.parametrize(
    ("extract", "source"),
    [(features.load("pixels"), "teacher"), (conv_features(), "student")],
    ids=("pixels-teacher", "conv-student"),
)
def test_one_device_and_eight_measure_the_same(extract, source):
    """The digits' generator and sampler, the last batch being cut on both."""
    from diffjax.convert import teacher
    from diffjax.evaluation.sampling import HeunSettings, heun, one_step
    from diffjax.models.denoiser import from_edm_kwargs
    from diffjax.models.generator import DenoiserGenerator

    shipped = teacher.load("digits")
    denoiser = from_edm_kwargs(shipped.init_kwargs)
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (200, 8, 8, 1), np.uint8)
    values = []
    for devices in (1, 8):
        mesh = mesh_of(devices)
        if source == "student":
            sampler = one_step(
                DenoiserGenerator(denoiser, 2.5), seed=0, shape=(8, 8, 1), label_dim=10, mesh=mesh
            )
        else:
            sampler = heun(denoiser, settings=HeunSettings(steps=2), seed=0, mesh=mesh)
        rows, _ = rows_of(extract, real, devices, batch_size=8 * devices)
        measure = evaluator(
            extract,
            ("fd", "precision", "recall"),
            reference=reference_of(rows),
            count=90,
            devices=devices,
        )
        values.append(measure(sampler, shipped.params, label_dim=10))
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.slow
def test_inception_on_one_device_and_on_eight():
    extract = features.load("inception", "random")
    assert extract.name == "inception_random"
    found = []
    for devices in (1, 8):
        rows, _ = rows_of(extract, IMAGES[:20], devices, batch_size=2 * devices)
        moments = metrics.Moments.empty(2048).update(rows)
        found.append(moments)
    for name in ("mean", "cov"):
        np.testing.assert_allclose(
            getattr(found[0], name), getattr(found[1], name), rtol=0, atol=1e-9
        )


INIT_KWARGS = {"class_name": "EDMPrecond", "img_resolution": 8}


class TestBestNetwork:
    def offer(self, best, step, value):
        params = {"weights": np.full(3, step, np.float32)}
        return best.offer(step, step / 10, value, INIT_KWARGS, params)

    def open(self, folder, higher_is_better=False, metric="fid5k"):
        return best_network.BestNetwork(
            folder / "best", metric=metric, higher_is_better=higher_is_better
        )

    def kept(self, folder):
        return sorted(path.name for path in (folder / "best").iterdir())

    @pytest.mark.parametrize(("higher_is_better", "expected"), [(False, 4), (True, 3)])
    def test_keeps_the_best_and_nothing_else(self, tmp_path, higher_is_better, expected):
        best = self.open(tmp_path, higher_is_better)
        for step, value in enumerate([5.0, 7.0, float("nan"), 9.0, 2.0, 2.0, 3.0]):
            self.offer(best, step, value)
        folder, record = best_network.find_best(tmp_path)
        assert self.kept(tmp_path) == [str(expected)] == [folder.name]
        assert record == json.loads((folder / "metric.json").read_text())
        assert record["metric"] == "fid5k"
        assert (record["step"], record["kimg"]) == (expected, expected / 10)
        params = network_folder.load_params(folder, {"weights": jnp.zeros(3)})
        np.testing.assert_array_equal(params["weights"], [expected] * 3)

    def test_goes_on_from_what_is_there(self, tmp_path):
        assert self.offer(self.open(tmp_path), 1, 5.0)
        again = self.open(tmp_path)
        assert not self.offer(again, 2, 6.0)
        assert not self.offer(again, 3, 5.0)
        assert self.offer(again, 4, 4.0)
        assert self.kept(tmp_path) == ["4"]

    def test_another_metric_starts_anew(self, tmp_path):
        assert self.offer(self.open(tmp_path), 1, 5.0)
        assert self.offer(self.open(tmp_path, metric="fd_pixels_10"), 2, 90.0)
        assert self.kept(tmp_path) == ["2"]

    def test_one_that_was_not_finished_does_not_count(self, tmp_path):
        self.offer(self.open(tmp_path), 1, 5.0)
        (tmp_path / "best" / "1" / "metric.json").unlink()
        with pytest.raises(FileNotFoundError, match=r"evaluate\.best"):
            best_network.find_best(tmp_path)
        assert self.offer(self.open(tmp_path), 1, 8.0)
