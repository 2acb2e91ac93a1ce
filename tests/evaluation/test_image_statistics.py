import hashlib
import io
import pickle
import re
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import metrics
from diffjax.distributed import sharding
from diffjax.evaluation import features, image_statistics, statistics_origin
from diffjax.files import download
from tests.support import image_files


@jax.jit
def small_network(images):
    """A convolution and a mean, standing in for Inception."""
    x = images.astype(jnp.float32) / 255
    kernel = jax.random.normal(jax.random.key(0), (3, 3, x.shape[-1], 16))
    x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(x).mean(axis=(1, 2))


def never(images):
    raise AssertionError("the input is bad, so nothing is to be computed")


def batches(images, size):
    return (images[i : i + size] for i in range(0, len(images), size))


def write_images(path, images):
    return str(image_files.write_zip(path / "set.zip", image_files.files(images)))


def run(**flags):
    return image_statistics.main([f"--{name}={value}" for name, value in flags.items()])


def test_command_line(tmp_path, capsys, monkeypatch):
    """All 131 images count, also those of the last batch; the pixels are those that are stored."""
    images = image_files.pictures(131, size=4)
    source, output = write_images(tmp_path, images), tmp_path / "deep" / "ref.npz"
    alike = {}
    monkeypatch.setattr(image_statistics.runtime, "agree", alike.__setitem__)
    assert run(data=source, output=output, features="pixels", batch_size=4) == 0
    assert "what is read" in alike
    rows = images.reshape(131, -1).astype(np.float64) / 127.5 - 1
    mean, cov, meta = image_statistics.load_reference(str(output))
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(cov, np.cov(rows.T), rtol=0, atol=1e-13)
    assert meta == image_statistics.Meta("pixels", 131)
    assert meta.measured == statistics_origin.describe(
        features.load("pixels").record,
        (4, 4, 3),
        name=source,
        sha256=hashlib.sha256(images.tobytes()).hexdigest(),
    )
    assert [p.name for p in output.parent.iterdir()] == ["ref.npz"]
    captured = capsys.readouterr()
    assert captured.out == f"131 images, 48 features pixels: {output}\n"
    assert "img/s" in captured.err
    with np.load(output, allow_pickle=False) as file:
        assert {"mu", "sigma"} < set(file.files)


def test_a_set_is_at_no_distance_from_itself(tmp_path):
    output = tmp_path / "digits.npz"
    assert run(data="digits", output=output, features="pixels") == 0
    mean, cov, meta = image_statistics.load_reference(str(output))
    assert meta.count == 1797
    assert metrics.frechet_distance(mean, cov, mean, cov) < 1e-6


def moments_on(device_count, extract, images, batch_size):
    mesh = sharding.make_mesh(data=device_count)
    return image_statistics.compute(
        batches(images, batch_size * device_count), extract, mesh=mesh, batch_size=batch_size
    )


def test_any_number_of_devices_gives_the_same_statistics():
    extract = features.load(f"{__name__}:small_network")
    assert extract.compiled
    images = image_files.pictures(203)
    one = moments_on(1, extract, images, 8)
    for device_count in (2, 8):
        many = moments_on(device_count, extract, images, 8)
        assert many.count == 203
        np.testing.assert_allclose(many.mean, one.mean, rtol=1e-9, atol=0)
        np.testing.assert_allclose(many.cov, one.cov, rtol=0, atol=1e-9 * one.cov.max())
    rows = np.asarray(small_network(images), np.float64)
    np.testing.assert_allclose(one.mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(one.cov, np.cov(rows.T), rtol=0, atol=1e-6 * one.cov.max())


@pytest.mark.slow
def test_inception_on_1_and_8_devices():
    extract = features.load("inception", "random")
    images = image_files.pictures(37, size=32)
    one, eight = (moments_on(n, extract, images, 4) for n in (1, 8))
    np.testing.assert_allclose(eight.mean, one.mean, rtol=1e-9, atol=1e-9 * one.mean.max())
    np.testing.assert_allclose(eight.cov, one.cov, rtol=0, atol=1e-9 * one.cov.max())


def test_the_batch_size_does_not_matter(monkeypatch):
    """Blocks of sums have a size of their own, so that equal features give equal bits."""
    monkeypatch.setattr(image_statistics, "_BLOCK_ROWS", 16)
    extract, images = features.load("pixels"), image_files.pictures(53, size=2)
    reference = moments_on(1, extract, images, 53)
    for size in (1, 5, 16, 40):
        done = []
        mesh = sharding.make_mesh(data=1)
        moments = image_statistics.compute(
            batches(images, size), extract, mesh=mesh, batch_size=size, progress=done.append
        )
        np.testing.assert_array_equal(moments.cov, reference.cov)
        np.testing.assert_array_equal(moments.mean, reference.mean)
        assert done[-1] == 53


def test_batches_are_read_one_after_the_other():
    """At most two are under way, however many there are, so memory doesn't grow with N."""
    read, computed = 0, 0

    def count_rows(images):
        nonlocal computed
        computed += 1
        return np.ones((len(images), 2))

    def many():
        nonlocal read
        for _ in range(50):
            read += 1
            assert read - computed <= 2
            yield np.zeros((4, 2, 2, 3), np.uint8)

    extract = features.Features("ones", lambda _, images: (count_rows(images), None))
    mesh = sharding.make_mesh(data=1)
    assert image_statistics.compute(many(), extract, mesh=mesh, batch_size=4).count == 200


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        image_statistics.compute(
            [], features.load("pixels"), mesh=sharding.make_mesh(data=1), batch_size=4
        )


GOOD = image_files.pictures(3)
BAD_DATA = {
    "unreadable": (
        {**image_files.files(GOOD), "00000/img00000002.png": b"x"},
        r"set\.zip: '00000/img00000002\.png': not a readable PNG or JPEG",
    ),
    "labels": (
        {**image_files.files(GOOD), "dataset.json": image_files.labels(["x.png"], [1])},
        r"set\.zip: dataset\.json: no label for 3 of 3 images",
    ),
    "sizes": (
        {
            **image_files.files(GOOD),
            "z.png": image_files.encoded(image_files.pictures(1, size=4)[0]),
        },
        r"set\.zip: 'z\.png' is 4x4 with 3 channels, but '00000/img00000000\.png' is 8x8",
    ),
    "one": (image_files.files(GOOD[:1]), "one image has no covariance"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_told_before_anything_is_computed(case, tmp_path, capsys):
    contents, message = BAD_DATA[case]
    source = image_files.write_zip(tmp_path / "set.zip", contents)
    output = tmp_path / "ref.npz"
    assert run(data=source, output=output, features=f"{__name__}:never") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"output": "ref.npy"}, "--output=ref.npy: its name must end in .npz"),
        ({"data": "digit"}, "--data='digit' is unknown"),
        ({"data": "absent.zip"}, "--data='absent.zip': no such file or folder"),
        ({"features": "pixel"}, "features='pixel' is unknown"),
        ({"features": "pixels", "features_weights": "x.pth"}, "is for features='inception' only"),
        ({"features_weights": "absent.pth"}, "absent.pth: no such file"),
        ({"batch_size": 0}, "--batch_size=0: at least 1"),
        ({"data": "tfds:nothing"}, "no such data set is prepared"),
    ],
)
def test_bad_flags(flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(**{"data": "digits", "output": "ref.npz", **flags}) == 1
    out = capsys.readouterr()
    assert message in out.err
    assert out.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, capsys):
    output = tmp_path / "ref.npz"
    output.write_bytes(b"precious")
    assert run(data="digits", output=output, features="pixels") == 1
    assert "is there already" in capsys.readouterr().err
    assert output.read_bytes() == b"precious"


def test_gray_images_do_not_fit_inception(tmp_path, capsys, monkeypatch):
    output = tmp_path / "ref.npz"
    unused = types.SimpleNamespace(variables={}, logit_bias=0.0)
    monkeypatch.setattr(features.inception, "random", lambda seed: unused)
    assert run(data="digits", output=output, features_weights="random") == 1
    assert "--data=digits has 1 channels" in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded(tmp_path, capsys, monkeypatch):
    def fetch(source):
        raise ConnectionError(f"{source}: the download failed; give its path")

    monkeypatch.setattr(download, "fetch", fetch)
    assert run(data="digits", output=tmp_path / "ref.npz") == 1
    error = capsys.readouterr().err
    assert "pt_inception-2015-12-05-6726825d.pth: the download failed" in error
    assert "--features_weights=PATH" in error


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


MU, SIGMA = np.arange(3.0), np.diag([1.0, 2.0, 3.0])


def test_files_that_others_released(tmp_path):
    source = save(tmp_path / "a.npz", mu=MU.astype(np.float32), sigma=SIGMA)
    mean, cov, meta = image_statistics.load_reference(source)
    assert mean.dtype == cov.dtype == np.float64
    np.testing.assert_array_equal(mean, MU)
    np.testing.assert_array_equal(cov, SIGMA)
    assert meta == image_statistics.Meta("inception", None)


@pytest.mark.parametrize("name", image_statistics.RELEASED)
def test_names_stand_for_urls(name, tmp_path, monkeypatch):
    asked = []

    def fetch(source):
        asked.append(source)
        return tmp_path / "a.npz"

    save(tmp_path / "a.npz", mu=MU, sigma=SIGMA)
    monkeypatch.setattr(download, "fetch", fetch)
    url = f"https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/{name}.npz"
    for source in (name, url):
        assert image_statistics.is_statistics(source)
        np.testing.assert_array_equal(image_statistics.load_reference(source)[0], MU)
    assert asked == [url, url]


@pytest.mark.parametrize("source", ["digits", "set.zip", "tfds:cifar10", "folder", ""])
def test_images_are_no_statistics(source):
    assert not image_statistics.is_statistics(source)
    with pytest.raises(ValueError, match="names no statistics; known are: cifar10-32x32, ffhq"):
        image_statistics.load_reference(source)


ASYMMETRIC = SIGMA + np.triu(np.ones((3, 3)), 1)
NOT_FINITE = np.array([0, 1, np.nan])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"sigma": SIGMA}, "no array 'mu' in it, but 'sigma'; .*diffjax.stats"),
        ({"mu": MU}, "no array 'sigma' in it, but 'mu'"),
        ({}, "no array 'mu' in it, but nothing"),
        (
            {"mu": MU[:2], "sigma": SIGMA},
            r"mu must be \[D\] and sigma \[D, D\].* \(2,\) and \(3, 3",
        ),
        ({"mu": MU[None], "sigma": SIGMA}, r"mu must be \[D\]"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"mu must be \[D\]"),
        ({"mu": NOT_FINITE, "sigma": SIGMA}, "mu must hold finite"),
        ({"mu": MU, "sigma": SIGMA.astype(int)}, "sigma must hold finite floating-point"),
        ({"mu": MU, "sigma": ASYMMETRIC}, "sigma must be symmetric"),
        ({"mu": MU, "sigma": SIGMA, "features": np.array(3)}, "features must be the name"),
        ({"mu": MU, "sigma": SIGMA, "features": np.array(["a"])}, "features must be the name"),
        ({"mu": MU, "sigma": SIGMA, "count": np.array(1)}, "count must be the number of images"),
        ({"mu": MU, "sigma": SIGMA, "count": np.array(9.5)}, "count must be the number of images"),
        ({"mu": MU, "sigma": SIGMA, "measured": np.array("[]")}, "measured must say which"),
        ({"mu": MU, "sigma": SIGMA, "measured": np.array("[" * 9999)}, "measured must say which"),
    ],
)
def test_files_that_are_no_statistics(arrays, message, tmp_path):
    source = save(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=rf"a\.npz: {message}") as caught:
        image_statistics.load_reference(source)
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_refused(tmp_path, capsys):
    source = save(tmp_path / "a.npz", mu=np.array([Evil()], dtype=object), sigma=SIGMA)
    with pytest.raises(ValueError, match=r"a\.npz: its array 'mu' holds object"):
        image_statistics.load_reference(source)
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"b\.npz: not a readable \.npz"):
        image_statistics.load_reference(str(tmp_path / "b.npz"))
    assert "executed" not in capsys.readouterr().out


def test_zeros_are_no_bomb(tmp_path):
    """As the covariance of pixels is, of images that are black but for a few."""
    mean, cov = np.zeros(1000), np.zeros((1000, 1000))
    cov[0, 0] = 1
    path = tmp_path / "a.npz"
    np.savez_compressed(path, mu=mean, sigma=cov)
    assert path.stat().st_size < cov.nbytes / 200
    np.testing.assert_array_equal(image_statistics.load_reference(str(path))[1], cov)


def test_bombs_are_refused(tmp_path):
    """By the size that the zip declares, and by a header that promises more than follows."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mu.npy", b"\0" * 10_000_000)
    with pytest.raises(ValueError, match=r"a\.npz: its array 'mu' is over 327680 bytes"):
        image_statistics.load_reference(str(tmp_path / "a.npz"))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 60,)}
    )
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("mu.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"b\.npz: "):
        image_statistics.load_reference(str(tmp_path / "b.npz"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        image_statistics.load_reference(str(tmp_path / "absent.npz"))
