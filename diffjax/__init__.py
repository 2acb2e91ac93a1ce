"""One-step generators from pretrained diffusion models, without training data, in JAX.

The losses are pure functions: call your networks, then these, and let `jax.grad` do the rest.

    >>> import jax, jax.numpy as jnp
    >>> from diffjax import losses
    >>> teacher, fake_score = jnp.sin, jnp.tanh  # of noisy samples; yours are networks
    >>> loss = lambda x: losses.sid(x, teacher(x), fake_score(x), alpha=1.2).mean()
    >>> jax.grad(loss)(jnp.ones((4, 32, 32, 3))).shape
    (4, 32, 32, 3)

Modules, each loaded when it is first asked for:

    losses    of SiD, Diff-Instruct and denoising
    methods   distillation methods as loss, learners and order of turns; adding one is a module
    noise     noise levels: how they are drawn, weighted and spaced
    samplers  EDM's Heun sampler
    metrics   distances between sets of images, from their features
    models    denoisers and generators as functions of their parameters, and their folders
    data      real images by name

The command line, `python -m diffjax.main --config=configs/sid_digits.py`, trains, samples and
evaluates. `python -m diffjax.convert` converts networks of PyTorch's.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "data",
    "losses",
    "methods",
    "metrics",
    "models",
    "noise",
    "samplers",
]


def __getattr__(name: str) -> ModuleType:
    """Import a module of `__all__` when it is first asked for."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what `__all__` has, imported or not."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
