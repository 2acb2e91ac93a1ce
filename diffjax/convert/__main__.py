"""Convert a network of EDM's, SiD's, DiT's or SiT's authors, or an export, to a folder for configs.

python -m diffjax.convert --source=edm-cifar10-32x32-uncond-vp --output=teachers/cifar10
python -m diffjax.convert --source=sid-student.pkl --init_sigma=2.5 --output=students/cifar10
python -m diffjax.convert --source=SiT.pt --network='{"class_name": "SiT"}' --output=teachers/sit
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffjax.convert import catalogue, checkpoint, edm, edm2, portable, teacher
from diffjax.files import download, paths, writing
from diffjax.files.progress import leave_interrupted, say
from diffjax.models import model_card, network_folder
from diffjax.models.model_card import ModelCard


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 only if a network was written."""
    parser = argparse.ArgumentParser(
        prog="python -m diffjax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source",
        required=True,
        help="a pickle's or state dict's path or https URL, a released network's name, or an "
        "exported file",
    )
    parser.add_argument("--output", required=True, help="the folder to make")
    parser.add_argument(
        "--init_sigma",
        type=float,
        help="of a one-step student, the noise level at which it is asked; leave it out for a "
        "denoiser",
    )
    parser.add_argument(
        "--as_stored",
        action="store_true",
        help="of EDM2: divide gains in the type that they are stored in, as its code does with a "
        "float16 pickle, rather than in float32",
    )
    parser.add_argument(
        "--network",
        type=_json_object,
        default={},
        metavar="JSON",
        help="of a state dict of DiT's or SiT's, what it doesn't say of its network, such as "
        """'{"class_name": "SiT", "num_heads": 16}'""",
    )
    arguments = parser.parse_args(argv)
    try:
        convert(
            paths.named(arguments.source, flag="--source"),
            paths.named(arguments.output, flag="--output"),
            init_sigma=arguments.init_sigma,
            as_stored=arguments.as_stored,
            network=arguments.network,
        )
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        leave_interrupted()
    say(f"Wrote {arguments.output}")
    return 0


def convert(
    source: str,
    output: str,
    *,
    init_sigma: float | None = None,
    as_stored: bool = False,
    network: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Convert one network and save it as a denoiser's folder.

    Args:
      source: a pickle's or state dict's path or https URL, a released network's name, or a file of
        arrays that `python -m diffjax.export` wrote, which says itself what it is.
      output: the folder to make.
      init_sigma: noise level at which a student is asked; None leaves open what a pickle holds.
      as_stored: whether an EDM2 pickle's gains are rounded as `edm2.as_stored` says.
      network: constructor arguments that a state dict doesn't say, as `dit.read` takes them.

    Raises:
      FileExistsError: if `output` is there and not an empty folder.
      OSError: if the source can't be had or the output can't be written.
      ValueError: if the source is no network that is read here, no pickle of EDM2's and
        `as_stored`, or no state dict and `network`; or `init_sigma` is not positive or given for a
        released denoiser.
    """
    if Path(source).is_dir():
        raise ValueError(
            f"--source={source} is a folder: a config names a network's folder as it is, such as "
            "W/network of a run; files are converted"
        )
    card = ModelCard() if portable.is_one(Path(source)) else _card(source, init_sigma)
    folder = Path(output)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{output} exists already; name another folder or delete it")
    writing.check_writable(folder)
    with download.reading(_locate(source)) as path:
        if portable.is_one(path):
            if init_sigma is not None:
                raise ValueError(f"--init_sigma={init_sigma:g}: {source} says itself what it is")
            if as_stored:
                raise ValueError(f"--as_stored is of EDM2's pickles, and {source} is an export")
            if network:
                raise ValueError(f"--network is of state dicts, and {source} is an export")
            portable.to_folder(path, output)
            return
        said = {**catalogue.said(source), **network}
        init_kwargs, state_dict = checkpoint.read(path, said)
        if as_stored and init_kwargs["class_name"] != edm2.CLASS_NAME:
            raise ValueError(
                f"--as_stored is of EDM2's pickles, and {source} is of {init_kwargs['class_name']}"
            )
        try:
            state_dict = edm2.as_stored(state_dict) if as_stored else state_dict
            denoiser, params = edm.to_denoiser(init_kwargs, state_dict)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    card = dataclasses.replace(card, **model_card.of_denoiser(denoiser))
    network_folder.save_denoiser(output, init_kwargs, params, card=card)


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no object of JSON, {{...}}")
    return value


def _card(source: str, init_sigma: float | None) -> ModelCard:
    known = teacher.card(source)
    if init_sigma in (None, known.init_sigma):
        return known
    if known.kind or not 0 < init_sigma < math.inf:
        what = f"{source} is {known.title}" if known.kind else "a positive number is needed"
        advice = "leave it out" if known.init_sigma else "only a student has one"
        raise ValueError(f"--init_sigma={init_sigma:g}: {what}; {advice}")
    return ModelCard(model_card.STUDENT, init_sigma=init_sigma, steps=1)


def _locate(source: str) -> str:
    """Resolve a released name to its URL; a path or a URL stays as it is."""
    if source in catalogue.EDM or (catalogue.looks_like_name(source) and not Path(source).exists()):
        return catalogue.lookup(source).url
    return source


if __name__ == "__main__":
    sys.exit(main())
