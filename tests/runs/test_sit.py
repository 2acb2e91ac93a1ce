"""A small SiT in every mode: its file becomes a teacher, from which students are made."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import __main__ as command
from diffjax.convert import teacher as teachers
from diffjax.diffusion import interpolants
from diffjax.methods.denoising import Denoising
from diffjax.methods.draws import Batch, Dataset
from diffjax.models import few_steps, latents
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building, decoders, guiding
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.convert import test_dit
from tests.runs import test_edm2, test_real_data, test_steps_and_guidance
from tests.support import dit_cases, edm2_cases

config = functools.partial(test_edm2.config, dropout=0.0)
steps, trained = test_edm2.steps, test_edm2.trained


# DiT's runs are slow: `python -m pytest -m slow tests/runs/test_sit.py` passed in 155 s on two
# cores beside other tests, on 2026-11-30. Its numbers are tested beside SiT's in tests/networks.
KINDS = ["SiT", pytest.param("DiT", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS)
def teacher(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    path = test_dit.write(folder, test_dit.plain())
    said = json.dumps({"class_name": request.param, "num_heads": 2})
    flags = [f"--source={path}", f"--output={folder / 'teacher'}", f"--network={said}"]
    assert command.main(flags) == 0
    return folder / "teacher"


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(config(teacher), str(workdir))
    return workdir


def test_it_trains_and_goes_on_to_the_bit(teacher, run, tmp_path):
    for count in (8, 16):
        train(config(teacher, images_=count), str(tmp_path / "run"))
    found = trained(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, found.params, trained(run).params)
    assert steps(run) == steps(tmp_path / "run") == [1, 2, 3, 4]
    assert found.card.kind == "student"
    before = teachers.load(str(teacher)).params
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), found.params, before)
    assert all(jax.tree.leaves(moved["params"]["blocks_0"]))
    assert moved["params"]["y_embedder"]
    assert moved["params"]["final_layer_linear"]["kernel"]


def test_student_and_teacher_are_sampled(teacher, run):
    made = config(teacher)
    for source in ("student", "teacher"):
        made.sample.source = source
        sample(made, str(run))
        with np.load(run / "samples" / f"{source}_seed0_4.npz") as file:
            assert (file["images"].shape, file["images"].dtype) == ((4, 4, 4, 4), np.float32)


def test_its_latents_have_stable_diffusions_units(teacher):
    """Not EDM2's, which our other network of latents has."""
    denoiser = building.build(config(teacher)).denoiser
    stored = types.SimpleNamespace(scaling_factor=0.18215, shift_factor=0.0)
    assert decoders._units(denoiser, stored) == latents.scaled(0.18215)
    assert not denoiser.holds_images
    of_edm2 = from_edm_kwargs(edm2_cases.KWARGS | {"img_channels": 4})
    assert decoders._units(of_edm2, stored) == latents.EDM2


def test_half_precision_and_remat(teacher, tmp_path):
    if teacher.parent.name.startswith("DiT"):
        pytest.skip("the network is SiT's")
    made = config(teacher, "diff_instruct", images_=8, dtype="bfloat16", rematerialize=True)
    train(made, str(tmp_path / "run"))
    assert steps(tmp_path / "run") == [1, 2]


def test_its_steps_are_spaced_in_the_time_of_its_process(teacher):
    made = config(teacher)
    made.generator.steps = 2
    student = building.build(made).method.networks["generator"]
    first, second = student.sigmas
    assert (first, second) == pytest.approx(
        few_steps.spaced(student.denoiser.process, first, 2), rel=1e-6
    )
    assert second != pytest.approx(first / 2, rel=0.05)  # as EDM's would be


# With a discriminator.


def adversarial(teacher, data, method):
    made = config(teacher, method, images_=12, data=str(data))
    made.generator.frozen_kimg = 0.0
    if method == "sida":
        made.gan_from_kimg = 0.0
    return made


@pytest.fixture
def real_latents(tmp_path):
    return test_real_data.floats(tmp_path / "real.npz", shape=(4, 4, 4))


@pytest.mark.parametrize("method", ["sida", "dmd2"])
def test_a_discriminator_judges_by_tokens(method, teacher, real_latents):
    exp = building.build(adversarial(teacher, real_latents, method))
    draws, found = test_steps_and_guidance.traced(exp)
    assert draws["fake_score"].real.shape[2:] == (4, 4, 4, 4)
    assert {name: values.shape for name, (values, _) in found.items()} == {
        "fake_score": (4,),
        "generator": (4,),
    }
    assert "discriminator" in found["fake_score"][1]
    # A logit a token; or a head's, of all of them.
    features = jax.ShapeDtypeStruct((4, 2, 2, 8), jnp.float32)
    params = exp.abstract_state().params["fake_score"]
    logits = jax.eval_shape(exp.method.networks["head"], params, (features,))
    assert logits.shape == ((4, 2, 2) if method == "sida" else (4, 1))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sida", "dmd2"])
def test_it_is_trained_beside_one(method, teacher, real_latents, tmp_path):
    train(adversarial(teacher, real_latents, method), str(tmp_path / "run"))
    assert steps(tmp_path / "run") == [1, 2, 3]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["discriminator"] > 0 and line["gan"] > 0 for line in lines)
    before = teachers.load(str(teacher)).params
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), trained(tmp_path / "run").params, before
    )
    assert all(jax.tree.leaves(moved["params"]["blocks_0"]))


@pytest.mark.parametrize("method", ["sida", "dmd2"])
def test_latents_of_edm2s_are_refused(method, teacher, tmp_path):
    """Its raw latents are of images in [0, 1], and other numbers."""
    data = test_real_data.laws(tmp_path / "real.zip", size=4)
    with pytest.raises(ValueError, match="dataset_tool are of EDM2's networks") as told:
        building.build(adversarial(teacher, data, method))
    assert "\n" not in str(told.value)


# Training from nothing.


@pytest.mark.parametrize(("class_name", "predicts"), [("SiT", "velocity"), ("SiT", "eps")])
def test_the_loss_is_sits_own(class_name, predicts):
    model = from_edm_kwargs(test_dit.KWARGS | {"class_name": class_name, "predicts": predicts})
    params = dit_cases.weights(model)
    method = Denoising(
        networks={"denoiser": model}, batch=Batch((4, 4, 4), 4, label_dim=2), own_loss=True
    )
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 4), dtype=np.uint8)
    data = Dataset(jnp.asarray(images), jnp.asarray([0, 1] * 3))
    draws = jax.tree.map(lambda leaf: leaf[0, 0], method.draw(jax.random.key(3), data)["denoiser"])
    loss, _ = method.loss({"denoiser": params}, draws.real, draws)
    t = 1 / (1 + draws.sigma)
    assert np.all((t > 0.004) & (t < 1))
    net = dit_cases.raw_network(model, params)
    expected = interpolants.training_losses(
        lambda x_t, t: net(x_t, t, draws.labels)[..., :4],
        draws.real,
        draws.noise,
        t,
        predicts=predicts,
    )
    np.testing.assert_allclose(loss / 64, expected, rtol=2e-5)


def from_nothing(**changes):
    made = bases.with_transformer(
        bases.denoising(), hidden_size=16, depth=1, num_heads=2, **changes
    )
    made.dataset, made.dtype = "digits", "float32"
    made.optimizer.update(learning_rate=0.01, rampup_kimg=0.0)
    made.batch_size, made.duration_kimg, made.updates_per_call = 8, 0.024, 1
    made.log_kimg = made.checkpoint_kimg = 0.008
    made.grid_kimg = made.evaluate.every_kimg = 0.0
    made.grid.update(rows=1, columns=2)
    made.heun.steps, made.ema_halflife_kimg, made.mesh.data = 2, 0.01, 1
    return made


@pytest.mark.parametrize("class_name", KINDS)
def test_one_is_trained_from_nothing(class_name, tmp_path):
    made = from_nothing(class_name=class_name)
    assert building.build(made).update.method.own_loss
    train(made, str(tmp_path / "run"))
    found = trained(tmp_path / "run")
    assert (found.init_kwargs["class_name"], found.card.kind) == (class_name, "denoiser")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) and not line["skipped"] for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 18}, "hidden_size=18: a multiple of 4"),
        ({"patch_size": 3}, "patch_size=3: 8 x 8 don't divide"),
        ({"path": "straight"}, "config.network.path='straight' is unknown; known are: linear"),
        ({"depth": 0}, "config.network.depth=0: a whole number"),
        ({"augment_probability": 0.1}, "augment_probability=0.1"),
    ],
)
def test_settings_that_do_not_fit_are_named(changes, message):
    made = from_nothing()
    for name, value in changes.items():
        (made.network if name in made.network else made)[name] = value
    with pytest.raises(ValueError, match=message):
        building.build(made)
    with pytest.raises(ValueError, match=r"network\.widths is no field; there are: class_name"):
        bases.with_transformer(bases.denoising(), widths=3)
    with pytest.raises(ValueError, match="'UNet' is none of SiT and DiT"):
        bases.with_transformer(bases.denoising(), class_name="UNet")


@pytest.mark.parametrize("made", [from_nothing, bases.denoising])
def test_fields_of_another_network_are_told(made):
    found = made()
    found.network.class_name = "DiT"
    wanted = (
        r"class_name='DiT' has other fields .* bases\.with_transformer\(config, class_name='DiT'\)"
    )
    with pytest.raises(ValueError, match=wanted):
        building.build(found)


def test_a_students_network_is_one(tmp_path):
    made = bases.with_transformer(bases.distillation("sid"), hidden_size=16, depth=1, num_heads=2)
    made.teacher = "digits"
    assert made.student == "network"
    exp = building.build(made)
    assert exp.init_kwargs["class_name"] == "SiT"
    assert exp.init_kwargs["img_resolution"] == 8
    # Labels that it alone dropped would have the scores told of a class that it wasn't.
    assert made.network.label_dropout == 0.1
    assert exp.sampled.network.label_dropout == exp.init_kwargs["label_dropout"] == 0


def test_guidance_needs_a_row_for_no_class():
    kwargs = {"class_name": "SiT", "img_resolution": 4, "img_channels": 4, "label_dim": 3}
    kwargs |= {"patch_size": 2, "hidden_size": 8, "depth": 1, "num_heads": 2}
    for has_row in (True, False):
        model = from_edm_kwargs({**kwargs, "null_class": has_row})
        opened = types.SimpleNamespace(model=model, source="mine")
        arguments = bases.distillation("sid"), opened, "guidance.teacher", 2.0
        if has_row:
            np.testing.assert_array_equal(guiding.null_of(*arguments), np.zeros(3))
        else:
            with pytest.raises(ValueError, match="its table of classes has no row for none"):
                guiding.null_of(*arguments)
