"""Table of docs/results/toys.md: the teachers of examples/, and students of each by both methods.

    python -m benchmarks.examples --output=runs/examples
    python -m benchmarks.examples --output=runs/examples --only=eight_gaussians --exact

Teachers that aren't there are trained. Everything goes through `python -m diffjax.main`. With
`--exact` the teachers of points are denoisers of the data, computed and not learnt, which tells
what a method does from what a teacher misses; students and fake scores still start from the
trained network. 10,000 samples are compared with 10,000 of the data.
"""

import argparse
import functools
import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from diffjax import models
from diffjax.metrics import modes, sliced_wasserstein
from diffjax.runs import saved_config

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = {  # framework, prediction, process
    "eight_gaussians": ("NNX", "noise", "cosine"),
    "two_moons": ("Equinox", "velocity", "rectified flow"),
    "signals": ("plain function", "data", "variance exploding"),
    "conditional": ("Linen", "EDM's", "EDM's"),
    "betas": ("NNX", "v", "table of betas"),
}
COLUMNS = ("example", "framework", "predicts", "process", "samples", "modes", "in a mode")
COLUMNS += ("distance", "images", "seconds")
METHODS = ("sid", "diff_instruct")
COUNT = 10_000
SEED = 7  # of the samples, none seen in training


def module(name: str) -> ModuleType:
    """Import an example."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


def measure(name: str, samples: np.ndarray) -> dict[str, Any]:
    """Compare samples with the data: distance / sigma_data, and modes where there are any."""
    example = module(name)
    data = np.asarray(example.reference(len(samples), SEED))
    found: dict[str, Any] = {"distance": sliced_wasserstein(samples, data) / data.std()}
    if hasattr(example, "CENTRES") and hasattr(example, "SD"):
        found["modes"], found["share"] = modes(samples, example.CENTRES, example.SD)
    return found


def run(*arguments: str) -> None:
    """Run Python, and show what it says if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout}{done.stderr}")


def train_teacher(name: str) -> None:
    """Train the teacher of an example where its weights aren't there."""
    if not module(name).WEIGHTS.exists():
        run(str(EXAMPLES / f"{name}.py"))


def distil(name: str, method: str, workdir: Path, *flags: str) -> tuple[np.ndarray, float]:
    """Distil an example and sample its student.

    Args:
      name: of the example, whose teacher is trained.
      method: "sid" or "diff_instruct".
      workdir: of the run.
      *flags: of the run, such as "--config.alpha=1.2".

    Returns:
      ([10000, *shape] samples, seconds of training, from command to prompt).
    """
    main = ["-m", "diffjax.main", f"--config={EXAMPLES}/{name}_config.py:{method}", *flags]
    main.append(f"--workdir={workdir}")
    start = time.monotonic()
    run(*main)
    seconds = time.monotonic() - start
    return sampled(main, workdir, "student"), seconds


def sampled(main: list[str], workdir: Path, source: str) -> np.ndarray:
    """Sample the student or the teacher of a run."""
    file = workdir / "samples" / f"{source}_seed{SEED}_{COUNT}.npz"
    flags = [f"--config.sample.{each}" for each in (f"seed={SEED}", f"count={COUNT}", "format=npz")]
    run(*main, "--mode=sample", f"--config.sample.source={source}", *flags)
    with np.load(file) as read:
        return read["images"]


@functools.cache
def exact(name: str) -> models.Teacher:
    """Make the exact denoiser of an example's data, a mixture of Gaussians."""
    from tests.support import toys

    example = module(name)
    if name == "eight_gaussians":
        denoise = toys.mixture_denoiser(example.CENTRES, example.SD)
    else:  # two moons, as 200 Gaussians each
        angle = np.pi * (np.arange(200) + 0.5) / 200
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1) - [0.5, 0.25]
        denoise = toys.mixture_denoiser(np.concatenate([arc, -arc]), 0.05)
    like = example.teacher()
    return models.Teacher(
        lambda params, y, sigma, cond: denoise(y, sigma),
        {"frozen": {"none": jax.numpy.zeros(())}},
        like.shape,
        like.sigma_data,
        like.sigma_min,
        like.sigma_max,
    )


def exact_eight_gaussians() -> models.Teacher:
    """Denoise eight Gaussians exactly."""
    return exact("eight_gaussians")


def exact_two_moons() -> models.Teacher:
    """Denoise two moons exactly."""
    return exact("two_moons")


def student_eight_gaussians(teacher: models.Teacher) -> models.Generator:
    """Start from the trained network, asked where the config of the example asks it."""
    return models.denoiser_generator(module("eight_gaussians").teacher(), 0.8 * teacher.sigma_data)


def student_two_moons(teacher: models.Teacher) -> models.Generator:
    """Likewise, of two moons."""
    return models.denoiser_generator(module("two_moons").teacher(), 0.8 * teacher.sigma_data)


def exact_flags(name: str) -> list[str]:
    """Flags with which a run has the exact teacher."""
    return [
        f"--config.teacher=benchmarks.examples:exact_{name}",
        f"--config.student=benchmarks.examples:student_{name}",
        f"--config.fake_score.network={name}:teacher",
    ]


def images(workdir: Path) -> str:
    """Count the images of a run, whatever flags it was given."""
    return f"{1000 * saved_config.load(workdir).duration_kimg:,.0f}"


def row(name: str, method: str, found: dict[str, Any], images: str, seconds: str) -> str:
    """Write a line of the table."""
    covered = f"{found['modes']} of 8" if "modes" in found else "-"
    share = f"{found['share']:.1%}" if "share" in found else "-"
    cells = [name, *NAMES[name], method, covered, share, f"{found['distance']:.3f}"]
    return f"| {' | '.join([*cells, images, seconds])} |"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="runs/examples", help="folder of the runs")
    parser.add_argument("--only", default=",".join(NAMES), help="examples, by commas")
    parser.add_argument("--exact", action="store_true", help="exact teachers of points")
    parser.add_argument("flags", nargs="*", help="of the runs, after --")
    arguments = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'-|' * len(COLUMNS)}")
    for name in arguments.only.split(","):
        train_teacher(name)
        flags = [*(exact_flags(name) if arguments.exact else []), *arguments.flags]
        example = module(name)
        found = measure(name, np.asarray(example.reference(COUNT, SEED + 1)))
        print(row(name, "data", found, "-", "-"), flush=True)
        for method in METHODS:
            workdir = Path(arguments.output) / f"{name}_{method}"
            samples, seconds = distil(name, method, workdir, *flags)
            found = measure(name, samples)
            print(row(name, method, found, images(workdir), f"{seconds:.0f}"), flush=True)


if __name__ == "__main__":
    main()
