"""Seconds from the command to the first update, and what each part of the way takes.

    python -m benchmarks.startup --config=configs/sid_cifar.py

Runs the command twice in processes of their own, with an empty compilation cache and with the one
that the first run filled, on a teacher of random weights, and reads the times off the run's lines.
The update is compiled meanwhile, so that its own part is what is left to be waited for.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from benchmarks import measuring
from diffjax import methods
from diffjax.distributed import sharding
from diffjax.models import network_folder
from diffjax.runs import building

# Words of a line that says that a part of the way is over.
MARKS = {
    "importing, reading the teacher, placing the state": "parameters a network",
    "the first grid": "compiling",
}


def first_update_seconds(command: list[str], metrics: Path) -> dict[str, float]:
    """Run a command to its end; time each part of it up to the first line of metrics."""
    start = last = time.monotonic()
    parts: dict[str, float] = {}
    marks = dict(MARKS)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    output = []
    for line in process.stdout:
        output.append(line)
        for part, mark in list(marks.items()):
            if mark in line:
                now = time.monotonic()
                parts[part], last = now - last, now
                del marks[part]
        if not marks:
            break
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    now = time.monotonic()
    parts["what remains of tracing and compiling the update, and the first one"] = now - last
    parts["from the command to the first update"] = now - start
    rest, _ = process.communicate()
    if process.returncode or marks:
        raise SystemExit(f"error: the run failed:\n{''.join(output)}{rest}")
    return parts


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="a distillation config")
    parser.add_argument("flags", nargs="*", help="after --, such as --config.dtype=bfloat16")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")  # of this process, which leaves the device to theirs
    config = measuring.load_config(arguments.config)
    if "teacher" not in methods.get(config.method).reads:
        raise SystemExit(f"error: --config={arguments.config}: a distillation is needed")
    exp = building.build(config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = measuring.random_params(exp.denoiser, sharding.make_mesh(data=1))
        network_folder.save_denoiser(folder / "teacher", exp.init_kwargs, params)
        runs = {}
        for run in ("cold", "cached"):
            command = [
                *(sys.executable, "-m", "diffjax.main", f"--config={arguments.config}"),
                f"--workdir={folder / run}",
                f"--config.teacher={folder / 'teacher'}",
                f"--config.compilation_cache={folder / 'cache'}",
                f"--config.duration_kimg={config.batch_size / 1000}",
                f"--config.log_kimg={config.batch_size / 1000}",
                *arguments.flags,
            ]
            runs[run] = first_update_seconds(command, folder / run / "metrics.jsonl")
            print(run, runs[run], flush=True)
    print("| seconds | cold | cached |\n|-|-|-|")
    for part in runs["cold"]:
        print(f"| {part} | {runs['cold'][part]:.1f} | {runs['cached'][part]:.1f} |")


if __name__ == "__main__":
    main()
