import os
import tempfile
from pathlib import Path

import pytest

from tests.support import compiling

# Before JAX starts: eight virtual devices, for the tests of sharding, and one cache of compiled
# code for the whole session, since many tests run the same update.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ).strip()
_CACHE = tempfile.TemporaryDirectory(prefix="diffjax-test-cache-")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Files of half a minute and more, so that no process is left with one of them at the end.
LONGEST = (
    "distributed/test_processes.py",
    "runs/test_train.py",
    "training/test_separate_programs.py",
    "methods/test_against_pytorch.py",
    "faults/test_signals.py",
    "networks/test_against_pytorch.py",
    "test_notebook.py",
    "test_package.py",
    "benchmarks/test_speed.py",
    "training/test_failures.py",
    "faults/test_disk.py",
    "training/test_update.py",
    "distributed/test_sharding.py",
    "training/test_dataset.py",
    "methods/test_mixture.py",
    "runs/test_configs.py",
)


def pytest_configure(config: pytest.Config) -> None:
    flags = os.environ["XLA_FLAGS"]
    if config.getoption("markexpr") == "not slow" and compiling.QUICK not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {compiling.QUICK}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    rank = {tests / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(LONGEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay in one process, where they share what its fixtures made."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False  # the order above
    return LoadFileScheduling(config, log)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A folder with a network that is compiled in little time, of digits' shape and classes."""
    from diffjax.models import denoiser, network_folder
    from tests.support import golden_cases

    kwargs = {
        "class_name": "EDMPrecond",
        "model_type": "SongUNet",
        "img_resolution": 8,
        "img_channels": 1,
        "label_dim": 10,
        "model_channels": 8,
        "channel_mult": (1,),
        "num_blocks": 0,
        "attn_resolutions": (),
        "dropout": 0.0,
    }
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    weights = golden_cases.weights(denoiser.from_edm_kwargs(kwargs))
    network_folder.save_denoiser(folder, kwargs, weights)
    return folder
