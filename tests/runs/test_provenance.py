"""What a run's inputs held is kept, and compared where it goes on."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from diffjax import data
from diffjax.convert import teacher as teachers
from diffjax.data.source import ArraySource
from diffjax.files import digests, images
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import building, provenance, saved_config
from diffjax.runs.train import train
from tests.runs.test_train import miniature


@pytest.fixture
def begun(tmp_path, teacher):
    """A work directory in which something was trained, and its config."""
    workdir = tmp_path / "w"
    workdir.mkdir()
    config = miniature("sid_digits", teacher=str(shutil.copytree(teacher, tmp_path / "teacher")))
    config.evaluate.every_kimg, config.evaluate.metrics = 1.0, ("fd",)
    config.evaluate.reference = str(tmp_path / "reference.npz")
    Path(config.evaluate.reference).write_bytes(b"reference")
    saved_config.save(workdir, config)
    provenance.save(workdir, provenance.look(config, building.build(config), None))
    (workdir / "metrics.jsonl").write_text("{}\n")
    return workdir, config


def check(workdir, config, *, allow_changed=False):
    saved_config.check_unchanged(workdir, config)
    exp = building.build(config)
    return provenance.check(config, exp, workdir, has_begun=True, allow_changed=allow_changed)


def other_weights(folder):
    kwargs = network_folder.load_denoiser_kwargs(folder)
    params = network_folder.load_params(folder, from_edm_kwargs(kwargs).abstract_params())
    shutil.rmtree(folder)
    network_folder.save_denoiser(folder, kwargs, jax.tree.map(lambda leaf: 2 * leaf, params))


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_teacher_that_was_replaced(begun):
    workdir, config = begun
    now, notes = check(workdir, config)
    assert notes == []
    other_weights(config.teacher)
    before = files(workdir)
    with pytest.raises(
        ValueError, match=r"\(teacher: .*teacher, SHA-256 \w{12} -> SHA-256 \w{12}\)"
    ):
        train(config, str(workdir))
    assert files(workdir) == before
    changed, notes = check(workdir, config, allow_changed=True)
    assert len(notes) == 1
    assert "goes on with another teacher" in notes[0]
    assert changed.inputs["teacher"] != now.inputs["teacher"]


def test_one_of_another_place(begun, tmp_path):
    workdir, config = begun
    moved = shutil.copytree(config.teacher, tmp_path / "moved")
    shutil.rmtree(config.teacher)
    config.teacher = str(moved)
    _, notes = check(workdir, config)
    assert [note.partition(": /")[0] for note in notes] == ["note: teacher"]
    assert notes[0].endswith("moved, of the same content")
    other_weights(moved)
    with pytest.raises(ValueError, match=r"teacher: .*teacher -> .*moved, SHA-256"):
        check(workdir, config)


def test_a_reference_that_was_replaced_is_told(begun):
    workdir, config = begun
    Path(config.evaluate.reference).write_bytes(b"another")
    now, notes = check(workdir, config)
    assert len(notes) == 1
    assert notes[0].startswith("note: evaluate.reference: ")
    # It stays known where it isn't asked for in between.
    config.evaluate.every_kimg = 0.0
    assert check(workdir, config)[0].inputs.keys() == now.inputs.keys()


def test_an_initial_network(begun, teacher, tmp_path):
    workdir, config = begun
    initial = shutil.copytree(teacher, tmp_path / "initial")
    config.generator.initial = str(initial)
    saved_config.save(workdir, config)
    now, _ = check(workdir, config, allow_changed=True)
    provenance.save(workdir, now)
    other_weights(initial)
    with pytest.raises(ValueError, match=r"generator\.initial: "):
        check(workdir, config)
    shutil.rmtree(initial)  # which a run that goes on doesn't need
    assert check(workdir, config) == (now, [])


def test_a_run_from_before(begun, monkeypatch, capsys):
    workdir, config = begun
    (workdir / "inputs.json").unlink()
    now, notes = check(workdir, config)
    assert notes == [f"note: {workdir}/inputs.json is written now, of the inputs as they are now"]
    assert now.inputs["teacher"]["sha256"]
    # Another teacher's name is another config then.
    config.teacher = "digits"
    with pytest.raises(ValueError, match=r'\(teacher: ".*" -> "digits"\)'):
        check(workdir, config)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"network": {}, "inputs": {"teacher": {}}}'])
def test_a_damaged_record(begun, text):
    workdir, config = begun
    (workdir / "inputs.json").write_text(text)
    with pytest.raises(ValueError, match=r"inputs\.json is damaged .*: delete it to go on"):
        check(workdir, config)


def test_processes_read_the_same(begun, monkeypatch):
    now = provenance.load(begun[0])
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    gather = "diffjax.distributed.runtime.multihost_utils.process_allgather"
    monkeypatch.setattr(gather, lambda own: [own, own])
    provenance.check_processes_agree(now)
    monkeypatch.setattr(gather, lambda own: [own, own + 1])
    with pytest.raises(
        ValueError, match=r"what is read \(teacher: SHA.* of process 1 differs from"
    ):
        provenance.check_processes_agree(now)
    digests = []
    monkeypatch.setattr(gather, lambda own: digests.append(own.tobytes()) or [own, own])
    for code in "12":
        each = provenance.Provenance({}, {"teacher": {"code": {"a.py": code}}})
        provenance.check_processes_agree(each)
    assert digests[0] != digests[1]


def write_images(folder, count, seed=0):
    rng = np.random.default_rng(seed)
    for index in range(count):
        images.save_png(
            folder / f"{index % 2}/{index}.png", rng.integers(0, 256, (8, 8, 3), np.uint8)
        )
    return folder


def test_images_that_were_replaced(tmp_path, monkeypatch):
    folder = write_images(tmp_path / "a", 6)
    content = data.content(data.open_source(str(folder)))
    copy = shutil.copytree(folder, tmp_path / "b")
    os.utime(copy / "0/0.png", (1, 1))
    assert data.content(data.open_source(str(copy)))["sha256"] == content["sha256"]
    (copy / "0/0.png").write_bytes((folder / "0/2.png").read_bytes())
    assert data.content(data.open_source(str(copy)))["sha256"] != content["sha256"]
    for archive in "cd":
        shutil.make_archive(str(tmp_path / archive), "zip", folder)
    assert data.content(data.open_source(str(tmp_path / "c.zip")))["bytes"] > 0
    shutil.make_archive(str(tmp_path / "d"), "zip", copy)
    zips = [data.content(data.open_source(str(tmp_path / f"{each}.zip"))) for each in "cd"]
    assert zips[0]["sha256"] != zips[1]["sha256"]
    # Labels count.
    (folder / "dataset.json").write_text(
        json.dumps({"labels": [[f"{i % 2}/{i}.png", 0] for i in range(6)]})
    )
    assert data.content(data.open_source(str(folder)))["sha256"] != content["sha256"]


def test_images_in_memory():
    pictures = np.zeros((100, 2, 2, 1), np.uint8)
    source = ArraySource("some", pictures, np.zeros(100, np.int32), 1)
    other = dataclasses.replace(source, images=pictures + 1)
    relabelled = dataclasses.replace(source, classes=source.classes + 1)
    found = {data.content(each)["sha256"] for each in (source, other, relabelled)}
    assert len(found) == 3
    assert data.content(source) == data.content(dataclasses.replace(source))


def test_large_files_are_known_by_pieces_and_dates(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_ALL_BYTES", 1000)
    monkeypatch.setattr(digests, "_PIECE", 10)
    path = tmp_path / "large"
    content = bytearray(os.urandom(2000))
    path.write_bytes(content)
    first = digests.of_file(path)
    assert (first["bytes"], first["hashed"]) == (2000, 640)
    for position in (0, 1999):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        assert digests.of_file(path)["sha256"] != first["sha256"]
    # Between pieces only the date tells, which is no proof.
    content[15] ^= 1
    path.write_bytes(content)
    os.utime(path, (1, 1))
    second = digests.of_file(path)
    assert second["sha256"] == first["sha256"]
    runs = [
        provenance.Provenance({}, {"dataset": {"source": "s", **each}}) for each in (first, second)
    ]
    differences = provenance.compare(*runs)
    assert differences.decisive == []
    assert (
        "1970-01-01T00:00:01+00:00, and of the same content as far as 640 of 2000"
        in (differences.harmless[0])
    )
    folder = write_images(tmp_path / "many", 6)
    monkeypatch.setattr(digests, "_ALL_FILES", 5)
    monkeypatch.setattr(digests, "_PIECES", 3)
    described = digests.of_path(folder)
    assert described["files"] == 6
    assert described["hashed"] < described["bytes"]
    (folder / "0/0.png").unlink()
    assert digests.of_path(folder)["sha256"] != described["sha256"]


def test_a_network_folder_is_known_by_what_decides_its_values(teacher, tmp_path):
    folder = shutil.copytree(teacher, tmp_path / "t")
    content = teachers.content(str(teacher))
    description = json.loads((folder / "denoiser.json").read_text())
    description["model_card"] = {"kind": "denoiser"}
    (folder / "denoiser.json").write_text(json.dumps(description))
    assert teachers.content(str(folder)) == content
    description["init_kwargs"]["sigma_data"] = 0.25
    (folder / "denoiser.json").write_text(json.dumps(description))
    assert teachers.content(str(folder)) != content
    (folder / "digests.json").unlink()
    with pytest.raises(ValueError, match=r"digests\.json is missing or damaged"):
        teachers.content(str(folder))
