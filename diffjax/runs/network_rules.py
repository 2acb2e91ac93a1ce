"""Types and ranges of the fields that describe a network, in configs that have them."""

from ml_collections import ConfigDict

from diffjax.methods.settings import (
    COUNT,
    FINITE,
    FLAG,
    NOT_NEGATIVE,
    POSITIVE,
    POWER_STDS,
    WHOLE,
    Rule,
    named,
)
from diffjax.runs import bases
from diffjax.runs.ranges import COUNTS, COUNTS_OR_NONE, DECAY, NAME

# Of EDM's U-Nets.
_NETWORK = {
    "network.class_name": NAME,
    "network.model_type": NAME,
    "network.augment_dim": WHOLE,
    "network.model_channels": COUNT,
    "network.channel_mult": COUNTS,
    "network.num_blocks": COUNT,
    "network.attn_resolutions": COUNTS_OR_NONE,
    "network.dropout": DECAY,
}
# Of a SiT or a DiT; the last three are of one of them.
_TRANSFORMER = {
    "class_name": NAME,
    "patch_size": COUNT,
    "hidden_size": COUNT,
    "depth": COUNT,
    "num_heads": COUNT,
    "mlp_ratio": POSITIVE,
    "learn_sigma": FLAG,
    "dropout": DECAY,
    "label_dropout": DECAY,
    "path": named("linear", "gvp", "vp"),
    "predicts": named("velocity", "eps", "score"),
    "schedule": named("linear", "cosine"),
}
# Of networks of EDM2, where a config says how they are trained.
_EDM2 = {
    "p_mean": FINITE,
    "p_std": POSITIVE,
    "uncertainty_weighting": FLAG,
    "force_normalization": FLAG,
    "decay_updates": NOT_NEGATIVE,
    "power_stds": POWER_STDS,
}


def of(config: ConfigDict) -> dict[str, Rule]:
    """List the rules of the fields `network.*`, by dotted names.

    Args:
      config: that has them.

    Raises:
      ValueError: if a transformer's are others than it has.
    """
    if not bases.is_transformer(config):
        return _NETWORK
    class_name = config.network.class_name
    wanted = bases.transformer_fields(class_name)
    if wanted.keys() != set(config.network):
        raise ValueError(
            f"config.network.class_name={class_name!r} has other fields than network.* here: "
            f"bases.with_transformer(config, class_name={class_name!r}) gives them, in the config "
            "file."
        )
    return {f"network.{name}": _TRANSFORMER[name] for name in wanted}


def of_edm2(config: ConfigDict) -> dict[str, Rule]:
    """List the rules of the fields `edm2.*`, by dotted names.

    Args:
      config: that has them.
    """
    return {f"edm2.{name}": _EDM2[name] for name in bases.edm2_fields(config.method)}
