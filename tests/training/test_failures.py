"""Whole runs whose numbers go wrong: told, survived or stopped, recorded, and done again."""

import contextlib
import dataclasses
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.distributed import sharding
from diffjax.methods.denoising import Denoising
from diffjax.methods.score_distillation import ScoreDistillation
from diffjax.models import denoiser, network_folder
from diffjax.runs import building
from diffjax.runs.reporting import Reporter
from diffjax.runs.train import train
from diffjax.tools import replay
from diffjax.training import collapse, failures, optimizer
from diffjax.training import state as train_state
from diffjax.training.metric_sums import RunningMeans
from tests.runs.test_train import BATCH, lines, miniature, state_of
from tests.support import golden_cases
from tests.training import test_guard

LIMIT = 10
STOPS_AT = 7 + LIMIT
# Alone, alone, for long enough to stop the run, and two more of them when it goes on.
BAD_STEPS = [1, 4, *range(7, STOPS_AT + 2)]
UPDATES = STOPS_AT + 3
NETWORK = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "model_channels": 8,
    "channel_mult": (1,),
    "num_blocks": 1,
    "attn_resolutions": (),
    "dropout": 0.0,
}
ALL_METRICS = "delta, fake_grad_norm, fake_loss, generator_grad_norm, generator_loss"


def distillation(teacher, updates=UPDATES, **changes):
    return miniature("sid_digits", updates=updates, teacher=str(teacher), **changes)


def is_bad(key):
    """Whether it is the key of one of the bad steps of seed 0."""
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in BAD_STEPS]
    data = jnp.stack([jax.random.key_data(key) for key in keys])
    return (data == jax.random.key_data(key)).all(axis=1).any()


def poison(patch):
    """Makes one number of the draws of bad steps NaN, or infinite for a teacher's training."""
    draw_latents, draw_images = ScoreDistillation.draw, Denoising.draw

    def latents(self, key, data=None):
        draws = draw_latents(self, key, data)
        place = (0, 0, 3, 0, 0, 0)
        noise = draws["fake_score"].noise
        noise = noise.at[place].set(jnp.where(is_bad(key), jnp.nan, noise[place]))
        return {**draws, "fake_score": draws["fake_score"].replace(noise=noise)}

    def images(self, key, data=None):
        draws = draw_images(self, key, data)["denoiser"]
        sigma = jnp.where(is_bad(key), jnp.inf, draws.sigma)
        return {"denoiser": draws.replace(sigma=sigma)}

    patch.setattr(ScoreDistillation, "draw", latents)
    patch.setattr(Denoising, "draw", images)


def run_to_its_stop(config, workdir):
    """The error's text, and what was shown before it."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as output,
        pytest.raises(FloatingPointError) as caught,
    ):
        train(config, str(workdir))
    return str(caught.value), output.getvalue()


@pytest.fixture(scope="module")
def stopped(teacher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("stopped")
    config = distillation(teacher)
    with pytest.MonkeyPatch.context() as patch:
        poison(patch)
        return workdir, config, *run_to_its_stop(config, workdir)


def test_too_many_in_a_row_stop_the_run_with_one_line(stopped):
    workdir, _, message, _ = stopped
    assert "\n" not in message
    assert message.startswith(
        f"the updates of steps 7 to {STOPS_AT - 1} were left out, since these were not finite: "
        f"{ALL_METRICS}. The state that they met is kept as checkpoint {STOPS_AT};"
    )
    assert f"`python -m diffjax.tools.replay --workdir={workdir}`" in message
    for setting in ("alpha=1.2", "generator.learning_rate=0.0001", "init_sigma=2.5"):
        assert setting in message


def test_the_last_good_state_is_saved(stopped):
    workdir, config, *_ = stopped
    state = state_of(workdir, config)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (STOPS_AT, 12, 10)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))
    # At 2, 8, 10, ... updates were being skipped, which pushes out no checkpoint before them.
    kept = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert kept == {"4", "6", str(STOPS_AT)}


def test_lines_hold_means_over_good_updates_and_the_number_of_bad_ones(stopped):
    workdir, *_ = stopped
    rows = lines(workdir)
    assert [row["step"] for row in rows] == list(range(1, STOPS_AT))
    assert [row["step"] - 1 for row in rows if row["skipped"]] == BAD_STEPS[: 1 + LIMIT]
    for row in rows:
        assert ("fake_loss" in row) == (row["skipped"] == 0)
        assert all(np.isfinite(value) for value in row.values())


def test_the_record_says_what_is_needed(stopped):
    workdir, config, *_ = stopped
    failed = failures.read(workdir)
    assert (failed.seed, failed.first_step, failed.last_step) == (0, 7, STOPS_AT - 1)
    assert failed.checkpoint == STOPS_AT
    assert ", ".join(failed.not_finite) == ALL_METRICS
    assert failed.config["generator"]["learning_rate"] == config.generator.learning_rate
    assert failed.versions["jax"] == jax.__version__


def test_bad_updates_are_told_as_they_come(stopped):
    *_, output = stopped
    told = re.findall(r"warning: the update of step (\d+) was left out.*: (.*) \((\d+) in", output)
    assert told[:3] == [("1", ALL_METRICS, "1"), ("4", ALL_METRICS, "1"), ("7", ALL_METRICS, "1")]
    assert told[-1] == (str(STOPS_AT - 1), ALL_METRICS, str(LIMIT))


def test_resuming_among_bad_updates_and_going_on_after_the_stop(
    stopped, teacher, tmp_path, monkeypatch
):
    poison(monkeypatch)
    workdir, config, *_ = stopped
    train(distillation(teacher, updates=9), str(tmp_path))
    run_to_its_stop(config, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (workdir / "metrics.jsonl").read_bytes()
    assert failures.read(tmp_path) == failures.read(workdir)
    ours, theirs = state_of(tmp_path, config), state_of(workdir, config)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))

    train(config, str(tmp_path))  # counts afresh, so that two more don't stop it
    state = state_of(tmp_path, config)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (UPDATES, 14, 0)


@pytest.mark.slow
def test_many_updates_a_call_stop_at_the_same_one(stopped, teacher, tmp_path, monkeypatch):
    """In the middle of a call; `test_compilation.py` has the same without a network."""
    poison(monkeypatch)
    config = distillation(teacher, updates_per_call=6)
    config.log_kimg = config.grid_kimg = config.checkpoint_kimg = UPDATES * BATCH / 1000
    _, output = run_to_its_stop(config, tmp_path)
    failed, expected = failures.read(tmp_path), failures.read(stopped[0])
    assert (failed.first_step, failed.last_step) == (expected.first_step, expected.last_step)
    state = state_of(tmp_path, config)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (STOPS_AT, 12, 10)
    assert "warning: 2 updates, the last of step 4, were left out" in output
    assert f"the last of step {STOPS_AT - 1}, were left out" in output


def replayed(capsys, *arguments):
    code = replay.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out.splitlines(), output.err


def test_replay_finds_the_cause(stopped, monkeypatch, capsys):
    workdir, *_ = stopped
    before = sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*"))
    poison(monkeypatch)
    code, output, _ = replayed(capsys, f"--workdir={workdir}")
    assert code == 0
    assert output[0] == f"the update of step 7, seed 0, from checkpoint {STOPS_AT}"
    assert output[-1] == "the first that is not finite: draws for the fake score"
    bad = [line for line in output if line.startswith("!")]
    assert bad[0].startswith("! draws for the fake score: 1 of 4 arrays have values that are not: ")
    assert "noise (1)" in bad[0]
    assert re.match(r"! fake_loss by example: 1 of 16 are not: number 3 at sigma [\d.]+; ", bad[1])
    assert [line for line in output if line.startswith("  generator: finite, largest value ")]
    assert "! fake_loss: nan" in bad
    assert sorted((path, path.stat().st_mtime_ns) for path in workdir.rglob("*")) == before


def test_replay_of_what_is_finite_here(stopped, monkeypatch, capsys):
    stages = [
        replay.Stage("generator", {"bias": replay.ArraySummary(np.int32(0), np.float32(3))}),
        replay.Stage("loss by example", replay.Examples(np.ones(4), np.arange(1.0, 5.0))),
        replay.Stage("loss", np.float32(1)),
    ]
    failed = failures.read(stopped[0])
    other = dataclasses.replace(failed, versions={**failed.versions, "jax": "0.9"})
    monkeypatch.setattr(replay, "replay", lambda workdir, step: (stages, other))
    code, output, _ = replayed(capsys, f"--workdir={stopped[0]}", "--step=9")
    assert code == 1
    assert output[0].startswith("the update of step 9, seed 0")
    assert f"  jax {jax.__version__} (the run's was 0.9)" in output
    assert output[-4:-1] == [
        "  generator: finite, largest value 3 in bias",
        "  loss by example: finite, sigma 1 to 4, largest 1",
        "  loss: 1",
    ]
    assert output[-1].startswith("all of it is finite here")


def test_replay_says_what_is_wrong_in_one_line(stopped, tmp_path, capsys):
    workdir, *_ = stopped
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / failures.RECORD_FILE).write_text('{"seed": 0}')
    for arguments, message in (
        ((f"--workdir={workdir}", "--step=3"), "--step=3: .* is of steps 7 to 16"),
        ((f"--workdir={tmp_path}",), "failed_update.json doesn't exist"),
        ((f"--workdir={damaged}",), "isn't a record of failed updates"),
    ):
        code, output, error = replayed(capsys, *arguments)
        assert (code, output) == (1, [])
        assert re.match(f"error: .*{message}", error)
        assert error.count("\n") == 1


@pytest.mark.slow
def test_a_teachers_training_stops_and_is_replayed(tmp_path, monkeypatch, capsys):
    poison(monkeypatch)
    config = miniature("teacher_digits", updates=UPDATES)
    config.network.update(NETWORK)
    message, _ = run_to_its_stop(config, tmp_path)
    assert "since these were not finite: grad_norm, loss." in message
    assert "one of optimizer.learning_rate=0.001, optimizer.max_grad_norm=0.0." in message
    assert int(state_of(tmp_path, config).step) == STOPS_AT
    code, output, _ = replayed(capsys, f"--workdir={tmp_path}")
    assert code == 0
    assert output[-1] == "the first that is not finite: draws for the denoiser"


@pytest.mark.parametrize("value", [np.nan, pytest.param(1e30, marks=pytest.mark.slow)])
def test_a_teacher_that_is_broken(value, teacher, tmp_path, monkeypatch):
    """NaN in its weights, or finite ones whose images are not: no picture, and the same end."""
    poison(monkeypatch)  # so that the update above needn't be compiled again
    kwargs = network_folder.load_denoiser_kwargs(teacher)
    params = golden_cases.weights(denoiser.from_edm_kwargs(kwargs))
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, value), params)
    network_folder.save_denoiser(tmp_path / "teacher", kwargs, broken)
    config = distillation(tmp_path / "teacher")
    message, output = run_to_its_stop(config, tmp_path / "run")
    assert message.startswith("the updates of steps 0 to 9 were left out")
    for step in (0, 2):
        assert f"warning: at step {step} there are no samples to show: they hold NaN" in output
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"10"}
    assert not list((tmp_path / "run").rglob("*.png"))


def test_signs_of_collapse_are_told_in_a_run(teacher, tmp_path, monkeypatch, capsys):
    poison(monkeypatch)  # so that the update above needn't be compiled again
    grid_images, take = Reporter.grid_images, RunningMeans.take

    def equal_images(self, state):
        images = grid_images(self, state)
        return images if state.step == 0 else np.broadcast_to(images[:1], images.shape)

    def exploding_delta(self):
        self.sums["delta"] = 100 * self.sums["delta"]
        return take(self)

    monkeypatch.setattr(Reporter, "grid_images", equal_images)
    config = distillation(teacher, updates=4)
    train(config, str(tmp_path))
    monkeypatch.setattr(RunningMeans, "take", exploding_delta)
    monkeypatch.setattr(collapse, "_ENOUGH", 3)
    train(distillation(teacher, updates=7), str(tmp_path))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "Likely causes" in line]
    assert len(warnings) == 2  # the grids stay equal, and |Δ| stays large, after the resumption too
    assert warnings[0].startswith("warning: the samples are all but equal: ")
    assert warnings[1].startswith("warning: |Δ| between teacher and fake score is ")
    for warning in warnings:
        assert "alpha=1.2, generator.learning_rate=0.0001, fake_score.learning_rate=" in warning


def test_stages_of_a_teachers_training(monkeypatch):
    """The eager twin of the slow test above, on a network of two arrays."""
    setup = test_guard.pretraining(test_guard.denoise, optimizer.adam(0.01))
    x = jnp.zeros((test_guard.BATCH, *test_guard.SHAPE))
    bad = x.at[2, 0, 0, 0].set(jnp.nan)
    draws = test_guard.real_draws(bad, sigma=jnp.ones(test_guard.BATCH), noise=x)
    monkeypatch.setattr(Denoising, "draw", lambda *_: draws)
    mesh, key = sharding.make_mesh(data=1), jax.random.key(0)
    before = {"denoiser": test_guard.params(0.5)}
    before = train_state.create(before, setup.optimizers, setup.averaged)
    stages = replay.examine(setup, mesh, before, {}, key, 0)
    stages = [stage._replace(content=jax.device_get(stage.content)) for stage in stages]
    told = [replay.describe(stage) for stage in stages]
    assert [line[0] for line in told] == [" ", " ", *"!!!!!!"]
    assert told[0] == "  denoiser: finite, largest value 1 in scale"
    assert told[2].startswith(
        "! draws for the denoiser: 1 of 3 arrays have values that are not: real (1)"
    )
    assert told[3].startswith("! loss by example: 1 of 8 are not: number 2 at sigma 1; ")


def test_the_limit_comes_from_the_config(teacher):
    config = distillation(teacher, max_skipped_in_a_row=3)
    assert building.build(config).update.max_skipped_in_a_row == 3


def test_a_record_is_json_that_others_read(stopped):
    text = (stopped[0] / failures.RECORD_FILE).read_text()

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads(text, parse_constant=refuse)
