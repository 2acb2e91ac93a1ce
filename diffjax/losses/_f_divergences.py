"""Weights of f-divergences by name, for f-distill and Uni-Instruct."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array

# h(r) = f''(r) r².
WEIGHTS: dict[str, Callable[[Array], Array]] = {
    "reverse_kl": jnp.ones_like,
    "soft_reverse_kl": lambda r: 1 / (1 + r),
    "jensen_shannon": lambda r: r / (1 + r),
    "squared_hellinger": lambda r: jnp.sqrt(r) / 4,
    "forward_kl": lambda r: r,
    "jeffreys": lambda r: 1 + r,
    "neyman": lambda r: 1 / r,
}
# The same of log r, in which no power of a large or small r is taken: derivatives stay finite.
WEIGHTS_OF_LOG: dict[str, Callable[[Array], Array]] = {
    "reverse_kl": jnp.ones_like,
    "soft_reverse_kl": lambda log_r: jax.nn.sigmoid(-log_r),
    "jensen_shannon": jax.nn.sigmoid,
    "squared_hellinger": lambda log_r: jnp.exp(log_r / 2) / 4,
    "forward_kl": jnp.exp,
    "jeffreys": lambda log_r: 1 + jnp.exp(log_r),
    "neyman": lambda log_r: jnp.exp(-log_r),
}
F_DIVERGENCES = tuple(WEIGHTS)

# FastGen's names, and two that papers abbreviate to.
_SHORT_NAMES = {
    "rkl": "reverse_kl",
    "sf": "soft_reverse_kl",
    "soft_rkl": "soft_reverse_kl",
    "js": "jensen_shannon",
    "sh": "squared_hellinger",
    "kl": "forward_kl",
    "fkl": "forward_kl",
    "jf": "jeffreys",
}


def full_name(divergence: str) -> str:
    """Look up a divergence's name in `F_DIVERGENCES`, given it or a short one."""
    name = _SHORT_NAMES.get(divergence, divergence)
    if name not in WEIGHTS:
        known = ", ".join(WEIGHTS)
        raise ValueError(f"no f-divergence is called {divergence!r}; there are {known}")
    return name
