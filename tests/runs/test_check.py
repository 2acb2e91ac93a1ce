"""The check mode, from a config file to its report and its errors."""

import collections
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffjax.convert import teacher as teachers
from diffjax.distributed import sharding
from diffjax.files import download
from diffjax.models import checking, slopes
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building, check, networks, rehearsal, train, user_function
from tests.support import my_teacher

MODULE = """
import jax.numpy as jnp
from diffjax import models
import beside

def right():
    process = models.Process.vp(beta=1.0, t_max=10.0)
    def net(params, x, t, cond):  # the noise in x, of data ~ N(0, 0.7^2)
        a, s = process.a(t)[:, None], process.s(t)[:, None]
        return params["one"] * s * x / (a**2 * beside.SD**2 + s**2)
    return models.Teacher(process.denoiser(net, "eps"), {"one": jnp.ones(())}, shape=(2,),
                          sigma_data=beside.SD, sigma_min=0.05, sigma_max=80.0, process=process)

def flipped():
    import dataclasses
    teacher = right()
    denoise = lambda p, y, s, c: 2 * y - teacher.denoise(p, y, s, c)
    return dataclasses.replace(teacher, denoise=denoise)

def nothing():
    pass

def fails():
    raise OSError("the weights are gone")

number = 3
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_teacher.py").write_text(MODULE)
    (tmp_path / "beside.py").write_text("SD = 0.7\n")
    yield str(tmp_path)
    for name in ("my_teacher", "beside"):
        sys.modules.pop(name, None)


def of(teacher):
    config = bases.distillation("sid")
    config.teacher = teacher
    return config


def test_a_right_teacher(folder, capsys):
    assert check.check(of("my_teacher:right"), folder=folder)
    assert "my_teacher:right: no problem found" in capsys.readouterr().out


def test_a_wrong_teacher(folder, capsys):
    assert not check.check(of("my_teacher:flipped"), folder=folder)
    assert "sign" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_teacher:rigt", "my_teacher.py has no rigt; did you mean right?"),
        ("my_teachr:right", "there is no module my_teachr beside the config file"),
        ("my_teacher:nothing", "my_teacher:nothing returned NoneType; it must return denoise"),
        ("my_teacher:fails", "fails with OSError: the weights are gone"),
        ("my_teacher:number", "number of my_teacher.py is int; a function is needed"),
    ],
)
def test_mistakes_are_one_line(folder, name, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")) as caught:
        check.check(of(name), folder=folder)
    assert "\n" not in str(caught.value)


def test_a_module_that_lacks_another(tmp_path):
    (tmp_path / "needs.py").write_text("import nowhere_to_be_found\n")
    with pytest.raises(ValueError, match="imports nowhere_to_be_found, which isn't installed"):
        user_function.load("needs:f", field="config.teacher", folder=str(tmp_path))


def test_a_config_without_a_teacher():
    with pytest.raises(ValueError, match="is for a config with a teacher"):
        check.check(bases.denoising())


def test_names_are_no_paths():
    assert user_function.is_name("package.module:function")
    for other in ("digits", "C:/x", "https://host/x.pkl", "a/b:c", "runs/x/network", ":f", "m:"):
        assert not user_function.is_name(other)


def test_our_own_teacher_as_a_record():
    network = teachers.load("digits")
    denoiser, record = from_edm_kwargs(network.init_kwargs), networks.teacher("digits").record()
    assert (record.shape, record.sigma_data) == ((8, 8, 1), 0.5)
    cond = record.cond(jax.random.key(0), 3)
    y, sigma = jax.random.normal(jax.random.key(1), (3, 8, 8, 1)), np.float32([0.1, 1, 10])
    np.testing.assert_array_equal(
        record.denoise(record.params, y, sigma, cond),
        denoiser(network.params, y, sigma, labels=cond),
    )
    assert record.trainable(("params", "w"), y)
    assert not record.trainable(("buffers", "freqs"), y)


def test_the_command(folder):
    path = pathlib.Path(folder) / "my_config.py"
    path.write_text(
        "from diffjax.runs import bases\n\n\ndef get_config():\n"
        "    config = bases.distillation('sid')\n    config.teacher = 'my_teacher:flipped'\n"
        "    return config\n"
    )
    before = sorted(pathlib.Path(folder).iterdir())
    result = subprocess.run(
        [sys.executable, "-m", "diffjax.main", f"--config={path}", "--mode=check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert "my_teacher:flipped" in result.stdout
    assert [p for p in sorted(pathlib.Path(folder).iterdir()) if p.name != "__pycache__"] == before


CONFIGS = pathlib.Path(__file__).parents[2] / "configs"


def config(**fields):
    made = bases.distillation("sid")
    made.teacher = "my_teacher:points"
    made.batch_size, made.updates_per_call, made.mesh.data = 16, 4, 1
    for field, value in fields.items():
        group, _, name = field.rpartition("__")
        (made[group] if group else made)[name] = value
    return made


@pytest.fixture
def beside():
    folder = pathlib.Path(my_teacher.__file__).parent
    user_function.look_in(folder)
    yield
    user_function._folders.remove(str(folder.resolve()))
    sys.path[:] = [each for each in sys.path if each != str(folder.resolve())]
    sys.modules.pop("my_teacher", None)


def rehearsed(made, folder):
    lines = []
    exp, mesh = building.build(made), sharding.make_mesh(**made.mesh)
    problems = rehearsal.rehearse(made, exp, mesh, folder, lines.append)
    return lines, problems


def test_a_run_is_rehearsed(beside, tmp_path, capsys, monkeypatch):
    shared, broadcast = [], "jax.experimental.multihost_utils.broadcast_one_to_all"
    monkeypatch.setattr(broadcast, lambda seconds: shared.append(seconds) or seconds)
    assert check.check(config(), str(tmp_path / "run"))
    assert len(shared) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "OK"
    for beginning in (
        "checkpoints: ",
        "devices: 1 x cpu, 16 examples each, 16 an update",
        "teacher my_teacher:points: examples (2,), no classes, sigma_data 1, sigma 0.05 to 100, ",
        "samples of the teacher, 35 evaluations: mean ",
        "samples of the student, 1 evaluation: mean ",
        "update: compiled in ",
        "first update: delta ",
        "|Δ| by noise level: ",
        "memory a device: ",
        "time: ",
    ):
        (line,) = (each for each in lines if each.startswith(beginning))
        assert "nan" not in line
    (line,) = (each for each in lines if each.startswith("first update"))
    for name in ("fake_loss", "generator_loss", "fake_grad_norm", "generator_grad_norm"):
        assert f"{name} " in line
    # Nothing is left but a picture.
    assert [each.name for each in (tmp_path / "run").iterdir()] == ["check.png"]


@pytest.mark.parametrize(
    ("fields", "workdir", "said"),
    [
        ({"metric_writer": "no_such_module:writer"}, "run", "no_such_module"),
        (
            {"evaluate__every_kimg": 1.0, "evaluate__metrics": ("swd",), "evaluate__best": "mmd"}
            | {"evaluate__reference": "my_teacher:data"},
            "run",
            "config.evaluate.best='mmd' isn't among",
        ),
        ({}, "file", "file can't be written to"),
        ({}, "file/run", "file/run can't be written to"),
        ({}, "gs://bucket/run", "is a URL"),
    ],
)
def test_what_training_refuses_is_refused_first(beside, tmp_path, capsys, fields, workdir, said):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    place = workdir if "://" in workdir else str(tmp_path / workdir)
    for mode in (check.check, train.train):
        with pytest.raises((OSError, ValueError), match=re.escape(said)):
            mode(config(**fields), place)
        assert "samples" not in capsys.readouterr().out
        assert sorted(tmp_path.iterdir()) == before


def test_the_difference_is_that_of_teacher_and_fake_score(beside, tmp_path):
    """None where both are one network that hardly moved; some where the fake score is another."""

    def differences(**fields):
        lines, problems = rehearsed(config(generator__learning_rate=1e-12, **fields), tmp_path)
        assert not problems
        (line,) = (each for each in lines if each.startswith("|Δ|"))
        return [float(each) for each in re.findall(r"([\d.e+-]+) at ", line)]

    same = differences(fake_score__learning_rate=1e-12)
    other = differences(fake_score__learning_rate=1e-12, fake_score__network="my_teacher:like")
    assert len(same) == len(other) == 5
    assert max(same) < 1e-6
    assert min(other) > 1e-4


def test_what_does_not_fit_or_is_not_finite(beside, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    lines, problems = rehearsed(config(generator__loss_scale=1e38), tmp_path)
    full, skipped = problems
    assert "config.keep_checkpoints=3: checkpoints need" in full
    assert "name another --workdir" in full
    assert "not finite" in skipped
    assert any(line.startswith("time: ") for line in lines)


def test_memory_that_is_not_there(beside, tmp_path, monkeypatch):
    class Full:
        def lower(self, *_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")

    monkeypatch.setattr(building, "updates", lambda *_: Full())
    _, (problem,) = rehearsed(config(), tmp_path)
    assert problem.startswith("config.batch_size=16: an update doesn't fit")


@pytest.mark.parametrize("name", ["sid_cifar", "di_refine_stylegan2_cifar", "sid_imagenet64"])
def test_on_a_cpu_what_takes_long_is_left_out_by_name(name, tmp_path, monkeypatch):
    def refuse(source, **_):
        raise AssertionError(f"{source} isn't needed")

    monkeypatch.setattr(download, "fetch", refuse)
    made = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    lines, problems = rehearsed(made, tmp_path / "run")
    assert not problems
    (line,) = (each for each in lines if each.startswith("not tried"))
    assert "samples" in line
    assert "an update" in line
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_rehearsed_without_one(tmp_path, capsys):
    made = runpy.run_path(str(CONFIGS / "teacher_digits.py"))["get_config"]()
    made.batch_size, made.grid.rows, made.grid.columns, made.mesh.data = 8, 1, 1, 1
    made.network.model_channels, made.network.channel_mult = 4, (1,)
    made.heun.steps = 2
    assert check.check(made, str(tmp_path / "run"))
    out = capsys.readouterr().out
    assert "network: examples (8, 8, 1), 10 classes" in out
    (line,) = (each for each in out.splitlines() if each.startswith("first update: "))
    assert re.search(r"\bgrad_norm \d", line)
    assert re.search(r"\bloss \d", line)
    assert out.splitlines()[-1] == "OK"


@pytest.mark.parametrize(("sigma", "is_right"), [(0.0075, True), (0.1, False), (60.0, True)])
def test_one_of_ours_is_right_where_it_was_trained(sigma, is_right, capsys, monkeypatch):
    """Its sigma_data and range are its own, so that they are told and nothing is to change."""
    levels = (slopes.Level(sigma, 0.8, 0.01, 1.0, 9), slopes.Level(1.0, 1.0, 0.01, 1.0, 9))
    problems = (f"digits: at sigma={sigma} the slope is 0.8: set sigma_min=0.1", "other")
    report = checking.Report("digits", levels, "samples", 0.75, 0.5, problems)
    monkeypatch.setattr(checking, "check", lambda *_, **__: report)
    assert check.check(of("digits")) == is_right
    out = capsys.readouterr().out
    assert (f"note: digits: at sigma={sigma} the slope is 0.8\n" in out) == is_right
    assert ("set sigma_min" in out) != is_right
    assert ("note: other" in out) == is_right
