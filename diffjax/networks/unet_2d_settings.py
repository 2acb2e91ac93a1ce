"""Settings of `UNet2D`: its kinds of blocks, and what doesn't fit together."""

from typing import Any, NamedTuple

from diffjax.networks import unet_2d_blocks as blocks


class Kind(NamedTuple):
    """Kind of a level.

    Attributes:
      has_attention: whether it has attention.
      resample: how it halves or doubles the resolution, "conv" or "resnet"; None where the network
        says so.
      has_skips: whether it also resamples an image beside its features, as NCSN++ does.
    """

    has_attention: bool = False
    resample: str | None = None
    has_skips: bool = False


DOWN_BLOCKS = {
    "DownBlock2D": Kind(resample="conv"),
    "AttnDownBlock2D": Kind(has_attention=True),
    "ResnetDownsampleBlock2D": Kind(resample="resnet"),
    "SkipDownBlock2D": Kind(has_skips=True),
    "AttnSkipDownBlock2D": Kind(has_attention=True, has_skips=True),
}
UP_BLOCKS = {
    "UpBlock2D": Kind(resample="conv"),
    "AttnUpBlock2D": Kind(has_attention=True),
    "ResnetUpsampleBlock2D": Kind(resample="resnet"),
    "SkipUpBlock2D": Kind(has_skips=True),
    "AttnSkipUpBlock2D": Kind(has_attention=True, has_skips=True),
}
_CHOICES: dict[str, tuple[Any, ...]] = {
    "time_embedding_type": ("positional", "fourier", "learned"),
    "mid_block_type": ("UNetMidBlock2D", None),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "resnet"),
    "upsample_type": ("conv", "resnet"),
    "act_fn": tuple(blocks.ACTIVATIONS),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "class_embed_type": (None, "timestep", "identity"),
}
_MAX_LAYERS = 100


def kind_of(block_type: str) -> Kind:
    """Kind of a block by its name, with or without a prefix that it had once."""
    return (DOWN_BLOCKS | UP_BLOCKS)[_short(block_type)]


def check(network: Any) -> None:
    """Refuse settings that aren't read, or don't fit the others.

    Args:
      network: with the attributes of `UNet2D`.

    Raises:
      ValueError: in one line, naming the attribute.
    """
    for field, choices in _CHOICES.items():
        if getattr(network, field) not in choices:
            shown = ", ".join(map(repr, choices))
            raise ValueError(f"{field}={getattr(network, field)!r} isn't read; {shown} are")
    channels = network.block_out_channels
    _check_levels(network)
    if not 1 <= network.layers_per_block <= _MAX_LAYERS:
        raise ValueError(
            f"layers_per_block={network.layers_per_block} must lie in [1, {_MAX_LAYERS}]"
        )
    _check_groups(network)
    _check_attention(network)
    if network.time_embedding_type == "learned" and network.num_train_timesteps is None:
        raise ValueError("time_embedding_type='learned' needs num_train_timesteps")
    if network.time_embedding_type == "positional" and channels[0] // 2 <= network.freq_shift:
        raise ValueError(
            f"freq_shift={network.freq_shift} must be less than half of "
            f"block_out_channels[0]={channels[0]}"
        )


def _short(block_type: str) -> str:
    return block_type.removeprefix("UNetRes")


def _check_levels(network: Any) -> None:
    channels = network.block_out_channels
    for field, known in (("down_block_types", DOWN_BLOCKS), ("up_block_types", UP_BLOCKS)):
        names = getattr(network, field)
        for i, name in enumerate(names):
            if _short(name) not in known:
                raise ValueError(f"{field}[{i}]={name!r} isn't read; {', '.join(known)} are")
        if len(names) != len(channels) or not names:
            raise ValueError(
                f"{field} names {len(names)} levels and block_out_channels {len(channels)}; they "
                "must be as many, at least one"
            )
        skips = {kind_of(name).has_skips for name in names}
        if len(skips) > 1:
            raise ValueError(f"{field} mixes blocks with Skip in their name and others")
        for side in ("in_channels", "out_channels"):
            if True in skips and getattr(network, side) != blocks.IMAGE_CHANNELS:
                raise ValueError(
                    f"{side}={getattr(network, side)} must be {blocks.IMAGE_CHANNELS} with "
                    f"{field}[0]={names[0]!r}"
                )


def _check_groups(network: Any) -> None:
    """Refuse numbers of groups that don't divide their channels."""
    channels, groups = network.block_out_channels, network.norm_num_groups
    pairs = [("norm_num_groups", groups, width) for width in (channels[0], channels[-1])]
    inputs = (channels[0], *channels[:-1])
    for name, first, width in zip(network.down_block_types, inputs, channels, strict=True):
        kind = kind_of(name)
        for each in (first, width):
            pairs.append(_pair(network, name, each))
        if kind.has_skips and kind.has_attention:
            pairs.append((name, blocks.SKIP_ATTENTION_GROUPS, width))
    before = channels[-1]
    for i, name in enumerate(network.up_block_types):
        width = channels[-1 - i]
        below = channels[max(len(channels) - 2 - i, 0)]
        kind = kind_of(name)
        for x, skip in ((before, width), (width, width), (width, below)):
            pairs.append(_pair(network, name, x + skip, x, skip))
        pairs.append(_pair(network, name, width))
        if kind.has_skips and kind.has_attention:
            pairs.append((name, blocks.SKIP_ATTENTION_GROUPS, width))
        before = width
    if network.attn_norm_num_groups is not None:
        pairs.append(("attn_norm_num_groups", network.attn_norm_num_groups, channels[-1]))
    for name, number, width in pairs:
        if number < 1 or width % number:
            raise ValueError(
                f"{name}: {number} groups don't divide {width} channels, which follow from "
                f"block_out_channels={list(channels)}"
            )


def _pair(
    network: Any, name: str, width: int, x: int | None = None, skip: int | None = None
) -> tuple[str, int, int]:
    """Name, number of groups and channels of one group norm of a block."""
    kind = kind_of(name)
    if not kind.has_skips:
        return "norm_num_groups", network.norm_num_groups, width
    if x is not None and skip is not None and kind.has_attention:
        return name, blocks.skip_attention_groups(x, skip), width
    return name, min(width // 4, 32), width


def _check_attention(network: Any) -> None:
    dim, channels = network.attention_head_dim, network.block_out_channels
    if dim is None:
        return
    both = zip(channels, network.down_block_types, reversed(network.up_block_types), strict=True)
    widths = [width for width, *names in both if any(kind_of(name).has_attention for name in names)]
    if network.mid_block_type is not None and network.add_attention:
        widths.append(channels[-1])
    for width in widths:
        if width < dim:
            raise ValueError(f"attention_head_dim={dim} is more than the {width} channels there")
