"""A latent teacher in every mode: without a decoder, with Stable Diffusion's, with a user's."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from diffjax.distributed import sharding
from diffjax.files import images
from diffjax.runs import building, check, decoders
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from diffjax.runs.user_function import RefusedError
from tests.runs import test_edm2
from tests.support import vae_cases

LATENT = (8, 8, 4)
IMAGE = (16, 16, 3)
GIVEN = """
import jax
import jax.numpy as jnp
import numpy as np
from diffjax import models
def teacher():
    def denoise(params, y, sigma, cond):
        sigma = sigma[:, None, None, None]
        return params["mean"] + (y - params["mean"]) / (1 + sigma**2)
    return models.Teacher(
        denoise, {"mean": np.zeros((8, 8, 4), np.float32)}, shape=(8, 8, 4), sigma_data=1.0,
        sigma_min=0.002, sigma_max=80.0
    )
def host(z):
    assert isinstance(z, np.ndarray)
    return np.tanh(z[..., :3]).repeat(2, 1).repeat(2, 2)
@jax.jit
def compiled(z):
    return jnp.tanh(z[..., :3]).repeat(2, 1).repeat(2, 2)
def loud(z):
    return 255 * np.ones((len(z), 16, 16, 3), np.float32)
def levels(z):
    return np.ones((len(z), 16, 16, 3), np.uint8)
def flat(z):
    return z
def one(z):
    return np.ones((1, 16, 16, 3), np.float32)
def text(z):
    return {"images": z}
def fails(z):
    raise KeyError("no\\nkey")
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    changes = {"img_resolution": 8, "img_channels": 4}
    return test_edm2.make_teacher(tmp_path_factory.mktemp("latent"), **changes)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return vae_cases.save(tmp_path_factory.mktemp("vae") / "vae")


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    (folder / "decoders_of_a_user.py").write_text(GIVEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield "decoders_of_a_user"


def config(teacher, decoder="", **fields):
    made = test_edm2.config(teacher, images_=8, **fields)
    made.decoder = str(decoder)
    return made


def with_pixels(made, folder):
    rng = np.random.default_rng(0)
    for i in range(8):
        images.save_png(folder / f"{i}.png", rng.integers(0, 256, IMAGE, dtype=np.uint8))
    made.evaluate.update(metrics=("fd",), features="pixels", reference=str(folder))
    made.evaluate.update(count=8, batch_size=8, best="fd")
    return made


@pytest.fixture(scope="module")
def run(teacher, vae, tmp_path_factory):
    """A run with a decoder that draws and measures."""
    workdir = tmp_path_factory.mktemp("run")
    made = with_pixels(config(teacher, vae, grid_kimg=0.004), tmp_path_factory.mktemp("data"))
    made.evaluate.every_kimg = 0.008
    train(made, str(workdir))
    return workdir


def test_pictures_and_measures_are_of_decoded_images(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 2
    assert any("fd_pixels_8" in line for line in lines)
    grids = sorted((run / "samples").glob("samples_*.png"))
    assert len(grids) == 3
    assert list((run / "samples").glob("comparison_*.png"))
    # One row of two images of 16 pixels, and not of 8.
    (width, height), (scale,) = Image.open(grids[0]).size, {images.visible_scale(16) // 2}
    assert (width, height) == (2 * 16 * scale + 2 * 3, 16 * scale + 2 * 2)
    measured = json.loads((run / "measured.json").read_text())
    assert set(measured[0]["measured"]["network"]["decoder"]) == {"source", "sha256"}


def test_samples_are_images_and_without_a_decoder_latents(run, teacher, vae, tmp_path):
    made = config(teacher, vae)
    for kind in ("png", "npz"):
        made.sample.format = kind
        sample(made, str(run))
    png = Image.open(run / "samples" / "student_seed0_4" / "000003.png")
    with np.load(run / "samples" / "student_seed0_4.npz") as file:
        decoded = file["images"]
    assert (decoded.shape, decoded.dtype) == ((4, *IMAGE), np.uint8)
    np.testing.assert_array_equal(np.asarray(png), decoded[3])
    made = config(teacher)
    sample(made, str(run), output=str(tmp_path))
    with np.load(tmp_path / "samples" / "student_seed0_4.npz") as file:
        z = file["images"]
    assert (z.shape, z.dtype) == ((4, *LATENT), np.float32)
    assert not list(tmp_path.rglob("*.png"))
    # The pictures are those of these latents, in EDM2's units.
    description = decoders.diffusers_vae.describe(vae)
    raw = (z / np.float32(0.5)) * np.float32([4.17, 4.62, 3.71, 3.28])
    raw += np.float32([5.81, 3.25, 0.12, -2.15])
    out = description.network.apply(description.read_params(), raw, method="decode")
    expected = (np.asarray(out).clip(0, 1) * 255).astype(np.uint8)
    assert np.abs(expected.astype(int) - decoded).max() <= 1


def test_students_and_teachers_are_measured(run, teacher, vae, functions, tmp_path):
    for source, decoder in (("teacher", vae), ("student", f"{functions}:compiled")):
        made = with_pixels(config(teacher, decoder), tmp_path / "data")
        made.evaluate.source = source
        evaluate(made, str(run), output=str(tmp_path))
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("evaluation_*.json"))]
    assert len(found) == 2
    assert len({each["measured"]["network"]["decoder"]["sha256"] for each in found}) == 2


def test_without_a_decoder_it_trains(teacher, vae, tmp_path, capsys):
    train(config(teacher), str(tmp_path / "run"))
    assert test_edm2.steps(tmp_path / "run") == [1, 2]
    assert not list((tmp_path / "run").rglob("*.png"))
    text = "".join(capsys.readouterr())
    assert "no pictures are written" in text
    assert "config.decoder" in text
    longer = config(teacher, vae, duration_kimg=0.012)  # may be named later
    train(longer, str(tmp_path / "run"))
    assert list((tmp_path / "run" / "samples").glob("comparison_*.png"))


def refused(call, *, matches):
    with pytest.raises(RefusedError, match=matches) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_pictures_without_a_decoder(teacher, tmp_path):
    workdir = tmp_path / "run"
    made = config(teacher, grid_kimg=0.004)
    for mode in (train, check.check):
        refused(lambda mode=mode: mode(made, str(workdir)), matches="grid_kimg.*config.dec")
    made = config(teacher)
    for kind, count in (("png", 4), ("adm", 4), ("npz", 0)):
        made.sample.update(format=kind, count=count)
        refused(lambda: sample(made, str(workdir)), matches="config.sample.*config.decoder")
    for metrics, features in ((("fid",), "inception"), (("fd",), "pixels")):
        made.evaluate.update(metrics=metrics, features=features, reference="x.npz")
        made.evaluate.every_kimg = 0.004
        for mode in (train, evaluate):
            refused(
                lambda mode=mode: mode(made, str(workdir)),
                matches="config.evaluate.*config.decoder",
            )
    assert not workdir.exists()


def test_decoders_that_do_not_fit(teacher, vae, functions, tmp_path):
    wide = vae_cases.save(tmp_path / "wide", vae_cases.SMALL | {"latent_channels": 8})
    gray = vae_cases.save(tmp_path / "gray", vae_cases.SMALL | {"out_channels": 2})
    broken = vae_cases.save(tmp_path / "broken")
    weights = broken / vae_cases.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-9])
    for decoder, matches in [
        (tmp_path / "none", "none isn't there; download"),
        (wide, r"decodes latents \[h, w, 8\], and examples of .* are of \(8, 8, 4\)"),
        (gray, "images of 2 channels"),
        (broken, "not a safetensors file"),
        (f"{functions}:nothing", "has no nothing"),
        (f"{functions}:loud", "values up to 255 for zeros"),
        (f"{functions}:levels", r"returned uint8 \[2, 16, 16, 3\]"),
        (f"{functions}:flat", r"returned float32 \[2, 8, 8, 4\]"),
        (f"{functions}:one", r"returned float32 \[1, 16, 16, 3\]"),
        (f"{functions}:text", "returned dict"),
        (f"{functions}:fails", "fails on float32 .* with KeyError"),
    ]:
        made = config(teacher, decoder)
        for mode in (train, sample):
            refused(
                lambda mode=mode, made=made: mode(made, str(tmp_path / "run")),
                matches=f"config.decoder=.*{matches}",
            )
    assert not (tmp_path / "run").exists()
    of_images = test_edm2.make_teacher(tmp_path)
    refused(lambda: building.build(config(of_images, vae)), matches="images already")


def test_a_users_latents_are_in_the_units_of_the_autoencoders_config(tmp_path):
    settings = {"scaling_factor": 0.5, "shift_factor": 0.25, "norm_num_groups": 4}
    theirs = SimpleNamespace(shape=LATENT, holds_images=False)
    z = np.random.default_rng(0).standard_normal((2, *LATENT)).astype(np.float32)
    for i, (changes, raw) in enumerate([({}, z / 0.18215), (settings, z / 0.5 + 0.25)]):
        vae = vae_cases.save(tmp_path / f"{i}", vae_cases.SMALL | changes)
        decoder = decoders.find(str(vae), theirs, teacher="theirs")
        assert decoder.shape == IMAGE
        network = decoders.diffusers_vae.describe(vae).network
        expected = network.apply(decoder.params, raw, method="decode")
        ours = decoder.function(decoder.params, z)
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_users_teacher_of_latents(vae, functions, tmp_path):
    """Its samples are drawn in false colour without a decoder, and decoded with one."""
    made = config(f"{functions}:teacher", dropout=0.0)
    made.sample.update(source="teacher", format="adm")
    sample(made, str(tmp_path))
    for decoder in (vae, f"{functions}:host"):
        made = with_pixels(config(f"{functions}:teacher", decoder, dropout=0.0), tmp_path / "data")
        made.sample.update(source="teacher", format="adm")
        sample(made, str(tmp_path))
        made.evaluate.source = "teacher"
        evaluate(made, str(tmp_path))
    found = {}
    for path in (tmp_path / "samples").glob("teacher_seed0_4_adm*.npz"):
        with np.load(path) as file:
            found[path.name] = file["arr_0"].shape
    assert sorted(found.values()) == [(4, *LATENT[:2], 3), (4, *IMAGE), (4, *IMAGE)], found


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("at_once", [1, 4, 8])
def test_parts_are_in_order(at_once, devices):
    mesh = sharding.make_mesh(data=devices)
    z = np.arange(12 * 2, dtype=np.float32).reshape(12, 2)
    out = jax.jit(lambda z: decoders._in_parts(lambda part: part[:, None] + 1, z, mesh, at_once))(z)
    np.testing.assert_array_equal(out, z[:, None] + 1)
