"""Two processes whose files differ are refused by each mode that reads them."""

import shutil

from tests.runs.test_provenance import other_weights, write_images
from tests.runs.test_train import miniature
from tests.support import processes

# As two hosts do, they have other files by the same names. A process that fails would end.
MODES = """
import contextlib, os, sys
sys.path.insert(0, os.getcwd())
from diffjax import stats
from diffjax.distributed import peers
from diffjax.runs.check import check
from diffjax.runs.evaluate import evaluate
from diffjax.runs.sample import sample
from tests.distributed.test_differing_files import config
os.chdir(os.path.join(sys.argv[1], os.environ["JAX_PROCESS_ID"]))
peers.Peers = lambda **_: contextlib.nullcontext()

def ask(mode, **changes):
    try:
        mode(config(**changes), "workdir")
        print("error: none")
    except ValueError as error:
        print("error:", error, flush=True)

arguments = ["--data=images", "--features=pixels", "--distributed"]
assert stats.main([*arguments, "--output=of_images.npz"]) == 1
ask(check, teacher="teacher")
ask(sample, teacher="teacher")
ask(evaluate, teacher="teacher")
ask(evaluate, teacher="same", reference="statistics.npz")
ask(evaluate, teacher="same", features="mine:features")
"""


def config(teacher, reference="digits", features="pixels"):
    made = miniature("sid_digits", teacher=teacher, distributed=True)
    made.mesh.data, made.sample.source, made.evaluate.source = -1, "teacher", "teacher"
    made.evaluate.reference, made.evaluate.features = reference, features
    made.evaluate.metrics = ("fd",)
    return made


def test_each_mode_says_what_differs(teacher, tmp_path):
    for index in range(2):
        host = tmp_path / str(index)
        write_images(host / "images", 4, seed=index)
        for name in ("same", "teacher"):
            shutil.copytree(teacher, host / name)
        (host / "statistics.npz").write_bytes(b"%d" % index)
        code = "def features(images):\n    return images.reshape(len(images), -1)[:, :4] / 255.0\n"
        (host / "mine.py").write_text(code + f"# {index}\n")
    other_weights(tmp_path / "1" / "teacher")
    with processes.Processes(["-c", MODES, str(tmp_path)], logs=tmp_path) as started:
        codes = started.wait()
        said = [started.said(index) for index in range(2)]
    assert codes == [0, 0], said
    for text in said:
        found = [line[7:] for line in text.splitlines() if line.startswith("error: ")]
        assert [line.partition(" of process 1 differs from")[0][:24] for line in found] == [
            "what is read",
            "what is read (teacher: S",
            "the network",
            "the network",
            "what is read (evaluate.r",
            "config.evaluate's measur",
        ]
        assert all(" of process 1 differs from that of process 0: " in line for line in found)
