"""Tables of docs/results/generators.md: the generators of examples/, before and after a method.

    python -m benchmarks.generators --output=runs/generators
    python -m benchmarks.generators --output=runs/generators --only=dropped_modes --seeds=0,1,2
    python -m benchmarks.generators --output=runs/generators --picture=docs/generators.png

Weights that aren't there are trained. Everything else goes through `python -m diffjax.main`, and a
row before a method is measured as those after it are.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import examples
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.files import images
from diffjax.metrics import modes, sliced_wasserstein
from diffjax.runs import building, config_file, subjects, user_function

NAMES = {  # example -> the methods of its rows, in order, and where its data are
    "dropped_modes": (("diff_instruct", "sid"), "eight_gaussians"),
    "decoder": (("diff_instruct", "sid"), "signals"),
    "dcgan": (("diff_instruct", "sid"), "digits"),
}
COUNT, SEED = 10_000, 7


def config_of(name: str, method: str) -> str:
    """Name the config of an example, for the command line."""
    return f"{examples.EXAMPLES}/{name}_config.py:{method}"


def start(name: str, seed: int | None = None) -> float:
    """Train what an example starts from, if it isn't there or a seed is given; seconds, or 0."""
    module = examples.module("signals" if name == "decoder" else name)
    if name == "decoder" or seed is None:
        if module.WEIGHTS.exists():
            return 0.0
        options = {}
    else:
        options = {"seed": seed}
    began = time.monotonic()
    module.train(**options)
    return time.monotonic() - began


def measure(name: str, samples: np.ndarray) -> dict[str, float]:
    """Compare points or signals with the data: distance / sigma_data, and modes where there are."""
    example = examples.module(NAMES[name][1])
    data = np.asarray(example.reference(len(samples), SEED))
    found = {"distance": float(sliced_wasserstein(samples, data) / data.std())}
    if hasattr(example, "CENTRES"):
        found["modes"], found["share"] = modes(samples, example.CENTRES, example.SD)
    return found


def untrained(name: str) -> dict[str, float]:
    """Measure a generator before the first update of a run."""
    user_function.look_in(examples.EXAMPLES)
    config = config_file.load(config_of(name, "diff_instruct"))
    exp, mesh = building.build(config), sharding.make_mesh()
    sampler, params = exp.sampler(seed=SEED, mesh=mesh), exp.sampled.init(jax.random.key(0))
    if name == "dcgan":
        config.evaluate.seed = SEED
        evaluator = building.make_evaluator(config, exp, mesh)
        return evaluator(sampler, params, label_dim=exp.denoiser.label_dim)
    samples = sampling.first_images(sampler, params, COUNT, label_dim=0, mesh=mesh, quantise=False)
    return measure(name, samples)


def refined(name: str, method: str, workdir: Path, *flags: str) -> tuple[dict[str, float], float]:
    """Run a method and measure its student; and the seconds, from command to prompt."""
    if name != "dcgan":
        samples, seconds = examples.distil(name, method, workdir, *flags)
        return measure(name, samples), seconds
    main = ["-m", "diffjax.main", f"--config={config_of(name, method)}", f"--workdir={workdir}"]
    began = time.monotonic()
    examples.run(*main, *flags)
    seconds = time.monotonic() - began
    examples.run(*main, *flags, "--mode=evaluate", f"--config.evaluate.seed={SEED}")
    return json.loads((workdir / "evaluation_student.json").read_text()), seconds


def row(name: str, samples: str, found: dict[str, Any], images: str, seconds: float) -> str:
    """Write a line of the table."""
    values = [f"{value:.3f}" for key, value in found.items() if isinstance(value, float)]
    covered = [f"{found['modes']} of 8"] if "modes" in found else []
    cells = [name, samples, *covered, *values, images, f"{seconds:.0f}" if seconds else "-"]
    return f"| {' | '.join(cells)} |"


def picture(output: Path, path: Path, columns: int = 10, rows: int = 6) -> None:
    """Draw the DCGAN of digits before and after each method, from the same latents."""
    user_function.look_in(examples.EXAMPLES)
    panels = []
    for method in NAMES["dcgan"][0]:
        exp = building.build(config_file.load(config_of("dcgan", method)))
        workdir, mesh = output / f"dcgan_{method}_0", sharding.make_mesh()
        for source in ("student",) if panels else ("initial", "student"):
            subject = subjects.find(source, workdir, exp, SEED, mesh)
            label_dim = exp.denoiser.label_dim
            drawn = sampling.first_images(
                subject.sampler, subject.params, columns * rows, label_dim=label_dim, mesh=mesh
            )
            panels.append(("the GAN" if source == "initial" else method, drawn))
    drawing = images.labelled_panels(panels, columns=columns, padding=2, scale=4)
    images.save_png(path, drawing)


def main() -> None:
    """Print the tables in Markdown, or draw the picture of runs that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="runs/generators", help="folder of the runs")
    parser.add_argument("--only", default=",".join(NAMES), help="examples, by commas")
    parser.add_argument("--seeds", default="", help="of weights made anew and of runs, by commas")
    parser.add_argument(
        "--picture", help="file for the picture of the DCGAN's runs, in place of all"
    )
    parser.add_argument("flags", nargs="*", help="of the runs, after --")
    arguments = parser.parse_args()
    if arguments.picture:
        picture(Path(arguments.output), Path(arguments.picture))
        return
    for name in arguments.only.split(","):
        for seed in [int(each) for each in arguments.seeds.split(",") if each] or [None]:
            seconds = start(name, seed)
            print(row(name, f"before, seed {seed or 0}", untrained(name), "-", seconds), flush=True)
            for method in NAMES[name][0]:
                workdir = Path(arguments.output) / f"{name}_{method}_{seed or 0}"
                flags = [f"--config.seed={seed or 0}", *arguments.flags]
                found, seconds = refined(name, method, workdir, *flags)
                print(row(name, method, found, examples.images(workdir), seconds), flush=True)


if __name__ == "__main__":
    main()
