"""Models: denoisers and generators as functions of their parameters, and their folders.

Bring your own: a `Teacher` is whatever denoises, a `Generator` whatever generates, in any
framework. Nothing here imports Flax, Equinox or Orbax; an adapter imports its framework when it is
called. `models.denoiser` and `models.network_folder`, which need Flax and Orbax, are imported by
their own names.
"""

from diffjax.diffusion.process import Process
from diffjax.models.adapters import (
    channels_first,
    from_equinox,
    from_function,
    from_linen,
    from_nnx,
    from_torch_export,
    scaled,
)
from diffjax.models.condition_files import from_file
from diffjax.models.conditions import (
    from_array,
    from_frequencies,
    guided,
    normal,
    one_hot,
    uniform,
)
from diffjax.models.generator import Generator, denoiser_generator
from diffjax.models.points import points
from diffjax.models.teacher import Teacher

__all__ = [
    "Generator",
    "Process",
    "Teacher",
    "channels_first",
    "denoiser_generator",
    "from_array",
    "from_equinox",
    "from_file",
    "from_frequencies",
    "from_function",
    "from_linen",
    "from_nnx",
    "from_torch_export",
    "guided",
    "normal",
    "one_hot",
    "points",
    "scaled",
    "uniform",
]
