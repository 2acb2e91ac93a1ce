"""The passes of `group_norm` as GPU kernels: one read and one write each, whatever XLA would fuse.

One program has a few whole groups of channels of one example. Where they fit in one tile they stay
in registers between their sums and the result; otherwise they are read tile by tile for the sums,
and once more for the result, by when some of them lie in the cache.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from diffjax.networks.dropout import drop_tile
from diffjax.types import Array

# Channels of a program, where groups are smaller; elements of a tile; warps. Of 18 that were timed
# on an H100, at [256, 1024, 256] with dropout, the fastest, or 2 % from it.
_FORWARD = {"lanes": 32, "elements": 4096, "warps": 8}
_BACKWARD = {"lanes": 64, "elements": 4096, "warps": 16}


class _Tiles:
    """How [N, C] is split: `lanes` channels (a power of two, maybe more than needed) by `rows`."""

    def __init__(self, pixels: int, channels: int, groups: int, lanes: int, elements: int) -> None:
        self.pixels = pixels
        self.group = channels // groups
        together = 1
        while groups % (2 * together) == 0 and 2 * together * self.group <= lanes:
            together *= 2
        self.used = together * self.group
        self.lanes = pl.next_power_of_2(self.used)
        self.programs = channels // self.used
        rows = 1
        while pixels % (2 * rows) == 0 and 2 * rows * self.lanes <= elements:
            rows *= 2
        self.rows = rows
        self.steps = pixels // rows


class _Program:
    """What one program works on: an example's channels, some of whose lanes may be empty."""

    def __init__(self, tiles: _Tiles) -> None:
        self.tiles = tiles
        lane = jnp.arange(tiles.lanes)
        self.example = pl.program_id(1)
        self.channel = pl.program_id(0) * tiles.used + lane
        self.valid = lane < tiles.used
        group = lane // tiles.group
        self._same_group = (group[:, None] == group[None, :]) & self.valid[None, :]
        self._tile_mask = jnp.broadcast_to(self.valid[None, :], (tiles.rows, tiles.lanes))

    def group_mean(self, per_channel: Array) -> Array:
        """[lanes] -> [lanes], each the mean over its group."""
        shared = jnp.where(self._same_group, per_channel[None, :], 0.0)
        return shared.sum(axis=1) / self.tiles.group

    def load(self, ref: Any) -> Array:
        """This program's part of [B, C]."""
        return plgpu.load(ref.at[self.example, self.channel], mask=self.valid, other=0.0)

    def store(self, ref: Any, value: Array) -> None:
        """Writes this program's part of [B, C]."""
        plgpu.store(ref.at[self.example, self.channel], value, mask=self.valid)

    def rows(self, step: Array) -> Array:
        """The pixels of a tile."""
        return step * self.tiles.rows + jnp.arange(self.tiles.rows)

    def load_tile(self, ref: Any, step: Array) -> Array:
        """A tile of [B, N, C], as float32."""
        where = ref.at[self.example, self.rows(step)[:, None], self.channel[None, :]]
        return plgpu.load(where, mask=self._tile_mask, other=0.0).astype(jnp.float32)

    def store_tile(self, ref: Any, value: Array, step: Array) -> None:
        """Writes a tile of [B, N, C], in its type."""
        where = ref.at[self.example, self.rows(step)[:, None], self.channel[None, :]]
        plgpu.store(where, value.astype(ref.dtype), mask=self._tile_mask)

    def once(self, read: Callable[[Array], Any]) -> Callable[[Array], Any]:
        """`read` of a step, as it is; or, where there is one step, its result read only once."""
        if self.tiles.steps > 1:
            return read
        only = read(jnp.int32(0))
        return lambda _: only

    def sum_tiles(self, terms: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, Array]:
        """Two sums over all pixels, [lanes] each, of what `terms` makes of a step."""
        if self.tiles.steps == 1:
            a, b = terms(jnp.int32(0))
            return a.sum(axis=0), b.sum(axis=0)

        def add(step: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            a, b = terms(step)
            return sums[0] + a, sums[1] + b

        zeros = jnp.zeros((self.tiles.rows, self.tiles.lanes), jnp.float32)
        a, b = jax.lax.fori_loop(0, self.tiles.steps, add, (zeros, zeros))
        return a.sum(axis=0), b.sum(axis=0)

    def for_tiles(self, write: Callable[[Array], None]) -> None:
        """Calls `write` with every step."""
        if self.tiles.steps == 1:
            write(jnp.int32(0))
            return

        def body(step: Array, nothing: None) -> None:
            write(step)

        jax.lax.fori_loop(0, self.tiles.steps, body, None)

    def dropped(self, x: Array, step: Array, seed_ref: Any, rate: float) -> Array:
        """Dropout of a tile, the same elements as `dropout.dropout` drops."""
        size = self.tiles.pixels, self.tiles.programs * self.tiles.used
        return drop_tile(x, rate, seed_ref, self.example, self.rows(step), self.channel, size)


def _forward_kernel(
    x_ref: Any,
    scale_ref: Any,
    bias_ref: Any,
    shift_ref: Any,
    seed_ref: Any,
    out_ref: Any,
    centre_ref: Any,
    inverse_std_ref: Any,
    offset_ref: Any,
    *,
    tiles: _Tiles,
    eps: float,
    silu: bool,
    rate: float,
) -> None:
    program = _Program(tiles)
    reference = plgpu.load(
        x_ref.at[program.example, 0, program.channel], mask=program.valid, other=0.0
    ).astype(jnp.float32)

    read = program.once(lambda step: program.load_tile(x_ref, step))

    def terms(step: Array) -> tuple[Array, Array]:
        difference = read(step) - reference[None, :]
        return difference, difference * difference

    sums, squares = program.sum_tiles(terms)
    difference = sums / tiles.pixels
    variance = jnp.maximum(squares / tiles.pixels - difference * difference, 0.0)
    shift = program.load(shift_ref)
    means = reference + difference + shift
    mean = program.group_mean(means)
    offset = means - mean
    inverse_std = jax.lax.rsqrt(program.group_mean(variance + offset * offset) + eps)
    centre = mean - shift
    scale, bias = program.load(scale_ref), program.load(bias_ref)

    def write(step: Array) -> None:
        out = (read(step) - centre[None, :]) * inverse_std[None, :] * scale[None, :] + bias[None, :]
        if silu:
            out = out * jax.nn.sigmoid(out)
        program.store_tile(out_ref, program.dropped(out, step, seed_ref, rate), step)

    program.for_tiles(write)
    program.store(centre_ref, centre)
    program.store(inverse_std_ref, inverse_std)
    program.store(offset_ref, offset * inverse_std)


def _backward_kernel(
    x_ref: Any,
    d_out_ref: Any,
    scale_ref: Any,
    bias_ref: Any,
    centre_ref: Any,
    inverse_std_ref: Any,
    seed_ref: Any,
    dx_ref: Any,
    d_scale_ref: Any,
    d_bias_ref: Any,
    *,
    tiles: _Tiles,
    silu: bool,
    rate: float,
) -> None:
    program = _Program(tiles)
    scale, bias = program.load(scale_ref), program.load(bias_ref)
    centre, inverse_std = program.load(centre_ref), program.load(inverse_std_ref)

    @program.once
    def read(step: Array) -> tuple[Array, Array]:
        normalised = (program.load_tile(x_ref, step) - centre[None, :]) * inverse_std[None, :]
        d_affine = program.dropped(program.load_tile(d_out_ref, step), step, seed_ref, rate)
        if silu:
            out = normalised * scale[None, :] + bias[None, :]
            sigmoid = jax.nn.sigmoid(out)
            d_affine = d_affine * (sigmoid * (1 + out * (1 - sigmoid)))
        return normalised, d_affine

    def terms(step: Array) -> tuple[Array, Array]:
        normalised, d_affine = read(step)
        return d_affine, d_affine * normalised

    d_bias, d_scale = program.sum_tiles(terms)
    along_mean = program.group_mean(scale * d_bias) / tiles.pixels
    along_std = program.group_mean(scale * d_scale) / tiles.pixels

    def write(step: Array) -> None:
        normalised, d_affine = read(step)
        d_normalised = d_affine * scale[None, :] - along_mean[None, :]
        dx = (d_normalised - normalised * along_std[None, :]) * inverse_std[None, :]
        program.store_tile(dx_ref, dx, step)

    program.for_tiles(write)
    program.store(d_scale_ref, d_scale)
    program.store(d_bias_ref, d_bias)


@functools.partial(
    jax.jit,
    static_argnames=("groups", "eps", "silu", "rate", "interpret", "lanes", "elements", "warps"),
)
def forward(
    x: Array,
    scale: Array,
    bias: Array,
    shift: Array,
    seed: Array,
    *,
    groups: int,
    eps: float,
    silu: bool,
    rate: float,
    interpret: bool = False,
    lanes: int = _FORWARD["lanes"],
    elements: int = _FORWARD["elements"],
    warps: int = _FORWARD["warps"],
) -> tuple[Array, Array, Array, Array]:
    """The output and statistics of `group_norm`'s forward pass.

    Args:
      x: [B, N, C].
      scale: [B, C] float32.
      bias: [B, C] float32.
      shift: [B, C] float32.
      seed: of `dropout.seed_of`.
      groups: see `group_norm.group_norm`, as for eps, silu and rate.
      eps: added to the variance.
      silu: whether to apply it.
      rate: of dropout.
      interpret: runs the kernel as JAX operations, on any platform, for tests.
      lanes: the most channels a program has, if groups are smaller.
      elements: of a tile.
      warps: of a program.

    Returns:
      [B, N, C], and three times [B, C] float32: what to subtract from x, what to multiply by then,
      and the mean of a channel after both.
    """
    batch, pixels, channels = x.shape
    tiles = _Tiles(pixels, channels, groups, lanes, elements)
    statistics = jax.ShapeDtypeStruct((batch, channels), jnp.float32)
    return pl.pallas_call(
        functools.partial(_forward_kernel, tiles=tiles, eps=eps, silu=silu, rate=rate),
        grid=(tiles.programs, batch),
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype), statistics, statistics, statistics),
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=2),
        interpret=interpret,
        name="group_norm_forward",
    )(x, scale, bias, shift, seed)


@functools.partial(
    jax.jit,
    static_argnames=("groups", "silu", "rate", "interpret", "lanes", "elements", "warps"),
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
    groups: int,
    silu: bool,
    rate: float,
    interpret: bool = False,
    lanes: int = _BACKWARD["lanes"],
    elements: int = _BACKWARD["elements"],
    warps: int = _BACKWARD["warps"],
) -> tuple[Array, Array, Array]:
    """The gradients [B, N, C] of x and, an example at a time, [B, C] of scale and bias.

    Arguments are those of `forward`, the gradient of its output, and its statistics.
    """
    batch, pixels, channels = x.shape
    tiles = _Tiles(pixels, channels, groups, lanes, elements)
    per_channel = jax.ShapeDtypeStruct((batch, channels), jnp.float32)
    return pl.pallas_call(
        functools.partial(_backward_kernel, tiles=tiles, silu=silu, rate=rate),
        grid=(tiles.programs, batch),
        out_shape=(jax.ShapeDtypeStruct(x.shape, x.dtype), per_channel, per_channel),
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=2),
        interpret=interpret,
        name="group_norm_backward",
    )(x, d_out, scale, bias, centre, inverse_std, seed)
