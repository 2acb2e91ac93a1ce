"""Distance of bfloat16 from float32: the curves of two runs from the same draws.

    python -m benchmarks.precision --config=configs/sid_digits.py --output=runs/precision

Runs the config twice from one seed, in each dtype, a line of metrics an update, and compares them.
A run that is there already isn't run again. The difference at an update is of the means over a
window of updates, relative to float32's mean absolute value there, since a loss may pass zero.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks import measuring
from diffjax.runs.logger import read_scalars

DTYPES = ("float32", "bfloat16")


def curves(workdir: Path) -> dict[str, np.ndarray]:
    """Read name of a metric -> its value at each update."""
    rows = [row for row in read_scalars(workdir / "metrics.jsonl") if "skipped" in row]
    names = [name for name in rows[0] if name not in ("step", "kimg", "skipped")]
    return {name: np.array([row[name] for row in rows], np.float64) for name in names}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Take means over `window` updates, one for each place where it fits."""
    return np.convolve(values, np.full(window, 1 / window), mode="valid")


def difference(ours: np.ndarray, theirs: np.ndarray, window: int) -> np.ndarray:
    """Compute |mean(ours) − mean(theirs)| / mean |theirs| in each window."""
    gap = np.abs(smooth(ours, window) - smooth(theirs, window))
    return np.asarray(gap / smooth(np.abs(theirs), window))


def run(arguments: argparse.Namespace, dtype: str) -> Path:
    """Run in a dtype, unless that is done, and name the work directory."""
    workdir = Path(arguments.output) / dtype
    config = measuring.load_config(arguments.config)
    batch_size = arguments.batch_size or config.batch_size
    kimg = batch_size / 1000
    if not (workdir / "network").exists():
        flags = {
            "dtype": dtype,
            "batch_size": batch_size,
            "log_kimg": kimg,
            "duration_kimg": arguments.updates * kimg,
            "grid_kimg": 0.0,
            "evaluate.every_kimg": 0.0,
        }
        command = [sys.executable, "-m", "diffjax.main", f"--config={arguments.config}"]
        command += [f"--workdir={workdir}"]
        command += [f"--config.{name}={value}" for name, value in flags.items()]
        subprocess.run([*command, *arguments.flags], check=True)
    return workdir


def main() -> None:
    """Print a table in Markdown; draw the curves on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="a config")
    parser.add_argument("--output", required=True, help="folder of both runs")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--batch_size", type=int, help="instead of the config's")
    parser.add_argument("--window", type=int, default=10, help="updates")
    parser.add_argument("--plot", type=Path, help="a PNG to draw; needs matplotlib")
    parser.add_argument("flags", nargs="*", help="after --, more flags of both runs")
    arguments = parser.parse_args()
    full, half = (curves(run(arguments, dtype)) for dtype in DTYPES)
    means = f"largest of {arguments.window}-update means"
    print(f"| metric | first update | {means} | at update | largest of one update | at |")
    print("|-|-|-|-|-|-|")
    for name, theirs in full.items():
        single = difference(half[name], theirs, 1)
        gaps = difference(half[name], theirs, arguments.window)
        at = int(gaps.argmax()) + arguments.window
        print(
            f"| {name} | {single[0]:.1e} | {gaps.max():.1e} | {at} | "
            f"{single.max():.1e} | {int(single.argmax()) + 1} |"
        )
    if arguments.plot:
        plot(full, half, arguments.plot)


def plot(full: dict[str, np.ndarray], half: dict[str, np.ndarray], path: Path) -> None:
    """Draw each metric's two curves on one axis."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(full), figsize=(4 * len(full), 3), layout="constrained")
    for axis, (name, values) in zip(np.atleast_1d(axes), full.items(), strict=True):
        axis.plot(values, label=DTYPES[0])
        axis.plot(half[name], label=DTYPES[1], linestyle="--", linewidth=1)
        axis.set(title=name, xlabel="update")
    np.atleast_1d(axes)[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
