"""The check mode, from a config file to its report and its errors."""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from diffjax.convert import teacher as teachers
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, check, networks, user_function

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
