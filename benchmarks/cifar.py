"""Study of CIFAR-10, whole: teachers, students, their distances. It goes on where it stopped.

    python -m benchmarks.cifar --data=cifar10-32x32.zip --output=runs/cifar
    python -m benchmarks.cifar_report --output=runs/cifar

Each step is a command of its own in a folder of its own, written to its `log.txt`; steps whose
forerunners have ended run side by side, as GPUs are free. What has ended isn't run again, and a run
that was stopped goes on from its checkpoint; on a GPU not to the bit, which takes
config.deterministic=True. The metric is the Fréchet distance of ImageNet features by an
EfficientNet-Lite0 (`benchmarks.efficientnet`), which is no FID.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

from benchmarks import schedule
from benchmarks.schedule import Step

FEATURES = "benchmarks.efficientnet:efficientnet_lite0"
TEACHER_KIMG = {"small": 6656, "tiny": 12_800}
SWEEP = [(alpha, t_max) for t_max in (800, 400) for alpha in (0.5, 1.0, 1.2)]
STUDENT_KIMG, FURTHER_KIMG, ANNEALED_KIMG = 2048, 1536, 768
SWEEP_KIMG, PROBE_KIMG = 256, 256
# At the start of a run from a student, for a fake score that starts as the teacher.
FROZEN_KIMG = 51.2
# Of generator and fake score. The published 1e-5 are for hundreds of millions of images.
RATES = (5e-5, 1e-4)
# About the usual norm of SiD's generator's gradients and thrice that of its fake score's; without a
# greatest norm SiD breaks down at these rates. Diff-Instruct's norms are smaller.
SID_NORMS, DI_NORMS = (10_000.0, 1000.0), (100.0, 1000.0)
FURTHER = "sid_alpha1.2"  # goes on after its images, twice, on all GPUs
PROBED_RATES = [(5e-5, 1e-4), (1e-4, 2e-4), (1e-4, 4e-4)]

Changes = dict[str, object]  # field of a config -> its value


def steps(
    data: Path,
    output: Path,
    *,
    gpus: int = 1,
    features: str = FEATURES,
    rates: tuple[float, float] = RATES,
    teacher: Path | None = None,
) -> Iterator[Step]:
    """List all steps, each after its forerunners; the longest come first.

    Args:
      data: EDM's zip of the training images.
      output: the study's folder; both are absolute.
      gpus: how many there are, for the step that takes all.
      features: what distances are measured by.
      rates: learning rates of the students' generator and fake score.
      teacher: a network that the students have instead of the small teacher of the study.
    """
    statistics = "reference/statistics.npz"
    flags = (f"--data={data}", f"--features={features}", f"--output={output / statistics}")
    yield Step("reference", ("-m", "diffjax.stats", *flags), statistics, weight=0.3)
    distance: Changes = {
        "evaluate.features": features,
        "evaluate.reference": output / statistics,
        "evaluate.metrics": "('fd',)",
        "evaluate.best": "",
        "evaluate.batch_size": 500,
        "evaluate.count": 50_000,
    }
    diversity: Changes = {
        **distance,
        "evaluate.reference": data,
        "evaluate.metrics": "('precision', 'recall')",
        "evaluate.count": 10_000,
    }
    yield from _teacher(output, "small", data, gpus, distance, diversity)
    yield from _students(output, distance, diversity, rates, teacher, gpus)
    yield from _sweeps(output, distance)
    yield from _teacher(output, "tiny", data, 1, distance, diversity)


def _teacher(
    output: Path, size: str, data: Path, gpus: int, distance: Changes, diversity: Changes
) -> Iterator[Step]:
    name = f"teacher_{size}"
    changes: Changes = {
        "dataset": data,
        "duration_kimg": TEACHER_KIMG[size],
        "mesh.data": gpus,
        "updates_per_call": 50,
    }
    run = _run(output, name, f"teacher_cifar_{size}", changes, gpus=gpus, weight=0.7)
    yield run
    yield _evaluation(run, f"{name}_distance", distance, "student", ("reference",))
    yield _evaluation(run, f"{name}_diversity", diversity, output / name / "network")


def _students(
    output: Path,
    distance: Changes,
    diversity: Changes,
    rates: tuple[float, float],
    teacher: Path | None,
    gpus: int,
) -> Iterator[Step]:
    """List SiD, twice, and Diff-Instruct from the small teacher; then SiD further.

    The first three have as many images each. SiD goes on at the same rates, and then with the
    generator's falling to zero: a run that goes further has the student's average alone, and begins
    its optimisers and its fake score anew.
    """
    methods: dict[str, tuple[str, Changes]] = {
        "sid_alpha1.2": ("sid_cifar", {"alpha": 1.2, **_norms(*SID_NORMS)}),
        "sid_alpha1.0": ("sid_cifar", {"alpha": 1.0, **_norms(*SID_NORMS)}),
        "diff_instruct": ("di_cifar", _norms(*DI_NORMS)),
    }
    common = {
        **_STUDENT,
        **distance,
        **_rates(*rates),
        "teacher": teacher or output / "teacher_small" / "network",
        "dropout": 0.1,
        **_measured_every(256, STUDENT_KIMG),
    }
    after = ("reference",) if teacher else ("teacher_small", "reference")
    for name, (config, special) in methods.items():
        run = _run(output, name, config, {**common, **special}, after, weight=0.7)
        yield run
        yield _evaluation(run, f"{name}_diversity", diversity, output / name / "network")
    config, special = methods[FURTHER]
    decay: Changes = {"generator.decay_kimg": ANNEALED_KIMG - FROZEN_KIMG}
    before = FURTHER
    for stage, changes in (
        ("further", _measured_every(256, FURTHER_KIMG)),
        ("annealed", _measured_every(128, ANNEALED_KIMG) | decay),
    ):
        name = f"{FURTHER}_{stage}"
        changes = {
            **common,
            **special,
            **changes,
            "generator.initial": output / before / "network",
            "generator.frozen_kimg": FROZEN_KIMG,
            # The average goes on with the half-life that it had come to, instead of none.
            "ema_rampup": 0.0,
            "ema_halflife_kimg": 0.05 * STUDENT_KIMG,
        }
        run = _run(output, name, config, changes, (*after, before), gpus=gpus, weight=0.7)
        yield run
        yield _evaluation(run, f"{name}_diversity", diversity, output / name / "network")
        before = name


def _sweeps(output: Path, distance: Changes) -> Iterator[Step]:
    """List sweeps of alpha and t_max, and of learning rates, on the shipped tiny teacher."""
    runs: dict[str, Changes] = {
        f"sweep_alpha{alpha}_tmax{t_max}": {
            "alpha": alpha,
            "t_max": t_max,
            **_measured_every(128, SWEEP_KIMG),
        }
        for alpha, t_max in SWEEP
    }
    for generator, fake_score in PROBED_RATES:
        runs[f"rates_{generator:.0e}_{fake_score:.0e}"] = {
            **_rates(generator, fake_score),
            **_measured_every(64, PROBE_KIMG),
            "evaluate.count": 10_000,
        }
    for name, special in runs.items():
        changes = {**_STUDENT, **distance, **special}
        yield _run(output, name, "sid_cifar_tiny", changes, ("reference",), weight=0.33)


def _rates(generator: float, fake_score: float) -> Changes:
    return {"generator.learning_rate": generator, "fake_score.learning_rate": fake_score}


def _norms(generator: float, fake_score: float) -> Changes:
    return {"generator.max_grad_norm": generator, "fake_score.max_grad_norm": fake_score}


_STUDENT: Changes = {
    "dtype": "bfloat16",
    "batch_size": 256,
    "updates_per_call": 50,
    "ema_halflife_kimg": 500,
    "log_kimg": 12.8,
    **_rates(*RATES),
}


def _measured_every(kimg: float, duration: float) -> Changes:
    fields = ("grid_kimg", "checkpoint_kimg", "evaluate.every_kimg")
    return {"duration_kimg": duration, **dict.fromkeys(fields, kimg)}


def _run(
    output: Path,
    name: str,
    config: str,
    changes: Changes,
    after: tuple[str, ...] = (),
    *,
    gpus: int = 1,
    weight: float = 1.0,
) -> Step:
    """Run a config to its end."""
    command = ("-m", "diffjax.main", f"--config=configs/{config}.py", f"--workdir={output / name}")
    return Step(name, (*command, *_flags(changes)), f"{name}/network", after, gpus, weight)


def _evaluation(
    run: Step, name: str, changes: Changes, source: object, after: tuple[str, ...] = ()
) -> Step:
    """Measure what a run made."""
    flags = _flags({**changes, "mesh.data": 1, "evaluate.source": source})
    result = f"{run.name}/evaluation_{Path(str(source)).stem}.json"
    arguments = (*run.arguments, "--mode=evaluate", *flags)
    return Step(name, arguments, result, (run.name, *after), weight=0.3)


def _flags(changes: Changes) -> tuple[str, ...]:
    return tuple(f"--config.{field}={value}" for field, value in changes.items())


def _two_rates(text: str) -> tuple[float, float]:
    try:
        generator, fake_score = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers, as 5e-5,1e-4 is") from None
    return generator, fake_score


def chosen(every: list[Step], names: list[str]) -> list[Step]:
    """Choose steps: a whole name is that step alone, any other the steps that begin so."""
    whole = {step.name for step in every}.intersection(names)
    beginnings = tuple(name for name in names if name not in whole)
    return [step for step in every if step.name in whole or step.name.startswith(beginnings)]


def main() -> None:
    """Run what isn't done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="cifar10-32x32.zip")
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--gpus", default="0", help="their numbers, such as 0,1,2,3")
    parser.add_argument("--only", default="", help="names of steps, or beginnings of names")
    parser.add_argument(
        "--rates",
        type=_two_rates,
        default=RATES,
        help="of the students' networks, such as 5e-5,1e-4",
    )
    parser.add_argument("--teacher", type=Path, help="a network that the students have instead")
    parser.add_argument("--minutes", type=float, default=math.inf, help="to stop after")
    arguments = parser.parse_args()
    output, gpus = arguments.output.resolve(), arguments.gpus.split(",")
    data, teacher = arguments.data.resolve(), arguments.teacher and arguments.teacher.resolve()
    every = list(steps(data, output, gpus=len(gpus), rates=arguments.rates, teacher=teacher))
    todo = chosen(every, arguments.only.split(","))
    if not arguments.data.is_file():
        parser.error(f"--data={arguments.data}: no such file; EDM's dataset_tool.py makes it")
    if teacher and not teacher.is_dir():
        parser.error(f"--teacher={arguments.teacher}: no such folder; a run leaves it as `network`")
    if not todo:
        parser.error(
            f"--only={arguments.only}: no step begins so; {', '.join(s.name for s in every)}"
        )
    results = {step.name: output / step.result for step in every}
    runs = schedule.Schedule(todo, results, gpus)
    runs.run(output, 60 * arguments.minutes)
    if runs.failed:
        raise SystemExit(f"error: failed: {', '.join(runs.failed)}")


if __name__ == "__main__":
    main()
