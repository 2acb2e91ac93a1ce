"""Group norm with SiLU and dropout, forward and with its gradient, two ways, on a GPU.

    python -m benchmarks.group_norm --channels=256 --dropout=0.13

Our own gradient and, without dropout, automatic differentiation of the definition. Bytes a second
count one reading and one writing forward, and two readings and one writing backward, which is the
least that can be.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.networks import dropout
from diffjax.networks.group_norm import group_norm

GROUPS, EPS = 32, 1e-5


def definition(x: Array, scale: Array, bias: Array) -> Array:
    """Apply group norm and SiLU as one would write them down."""
    grouped = x.astype(jnp.float32).reshape(x.shape[0], -1, GROUPS, x.shape[-1] // GROUPS)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    normalised = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + EPS)
    affine = normalised.reshape(x.shape) * scale[:, None] + bias[:, None]
    return jax.nn.silu(affine.astype(x.dtype))


def with_gradient(function: Callable[..., Array]) -> Callable[..., Any]:
    """Compile a function and its gradients by a cotangent, the last argument."""

    def both(x: Array, scale: Array, bias: Array, d_out: Array) -> Any:
        out, vjp = jax.vjp(function, x, scale, bias)
        return out, vjp(d_out)

    return jax.jit(both)


def seconds(function: Callable[..., Any], *arguments: Array, repeats: int = 50) -> float:
    """Time a call, as the mean over many that are queued behind each other."""
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    result = None
    for _ in range(repeats):
        result = function(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def show(name: str, elapsed: float, least_bytes: int) -> None:
    """Print one line."""
    rate = least_bytes / elapsed / 1e9
    print(f"{name:36s} {elapsed * 1e3:8.3f} ms {rate:8.0f} GB/s of the least", flush=True)


def compare(shape: tuple[int, int, int], rate: float) -> None:
    """Time all of it and print a line each."""
    keys = jax.random.split(jax.random.key(0), 4)
    x = (2 * jax.random.normal(keys[0], shape) + 1).astype(jnp.bfloat16)
    d_out = jax.random.normal(keys[1], shape).astype(jnp.bfloat16)
    scale, bias = (jax.random.normal(key, (shape[0], shape[2])) for key in keys[2:])
    ours = functools.partial(
        group_norm,
        groups=GROUPS,
        silu=True,
        dropout_rate=rate,
        dropout_seed=dropout.seeds(jax.random.key(1), 1)[0],
    )
    methods: dict[str, Callable[..., Array]] = {"own gradient": ours}
    if not rate:
        methods["automatic differentiation"] = definition
    for name, function in methods.items():
        show(f"{name}, forward", seconds(jax.jit(function), x, scale, bias), 2 * x.nbytes)
        show(f"{name}, both", seconds(with_gradient(function), x, scale, bias, d_out), 5 * x.nbytes)


def main() -> None:
    """Print one line a method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.0)
    arguments = parser.parse_args()
    if jax.default_backend() != "gpu":
        raise SystemExit(f"error: this is for a GPU, and here is a {jax.default_backend()}.")
    compare((arguments.batch_size, arguments.pixels, arguments.channels), arguments.dropout)


if __name__ == "__main__":
    main()
