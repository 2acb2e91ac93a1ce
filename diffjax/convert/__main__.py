"""Convert a network of EDM's or SiD's authors to a folder that configs can name as teacher.

python -m diffjax.convert --source=edm-cifar10-32x32-uncond-vp --output=teachers/cifar10
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from diffjax.convert import catalogue, edm
from diffjax.files import download, paths, writing
from diffjax.files.progress import say
from diffjax.models import network_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 only if a network was written."""
    parser = argparse.ArgumentParser(prog="python -m diffjax.convert", description=__doc__)
    parser.add_argument(
        "--source", required=True, help="a pickle's path or https URL, or a released network's name"
    )
    parser.add_argument("--output", required=True, help="the folder to make")
    arguments = parser.parse_args(argv)
    try:
        convert(paths.expanded(arguments.source), paths.expanded(arguments.output))
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    say(f"Wrote {arguments.output}")
    return 0


def convert(source: str, output: str) -> None:
    """Convert one network and save it as a denoiser's folder.

    Args:
      source: a pickle's path or https URL, or a released network's name.
      output: the folder to make.

    Raises:
      FileExistsError: if `output` is there and not an empty folder.
      OSError: if the source can't be had or the output can't be written.
      ValueError: if the source is no EDM network.
    """
    folder = Path(output)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{output} exists already; name another folder or delete it")
    writing.check_writable(folder)
    with download.reading(_locate(source)) as path:
        init_kwargs, state_dict = edm.read_pickle(path)
        try:
            _, params = edm.to_denoiser(init_kwargs, state_dict)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    network_folder.save_denoiser(output, init_kwargs, params)


def _locate(source: str) -> str:
    """Resolve a released name to its URL; a path or a URL stays as it is."""
    looks_like_name = not ("://" in source or "/" in source or Path(source).suffix)
    if looks_like_name and not Path(source).exists():
        return catalogue.lookup(source).url
    return source


if __name__ == "__main__":
    sys.exit(main())
