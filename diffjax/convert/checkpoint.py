"""Files of others' denoisers, told apart by their first bytes: EDM's pickles, state dicts."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffjax.convert import dit, edm
from diffjax.files import kinds


def read(
    path: str | os.PathLike[str], said: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a denoiser's file without running anything in it.

    Args:
      path: of a network pickle of EDM's or EDM2's, or of a file of `torch.save` of DiT's or SiT's.
      said: constructor arguments that a state dict doesn't say; see `dit.read`.

    Returns:
      Constructor arguments, as `denoiser.from_edm_kwargs` takes them, and the state dict.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it holds no such network, naming it and what is wrong.
    """
    if os.path.isfile(path) and kinds.of(path) in (kinds.TORCH_SAVE, kinds.TORCH_ZIP):
        return dit.read(path, said)
    if said:
        raise ValueError(f"--network is of state dicts, and {path} is none")
    return edm.read_pickle(path)
