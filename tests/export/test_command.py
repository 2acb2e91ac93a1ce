"""The command: sources, arrays there and back, what is refused, and the hub."""

import inspect
import json
import sys
import types

import jax
import numpy as np
import pytest

from diffjax.convert import __main__ as convert
from diffjax.convert import teacher
from diffjax.export import __main__ as command
from diffjax.export import source as source_lib
from diffjax.models.model_card import ModelCard
from diffjax.runs import networks
from tests.export import conftest

MODULE = "tests.support.my_teacher"


def run_export(source, output, form="safetensors", *flags):
    return command.main([f"--source={source}", f"--format={form}", f"--output={output}", *flags])


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("denoiser") / "network"
    conftest.save(folder, card=ModelCard("denoiser"))
    return folder


@pytest.fixture(scope="module")
def untold(tmp_path_factory):
    folder = tmp_path_factory.mktemp("untold") / "network"
    conftest.save(folder)
    return folder


@pytest.mark.parametrize("name", ["s.safetensors", "e.safetensors", "e.pt"])
def test_arrays_come_back_wherever_networks_are_named(name, run, tmp_path, capsys):
    path, folder = tmp_path / name, tmp_path / "folder"
    assert run_export(run, path, "edm" if name[0] == "e" else "safetensors") == 0
    card = json.loads((tmp_path / f"{name}.json").read_text())
    assert card["network"]["kind"] == "student"
    assert card["arguments"]["class_name"] == "EDMPrecond"
    assert convert.main([f"--source={path}", f"--output={folder}"]) == 0
    ours = networks.trained(str(run / "network"), field="test")
    for source in (path, folder):
        found = networks.trained(str(source), field="test")
        jax.tree.map(np.testing.assert_array_equal, found.load(), ours.load())
        assert found.card == ours.card
        assert found.classes == (0, 2)
        with pytest.raises(ValueError, match="is a student"):
            teacher.describe(str(source))
    assert convert.main([f"--source={path}", "--output=x", "--init_sigma=1"]) == 1
    assert "says itself what it is" in capsys.readouterr().err


def test_a_users_network_comes_back_as_its_folder(tmp_path):
    conftest.save_record(tmp_path / "network", f"{MODULE}:points", f"{MODULE}:small")
    path, folder = tmp_path / "s.safetensors", tmp_path / "folder"
    assert run_export(tmp_path / "network", path) == 0
    assert convert.main([f"--source={path}", f"--output={folder}"]) == 0
    wanted, found = (
        networks.trained(str(each), field="test") for each in (tmp_path / "network", folder)
    )
    jax.tree.map(np.testing.assert_array_equal, found.load(), wanted.load())
    assert (found.card, found.origin) == (wanted.card, wanted.origin)
    with pytest.raises(ValueError, match=r"a user's network, which opens from a folder"):
        networks.trained(str(path), field="test")


def test_an_export_is_a_source_again(run, tmp_path):
    assert run_export(run, tmp_path / "e.pt", "edm") == 0
    found = source_lib.find(str(tmp_path / "e.pt"))
    assert (found.is_student, found.card.init_sigma) == (True, 2.5)


def test_a_work_directorys_network_comes_before_its_best(run, tmp_path):
    found = {each: source_lib.find(str(run / each)) for each in ("", "network", "best", "best/7")}
    folders = [each.folder.relative_to(run).as_posix() for each in found.values()]
    assert folders == ["network", "network", "best/7", "best/7"]
    assert {each.workdir for each in found.values()} == {run}
    (tmp_path / "best").symlink_to(run / "best")  # of a run that didn't end
    assert source_lib.find(str(tmp_path)).folder == tmp_path / "best" / "7"


def test_a_denoiser_goes_as_arrays(denoiser, tmp_path):
    assert run_export(denoiser, tmp_path / "d.safetensors", "edm") == 0
    card = json.loads((tmp_path / "d.safetensors.json").read_text())
    assert card["teacher"]["licence"].startswith("unknown")
    assert run_export("digits", tmp_path / "digits.safetensors") == 0
    card = json.loads((tmp_path / "digits.safetensors.json").read_text())
    assert card["teacher"] == {"name": "digits", "licence": "Apache-2.0, as diffjax's code"}
    assert teacher.load(str(tmp_path / "digits.safetensors")).card.kind == "denoiser"


def test_functions_elsewhere_are_asked_for_by_their_folder(tmp_path, capsys):
    conftest.save_record(tmp_path / "network", f"{MODULE}:points", f"{MODULE}:small")
    description = tmp_path / "network" / "model.json"
    description.write_text(description.read_text().replace(MODULE, "lies_elsewhere"))
    assert run_export(tmp_path, tmp_path / "s", "safetensors") == 2
    said = capsys.readouterr().err
    assert "there is no module lies_elsewhere" in said
    assert said.endswith("; --modules=FOLDER says where it lies\n")


def test_a_student_that_does_not_say_so_is_told_its_noise_level(untold, tmp_path):
    assert run_export(untold, tmp_path / "s", "safetensors", "--init_sigma=2") == 0
    assert teacher.card(str(tmp_path / "s")).init_sigma == 2


@pytest.mark.parametrize(
    ("source", "form", "flags", "code", "said"),
    [
        ("{run}", "npz", (), 2, "invalid choice: 'npz'"),
        ("{tmp}", "edm", (), 1, "is no network's folder, nor a work directory with one"),
        ("{tmp}/begun", "edm", (), 1, "a run that hasn't written its network yet"),
        ("{tmp}/absent", "edm", (), 1, "absent: there is no such file or folder"),
        ("{tmp}/text.safetensors", "edm", (), 1, "text.safetensors"),
        ("{denoiser}", "stablehlo", (), 2, "is a denoiser, which takes many evaluations"),
        ("{untold}", "stablehlo", (), 2, "doesn't say whether it is a student"),
        ("{untold}", "stablehlo", ("--init_sigma=-1",), 2, "a positive number is needed"),
        ("{run}", "stablehlo", ("--init_sigma=1",), 2, "says that it is a student (sid"),
        ("{run}", "edm", ("--batch_size=2",), 2, "holds arrays alone"),
        ("{run}", "stablehlo", ("--batch_size=0",), 2, "a positive number"),
        ("{run}", "stablehlo", ("--batch_size=x",), 2, "x: a positive number is needed"),
        ("{record}", "edm", (), 2, "name safetensors, or for its function stablehlo"),
        ("{run}", "edm", ("--output={tmp}/s.pkl",), 2, "name a state dict, s.pt for torch.load"),
        ("{run}", "edm", ("--output=gs://bucket/s.pt",), 2, "is a URL"),
        ("{run}", "edm", ("--output=gs:/bucket/s.pt",), 2, "is a URL: mount the store"),
        ("{run}", "edm", ("--output=",), 2, "--output is empty: name a file"),
        ("{run}", "edm", ("--output={tmp}/new/",), 2, "new/ is a folder: name a file"),
        ("{run}", "edm", ("--output={tmp}",), 2, "is a folder: name a file"),
        ("{run}", "edm", (f"--output={{tmp}}/{'n' * 252}",), 1, "too long): name a shorter path"),
        ("", "edm", (), 2, "--source is empty"),
        ("gs:/bucket/run", "edm", (), 2, "--source=gs://bucket/run is a URL: mount the store"),
        ("{run}", "edm", ("--modules={tmp}/none",), 2, "none: there is no such folder"),
        ("{untold}", "stablehlo", ("--init_sigma=inf",), 2, "a positive number is needed"),
        ("{run}", "edm", ("--output={tmp}/taken",), 1, "taken exists already"),
        ("{run}", "edm", ("--output={tmp}/carded",), 1, "carded.json exists already"),
        ("{run}", "edm", ("--output={tmp}/taken/x",), 1, "taken"),
        ("{run}", "edm", ("--dry_run",), 2, "--dry_run is of --push"),
        ("{run}", "edm", ("--push=name", "--dry_run"), 2, "user/name is one"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line_and_nothing_is_written(
    source, form, flags, code, said, run, denoiser, untold, tmp_path, capsys
):
    room = tmp_path / "room"
    (room / "begun" / "checkpoints").mkdir(parents=True)
    for name in ("taken", "carded.json", "text.safetensors"):
        (room / name).write_text("precious")
    places = {"run": run, "denoiser": denoiser, "untold": untold, "tmp": room}
    if "record" in source:
        conftest.save_record(tmp_path / "record", f"{MODULE}:points")
        places["record"] = tmp_path / "record"
    before = sorted(path.name for path in room.rglob("*"))
    flags = [flag.format(**places) for flag in flags]
    try:
        found = run_export(source.format(**places), room / "out", form, *flags)
    except SystemExit as end:
        found = end.code
    error = capsys.readouterr().err
    assert (found, said in error) == (code, True), error
    assert error.splitlines()[-1].startswith(("error: ", "python -m diffjax.export: error: "))
    assert sorted(path.name for path in room.rglob("*")) == before


def test_a_dry_run_says_what_would_be_pushed(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # which isn't needed
    flags = ("--push=somebody/digits", "--dry_run")
    assert run_export(run, tmp_path / "s.safetensors", "safetensors", *flags) == 0
    told = capsys.readouterr().out
    size = (tmp_path / "s.safetensors").stat().st_size
    for line in (
        "Would push to somebody/digits",
        f"s.safetensors, {size:,} bytes",
        "s.safetensors.json",
        "README.md",
        "license: cc-by-nc-sa-4.0",
        "| method | sid |",
    ):
        assert line in told


class FakeHub:
    calls: tuple = ()

    def create_repo(self, **given):
        FakeHub.calls += (("create_repo", given),)

    def create_commit(self, **given):
        FakeHub.calls += (("create_commit", given),)
        if given["repo_id"] == "nobody/x":
            raise RuntimeError("401\nwho are you")
        return types.SimpleNamespace(commit_url="https://hub/commit")


def test_a_push_sends_the_file_its_card_and_a_page(run, tmp_path, capsys, monkeypatch):
    fake = types.SimpleNamespace(HfApi=FakeHub, CommitOperationAdd=types.SimpleNamespace)
    fake.__spec__ = inspect.getmodule(json).__spec__
    monkeypatch.setattr(FakeHub, "calls", ())
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert run_export(run, tmp_path / "e.pt", "edm", "--push=somebody/digits") == 0
    assert "Pushed: https://hub/commit" in capsys.readouterr().out
    (made, of), (committed, given) = FakeHub.calls
    assert (made, committed) == ("create_repo", "create_commit")
    assert of == {"repo_id": "somebody/digits", "private": True, "exist_ok": True}
    sent = {each.path_in_repo: each.path_or_fileobj for each in given["operations"]}
    assert list(sent) == ["e.pt", "e.pt.json", "README.md"]
    assert sent["e.pt"] == tmp_path / "e.pt"
    assert run_export(run, tmp_path / "f.pt", "edm", "--push=nobody/x") == 1
    assert "didn't take it (401 who are you)" in capsys.readouterr().err
    assert (tmp_path / "f.pt").exists()


def test_the_hubs_package_takes_these_calls():
    hub = pytest.importorskip("huggingface_hub", reason="pip install 'diffjax[hub]'")
    api = hub.HfApi
    inspect.signature(api.create_repo).bind(None, repo_id="a/b", private=True, exist_ok=True)
    inspect.signature(api.create_commit).bind(
        None, repo_id="a/b", operations=[], commit_message="x"
    )
    hub.CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=b"x")
