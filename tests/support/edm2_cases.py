"""EDM2's recorded cases: the rule of their weights, and their networks."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.convert import edm_state_dict
from tests.support import edm_cases, golden_cases

# A pickle that EDM2's code wrote: this repository's own.
GENUINE = "edm2_pickle_latent_oldnames"
KWARGS = {
    "class_name": "Precond",
    "img_resolution": 4,
    "img_channels": 3,
    "label_dim": 2,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [],
    "channels_per_head": 8,
    "logvar_channels": 4,
    "dropout": 0.0,
}


def or_skip(params, parts=1):
    """Recorded cases, or where the folder has none one test that is skipped and says so."""
    reason = f"{golden_cases.GOLDEN} holds no such case; set DIFFJAX_GOLDEN to a folder that does"
    skipped = pytest.param(*[None] * parts, id="none", marks=pytest.mark.skip(reason=reason))
    return params or [skipped]


def rule(name, shape):
    """The value of the array that EDM2's PyTorch code calls `name`, its `shape` being PyTorch's."""
    rs = np.random.RandomState(zlib.crc32(name.encode("utf-8")) & 0x7FFFFFFF)
    if name.endswith(".phases"):
        return rs.random_sample(shape).astype(np.float32) * np.float32(2 * np.pi)
    v = np.asarray(rs.standard_normal(shape)).astype(np.float32)
    if name.endswith(".freqs"):
        return v * np.float32(2 * np.pi)
    if name.endswith(".weight"):
        return np.float32(0.9) * v
    assert name.endswith("_gain"), name
    return np.float32(0.6) + np.float32(0.3) * v


def state_dict(model, prefix=""):
    """Arrays of a network by the rule, by PyTorch's names."""
    shapes = edm_state_dict.shapes(model)
    return {name: rule(prefix + name, shape) for name, shape in shapes.items()}


def weights(model, prefix=""):
    """Parameters of a `NetworkDenoiser` by the rule."""
    params = edm_state_dict.to_params(model, state_dict(model, prefix))
    return jax.tree.map(jnp.asarray, params)


def by_torch_name(model, tree):
    """{PyTorch name: NumPy array in PyTorch's layout} of a tree of parameters or gradients."""
    return edm_state_dict.from_params(model, tree)


def nhwc(array):
    """Images [..., C, H, W] as JAX takes them."""
    return jnp.asarray(np.moveaxis(array, -3, -1))


def case_and_weights(name, key="config", prefix="prefix", **settings):
    """A case, its denoiser and weights; `key` and `prefix` name those of a guiding network."""
    case = golden_cases.Case(name)
    config = case.meta[key]
    kwargs = {"class_name": config["precond"], **config["kwargs"]}
    model = golden_cases.denoiser.from_edm_kwargs(kwargs, **settings)
    return case, model, weights(model, case.meta.get(prefix, ""))


def stored(case, name, shape):
    """An array in the type in which a recorded pickle holds it."""
    return rule(case.prefix + name, tuple(shape)).astype(case.meta["stored_dtype"])


def genuine_pickle(case):
    """A pickle that EDM2's code wrote; see `edm_cases.genuine_pickle`."""
    return edm_cases.genuine_pickle(case, stored)


def small_network(**changes):
    """(init_kwargs, state_dict) of a small network, float16 as released ones are."""
    kwargs = KWARGS | changes
    arrays = state_dict(golden_cases.denoiser.from_edm_kwargs(kwargs))
    return kwargs, {name: array.astype(np.float16) for name, array in arrays.items()}
