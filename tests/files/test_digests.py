"""Digests of a folder's files."""

import json

import pytest

from diffjax.files import digests


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "notes").write_text("don't count")
    digests.write(tmp_path, ["deep", "b"])
    return tmp_path


def test_what_is_written(folder):
    assert json.loads((folder / "digests.json").read_text()) == {
        "deep/er/a": {
            "bytes": 3,
            # FIPS 180-2, appendix B.1
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        },
        "b": {
            "bytes": 0,
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        },
    }
    assert digests.problem(folder) is None
    (folder / "notes").unlink()
    assert digests.problem(folder) is None


def test_files_are_read_in_blocks(folder, monkeypatch):
    monkeypatch.setattr(digests, "_BLOCK", 2)
    assert digests.problem(folder) is None
    (folder / "deep" / "er" / "a").write_bytes(b"abd")
    assert digests.problem(folder) is not None


def test_problems_are_named(folder):
    (folder / "deep" / "er" / "a").write_bytes(b"abd")
    assert digests.problem(folder) == "deep/er/a isn't what was written: its SHA-256 differs"
    (folder / "deep" / "er" / "a").write_bytes(b"ab")
    assert digests.problem(folder) == "deep/er/a has 2 bytes instead of 3"
    (folder / "deep" / "er" / "a").unlink()
    assert digests.problem(folder) == "deep/er/a is missing"


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"b": {}}', '{"b": 3}', "\x00"])
def test_damaged_digests(folder, text):
    (folder / "digests.json").write_text(text)
    assert digests.problem(folder) == "digests.json is damaged"


def test_no_digests(folder):
    (folder / "digests.json").write_text("{}")
    assert digests.problem(folder) == "digests.json lists nothing"
    (folder / "digests.json").unlink()
    assert digests.problem(folder) == "digests.json is missing"


def test_a_git_lfs_pointer_is_called_so(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 500)
    digests.write(tmp_path, ["a"])
    (tmp_path / "a").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    problem = digests.problem(tmp_path)
    assert problem is not None
    assert "bytes instead of 500 and is a Git LFS pointer" in problem
