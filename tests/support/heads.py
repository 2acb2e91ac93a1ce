"""Weights of discriminator heads by the rule of `golden_cases`, by their PyTorch names."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.support import golden_cases


def torch_name(path, form="cls_pred_branch.{layer}"):
    """('head0', 'conv0', 'kernel') -> cls_pred_branch.0.weight."""
    head, layer, leaf = [str(key.key) for key in path]
    last = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
    # The published sequence is convolution, norm, SiLU, convolution, ...
    place = 3 * int(layer[4:]) + layer.startswith("norm")
    name = form.format(head=head.removeprefix("head"), layer=place)
    return f"{name}.{last}"


def weights(headed, prefix, form="cls_pred_branch.{layer}"):
    """Parameters of a head by the rule."""
    abstract = jax.eval_shape(headed.init_head, jax.random.key(0))

    def leaf(path, struct):
        shape = golden_cases.to_torch(np.empty(struct.shape)).shape
        name = prefix + torch_name(path, form)
        return jnp.asarray(golden_cases.from_torch(golden_cases.rule(name, shape)))

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def by_torch_name(tree, form="cls_pred_branch.{layer}"):
    """{PyTorch name: array} of a headed network, the names of the network after `fake_unet.`."""
    network = golden_cases.by_torch_name(tree["network"])
    leaves = jax.tree_util.tree_leaves_with_path(tree["head"])
    head = {torch_name(path, form): golden_cases.to_torch(np.asarray(x)) for path, x in leaves}
    return {**{f"fake_unet.{name}": leaf for name, leaf in network.items()}, **head}
