"""Digits table of docs/results: precision, recall and Fréchet distance in pixel space.

    python -m diffjax.main --config=configs/sid_digits.py
    python -m diffjax.main --config=configs/di_digits.py
    python benchmarks/digits.py

Every row is compared with the 1,797 scans, three nearest neighbours for precision and recall. Two
rows give the scale: a Gaussian fitted to the scans, and one half of the scans against the other.
"""

import argparse
from pathlib import Path

import numpy as np

from diffjax.data import digits
from diffjax.distributed import sharding
from diffjax.evaluation import features, measures
from diffjax.files import images
from diffjax.runs import building, config_file, subjects

CONFIGS = Path(__file__).parents[1] / "configs"


def sampled_rows(runs: dict[str, Path], seed: int) -> list[tuple[str, int, dict[str, float]]]:
    """Measure teacher and students: a row (name, network evaluations, metrics) each."""
    rows: list[tuple[str, int, dict[str, float]]] = []
    mesh = sharding.make_mesh()
    for name, workdir in runs.items():
        config = config_file.load(str(CONFIGS / f"{name}.py"))
        exp = building.build(config)
        config.evaluate.seed = seed
        measure = building.make_evaluator(config, exp, mesh)
        if not rows:
            teacher = subjects.find("teacher", workdir, exp, seed, mesh)
            values = measure(teacher.sampler, teacher.params, label_dim=exp.denoiser.label_dim)
            rows.append(("teacher", teacher.evaluations, values))
        state, meta = subjects.restore(workdir, exp, mesh)
        values = measure(
            exp.sampler(seed=seed, mesh=mesh),
            exp.averaged(state),
            label_dim=exp.denoiser.label_dim,
        )
        rows.append((f"{config.method}, {meta['kimg']:.0f} kimg", exp.evaluations, values))
    return rows


def scale_rows(seed: int) -> list[tuple[str, int, dict[str, float]]]:
    """Measure the rows that give the scale."""
    real = features.pixels(images.to_uint8(digits.load()[0]))
    rng = np.random.default_rng(seed)
    gaussian = rng.multivariate_normal(real.mean(axis=0), np.cov(real.T), len(real))
    first, second = (features.pixels(images.to_uint8(half)) for half in digits.halves(seed))
    return [
        ("Gaussian fitted to the scans", 0, measures.compare(real, gaussian, name="pixels")),
        (
            "half of the scans against the other",
            0,
            measures.compare(first, second, name="pixels"),
        ),
    ]


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sid", default="runs/sid_digits", help="workdir of sid_digits")
    parser.add_argument("--diff_instruct", default="runs/di_digits", help="workdir of di_digits")
    parser.add_argument("--seed", type=int, default=2, help="of the samples, none seen in training")
    arguments = parser.parse_args()
    runs = {"sid_digits": Path(arguments.sid), "di_digits": Path(arguments.diff_instruct)}
    print("| samples | network evaluations | precision | recall | Fréchet distance |")
    print("|-|-|-|-|-|")
    for name, evaluations, values in [
        *sampled_rows(runs, arguments.seed),
        *scale_rows(arguments.seed),
    ]:
        distance, precision, recall = values.values()
        print(
            f"| {name} | {evaluations or '-'} | {precision:.3f} | {recall:.3f} | {distance:.3f} |"
        )


if __name__ == "__main__":
    main()
