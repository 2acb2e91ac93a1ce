"""`--mode=report`: a page on a run, of whatever its work directory holds."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diffjax.runs import gathering, ownership, report, starts, user_function
from tests.support import work_directories
from tests.support.work_directories import HOSTILE

ROOT = Path(__file__).parents[2]
VOID = {"br", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """Texts, pictures, headings and links of a page whose elements all end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.images, self.headings, self.scripts = "", [], [], 0
        self.ids, self.links, self.attributes, self._open = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self._open += [] if tag in VOID else [tag]
        self.attributes += attrs
        self.images += [values] if tag == "img" else []
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.scripts += tag == "script"
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(*folders: Path, **options) -> Page:
    return Page(report.report([str(folder) for folder in folders], **options))


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command, where an accelerator that is asked for is an error."""
    return subprocess.run(
        [sys.executable, "-m", "diffjax.main", "--mode=report", *arguments],
        cwd=cwd,
        env={**os.environ, "JAX_PLATFORMS": "no_such_platform"},
        capture_output=True,
        text=True,
        check=False,
    )


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_a_page_on_a_run_holds_all_of_it(tmp_path, capsys):
    folder = work_directories.make(tmp_path / "run", alpha=1.1)
    before = contents(folder)
    page = page_of(folder)
    assert capsys.readouterr().out == f"report: {folder}/report.html\n"
    after = contents(folder)
    del after[str(folder / "report.html")]
    assert after == before
    for text in (
        *("sid_digits", "Finished, 20 updates", "25.6k of 25.6k", "updates skipped"),
        *("Loss of fake", "Loss of generator", "|Δ|", "Images a second", "Skipped updates"),
        *("fd_pixels_1797", "to the power -0.500, R² 1.000", "0.25 ± 0.03", "reference.name"),
        *("python -m diffjax.main --config=configs/sid_digits.py", "86a2d549756c", "1 x cpu"),
        *("duration_kimg", "command line", "alpha", "1.1", "1.2", "from update 0: jax 0.10.2"),
    ):
        assert text in page.text, text
    assert len(page.images) == 3 + 1 + 1
    assert all(each["src"].startswith("data:image/png;base64,") for each in page.images)
    assert all(each["alt"] for each in page.images)
    # One top heading, and none that skips a level.
    assert page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after <= before + 1 for before, after in steps)
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_a_page_asks_for_nothing(tmp_path):
    page = page_of(work_directories.make(tmp_path / "run"))
    assert any(str(value).startswith("default-src 'none'; ") for _, value in page.attributes)
    assert page.scripts == 1
    places = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert all(place.startswith(("data:", "#")) for place in places)
    assert not re.search(r"url\(|@import|https?:", page.source)


def test_what_files_hold_is_no_html(tmp_path):
    folder = work_directories.make(tmp_path / "a<b>&", teacher=HOSTILE)
    rows = [{"step": 1, "kimg": 1.0, f"{HOSTILE}_loss": 1.0, f"fd_{HOSTILE}": 2.0}]
    work_directories.write_lines(folder / "metrics.jsonl", rows)
    for name in ("inputs.json", "numerics.json", "starts.jsonl", "evaluation_student.json"):
        text = (folder / name).read_text()
        for value in ("digits", "1 x cpu", "python", "student, 1 evaluation", "configs", "0.10.2"):
            text = text.replace(value, json.dumps(HOSTILE)[1:-1])
        (folder / name).write_text(text)
    (folder / f"evaluation_{HOSTILE.replace('/', '')}.json").write_text('{"fd_x_5": 1.0}')
    other = work_directories.make(tmp_path / "other")
    for page in (page_of(folder), page_of(folder, other)):
        assert page.scripts == 1
        assert HOSTILE in page.text
        assert not [name for name, _ in page.attributes if name == "onerror"]


DAMAGES = {
    "config.json": "The config can't be read",
    "numerics.json": "numerics.json can't be read",
    "inputs.json": "inputs.json can't be read",
    "measured.json": "measured.json can't be read",
    "evaluation_student.json": "evaluation_student.json can't be read",
    "metrics.jsonl": "metrics.jsonl: 1 line isn't a line of numbers",
    "timing.jsonl": "timing.jsonl: 1 line isn't a line of numbers",
    "starts.jsonl": "There is no record of commands",
    "network/trained.json": "trained.json can't be read",
}
MISSING = {
    "config.json": "There is no config.json",
    "numerics.json": "There is no numerics.json",
    "inputs.json": "There is no inputs.json",
    "measured.json": "against what: that wasn't kept",
    "evaluation_student.json": "There is no evaluation_*.json",
    "metrics.jsonl": "Nothing was measured",
    "timing.jsonl": "Loss of fake",
    "starts.jsonl": "There is no record of commands",
    "network/trained.json": "Not finished: the latest line is of 25.6k of 25.6k images",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_is_missing_or_damaged_is_told(tmp_path, name):
    folder = work_directories.make(tmp_path / "run")
    (folder / name).write_bytes(b'{"a": \xff\n')
    assert DAMAGES[name] in page_of(folder).text
    (folder / name).write_text("[" * 100_000 + "\n")
    page_of(folder)
    (folder / name).write_text('{"step": [], "inputs": 3, "method": {}, "config": {}}\n')
    page_of(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    page_of(folder)
    (folder / name).rmdir()
    assert MISSING[name] in page_of(folder).text


def test_the_least_that_is_a_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    page = page_of(tmp_path)
    assert "No line of numbers was written yet" in page.text
    assert "There are no pictures" in page.text
    assert page.images == []
    # Of a run that trains a teacher, as of a user's example without pictures, nothing compares.
    work_directories.grid(tmp_path, "samples_000000", 9, 0)
    assert len(page_of(tmp_path).images) == 1


def test_thousands_of_lines_and_large_pictures_stay_small(tmp_path):
    folder = work_directories.make(tmp_path / "run", grids=0)
    rows = work_directories.training(20_000)
    rows[5_000]["delta"] = "nan"
    work_directories.write_lines(folder / "metrics.jsonl", rows)
    noise = os.urandom(600_000)
    (folder / "samples" / "samples_000000.png").write_bytes(noise)  # counted, though it is none
    for step in range(0, 30):
        work_directories.grid(folder, f"samples_{step:06d}", step, step, size=1500)
        with (folder / "samples" / f"samples_{step:06d}.png").open("ab") as file:
            file.write(noise)
    page = page_of(folder)
    assert len(page.source) < 5_000_000
    assert "20,000 values, thinned" in page.text
    assert "1 value not finite" in page.text
    assert len(page.images) >= 3
    assert "Shown as JPEG" in page.text


class TestState:
    def owner(self, folder, **changes):
        values = {"host": socket.gethostname(), "process": os.getpid(), **changes}
        (folder / ownership.FILE).write_text(json.dumps(values))

    def test_a_run_under_way(self, tmp_path):
        folder = work_directories.make(tmp_path / "run")
        with ownership.owned(folder):
            page = page_of(folder, refresh=60)
            assert "Still running" in page.text
            assert ("http-equiv", "refresh") in page.attributes
            assert ("content", "60") in page.attributes
            assert ("http-equiv", "refresh") not in page_of(folder).attributes
            # Its own last act.
            assert report.at_the_end(folder, pytest.fail) == folder / "report.html"
            assert "Finished" in Page(folder / "report.html").text
        page = page_of(folder, refresh=60)
        assert "Finished" in page.text
        assert ("http-equiv", "refresh") not in page.attributes

    def test_another_host_is_believed_for_a_while(self, tmp_path):
        folder = work_directories.make(tmp_path / "run")
        self.owner(folder, host="another")
        assert ownership.is_owned(folder)
        old = time.time() - 2 * ownership.LEASE_SECONDS
        os.utime(folder / ownership.FILE, (old, old))
        assert not ownership.is_owned(folder)

    def test_a_killed_run_is_not_under_way(self, tmp_path):
        folder = work_directories.make(tmp_path / "run")
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        self.owner(folder, process=dead.pid)
        (folder / "network" / "trained.json").unlink()
        assert "Not finished" in page_of(folder).text
        for text in ("", "[]", '{"process": 1e400}', '{"process": 99999999999999999999}'):
            (folder / ownership.FILE).write_text(text)
            page_of(folder)

    def test_a_run_that_stopped_for_its_numbers(self, tmp_path):
        folder = work_directories.make(tmp_path / "run")
        record = {"last_step": 22, "not_finite": ["fake_loss"]}
        (folder / "failed_update.json").write_text(json.dumps(record))
        assert "Stopped at update 22: not finite were fake_loss" in page_of(folder).text
        record["last_step"] = 7  # it went on since
        (folder / "failed_update.json").write_text(json.dumps(record))
        assert "Finished" in page_of(folder).text


class TestComparison:
    def test_runs_beside_each_other(self, tmp_path):
        one = work_directories.make(tmp_path / "one" / "run")
        two = work_directories.make(tmp_path / "two" / "run", alpha=1.0, updates=10)
        page = page_of(one, two)
        assert (one / "comparison.html").exists()
        assert not (one / "report.html").exists()
        for text in ("2 runs compared", "one/run", "two/run", "Fields in which they differ"):
            assert text in page.text
        assert "alpha1.21.0" in page.text  # a row: the name, and the value of each
        assert "init_sigma" not in page.text
        assert len(page.images) == 2
        assert page.source.count('class="line"') == 2 * page.source.count("<svg")
        assert len(set(page.ids)) == len(page.ids)

    def test_one_of_them_has_nearly_nothing(self, tmp_path):
        one = work_directories.make(tmp_path / "one")
        (tmp_path / "two" / "checkpoints").mkdir(parents=True)
        assert "There is no config.json" in page_of(one, tmp_path / "two").text

    def test_measured_otherwise_is_told(self, tmp_path):
        one, two = (work_directories.make(tmp_path / name) for name in ("one", "two"))
        assert "not of one kind" not in page_of(one, two).text
        other = [{"from_step": 5, "measured": {"features": {"name": "inception"}}}]
        (two / "measured.json").write_text(json.dumps(other))
        assert "not of one kind" in page_of(one, two).text


class TestCommand:
    def test_no_config_and_no_device_are_needed(self, tmp_path):
        work_directories.make(tmp_path / "one")
        work_directories.make(tmp_path / "two")
        folders = f"{tmp_path}/one,{tmp_path}/two"
        done = command("--workdir", folders, f"--output={tmp_path}/out")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"report: {tmp_path}/out/comparison.html\n"

    def test_the_config_names_the_default_folder(self, tmp_path):
        work_directories.make(tmp_path / "runs" / "sid_digits")
        done = command(f"--config={ROOT}/configs/sid_digits.py", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "report: runs/sid_digits/report.html\n"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--workdir={}/run,{}/empty"], "/empty holds no run"),
            ([], "--config is missing"),
            (["--workdir={}/run", "--refresh=-1"], "refresh"),
        ],
    )
    def test_mistakes_are_told_in_a_line(self, tmp_path, arguments, said):
        work_directories.make(tmp_path / "run")
        (tmp_path / "empty").mkdir()
        done = command(*(argument.replace("{}", str(tmp_path)) for argument in arguments))
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert not list(tmp_path.rglob("*.html"))


def test_a_folder_that_cant_be_written_to(tmp_path):
    folder = work_directories.make(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--output=.*/file/x can't be written to"):
        report.report([str(folder)], output=f"{tmp_path}/file/x")


@pytest.mark.parametrize(
    ("workdir", "said"),
    [
        ("{}/none", "/none: there is no such folder"),
        ("{}/file", "/file: there is no such folder"),
        ("{}/empty", "/empty holds no run: name the folder"),
        ("{}/run,{}/./run", "names one work directory twice"),
        ("gs://bucket/run", "gs://bucket/run is a URL"),
        (",", "names no folder"),
    ],
)
def test_folders_without_a_run_are_refused(tmp_path, workdir, said):
    work_directories.make(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(user_function.RefusedError, match=re.escape(said)):
        report.report(report.split(workdir.replace("{}", str(tmp_path))))
    assert not list(tmp_path.rglob("*.html"))


FOREIGN = {
    "config.json": '{"_class_name": "UNet2DModel", "sample_size": 32}',
    "checkpoints/epoch=3.ckpt": "",
    "samples/cat.png": "",
}
OWN = {
    "config.json": '{"batch_size": 64, "duration_kimg": 64.0}',
    "checkpoints/0000400.damaged/_METADATA": "",
    "samples/samples_000012.png": "",
    "starts.jsonl": "",
}


@pytest.mark.parametrize(("name", "content"), OWN.items())
def test_one_file_of_ours_is_a_run(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    page_of(tmp_path)


@pytest.mark.parametrize(("name", "content"), FOREIGN.items())
def test_a_folder_of_another_program_is_no_run(tmp_path, name, content):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(user_function.RefusedError, match="holds no run"):
        report.report([str(tmp_path)])
    assert not (tmp_path / "report.html").exists()


def test_a_page_of_another_program_stays(tmp_path):
    folder = work_directories.make(tmp_path / "run")
    page_of(folder)
    page_of(folder)  # takes the place of its own
    (folder / "report.html").write_text("<title>Tests</title>")
    with pytest.raises(user_function.RefusedError, match="isn't diffjax's: name a folder with --o"):
        report.report([str(folder)])
    said = []
    assert report.at_the_end(folder, said.append) is None
    assert "isn't diffjax's" in said[0]
    assert (folder / "report.html").read_text() == "<title>Tests</title>"


def test_a_report_that_fails_is_a_warning_at_the_end(tmp_path, monkeypatch):
    folder = work_directories.make(tmp_path / "run")
    said = []
    (folder / "report.html").mkdir()
    assert report.at_the_end(folder, said.append) is None
    monkeypatch.setattr(gathering, "run", lambda *_, **__: 1 / 0)
    assert report.at_the_end(folder, said.append) is None
    assert len(said) == 2
    assert all(line.startswith("warning: no report is written: ") for line in said)
    assert "division by zero" in said[1]
    assert not any("\n" in line for line in said)


def test_starts_are_added_up(tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "_asked", {})
    starts.record(tmp_path, 0, {"jax": "1"})
    starts.asked_by(["--config=a b.py"], config="a b.py", overridden=["seed"])
    starts.record(tmp_path, 7, {"jax": "2"})
    with (tmp_path / starts.FILE).open("a") as file:
        file.write("[]\n{")
    first, second = starts.read(tmp_path)
    assert "command" not in first
    assert second["command"] == "python -m diffjax.main '--config=a b.py'"
    assert (second["step"], second["config"], second["overridden"]) == (7, "a b.py", ["seed"])


def test_folders_are_split_at_commas(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert report.split("a") == ["a"]
    assert report.split("a,~/b, c") == ["a", f"{tmp_path}/b", "c"]
    (tmp_path / "with, a comma").mkdir()
    assert report.split(f"{tmp_path}/with, a comma") == [f"{tmp_path}/with, a comma"]
    with pytest.raises(user_function.RefusedError, match="names no folder"):
        report.split(",")
