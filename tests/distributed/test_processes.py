"""Two processes of one run: they are what one is, and end together whatever happens to either."""

import json
import random
import signal
import time

import numpy as np
import pytest

from diffjax.models import denoiser, network_folder
from tests.runs.test_train import BATCH, assert_trees_equal, miniature, state_of
from tests.support import golden_cases, processes
from tests.support.small_distillation import INIT_KWARGS

KIMG = BATCH / 1000
UPDATES = 24
PEER_SECONDS = 10.0
NOTICED_WITHIN = 4 * PEER_SECONDS  # on a busy machine; JAX by itself takes 100 s

CONFIG = """
from tests.distributed.test_processes import config
def get_config():
    return config({teacher!r}, {updates}, distributed=True)
"""
# A run to its end, and what its user does with it, one after the other in the same processes.
EVERYTHING = """
import sys
from diffjax import stats
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from diffjax.runs.train import train
from tests.distributed.test_processes import UPDATES, config
teacher, workdir, output = sys.argv[1:]
settings = config(teacher, UPDATES, distributed=True)
train(settings, workdir)
sample(settings, workdir)
evaluate(settings, workdir)
arguments = ["--data=digits", "--features=pixels", "--distributed"]
assert stats.main([*arguments, "--output=" + output]) == 0
"""


def config(teacher, updates, *, distributed=False, data=-1, fsdp=1):
    """A run of a tiny teacher that writes a line an update, and saves every fifth."""
    settings = miniature("sid_digits", updates, teacher=teacher, distributed=distributed)
    settings.checkpoint_kimg = 5 * KIMG
    settings.grid_kimg = 0.0
    settings.mesh.data, settings.mesh.fsdp = data, fsdp
    settings.watchdog.peer_seconds = PEER_SECONDS
    settings.sample.count, settings.sample.format = 11, "npz"
    return settings


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    kwargs = {**INIT_KWARGS, "label_dim": 10}
    weights = golden_cases.weights(denoiser.from_edm_kwargs(kwargs))
    network_folder.save_denoiser(folder, kwargs, weights)
    return str(folder)


def everything(teacher, workdir):
    return ["-c", EVERYTHING, teacher, str(workdir), f"{workdir}-statistics.npz"]


@pytest.fixture(scope="module")
def alone(teacher, tmp_path_factory):
    """The run in one process with two devices, and what is done with it."""
    folder = tmp_path_factory.mktemp("alone")
    command = everything(teacher, folder / "workdir")
    with processes.Processes(command, logs=folder / "logs", count=1, devices=2) as started:
        assert started.wait() == [0], started.said(0)
    return folder / "workdir"


class Run:
    """One run in two processes, which may be started again and again."""

    def __init__(self, folder, teacher, updates=UPDATES):
        self.folder, self.workdir = folder, folder / "workdir"
        self.metrics = self.workdir / "metrics.jsonl"
        self.config = folder / "two.py"
        self.config.write_text(CONFIG.format(teacher=teacher, updates=updates))
        self.starts = 0

    def start(self, command=None, flags=()):
        self.starts += 1
        command = command or [
            *("-m", "diffjax.main"),
            f"--config={self.config}",
            f"--workdir={self.workdir}",
            *flags,
        ]
        return processes.Processes(command, logs=self.folder / f"start{self.starts}")

    def lines(self):
        return self.metrics.read_text().count("\n") if self.metrics.exists() else 0

    def tell_to_stop(self, index, lines):
        """SIGTERM after so many more lines; both end in good order."""
        with self.start() as started:
            started.wait_for_lines(self.metrics, self.lines() + lines)
            started.each[index].send_signal(signal.SIGTERM)
            codes = started.wait()
            assert codes == [0, 0], started.said(0) + started.said(1)
            assert "told to stop: saved update" in started.said(0)
            assert "told to stop" not in started.said(1)

    def strike(self, index, number, lines):
        """Kills or stops one after so many more lines; returns the other's words and seconds."""
        with self.start() as started:
            started.wait_for_lines(self.metrics, self.lines() + lines)
            began = time.monotonic()
            started.each[index].send_signal(number)
            code = started.each[1 - index].wait(processes.PATIENCE)
            assert code not in (0, None)
            return started.said(1 - index), time.monotonic() - began

    def end(self):
        with self.start() as started:
            codes = started.wait()
            assert codes == [0, 0], started.said(0) + started.said(1)
            assert "done: pictures in" in started.said(0)


def names(workdir):
    """Of all files but TensorBoard's and those in checkpoints, whose names are drawn."""
    files = (path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file())
    return sorted(
        str(path)
        for path in files
        if path.parts[0] not in ("checkpoints", "tensorboard") and "params" not in path.parts
    )


def test_two_processes_stopped_killed_and_started_again_are_one(alone, teacher, tmp_path):
    run = Run(tmp_path, teacher)
    said, seconds = run.strike(index=1, number=signal.SIGKILL, lines=7)
    assert said.splitlines()[-1].startswith("error: process 1 of 2 (")
    assert "hasn't been heard of for" in said
    assert seconds < NOTICED_WITHIN
    # After going on from the fifth update, numbers of updates and of questions to stop differ.
    run.tell_to_stop(index=0, lines=2)
    with run.start(everything(teacher, run.workdir)) as started:
        assert started.wait() == [0, 0], started.said(0) + started.said(1)
        assert started.said(0).count(" images in ") == 1
        assert " images in " not in started.said(1)

    assert run.metrics.read_bytes() == (alone / "metrics.jsonl").read_bytes()
    settings = config(teacher, UPDATES, data=2)
    assert_trees_equal(state_of(run.workdir, settings), state_of(alone, settings))
    # Files are written once, by one process: an event file a start, and nothing else than alone.
    assert len(list((run.workdir / "tensorboard").iterdir())) == run.starts
    assert names(run.workdir) == names(alone)
    for name in ("student_seed0.png", "student_seed0_11.npz"):
        ours, theirs = (folder / "samples" / name for folder in (run.workdir, alone))
        assert ours.read_bytes() == theirs.read_bytes()
    assert report_of(run.workdir) == report_of(alone)
    ours, theirs = (np.load(f"{folder}-statistics.npz") for folder in (run.workdir, alone))
    for name in ("mu", "sigma", "count"):
        np.testing.assert_array_equal(ours[name], theirs[name])


def report_of(workdir):
    return json.loads((workdir / "evaluation_student.json").read_text())


def test_sigterm_ends_sampling_of_both(teacher, tmp_path):
    run = Run(tmp_path, teacher)
    flags = ["--config.sample.source=teacher", f"--config.sample.count={10**9}", "--mode=sample"]
    with run.start(flags=flags) as started:
        started.wait_for_lines(run.workdir / "samples/teacher_seed0.png.json", 0)
        started.each[1].send_signal(signal.SIGTERM)
        assert started.wait(60) == [143, 143]
        assert "told to stop, with nothing to save" in started.said(0)


def test_an_error_of_one_process_ends_the_other_with_its_words(teacher, tmp_path):
    """Process 1 sees another work directory, as it would on a host without the mount."""
    run = Run(tmp_path, teacher)
    code = (
        "import os, sys\n"
        "from diffjax.runs.train import train\n"
        "from tests.distributed.test_processes import config\n"
        "if os.environ['JAX_PROCESS_ID'] == '1':\n"
        "    sys.argv[2] = sys.argv[2] + '/is/no/folder'\n"
        "train(config(sys.argv[1], 5, distributed=True), sys.argv[2])\n"
    )
    file = tmp_path / "workdir" / "is"
    file.parent.mkdir()
    file.write_text("a file")
    with run.start(["-c", code, teacher, str(run.workdir)]) as started:
        assert started.wait() == [1, 1]
        assert "can't be written to" in started.said(1)
        # Not always the last line: the loop of process 0 goes on while it is said.
        said = [line for line in started.said(0).splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert said[0].startswith("error: process 1 of 2 (")
    assert "failed: OSError: workdir=" in said[0]


def test_a_model_that_one_process_refuses_is_a_mistake_for_all(tmp_path):
    run = Run(tmp_path, "mine:none")
    code = "import os, time\ndef none(): int(os.environ['JAX_PROCESS_ID']) or time.sleep(1000)"
    (tmp_path / "mine.py").write_text(code)
    with run.start() as started:
        assert started.wait() == [2, 2]
        other, own = (started.said(index).partition("error: ")[2] for index in range(2))
    assert own.startswith("mine:none returned NoneType; it must return")
    assert other.partition("failed: RefusedError: ")[2] == own


def test_an_error_while_updates_are_compiled(teacher, tmp_path):
    """Of the leader, whose end takes with it what the other has to read."""
    run = Run(tmp_path, teacher)
    code = f"""
import os, sys, time
from diffjax import main
from diffjax.runs import experiment
from diffjax.training import compilation
class Endless:
    def lower(self, *arguments):
        time.sleep({2 * processes.PATIENCE})
def load_inputs(self):
    if os.environ["JAX_PROCESS_ID"] == "0":
        raise OSError("unreadable")
    time.sleep({2 * processes.PATIENCE})
compilation.compile_updates = lambda *arguments: Endless()
experiment.Experiment.load_inputs = load_inputs
main.cli()
"""
    flags = [f"--config={run.config}", f"--workdir={run.workdir}"]
    with run.start(["-c", code, *flags]) as started:
        assert started.wait() == [1, 1]
        assert started.said(0).splitlines()[-1] == "error: unreadable"
        said = started.said(1).splitlines()[-1]
    assert said.startswith("error: process 0 of 2 (")
    assert "failed: OSError: unreadable" in said


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(10))
def test_sigterm_at_random_moments(alone, teacher, tmp_path, moment):
    draw = random.Random(moment)
    run = Run(tmp_path, teacher)
    with run.start() as started:
        # From the first compilation to the last update.
        time.sleep(draw.uniform(0.0, 1.0))
        if draw.random() < 0.8:
            started.wait_for_lines(run.metrics, draw.randint(1, UPDATES - 4))
            time.sleep(draw.uniform(0.0, 0.3))
        else:
            started.wait_for_lines(run.workdir / "config.json", 1)
        chosen = draw.choice([[0], [1], [0, 1]])
        for index in chosen:
            started.each[index].send_signal(signal.SIGTERM)
        codes = started.wait()
        assert codes == [0, 0], started.said(0) + started.said(1)
    run.end()
    assert run.metrics.read_bytes() == (alone / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "number", "words"),
    [
        (0, signal.SIGKILL, "the leader task was preempted/died"),
        (0, signal.SIGSTOP, "error: process 0 of 2 ("),
        (1, signal.SIGSTOP, "error: process 1 of 2 ("),
    ],
)
def test_whichever_process_dies_or_hangs_the_other_ends(teacher, tmp_path, index, number, words):
    run = Run(tmp_path, teacher, updates=10_000)
    said, seconds = run.strike(index, number, lines=3)
    assert words in said
    assert f"process {1 - index} of 2 is" in said
    assert seconds < NOTICED_WITHIN


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(1, 2), (4, 1), (4, 8)])
def test_several_devices_a_process_and_sharded_parameters(alone, teacher, tmp_path, devices, fsdp):
    run = Run(tmp_path, teacher)
    code = (
        "import sys\n"
        "from diffjax.runs.train import train\n"
        "from tests.distributed.test_processes import config\n"
        f"settings = config(sys.argv[1], {UPDATES}, distributed=True, fsdp={fsdp})\n"
        "train(settings, sys.argv[2])\n"
    )
    command = ["-c", code, teacher, str(run.workdir)]
    with processes.Processes(command, logs=tmp_path / "logs", devices=devices) as started:
        codes = started.wait()
        assert codes == [0, 0], started.said(0) + started.said(1)
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").open()]
        for folder in (run.workdir, alone)
    )
    for name in ("fake_loss", "generator_loss", "delta", "fake_grad_norm", "generator_grad_norm"):
        assert ours[0][name] == pytest.approx(theirs[0][name], rel=1e-5)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]

    assert (run.workdir / "network").is_dir()
