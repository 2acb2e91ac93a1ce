"""An update compiled for TPUs without one, and what is said when that can't be."""

import dataclasses
import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from diffjax.convert import catalogue, teacher
from diffjax.distributed import sharding
from diffjax.models import network_folder
from diffjax.runs import building
from diffjax.tools import aot, hlo, slices

ROOT = Path(__file__).parents[2]
DIGITS = str(ROOT / "configs/sid_digits.py")

has_libtpu = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(
    not has_libtpu, reason="libtpu, XLA's compiler for TPUs, isn't installed: diffjax[tpu]"
)


def digits_config():
    return runpy.run_path(DIGITS)["get_config"]()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Compiled anew and with XLA's defaults, so that the program is what users get of this libtpu.
    leave_out = ("JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS")
    environment = {k: v for k, v in os.environ.items() if k not in leave_out}
    return subprocess.run(
        [sys.executable, "-m", "diffjax.tools.aot", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a request which can't be met is answered with."""
    assert aot.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    return line


def parameters_of(config) -> list[int]:
    """Sizes of the arrays of one network."""
    exp = building.build(config)
    return [leaf.size for leaf in jax.tree.leaves(exp.denoiser.abstract_params())]


def report_of(tmp_path: Path, *arguments: str) -> dict:
    """The report of a compilation whose update fits."""
    written = tmp_path / "report.json"
    result = run(*arguments, f"--json={written}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "traced in" in result.stdout
    report = json.loads(written.read_text())
    for kind, traffic in report["cost"]["collectives"].items():
        assert f"{traffic['count']} x {kind}" in result.stdout
    return report


def check_data_parallel(report: dict, sizes: list[int]) -> None:
    """Only gradients and metrics cross chips, and each has the whole state."""
    # Four bytes a parameter and network; biases of one sum have one gradient, which is sent once.
    collectives = report["cost"]["collectives"]
    assert set(collectives) == {"all-reduce"}
    gradients, metrics = 2 * 4 * sum(sizes), 5 * 4
    assert 0.99 * gradients < collectives["all-reduce"]["bytes"] <= gradients + metrics
    assert report["parameters"] == sum(sizes)

    # State (three networks, and Adam's second moments of two) and teacher on every chip.
    memory = report["cost"]["memory"]
    parts = sum(v or 0 for k, v in memory.items() if k not in ("aliased", "total"))
    assert memory["total"] == parts - memory["aliased"]
    assert memory["arguments"] > 6 * 4 * sum(sizes)
    assert memory["aliased"] > 0.99 * memory["outputs"]
    assert report["fits"]
    assert memory["total"] < report["hbm"] == 15.75 * 2**30


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("layout_only", [True, False], ids=["layout", "whole"])
def test_the_digits_on_four_chips(tmp_path, layout_only):
    arguments = ["--layout_only"] if layout_only else []
    report = report_of(tmp_path, f"--config={DIGITS}", "--topology=v5e:2x2", *arguments)
    assert report["device_kind"] == "TPU v5 lite"
    assert report["mesh"] == {"data": 4, "fsdp": 1}
    sizes = parameters_of(digits_config())
    check_data_parallel(report, sizes)

    cost = report["cost"]
    # Three passes over networks of 0.2 million parameters, each used at several pixels.
    assert cost["flops"] > digits_config().batch_size / 4 * 2 * 3 * sum(sizes)
    assert (cost["memory"]["code"] is None) == layout_only
    assert (cost["bytes_accessed"] is None) == layout_only
    if not layout_only:
        assert cost["optimal_seconds"] > 0


def changed(tmp_path: Path, name: str, **fields) -> Path:
    """The file of a published config with some fields changed."""
    script = tmp_path / f"{name}.py"
    script.write_text(
        "import runpy\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / f'configs/{name}.py')!r})['get_config']()\n"
        f"    config.update({fields!r})\n"
        "    return config\n"
    )
    return script


def config_of(tmp_path: Path, name: str, init_kwargs: dict) -> Path:
    """The file of a config whose teacher, of which only the description is there, is another."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    class_name = {"class_name": init_kwargs["class_name"]}
    others = {k: v for k, v in init_kwargs.items() if k not in class_name}
    description = {
        "format_version": network_folder.FORMAT_VERSION,
        **class_name,
        "init_kwargs": others,
    }
    (folder / "denoiser.json").write_text(json.dumps(description))
    return changed(tmp_path, name, teacher=str(folder))


@needs_libtpu
@pytest.mark.parametrize(
    "num_blocks", [1, pytest.param(4, marks=pytest.mark.slow)], ids=["1_block", "published"]
)
def test_cifar_10_on_four_chips(tmp_path, num_blocks):
    """The update of configs/sid_cifar.py, 64 images a chip, with as many blocks a level."""
    published = catalogue.RELEASED["edm-cifar10-32x32-uncond-vp"].init_kwargs
    script = config_of(tmp_path, "sid_cifar", {**published, "num_blocks": num_blocks})
    arguments = [f"--config={script}", "--topology=v5e:2x2", "--layout_only"]
    report = report_of(tmp_path, *arguments)
    assert (report["batch_size"], report["dtype"]) == (256, "float32")
    sizes = parameters_of(runpy.run_path(str(script))["get_config"]())
    assert (sum(sizes) == 55_733_891) == (num_blocks == 4)
    check_data_parallel(report, sizes)


SMALL = {"channel_mult": [1], "attn_resolutions": []}
SMALL_EDM2 = {
    "class_name": "Precond",
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 16,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [8],
    "channels_per_head": 16,
    "logvar_channels": 4,
}


@needs_libtpu
@pytest.mark.parametrize(
    "init_kwargs",
    [teacher.describe("digits") | SMALL, pytest.param(SMALL_EDM2, marks=pytest.mark.slow)],
    ids=["digits", "edm2"],
)
def test_gradients_of_all_rounds_cross_chips_once(tmp_path, init_kwargs):
    """XLA moves the all-reduce out of the loop over rounds, where nothing else is in its way."""
    script = config_of(tmp_path, "sid_digits", init_kwargs)
    arguments = [f"--config={script}", "--topology=v5e:2x2", "--layout_only", "--accumulation=4"]
    report = report_of(tmp_path, *arguments)
    assert report["accumulation"] == 4
    check_data_parallel(report, parameters_of(runpy.run_path(str(script))["get_config"]()))


@needs_libtpu
@pytest.mark.slow
def test_a_batch_that_does_not_fit(tmp_path):
    written = tmp_path / "report.json"
    arguments = (f"--config={DIGITS}", "--topology=v5e:2x2", f"--json={written}")
    result = run(*arguments, "--batch_size=1048576")
    assert result.returncode == 1
    assert "does not fit 15.75 GiB a device: RESOURCE_EXHAUSTED" in result.stdout
    assert result.stderr == ""
    report = json.loads(written.read_text())
    assert (report["fits"], report["cost"], report["batch_size"]) == (False, None, 1 << 20)


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "devices", "gibibytes"),
    [
        ("v5e:1x1", 1, 15.75),
        ("v6e:4x4", 16, 31.25),
        ("v5p:2x2x1", 4, 95.74),
        ("v4:2x2x1", 8, 15.25),
    ],
)
def test_slices(name, devices, gibibytes):
    found, hbm = slices.describe_slice(name)
    assert (len(found), hbm) == (devices, int(gibibytes * 2**30))


@needs_libtpu
def test_a_layout_that_no_slice_has(capsys):
    line = refusal(capsys, f"--config={DIGITS}", "--topology=v5e:3x3")
    assert "--topology=v5e:3x3" in line
    assert "the nearest is v5e:" in line


@needs_libtpu
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--batch_size=126", "batch_size=128 would"),
        ("--fsdp=3", "mesh.fsdp=3 does not divide the 4 devices"),
    ],
)
def test_what_the_slice_does_not_divide(capsys, argument, message):
    assert message in refusal(capsys, f"--config={DIGITS}", "--topology=v5e:2x2", argument)


@needs_libtpu
def test_an_update_in_two_programs(capsys, tmp_path):
    script = changed(tmp_path, "sid_digits", compile_apart="always")
    line = refusal(capsys, f"--config={script}", "--topology=v5e:2x2")
    assert "config.compile_apart='always'" in line


@needs_libtpu
def test_a_config_that_distils_nothing(capsys):
    line = refusal(capsys, "--config=configs/teacher_digits.py", "--topology=v5e:2x2")
    assert "config.method='denoising'" in line


@pytest.mark.parametrize(
    ("topology", "nearest"),
    [
        ("v5litepod:2x2", "v5e:2x2"),
        ("v6e", "v6e:"),
        ("v9:2x2x1", ":2x2x1"),
        ("v5e:2by2", "v5e:2x2"),
    ],
)
def test_a_slice_that_is_unknown(capsys, topology, nearest):
    line = refusal(capsys, f"--config={DIGITS}", f"--topology={topology}")
    assert f"--topology={topology}: there is no such slice; the nearest is " in line
    assert nearest in line.partition("the nearest is ")[2].partition(". ")[0]


def test_without_libtpu(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refusal(capsys, f"--config={DIGITS}", "--topology=v5e:2x2")
    assert line.endswith("isn't installed: pip install 'diffjax[tpu]'")


def test_files_that_are_not_there(capsys, tmp_path):
    empty = tmp_path / "empty.py"
    empty.write_text("")
    slice_ = "--topology=v5e:2x2"
    assert "no such file" in refusal(capsys, "--config=none.py", slice_)
    assert "no get_config()" in refusal(capsys, f"--config={empty}", slice_)
    json_file = f"--json={tmp_path}/none/report.json"
    assert "its folder isn't there" in refusal(capsys, f"--config={DIGITS}", slice_, json_file)
    (tmp_path / "report.json").write_text("precious")
    json_file = f"--json={tmp_path}/report.json"
    assert "is there already" in refusal(capsys, f"--config={DIGITS}", slice_, json_file)
    assert (tmp_path / "report.json").read_text() == "precious"


def test_arguments_have_the_state_s_shapes_and_places():
    exp = building.build(digits_config())
    mesh = sharding.make_mesh(data=2, fsdp=4)
    state, frozen, key, count = aot.abstract_arguments(exp, mesh)
    assert jax.tree.map(lambda leaf: leaf.shape, state) == jax.tree.map(
        lambda leaf: leaf.shape, exp.abstract_state()
    )
    assert any("fsdp" in leaf.sharding.spec for leaf in jax.tree.leaves(frozen))
    assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert count.weak_type


def test_a_summary_says_whether_it_fits():
    memory = aot.Memory(
        arguments=8 << 20, outputs=6 << 20, aliased=6 << 20, temporaries=1 << 30, code=0, total=1
    )
    cost = aot.Cost(memory, 2e12, 3e9, 0.5, {"all-reduce": hlo.Traffic(2, 3 << 20)})
    report = aot.Report(
        topology="v5e:2x2",
        device_kind="TPU v5 lite",
        devices=4,
        mesh={"data": 4, "fsdp": 1},
        batch_size=64,
        accumulation=1,
        updates_per_call=1,
        dtype="float32",
        parameters=10,
        hbm=16 << 30,
        fits=True,
        refusal=None,
        cost=cost,
        compile_seconds=3.0,
        versions={},
    )
    text = aot.summary(report)
    assert "16 GiB a device, which fits" in text
    assert "temporaries 1.00 GiB" in text
    assert "2 x all-reduce: 3.0 MiB" in text
    refused = dataclasses.replace(report, fits=False, refusal="Ran out.", cost=None)
    assert aot.summary(refused).endswith("does not fit 16 GiB a device: Ran out.")
    unwritten = dataclasses.replace(
        report,
        cost=dataclasses.replace(
            cost, memory=dataclasses.replace(memory, code=None), bytes_accessed=None
        ),
    )
    assert "code unknown" in aot.summary(unwritten)
    looped = dataclasses.replace(report, accumulation=2)
    assert "counts a loop's body once" in aot.summary(looped)
