"""Flipped bytes, truncation and loss of each file of the newest checkpoint."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.distributed import sharding
from diffjax.files import digests
from diffjax.runs import building, subjects
from diffjax.training import checkpointing
from tests.support import fault_config
from tests.support.running import assert_same_runs, run_here

FLIPS, FLIPS_IN_ALL = 3, 100  # in each file


def flip(path, draw):
    data = bytearray(path.read_bytes())
    position = draw.randrange(len(data))
    data[position] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))


def truncate(path, draw):
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def remove(path, draw):
    del draw
    path.unlink()


def state(value):
    draw = np.random.default_rng(int(value))
    return {
        "kernel": jnp.asarray(draw.normal(size=(64, 32)), jnp.float32),
        "step": jnp.int32(value),
    }


def assert_is(restored, meta, step):
    jax.tree.map(np.testing.assert_array_equal, restored, state(step))
    assert meta == {"kimg": step / 10}


@pytest.mark.parametrize(
    ("damage", "times"),
    [
        (flip, FLIPS),
        (truncate, 2),
        (remove, 1),
        pytest.param(flip, FLIPS_IN_ALL, marks=pytest.mark.slow),
        pytest.param(truncate, 20, marks=pytest.mark.slow),
    ],
)
def test_damage_to_any_file_is_noticed_and_the_checkpoint_before_is_used(tmp_path, damage, times):
    whole = tmp_path / "whole"
    with checkpointing.Checkpointer(whole) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state(step), {"kimg": step / 10})
    files = sorted(p.relative_to(whole) for p in (whole / "2").rglob("*") if p.is_file())
    assert len(files) > 10
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(0))
    draw = random.Random(damage.__name__)
    noticed = 0
    for name in files:
        for _ in range(times):
            folder = tmp_path / "damaged"
            shutil.copytree(whole, folder)
            damage(folder / name, draw)
            said = []
            with checkpointing.Checkpointer(folder, report=said.append) as checkpointer:
                restored, meta = checkpointer.restore(like)
            names = sorted(path.name for path in folder.iterdir())
            if said:
                noticed += 1
                assert_is(restored, meta, 1)
                assert names == ["1", "2.damaged"]
                (line,) = said
                if name.name != digests.FILE:  # which, flipped, may accuse another
                    assert name.relative_to("2").as_posix() in line
                assert "it is set aside as 2.damaged, and 1 is used" in line
                assert "\n" not in line
            else:  # Orbax's marks, which aren't read
                assert len(name.parts) == 2, name
                assert_is(restored, meta, 2)
                assert names == ["1", "2"]
            shutil.rmtree(folder)
    assert noticed >= times * (len(files) - 2)


def test_a_run_goes_on_from_the_checkpoint_before(tmp_path, undisturbed, capsys):
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    newest, before = fault_config.UPDATES, fault_config.UPDATES - 1
    (victim,) = max(
        ([path] for path in (tmp_path / "checkpoints" / str(newest)).rglob("d/*")),
        key=lambda paths: paths[0].stat().st_size,
    )
    flip(victim, random.Random(0))

    settings = fault_config.get_config("teacher")
    exp, mesh = building.build(settings), sharding.make_mesh(data=1)
    restored, _ = subjects.restore(tmp_path, exp, mesh)  # as sampling does, which changes nothing
    assert int(restored.step) == before
    assert f"{newest} is damaged" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / str(newest)).is_dir()

    run_here(tmp_path)
    assert f"it is set aside as {newest}.damaged" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "checkpoints" / f"{newest}.damaged")
    assert_same_runs(tmp_path, undisturbed())


def test_where_none_is_whole_nothing_is_touched(tmp_path, undisturbed):
    shutil.copytree(undisturbed(), tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoints").glob("*/digests.json"):
        path.unlink()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with pytest.raises(
        ValueError, match=r"holds no whole checkpoint: all 2 .* Nothing was changed"
    ):
        run_here(tmp_path)
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_a_second_damaged_one_of_a_step_has_a_name_too(tmp_path):
    for _ in range(2):
        with checkpointing.Checkpointer(tmp_path, keep=2) as checkpointer:
            steps = [step for step in (1, 2) if step not in checkpointer.steps()]
            for step in steps:
                checkpointer.save(step, state(step), {})
        (tmp_path / "2" / "digests.json").write_text("{}")
        with checkpointing.Checkpointer(tmp_path) as checkpointer:
            restored, _ = checkpointer.restore(state(0))
            assert restored["step"] == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1", "2.damaged", "2.damaged-2"]
