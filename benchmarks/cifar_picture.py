"""Picture of the study of CIFAR-10: the teacher and its students, from the same latents.

    python -m benchmarks.cifar_picture --output=runs/cifar --picture=docs/cifar_small.png

The students' images are those of their last grids, also of a study that is under way; the
teacher's are made anew, in a minute or two of a CPU.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import cifar_report, measuring
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.files import images
from diffjax.runs import building, subjects
from diffjax.runs.experiment import Experiment

STUDENTS = ("sid_alpha1.2", "diff_instruct")
ROWS = 3
_LINE = 2  # pixels between the images of a run's grid


def last_grid(folder: Path, columns: int, rows: int, size: int) -> tuple[float, np.ndarray]:
    """Read the images of a run's last grid, and how many thousand images it had seen.

    Args:
      folder: of the run.
      columns: of its grid.
      rows: how many to take.
      size: height and width of an image, pixels.

    Returns:
      Thousands of images; images [rows · columns, size, size, 3] uint8.

    Raises:
      FileNotFoundError: if there is no grid.
    """
    grids = sorted((folder / "samples").glob("samples_*.png"))
    if not grids:
        raise FileNotFoundError(f"{folder} has no samples/samples_*.png: run benchmarks.cifar")
    picture = np.asarray(Image.open(grids[-1]).convert("RGB"))
    step = size + _LINE
    tiles = picture[_LINE : _LINE + rows * step, _LINE : _LINE + columns * step]
    tiles = tiles.reshape(rows, step, columns, step, 3)[:, :size, :, :size]
    return float(grids[-1].stem.partition("_")[2]), tiles.swapaxes(1, 2).reshape(-1, size, size, 3)


def student_panel(output: Path, name: str, columns: int, size: int) -> tuple[str, np.ndarray]:
    """Take caption and images of a student from the run that went furthest with it."""
    folder, done = cifar_report.runs_with(output, name)[-1]
    kimg, tiles = last_grid(folder, columns, ROWS, size)
    title = cifar_report.STUDENTS[name]
    return f"{title}, one evaluation,\nafter {(done + kimg) * 1000:,.0f} images", tiles


def teacher_panel(exp: Experiment, output: Path, count: int, seed: int) -> tuple[str, np.ndarray]:
    """Make caption and images of a run's teacher, [count, H, W, 3] uint8."""
    mesh = sharding.make_mesh(data=1)
    teacher = subjects.find("teacher", output, exp, seed, mesh)
    return teacher.title, sampling.first_images(
        teacher.sampler, teacher.params, count, label_dim=exp.denoiser.label_dim, mesh=mesh
    )


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the study")
    parser.add_argument("--teacher", type=Path, help="its network, if not the study's own")
    parser.add_argument("--picture", type=Path, required=True, help="a PNG to write")
    arguments = parser.parse_args()
    config = measuring.load_config("configs/sid_cifar.py")
    output, columns, seed = arguments.output, config.grid.columns, config.grid.seed
    config.teacher = str(arguments.teacher or output / "teacher_small" / "network")
    try:
        exp = building.build(config)
        size = exp.denoiser.image_shape[0]
        students = [student_panel(output, name, columns, size) for name in STUDENTS]
        panels = [teacher_panel(exp, output, ROWS * columns, seed), *students]
    except FileNotFoundError as error:
        parser.error(str(error))
    images.save_png(arguments.picture, images.labelled_panels(panels, columns=columns))


if __name__ == "__main__":
    main()
