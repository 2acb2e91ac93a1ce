"""Average of another length, made of the power-function averages that a run has kept.

    python -m diffjax.tools.power_average --workdir=runs/W --std=0.15
    python -m diffjax.tools.power_average --workdir=runs/W --std=0.02 --kimg=4096 --output=short

A run whose config has `edm2.power_stds` keeps some, `W/averages/`, at each checkpoint. Of these
the average of any length is fitted (Karras et al. 2024, section 3.2), and written as a network's
folder, which takes the place of any other: `--config.evaluate.source=W/averages_0.150`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffjax.files import paths
from diffjax.files.progress import leave_interrupted, say
from diffjax.models import network_folder, record_folder
from diffjax.models.network_denoiser import NetworkDenoiser
from diffjax.runs import networks, power_averages, user_function
from diffjax.runs.user_function import RefusedError

LEAST, MOST = 0.0, 0.2886  # σ_rel of a profile that rises
_OFF = 0.05  # of the profile's norm, from which a fit is warned of


def make(workdir: Path, std: float, *, kimg: float | None = None, output: str = "") -> Path:
    """Write the network of an average that wasn't kept.

    Args:
      workdir: of the run.
      std: its length σ_rel.
      kimg: thousands of images at which it ends, one of those at which averages were kept; None
        for the last.
      output: folder to write; "" for `W/averages_<std>`, with kimg behind it if that is given.

    Returns:
      The folder.

    Raises:
      RefusedError: before anything is read, if there is no such average.
      FileExistsError: if the folder is there.
      OSError: if a snapshot isn't there any more or the folder can't be written.
      ValueError: if a snapshot is damaged.
    """
    folder = workdir / power_averages.FOLDER
    snapshots = power_averages.found(folder)
    if not snapshots:
        raise RefusedError(
            f"--workdir={workdir}: {folder} holds no averages; a run keeps them whose config has "
            "edm2.power_stds, such as (0.05, 0.1)"
        )
    if not LEAST < std < MOST:
        raise RefusedError(f"--std={std:g}: a number over {LEAST:g} and under {MOST} is needed")
    if kimg is not None:
        ends = sorted({each.images for each in snapshots})
        end = min(ends, key=lambda images: abs(images - 1000 * kimg))
        if not abs(end - 1000 * kimg) < 1:  # of NaN too
            known = ", ".join(map(_thousands, ends))
            raise RefusedError(f"--kimg={kimg:g}: averages were kept at {known}")
        snapshots = [each for each in snapshots if each.images <= end]
    behind = "" if kimg is None else f"_{_thousands(snapshots[-1].images)}"
    length = f"{std:.3f}" if round(std, 3) == std else f"{std:.9g}"
    target = Path(output or f"{folder}_{length}{behind}")
    if target.exists():
        raise FileExistsError(f"{target} is there already; delete it, or name another --output")
    last = networks.trained(str(snapshots[-1].folder), field="--workdir")

    def read(path: Path) -> Any:
        try:
            return networks.trained(str(path), field="--workdir").load()
        except (OSError, ValueError) as error:
            raise ValueError(f"{error}; {path} can be taken out, the others do") from error

    params, off = power_averages.average(snapshots, std, read)
    if isinstance(last.model, NetworkDenoiser):
        network_folder.save_denoiser(
            target, last.init_kwargs, params, card=last.card, classes=last.classes
        )
    else:
        origin, _ = record_folder.read(snapshots[-1].folder)
        record_folder.save(target, origin, last.model.arrays, params, last.card)
    kept = f"{len(snapshots)} averages up to {_thousands(snapshots[-1].images)} kimg"
    say(f"Wrote {target}, of {kept}; the fit is {off:.1%} off")
    if off > _OFF:
        say("warning: that is far off: keep more averages, or of other lengths")
    return target


def _thousands(images: int) -> str:
    """Thousands of images, to the last one: as `--kimg` takes them."""
    return f"{images / 1000:.3f}".rstrip("0").rstrip(".")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit code: 0 if the network was written, 2 if the command line asks for what can't be, 1
      if a file or folder can't be used.
    """
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.tools.power_average",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--std", type=float, required=True, help="length sigma_rel, such as 0.15")
    parser.add_argument("--kimg", type=float, help="at which it ends; the last by default")
    parser.add_argument("--output", default="", help="folder to write")
    parser.add_argument("--modules", default="", help="folder of a user's functions")
    arguments = parser.parse_args(argv)
    try:
        if arguments.modules:
            if not Path(arguments.modules).is_dir():
                raise RefusedError(f"--modules={arguments.modules}: there is no such folder")
            user_function.look_in(Path(arguments.modules))
        try:
            workdir = Path(paths.named(arguments.workdir, flag="--workdir"))
            output = arguments.output and paths.named(arguments.output, flag="--output")
        except ValueError as error:
            raise RefusedError(str(error)) from error
        make(workdir, arguments.std, kimg=arguments.kimg, output=output)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, RefusedError) else 1
    except KeyboardInterrupt:
        leave_interrupted()
    return 0


if __name__ == "__main__":
    sys.exit(main())
