"""Two processes whose files differ are refused by each mode that reads them."""

import re
import shutil

from tests.runs.test_provenance import other_weights, write_images
from tests.support import processes

# Each in a folder of its own. `Peers` would end what goes on after an error.
MODES = """
import contextlib, os, sys
sys.path.insert(0, os.getcwd())
from diffjax import stats
from diffjax.distributed import peers
from diffjax.runs import check, evaluate, sample, train
from tests.runs.test_train import miniature
os.chdir(sys.argv[1] + "/" + os.environ["JAX_PROCESS_ID"])
peers.Peers = lambda **_: contextlib.nullcontext()

def ask(mode, teacher, reference="digits", features="pixels", workdir="new"):
    config = miniature("sid_digits", teacher=teacher, distributed=True)
    config.mesh.data, config.sample.source, config.evaluate.source = -1, "teacher", "teacher"
    config.evaluate.update(reference=reference, features=features, metrics=("fd",))
    try:
        mode(config, workdir)
    except ValueError as error:
        print("error:", error, flush=True)

stats.main(["--data=images", "--features=pixels", "--output=new.npz", "--distributed"])
ask(train.train, "other", workdir=sys.argv[1] + "/run")
ask(check.check, "other")
ask(sample.sample, "other")
ask(evaluate.evaluate, "other")
ask(evaluate.evaluate, "digits", reference="old.npz")
ask(evaluate.evaluate, "digits", features="mine:features")
"""


def test_each_mode_says_what_differs(teacher, tmp_path):
    for index in range(2):
        host = write_images(tmp_path / str(index) / "images", 4, seed=index).parent
        shutil.copytree(teacher, host / "other")
        (host / "old.npz").write_bytes(b"%d" % index)
        (host / "mine.py").write_text(f"def features(x):\n    return x[:, 0, :, 0] / {index + 1}.0")
    other_weights(host / "other")
    with processes.Processes(["-c", MODES, str(tmp_path)], logs=tmp_path) as started:
        assert started.wait() == [0, 0], started.said(0) + started.said(1)
        for index in range(2):
            found = re.findall(r"error: (\w+).* of process 1 differs", started.said(index))
            assert found == ["what", "what", "what", "the", "the", "what", "config"]
