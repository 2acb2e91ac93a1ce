"""DiT's and SiT's recorded cases: the rule of their weights, and their networks."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.convert import dit, edm_state_dict
from diffjax.models.denoiser import from_edm_kwargs
from tests.support import golden_cases

SIZES = {  # of full-size cases, by the model's name
    "SiT-B/2": {"hidden_size": 768, "depth": 12, "num_heads": 12, "patch_size": 2},
    "DiT-S/2": {"hidden_size": 384, "depth": 12, "num_heads": 6, "patch_size": 2},
}


def rule(name, shape):
    """The value of the array that PyTorch calls `name`, its `shape` being PyTorch's."""
    rs = np.random.RandomState(zlib.crc32(name.encode("utf-8")) & 0x7FFFFFFF)
    v = rs.standard_normal(shape).astype(np.float32)
    if name.endswith("y_embedder.embedding_table.weight"):
        return np.float32(0.3) * v
    if name.endswith(".weight"):
        return v * np.float32(1 / np.sqrt(np.prod(shape[1:])))
    assert name.endswith(".bias"), name
    return np.float32(0.1) * v


def state_dict(model, prefix=""):
    """Arrays of a network by the rule, by PyTorch's names; its positions are its own."""
    own = dit.constants(model.network)
    made = edm_state_dict.shapes(model).items()
    return {name: rule(prefix + name, shape) for name, shape in made if name not in own} | own


def weights(model, prefix=""):
    """Parameters of a `NetworkDenoiser` by the rule."""
    params = edm_state_dict.to_params(model, state_dict(model, prefix))
    return jax.tree.map(jnp.asarray, params)


def init_kwargs(config):
    """Arguments of `from_edm_kwargs` for a case's `config`."""
    model, kwargs = config["model"], dict(config["kwargs"])
    kwargs |= SIZES.get(model, {})
    return {
        "class_name": model[:3],
        "img_resolution": kwargs.pop("input_size"),
        "img_channels": kwargs.pop("in_channels", 4),
        "label_dim": kwargs.pop("num_classes"),
        "null_class": kwargs.pop("class_dropout_prob", 0.1) > 0,
        **kwargs,
    }


def case_and_weights(name, **settings):
    """A case, its denoiser and weights; `settings` add to the arguments of the network."""
    case = golden_cases.Case(name)
    model = from_edm_kwargs({**init_kwargs(case.meta["config"]), **settings})
    return case, model, weights(model, case.prefix)


def raw_network(model, params):
    """The raw network: (x, t, labels) -> all channels, labels being None for no class."""

    def net(x, t, labels=None, params=params):
        if labels is None:
            labels = jnp.zeros((x.shape[0], model.label_dim))
        return model.network.apply(params, x, jnp.asarray(t, jnp.float32), labels)

    return net


def nhwc(array):
    """Images [..., C, H, W] as JAX takes them."""
    return jnp.asarray(np.moveaxis(array, -3, -1))


def nchw(array):
    """Images [..., H, W, C] as PyTorch has them."""
    return np.moveaxis(np.asarray(array), -1, -3)


def classes(model, y):
    """One-hot rows, of zeros for the class after the last."""
    return jax.nn.one_hot(y, model.label_dim)
