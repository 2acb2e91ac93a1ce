"""A small EDM2 in every mode: its pickle becomes a teacher, from which students are made."""

import json

import jax
import numpy as np
import pytest

from diffjax.convert import __main__ as command
from diffjax.convert import teacher as teachers
from diffjax.files import images
from diffjax.models import network_folder
from diffjax.runs import bases, check
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.support import edm2_cases, fabricate

SIZE = {"img_resolution": 16, "channel_mult": [1], "num_blocks": 0, "dropout": 0.1}


def make_teacher(folder, **changes):
    pickled = folder / "edm2.pkl"
    pickled.write_bytes(fabricate.edm_pickle(*edm2_cases.small_network(**SIZE | changes)))
    assert command.main([f"--source={pickled}", f"--output={folder / 'teacher'}"]) == 0
    return folder / "teacher"


def config(teacher, method="sid", *, images_=16, **fields):
    made = bases.distillation(method)
    made.teacher, made.dropout = str(teacher), 0.1
    made.generator.learning_rate = made.fake_score.learning_rate = 1e-2
    made.batch_size, made.duration_kimg, made.updates_per_call = 4, images_ / 1000, 1
    made.log_kimg = made.checkpoint_kimg = 0.004
    made.grid_kimg, made.ema_halflife_kimg, made.mesh.data = 0.0, 0.01, 1
    made.grid.update(rows=1, columns=2)
    made.heun.steps = 2
    made.sample.update(count=4, format="npz", batch_size=4)
    for field, value in fields.items():
        made[field] = value
    return made


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("edm2"))


@pytest.fixture(scope="module")
def run(teacher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(config(teacher), str(workdir))
    return workdir


def trained(workdir):
    return teachers.load(str(workdir / "network"))


def steps(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["generator_loss"]) and not line["skipped"] for line in lines)
    return [line["step"] for line in lines]


def test_it_trains_and_goes_on_to_the_bit(teacher, run, tmp_path):
    for count in (8, 16):
        train(config(teacher, images_=count), str(tmp_path / "run"))
    found = trained(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, found.params, trained(run).params)
    assert steps(run) == steps(tmp_path / "run") == [1, 2, 3, 4]
    assert (found.card.kind, found.init_kwargs["class_name"]) == ("student", "Precond")
    before = teachers.load(str(teacher)).params
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), found.params, before)
    assert moved["params"]["dec_16x16_in0"]["attn_qkv"]["kernel"]
    assert moved["params"]["out_gain"]
    assert not any(jax.tree.leaves(moved["buffers"]))


def test_diff_instruct_in_half_precision(teacher, tmp_path):
    for count in (8, 12):
        made = config(teacher, "diff_instruct", images_=count, dtype="bfloat16", rematerialize=True)
        train(made, str(tmp_path / "run"))
    assert steps(tmp_path / "run") == [1, 2, 3]


def test_student_and_teacher_are_sampled_and_measured(teacher, run, tmp_path):
    made = config(teacher)
    rng = np.random.default_rng(0)
    for i in range(8):
        picture = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        images.save_png(tmp_path / "data" / f"{i}.png", picture)
    made.evaluate.update(metrics=("swd",), features="pixels", reference=str(tmp_path / "data"))
    made.evaluate.update(count=8, batch_size=8)
    for source in ("student", "teacher"):
        made.sample.source = made.evaluate.source = source
        sample(made, str(run))
        with np.load(run / "samples" / f"{source}_seed0_4.npz") as file:
            assert (file["images"].shape, file["images"].dtype) == ((4, 16, 16, 3), np.uint8)
        evaluate(made, str(run))
        assert (run / f"evaluation_{source}.json").exists()


def test_the_check_passes_a_right_denoiser(teacher, tmp_path, capsys):
    """Right for normal data: almost no output of the network, as before training."""
    ours = teachers.load(str(teacher))
    params = {**ours.params, "params": {**ours.params["params"], "out_gain": np.float32(1e-4)}}
    network_folder.save_denoiser(tmp_path / "right", ours.init_kwargs, jax.device_get(params))
    assert check.check(config(tmp_path / "right"))
    assert "wrong" not in capsys.readouterr().out
