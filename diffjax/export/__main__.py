"""Write a student, or another network of a run, as a file for other programs.

python -m diffjax.export --source=runs/sid_digits --format=stablehlo --output=student.stablehlo
python -m diffjax.export --source=runs/sid_digits --format=safetensors --output=s.safetensors

stablehlo and onnx hold a function, (z, and the class or condition) -> samples, weights inside.
safetensors and edm hold arrays, by diffjax's names and by those of EDM's authors. Beside the file
stands its model card, FILE.json.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffjax.export import formats
from diffjax.files import paths
from diffjax.files.progress import leave_interrupted, say
from diffjax.runs import user_function


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit code: 0 if the file was written, 2 if the command line asks for what can't be, before
      anything is computed, 1 if a file or folder can't be used.
    """
    arguments = _parser().parse_args(argv)
    for folder in arguments.modules:
        user_function.look_in(Path(folder))
    try:
        formats.export(
            paths.expanded(arguments.source),
            arguments.format,
            paths.expanded(arguments.output),
            init_sigma=arguments.init_sigma,
            batch_size=arguments.batch_size,
        )
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, user_function.RefusedError) else 1
    except KeyboardInterrupt:
        leave_interrupted()
    say(f"Wrote {arguments.output}, and its card beside it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source", required=True, help="a work directory, or a network's folder, file or name"
    )
    parser.add_argument("--format", required=True, choices=formats.NAMES)
    parser.add_argument("--output", required=True, help="the file to write, which isn't there yet")
    parser.add_argument(
        "--init_sigma",
        type=float,
        help="of a student that doesn't say so itself, the noise level at which it is asked",
    )
    parser.add_argument(
        "--batch_size",
        type=_positive,
        help="of each call of a stablehlo or onnx file; left out, it is free",
    )
    parser.add_argument(
        "--modules",
        action="append",
        default=[],
        help="folder of a user's functions, such as the config's; the current one is searched too",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: a positive number is needed")
    return number


if __name__ == "__main__":
    sys.exit(main())
