"""Group norm with SiLU and dropout, forward and with its gradient, three ways, on a GPU.

    python -m benchmarks.group_norm --channels=256 --dropout=0.13

Automatic differentiation of the definition, our own gradient compiled by XLA, and our own kernels
over shapes of tiles. Bytes a second count one reading and one writing forward, and two readings and
one writing backward, which is the least that can be.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.networks import group_norm_sums, group_norm_triton
from diffjax.networks.dropout import seed_of
from diffjax.networks.group_norm import KERNELS, group_norm
from diffjax.types import Array

GROUPS, EPS = 32, 1e-5


def definition(x: Array, scale: Array, bias: Array) -> Array:
    """Group norm and SiLU as one would write them down."""
    grouped = x.astype(jnp.float32).reshape(x.shape[0], -1, GROUPS, x.shape[-1] // GROUPS)
    centred = grouped - grouped.mean((1, 3), keepdims=True)
    normalised = centred * jax.lax.rsqrt(jnp.square(centred).mean((1, 3), keepdims=True) + EPS)
    affine = normalised.reshape(x.shape) * scale[:, None] + bias[:, None]
    return jax.nn.silu(affine.astype(x.dtype))


def seconds(function: Callable[..., Any], *arguments: Array, repeats: int = 50) -> float:
    """Of a call, the mean over many that are queued behind each other."""
    jax.block_until_ready(function(*arguments))
    start = time.perf_counter()
    result = None
    for _ in range(repeats):
        result = function(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats


def show(name: str, elapsed: float, least_bytes: int) -> None:
    """One line."""
    rate = least_bytes / elapsed / 1e9
    print(f"{name:44s} {elapsed * 1e3:8.3f} ms {rate:8.0f} GB/s of the least", flush=True)


def compare(arguments: argparse.Namespace) -> None:
    """Times all of it and prints a line each."""
    shape = (arguments.batch_size, arguments.pixels, arguments.channels)
    keys = jax.random.split(jax.random.key(0), 5)
    x = (2 * jax.random.normal(keys[0], shape) + 1).astype(jnp.bfloat16)
    d_out = jax.random.normal(keys[1], shape).astype(jnp.bfloat16)
    scale, bias, shift = (jax.random.normal(key, (shape[0], shape[2])) for key in keys[2:5])
    rate, key = arguments.dropout, jax.random.key(1)

    def ours(kernels: str) -> Callable[..., Array]:
        return functools.partial(
            group_norm,
            groups=GROUPS,
            silu=True,
            dropout_rate=rate,
            dropout_key=key,
            kernels=kernels,
        )

    def with_gradient(function: Callable[..., Array]) -> Callable[..., Any]:
        def both(x: Array, scale: Array, bias: Array, d_out: Array) -> Any:
            out, vjp = jax.vjp(function, x, scale, bias)
            return out, vjp(d_out)

        return jax.jit(both)

    methods = {f"own gradient, {kernels}": ours(kernels) for kernels in KERNELS}
    if not rate:
        methods["automatic differentiation"] = definition
    for name, function in methods.items():
        show(f"{name}, forward", seconds(jax.jit(function), x, scale, bias), 2 * x.nbytes)
        show(f"{name}, both", seconds(with_gradient(function), x, scale, bias, d_out), 5 * x.nbytes)

    seed = seed_of(key)
    for lanes, elements, warps in itertools.product((32, 64), (4096, 8192), (8, 16)):
        tile = {"lanes": lanes, "elements": elements, "warps": warps}
        settings: dict[str, Any] = {"groups": GROUPS, "silu": True, "rate": rate, **tile}
        forward = functools.partial(group_norm_triton.forward, eps=EPS, **settings)
        _, *kept = forward(x, scale, bias, shift, seed)
        show(
            f"one kernel {tile}, forward",
            seconds(forward, x, scale, bias, shift, seed),
            2 * x.nbytes,
        )
        backward = functools.partial(group_norm_triton.backward, **settings)
        arguments_ = (x, d_out, scale, bias, kept[0], kept[1], seed)
        show(f"one kernel {tile}, backward", seconds(backward, *arguments_), 3 * x.nbytes)
    for lanes, rows, steps, warps in itertools.product((128, 256), (16, 32, 64), (1, 2, 4), (4, 8)):
        tile = {"lanes": lanes, "rows": rows, "steps": steps, "warps": warps}
        if lanes * rows > 1024 * warps:
            continue
        sums = functools.partial(group_norm_sums.forward, **tile)
        show(f"sums {tile}, forward", seconds(sums, x, shift), x.nbytes)
        sums = functools.partial(group_norm_sums.backward, silu=True, rate=rate, **tile)
        show(f"sums {tile}, backward", seconds(sums, *arguments_), 2 * x.nbytes)


def main() -> None:
    """Prints one line a method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--pixels", type=int, default=1024)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.0)
    arguments = parser.parse_args()
    if jax.default_backend() != "gpu":
        raise SystemExit(f"error: this is for a GPU, and here is a {jax.default_backend()}.")
    compare(arguments)


if __name__ == "__main__":
    main()
