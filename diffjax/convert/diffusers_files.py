"""Files of a folder of Hugging Face's diffusers: where they lie, and what they hold."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.files import kinds, safetensors_file

CONFIG, SCHEDULER, INDEX = "config.json", "scheduler_config.json", "model_index.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHARDS = f"{_WEIGHTS}.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_JSON_BYTES = 1 << 26


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Put a file's name before what is wrong with it.

    Args:
      path: of the file.

    Raises:
      ValueError: for one within, its text behind the name.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_paths(folder: Path) -> tuple[Path, Path]:
    """Find the network's config and the scheduler's.

    Args:
      folder: of a pipeline, or of a network.

    Raises:
      FileNotFoundError: in one line, naming the file that isn't there.
      ValueError: if the pipeline has no U-Net.
    """
    is_pipeline = (folder / INDEX).is_file()
    if is_pipeline and "unet" not in read_json(folder / INDEX):
        name = read_json(folder / INDEX).get("_class_name")
        raise ValueError(
            f"{folder / INDEX}: {name} has no unet; pipelines of a UNet2DModel are read"
        )
    in_unet = is_pipeline or not (folder / CONFIG).is_file()
    config = folder / "unet" / CONFIG if in_unet else folder / CONFIG
    if not config.is_file():
        raise FileNotFoundError(f"{config} isn't there; save the pipeline, or the network, again")
    beside = folder / SCHEDULER
    scheduler = beside if beside.is_file() else folder / "scheduler" / SCHEDULER
    if not scheduler.is_file():
        wanted = scheduler if in_unet else beside
        above = config.parent.parent
        if (above / "scheduler" / SCHEDULER).is_file() and above != folder:
            raise FileNotFoundError(f"{wanted} isn't there; name the folder above, {above}")
        raise FileNotFoundError(
            f"{wanted} isn't there; it says what the network was trained on: "
            "scheduler.save_pretrained(FOLDER) writes it, a pipeline's folder has it"
        )
    return config, scheduler


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of settings.

    Args:
      path: of the file.

    Raises:
      FileNotFoundError: if it isn't there.
      ValueError: in one line, naming it and what it is instead.
    """
    try:
        value = json.loads(kinds.read(path, max_bytes=_MAX_JSON_BYTES))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not JSON{kinds.but(path)}") from error
    except json.JSONDecodeError as error:
        kind = kinds.but(path) or f" ({error})"
        raise ValueError(f"{path}: not JSON{kind}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply") from error
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a {type(value).__name__}, not the settings of a config")
    return value


def weights(folder: Path, *, class_name: str = "UNet2DModel") -> tuple[Path, ...]:
    """Find the files of weights.

    Args:
      folder: where the network's config lies.
      class_name: of the network in diffusers, for errors.

    Raises:
      FileNotFoundError: if there is none, or an index names one that isn't there.
      ValueError: for pickles, and where there are several.
    """
    if (folder / _SHARDS).is_file():
        return _shards(folder / _SHARDS)
    if (folder / _WEIGHTS).is_file():
        return (folder / _WEIGHTS,)
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return (found[0],)
    if found:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder}: {names}: which? rename the one that is meant to {_WEIGHTS}")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ValueError(
            f"{folder / pickles[0]}: a pickle of PyTorch's, which can run code, isn't read; where "
            f"PyTorch is, {class_name}.from_pretrained(FOLDER).save_pretrained(FOLDER) writes "
            "safetensors"
        )
    raise FileNotFoundError(f"{folder / _WEIGHTS} isn't there; download the folder again")


def _shards(index: Path) -> tuple[Path, ...]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ValueError(f"{index}: has no weight_map from arrays to files; download it again")
    names = sorted(set(files.values()))
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{index}: names the file {name!r}, which isn't beside it")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index.parent / name} isn't there; {index.name} names it")
    if not names:
        raise ValueError(f"{index}: names no file; download it again")
    return tuple(index.parent / name for name in names)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Read arrays of floating point by name, each in the type that it is stored in.

    Args:
      path: of the file.

    Raises:
      ValueError: in one line, naming the file and what it is instead, or the array of another type.
    """
    return safetensors_file.read(path, dtypes=safetensors_file.FLOATING)[0]
