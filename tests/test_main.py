import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffjax import main

CONFIG = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

def get_config(flavour="plain"):
    return ConfigDict({
        "flavour": flavour,
        "batch_size": 32,
        "learning_rate": 1e-5,
        "teacher": {"path": "none", "channels": (1, 2), "seed": placeholder(int), "untyped": None},
        "use_ema": True,
    })
"""

# Stands in for the modules that main calls, so that only the command line is tested here.
HARNESS = """
import json, sys, types
body = '''
import json
def {name}(config, workdir, **options):
    print(json.dumps({{"called": "{name}", "workdir": workdir, "config": config.to_dict(),
                       "locked": config.is_locked, "options": options}}))
    {failure}
'''
for name in ["train", "sample", "evaluate"]:
    fake = types.ModuleType("diffjax.runs." + name)
    exec(body.format(name=name, failure=sys.argv[1]), fake.__dict__)
    sys.modules[fake.__name__] = fake
sys.argv[:2] = ["main"]
from diffjax import main
main.cli()
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_config.py"
    path.write_text(CONFIG)
    return path


def run(*arguments: str, failure: str = "pass") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HARNESS, failure, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(*arguments: str) -> str:
    """The one line that a wrong command line is answered with."""
    result = run(*arguments)
    assert result.returncode == 2, result
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_train_is_the_default_and_the_workdir_is_named_after_the_config(config_file: Path) -> None:
    result = run(f"--config={config_file}")
    assert result.returncode == 0, result.stderr
    called = json.loads(result.stdout)
    assert called["called"] == "train"
    assert called["workdir"] == "runs/my_config"
    assert called["config"]["batch_size"] == 32
    assert called["config"]["flavour"] == "plain"
    assert called["locked"]
    assert called["options"] == {"allow_changed_config": False}
    assert result.stderr == ""


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate"])
def test_mode_and_workdir(config_file: Path, mode: str) -> None:
    result = run(f"--config={config_file}", f"--mode={mode}", "--workdir=here/it is")
    called = json.loads(result.stdout)
    assert called["called"] == mode
    assert called["workdir"] == "here/it is"


def test_overrides_and_the_config_argument(config_file: Path) -> None:
    result = run(
        "--config",
        f"{config_file}:spicy",
        "--config.batch_size=64",
        "--config.learning_rate=1",
        "--config.teacher.path=a=b",
        "--config.teacher.seed=7",
        "--config.teacher.channels=(1,2,4)",
        "--noconfig.use_ema",
    )
    assert result.returncode == 0, result.stderr
    called = json.loads(result.stdout)
    assert called["workdir"] == "runs/my_config-spicy"
    assert called["config"] == {
        "flavour": "spicy",
        "batch_size": 64,
        "learning_rate": 1.0,
        "teacher": {"path": "a=b", "channels": [1, 2, 4], "seed": 7, "untyped": None},
        "use_ema": False,
    }


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("batch_sze=64", "batch_size"),
        ("teacher.pth=x", "teacher.path"),
        ("techer.path=x", "teacher.path"),
        ("path=x", "teacher.path"),
    ],
)
def test_unknown_key_names_the_nearest(config_file: Path, override: str, nearest: str) -> None:
    line = refusal(f"--config={config_file}", f"--config.{override}")
    key = override.split("=")[0]
    assert line == f"error: the config has no {key}: did you mean --config.{nearest}?"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch_size=many", "--config.batch_size=many: a whole number is needed"),
        ("batch_size=8.5", "--config.batch_size=8.5: a whole number is needed"),
        ("learning_rate=low", "--config.learning_rate=low: a number is needed"),
        ("use_ema=perhaps", "--config.use_ema=perhaps: True or False is needed"),
        ("teacher.seed=x", "--config.teacher.seed=x"),
        ("teacher=3", "--config.teacher=3"),
        ("teacher.untyped=3", "--config.teacher.untyped can't be set here"),
        ("batch_size", "Missing value for flag --config.batch_size"),
    ],
)
def test_wrong_type(config_file: Path, override: str, said: str) -> None:
    assert said in refusal(f"--config={config_file}", f"--config.{override}")


def test_other_mistakes_on_the_command_line(config_file: Path, tmp_path: Path) -> None:
    assert "no config file nowhere.py" in refusal("--config=nowhere.py")
    assert f"no config file {tmp_path}" in refusal(f"--config={tmp_path}")
    assert "--config is missing" in refusal()
    assert "--config is missing" in refusal("--config")
    assert "train|sample|evaluate" in refusal(f"--config={config_file}", "--mode=trian")
    assert "show|report" in refusal("--workdir=w", "--mode=reports")  # a report needs no config
    assert "Did you mean: workdir" in refusal(f"--config={config_file}", "--wordir=x")
    assert "'train' isn't a flag" in refusal(f"--config={config_file}", "train")
    assert "before a value for --config" in refusal(
        "--config.batch_size=1", f"--config={config_file}"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", "fails with SyntaxError"),
        ("import nosuchmodule", "fails with ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("def get_config():\n    return {}['a']", "fails with KeyError: 'a'"),
        ("config = 3", "defines no get_config()"),
        ("def get_config():\n    pass", "returns nothing: end it with return config"),
        ("def get_config():\n    raise ValueError('no.')", "fails with ValueError: no; --debug"),
        ("def get_config():\n    return {}", "returned dict instead of a ConfigDict"),
        ("import sys\nsys.exit(3)", "fails with SystemExit: 3"),
        ("import sys\nsys.path.clear()\nconfig = 3", "defines no get_config()"),
    ],
)
def test_broken_config_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    line = refusal(f"--config={path}")
    assert str(path) in line
    assert said in line


def test_a_required_placeholder(tmp_path: Path) -> None:
    path = tmp_path / "open.py"
    path.write_text(
        "from ml_collections import ConfigDict, config_dict\n"
        "def get_config():\n"
        "    return ConfigDict({'a': {'b': config_dict.required_placeholder(int)}})\n"
    )
    for override in ([], ["--config.a.b=3"]):
        assert "the config has no value for a.b" in refusal(f"--config={path}", *override)


def test_debug_shows_where_a_config_fails(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def get_config():\n    return {}['a']")
    result = run(f"--config={path}", "--debug")
    assert result.returncode == 1
    assert 'broken.py", line 2, in get_config' in result.stderr


@pytest.mark.parametrize(
    "error", ["ValueError", "FileNotFoundError", "FileExistsError", "ConnectionError"]
)
def test_what_the_user_can_mend_is_one_line(config_file: Path, error: str) -> None:
    failure = f"raise {error}('teacher.path is empty:\\n name a folder')"
    result = run(f"--config={config_file}", failure=failure)
    assert result.returncode == 1
    assert result.stderr == "error: teacher.path is empty: name a folder\n"
    debugged = run(f"--config={config_file}", "--debug", failure=failure)
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize(
    "failure",
    ["raise TypeError('a bug')", "import statistics; statistics.NormalDist(0, 1).inv_cdf(2)"],
)
def test_a_bug_keeps_its_traceback(config_file: Path, failure: str) -> None:
    result = run(f"--config={config_file}", failure=failure)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_interruption_says_that_the_same_command_resumes(config_file: Path) -> None:
    result = run(f"--config={config_file}", failure="raise KeyboardInterrupt")
    assert result.returncode == 130
    assert result.stderr == "\ninterrupted: the same command resumes\n"


# As pip's script of a command is.
COMMAND = "import sys; from diffjax.main import cli; sys.argv[0] = 'diffjax'; sys.exit(cli())"


@pytest.mark.parametrize("command", [["-m", "diffjax.main"], ["-c", COMMAND]])
def test_help_needs_no_config(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, *command, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.startswith("Command line: `diffjax --config=C")
    assert "--config" in result.stdout
    assert "<train|sample|evaluate|check|show|report>" in result.stdout
    assert "error" not in result.stderr


@pytest.mark.parametrize(
    ("config", "workdir"),
    [
        ("configs/sid_cifar.py", "runs/sid_cifar"),
        ("/a/b.c.py", "runs/b.c"),
        ("x.py:a/b", "runs/x-a-b"),
        ("sid_cifar", "runs/sid_cifar"),
        ("sid_cifar:a", "runs/sid_cifar-a"),
    ],
)
def test_default_workdir(config: str, workdir: str) -> None:
    assert main.default_workdir(config) == workdir


def test_a_mistake_is_told_before_anything_slow_is_imported(config_file: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['jax'] = None\n"
        "from diffjax import main\n"
        "sys.argv[:1] = ['main']\n"
        "main.cli()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, f"--config={config_file}", "--config.batch_sze=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "batch_size" in result.stderr


def test_a_config_is_loaded_once(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    count = tmp_path / "count"
    path.write_text(f"open({str(count)!r}, 'a').write('file ')\n{CONFIG}")
    result = run(f"--config={path}", "--config.batch_size=1")
    assert result.returncode == 0, result.stderr
    assert count.read_text() == "file "


def test_a_config_imports_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "my_helpers.py").write_text("RATE = 0.25\n")
    (tmp_path / "my_later_helpers.py").write_text("SIZE = 7\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs.sid_digits import get_config as base\n"
        "import my_helpers\n"
        "def get_config():\n"
        "    import my_later_helpers\n"
        "    config = base()\n"
        "    config.generator.learning_rate = my_helpers.RATE\n"
        "    config.batch_size = my_later_helpers.SIZE\n"
        "    return config\n"
    )
    result = run(f"--config={path}", failure="import sys; print(sys.path)")
    assert result.returncode == 0, result.stderr
    called, search_path = result.stdout.splitlines()
    config = json.loads(called)["config"]
    assert (config["teacher"], config["batch_size"]) == ("digits", 7)
    assert config["generator"]["learning_rate"] == 0.25
    assert str(tmp_path) not in search_path


def test_a_misspelt_field_in_a_config_is_told_in_a_short_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from diffjax.runs import bases\n"
        "def get_config():\n"
        "    config = bases.distillation('sid')\n"
        "    config.alhpa = 1.0\n"
        "    return config\n"
    )
    line = refusal(f"--config={path}")
    assert "fails with AttributeError: " in line
    assert 'Did you mean "alpha" instead of "alhpa"?' in line
    assert len(line) < 300 + len(str(path))


def test_of_several_configs_the_last_counts(config_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'own': 1})\n"
    )
    for override in (["--config.own=2"], []):
        result = run(f"--config={config_file}", *override, "--config", str(other), "--mode=sample")
        assert result.returncode == 0, result.stderr
        called = json.loads(result.stdout)
        assert called["workdir"] == "runs/other"
        assert called["config"] == {"own": 2 if override else 1}
    line = refusal(f"--config={config_file}", "--config.batch_size=2", f"--config={other}")
    assert line == "error: the config has no batch_size: did you mean --config.own?"
    assert "no config file nowhere" in refusal(f"--config={config_file}", "--config=nowhere")
    for last in ("--config", "--config="):
        assert "--config is missing" in refusal(f"--config={config_file}", last)
    assert "--config is missing" in refusal("--config", "--mode=sample")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("teacher.channels[0]=3", "one by one; set --config.teacher.channels"),
        ("teacher.channels[0=3", "one by one; set --config.teacher.channels"),
        ("batch_size[0]=3", "one by one; set --config.batch_size"),
        ("teacher[0]=3", "one by one; set --config.teacher.NAME"),
        ("channels[0]=3", "the config has no channels: did you mean --config.teacher.channels?"),
        ("sizes[7]=3", "an override can't be followed: list index out of range"),
        ("batch_size.y=3", "the config has no batch_size.y"),
        ("=3", "--config.=3 names no field"),
    ],
)
def test_an_item_or_no_field(config_file: Path, override: str, said: str) -> None:
    config_file.write_text(CONFIG.replace('"use_ema"', '"sizes": [1, 2], "use_ema"'))
    assert said in refusal(f"--config={config_file}", f"--config.{override}")


def test_data_for_a_method_that_reads_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    line = refusal("--config=sid_digits", "--config.data=digits")
    assert line == (
        "error: the config has no data, and needs none: its method sid reads no real images"
    )
    line = refusal("--config=teacher_digits", "--config.data=digits")
    assert line == "error: the config has no data: did you mean --config.dataset?"


def test_a_config_of_ours_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    called = json.loads(run("--config=sid_digits", "--config.alpha=1.5").stdout)
    assert called["workdir"] == "runs/sid_digits"
    assert (called["config"]["teacher"], called["config"]["alpha"]) == ("digits", 1.5)
    assert "did you mean --config=sid_digits?" in refusal("--config=sid_digit")


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate", "check", "show"])
@pytest.mark.parametrize("flag", ["workdir", "output"])
def test_an_object_store_is_refused(config_file: Path, mode: str, flag: str) -> None:
    line = refusal(f"--config={config_file}", f"--mode={mode}", f"--{flag}=gs://bucket/x")
    assert f"--{flag}=gs://bucket/x is a URL: mount the store, as by `gcsfuse bucket F" in line


def test_an_item_of_a_list_can_be_set(config_file: Path) -> None:
    config_file.write_text(CONFIG.replace('"use_ema"', '"sizes": [1, 2], "use_ema"'))
    called = json.loads(run(f"--config={config_file}", "--config.sizes[1]=7").stdout)
    assert called["config"]["sizes"] == [1, 7]


def test_a_frozen_config_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "frozen.py"
    path.write_text(
        "from ml_collections import FrozenConfigDict\n"
        "def get_config():\n"
        "    return FrozenConfigDict({'rate': 1.0, 'inner': {'sizes': (1, 2)}})\n"
    )
    result = run(f"--config={path}", "--config.inner.sizes=(3,)", "--config.rate=2")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["config"] == {"rate": 2.0, "inner": {"sizes": [3]}}


def test_a_variable_that_jax_does_not_take(
    config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", "maybe")
    assert "JAX_ENABLE_X64" in refusal(f"--config={config_file}")


@pytest.mark.parametrize("platform", ["cuda", "cpu,nosuch"])
def test_a_platform_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = subprocess.run(
        [
            *[sys.executable, "-m", "diffjax.main", "--config=configs/sid_digits.py"],
            *[f"--workdir={tmp_path / 'run'}", "--mode=sample"],
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: JAX finds no device")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate"])
def test_a_format_is_for_show_alone(config_file: Path, mode: str) -> None:
    arguments = (f"--config={config_file}", f"--mode={mode}")
    assert "--format is for --mode=show alone" in refusal(*arguments, "--format=json")
    assert "text|json" in refusal(*arguments, "--format=yaml")
