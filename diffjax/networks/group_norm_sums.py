"""The sums over pixels of `group_norm` as GPU kernels, each of one reading at memory's speed.

A program sums some pixels of an example, for as many channels side by side as make a long run in
memory; what the programs of an example found is added by XLA. All else, which goes element by
element and which XLA fuses with what stands around it, is left to XLA.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from diffjax.networks.dropout import drop_tile
from diffjax.types import Array

# The most channels side by side; pixels of a tile; tiles of a program; warps.
_FORWARD = {"lanes": 128, "rows": 64, "steps": 2, "warps": 8}
_BACKWARD = {"lanes": 128, "rows": 32, "steps": 4, "warps": 8}

_Terms = Callable[[Array], tuple[Array, Array]]


@functools.partial(jax.jit, static_argnames=("interpret", "lanes", "rows", "steps", "warps"))
def forward(
    x: Array,
    reference: Array,
    *,
    interpret: bool = False,
    lanes: int = _FORWARD["lanes"],
    rows: int = _FORWARD["rows"],
    steps: int = _FORWARD["steps"],
    warps: int = _FORWARD["warps"],
) -> tuple[Array, Array]:
    """Sums over pixels of x − reference and of its square.

    Args:
      x: [B, N, C].
      reference: [B, C] float32.
      interpret: runs the kernel as JAX operations, on any platform, for tests.
      lanes: the most channels of a program, a power of two.
      rows: the most pixels of a tile, a power of two.
      steps: the most tiles of a program.
      warps: of a program.

    Returns:
      Twice [B, C] float32.
    """
    tiles = _Tiles(x.shape, lanes, rows, steps)

    def kernel(x_ref: Any, reference_ref: Any, *out_refs: Any) -> None:
        program = _Program(tiles)
        reference = program.load(reference_ref)

        def terms(step: Array) -> tuple[Array, Array]:
            difference = program.tile(x_ref, step) - reference[None, :]
            difference = jnp.where(program.mask(step), difference, 0.0)
            return difference, difference * difference

        program.sum(terms, out_refs)

    return _call(kernel, tiles, warps, interpret, "group_norm_sums")(x, reference)


@functools.partial(
    jax.jit, static_argnames=("silu", "rate", "interpret", "lanes", "rows", "steps", "warps")
)
def backward(
    x: Array,
    d_out: Array,
    scale: Array,
    bias: Array,
    centre: Array,
    inverse_std: Array,
    seed: Array,
    *,
    silu: bool,
    rate: float,
    interpret: bool = False,
    lanes: int = _BACKWARD["lanes"],
    rows: int = _BACKWARD["rows"],
    steps: int = _BACKWARD["steps"],
    warps: int = _BACKWARD["warps"],
) -> tuple[Array, Array]:
    """The gradients of bias and of scale, an example at a time.

    Args:
      x: [B, N, C].
      d_out: [B, N, C], the gradient of the output.
      scale: [B, C] float32.
      bias: [B, C] float32.
      centre: [B, C] float32, subtracted from x.
      inverse_std: [B, C] float32, multiplied by then.
      seed: of `dropout.seed_of`.
      silu: whether SiLU is applied.
      rate: of dropout.
      interpret: as for `forward`.
      lanes: likewise.
      rows: likewise.
      steps: likewise.
      warps: likewise.

    Returns:
      Twice [B, C] float32.
    """
    tiles = _Tiles(x.shape, lanes, rows, steps)

    def kernel(
        x_ref: Any,
        d_out_ref: Any,
        scale_ref: Any,
        bias_ref: Any,
        centre_ref: Any,
        inverse_std_ref: Any,
        seed_ref: Any,
        *out_refs: Any,
    ) -> None:
        program = _Program(tiles)
        scale, bias, centre, inverse_std = (
            program.load(ref) for ref in (scale_ref, bias_ref, centre_ref, inverse_std_ref)
        )

        def terms(step: Array) -> tuple[Array, Array]:
            normalised = (program.tile(x_ref, step) - centre[None, :]) * inverse_std[None, :]
            d_affine = program.dropped(program.tile(d_out_ref, step), step, seed_ref, rate)
            if silu:
                out = normalised * scale[None, :] + bias[None, :]
                sigmoid = jax.nn.sigmoid(out)
                d_affine = d_affine * (sigmoid * (1 + out * (1 - sigmoid)))
            return d_affine, d_affine * normalised

        program.sum(terms, out_refs)

    call = _call(kernel, tiles, warps, interpret, "group_norm_gradient_sums")
    return call(x, d_out, scale, bias, centre, inverse_std, seed)


class _Tiles:
    """How [B, N, C] is split: `lanes` channels by `rows` pixels a tile, `steps` tiles a program."""

    def __init__(self, shape: tuple[int, ...], lanes: int, rows: int, steps: int) -> None:
        self.batch, self.pixels, self.channels = shape
        self.lanes = math.gcd(self.channels, lanes)
        self.rows = min(rows, pl.next_power_of_2(self.pixels))
        tiles = pl.cdiv(self.pixels, self.rows)
        self.steps = min(steps, tiles)
        self.parts = pl.cdiv(tiles, self.steps)
        self.is_whole = self.parts * self.steps * self.rows == self.pixels

    @property
    def grid(self) -> tuple[int, int, int]:
        return self.channels // self.lanes, self.parts, self.batch


class _Program:
    """What one program sums: some channels of some pixels of an example."""

    def __init__(self, tiles: _Tiles) -> None:
        self.tiles = tiles
        self.channel = pl.program_id(0) * tiles.lanes + jnp.arange(tiles.lanes)
        self.part, self.example = pl.program_id(1), pl.program_id(2)

    def pixel(self, step: Array) -> Array:
        """The pixels of a tile."""
        tile = self.part * self.tiles.steps + step
        return tile * self.tiles.rows + jnp.arange(self.tiles.rows)

    def mask(self, step: Array) -> Array:
        """Which of a tile's places are there."""
        shape = (self.tiles.rows, self.tiles.lanes)
        return jnp.broadcast_to((self.pixel(step) < self.tiles.pixels)[:, None], shape)

    def load(self, ref: Any) -> Array:
        """This program's part of [B, C]."""
        return plgpu.load(ref.at[self.example, self.channel])

    def tile(self, ref: Any, step: Array) -> Array:
        """A tile of [B, N, C], as float32, 0 where there is no pixel."""
        where = ref.at[self.example, self.pixel(step)[:, None], self.channel[None, :]]
        if self.tiles.is_whole:
            return plgpu.load(where).astype(jnp.float32)
        return plgpu.load(where, mask=self.mask(step), other=0.0).astype(jnp.float32)

    def dropped(self, x: Array, step: Array, seed_ref: Any, rate: float) -> Array:
        """Dropout of a tile, the same elements as `dropout.dropout` drops."""
        size = self.tiles.pixels, self.tiles.channels
        return drop_tile(x, rate, seed_ref, self.example, self.pixel(step), self.channel, size)

    def sum(self, terms: _Terms, out_refs: tuple[Any, ...]) -> None:
        """Writes the sums over this program's pixels of two terms."""

        def add(step: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            a, b = terms(step)
            return sums[0] + a, sums[1] + b

        sums = terms(jnp.int32(0))
        if self.tiles.steps > 1:
            sums = jax.lax.fori_loop(1, self.tiles.steps, add, sums)
        for ref, total in zip(out_refs, sums, strict=True):
            plgpu.store(ref.at[self.example, self.part, self.channel], total.sum(axis=0))


def _call(
    kernel: Callable[..., None], tiles: _Tiles, warps: int, interpret: bool, name: str
) -> Callable[..., tuple[Array, Array]]:
    """The kernel over all programs, and the sum of what those of an example found."""
    part = jax.ShapeDtypeStruct((tiles.batch, tiles.parts, tiles.channels), jnp.float32)
    call = pl.pallas_call(
        kernel,
        grid=tiles.grid,
        out_shape=(part, part),
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=2),
        interpret=interpret,
        name=name,
    )

    def summed(*arguments: Array) -> tuple[Array, Array]:
        a, b = call(*arguments)
        return a.sum(axis=1), b.sum(axis=1)

    return summed
