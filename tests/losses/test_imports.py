"""The losses are for those who have JAX and want nothing else."""

import json
import subprocess
import sys
from pathlib import Path

from diffjax import losses

HEAVY = {
    "clu",
    "flax",
    "grain",
    "ml_collections",
    "optax",
    "orbax",
    "sklearn",
    "tensorboardX",
    "tensorflow",
    "tensorflow_datasets",
    "torch",
}


def modules_after(statement):
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_losses_import_jax_and_chex_alone():
    loaded = modules_after("import diffjax.losses")
    assert loaded.isdisjoint(HEAVY), sorted(loaded & HEAVY)
    own = {name for name in loaded if name.split(".")[0] == "diffjax"}
    expected = {"diffjax", "diffjax.interfaces", "diffjax.losses"}
    modules = {path.stem for path in Path(losses.__file__).parent.glob("*.py")} - {"__init__"}
    assert own - expected == {f"diffjax.losses.{name}" for name in modules}


def test_the_package_itself_imports_not_even_jax():
    loaded = modules_after("import diffjax")
    assert {"jax", "numpy", *HEAVY}.isdisjoint(loaded)
