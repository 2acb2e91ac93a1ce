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

from diffjax.export import formats, hub
from diffjax.files import paths
from diffjax.files.progress import leave_interrupted, say
from diffjax.runs import user_function


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
      The exit code: 0 if the file was written, 2 if the command line asks for what can't be, before
      anything is computed, 1 if a file or folder can't be used.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.dry_run and arguments.push is None:
        parser.error("--dry_run is of --push alone")
    try:
        for folder in arguments.modules:
            if not Path(folder).is_dir() or not folder:
                raise user_function.RefusedError(f"--modules={folder}: there is no such folder")
            user_function.look_in(Path(folder))
        if arguments.push is not None:
            hub.check(arguments.push, dry_run=arguments.dry_run)
        output = paths.expanded(arguments.output)
        card = formats.export(
            arguments.source,
            arguments.format,
            output,
            init_sigma=arguments.init_sigma,
            batch_size=arguments.batch_size,
        )
        say(f"Wrote {output}, and its card beside it")
        if arguments.push is not None:
            _push(hub.prepare(arguments.push, Path(output), card), dry_run=arguments.dry_run)
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        if "there is no module" in text:  # of a user's network, which no config lies beside here
            text += "; --modules=FOLDER says where it lies"
        print(f"error: {text}", file=sys.stderr)
        return 2 if isinstance(error, user_function.RefusedError) else 1
    except KeyboardInterrupt:
        leave_interrupted()
    return 0


def _push(upload: hub.Upload, *, dry_run: bool) -> None:
    """Send what was written to the hub, or say what would be sent."""
    if dry_run:
        say(f"Would push to {upload.repository}, private if it is new:")
        say("\n".join(upload.lines()))
        say(upload.page)
        return
    say(f"Pushed: {hub.push(upload)}")


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
    parser.add_argument("--push", metavar="USER/NAME", help="repository of the Hugging Face hub")
    parser.add_argument(
        "--dry_run", action="store_true", help="say what --push would send, and send nothing"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: a positive number is needed, a whole one")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
