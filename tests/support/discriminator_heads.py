"""Heads of discriminators with the weights of recorded cases."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.models.discriminator import Headed
from tests.support import golden_cases


def of_case(case, model, module):
    """The module on the model's features, and its parameters by the rule of a case's weights."""
    headed = Headed(model, module, model)
    shapes = jax.eval_shape(headed.init_head, jax.random.key(0))

    def leaf(path, struct):
        name = case.meta["prefixes"]["head"] + torch_name(path, case)
        shape = golden_cases.to_torch(np.empty(struct.shape)).shape
        return jnp.asarray(golden_cases.from_torch(golden_cases.rule(name, shape)))

    return headed, jax.tree_util.tree_map_with_path(leaf, shapes)


def by_torch_name(case, tree):
    """{PyTorch name: array in PyTorch's layout} of a head's tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        torch_name(path, case): golden_cases.to_torch(np.asarray(leaf)) for path, leaf in leaves
    }


def torch_name(path, case):
    """('head1', 'conv0', 'kernel') -> discriminator_heads.1.0.weight, or of the only branch."""
    head, layer, kind = (str(key.key) for key in path)
    index = 3 * int(layer[4:]) + layer.startswith("norm")  # and SiLU third
    branch = case.meta["head"]["names"].partition(".")[0]
    which = f"{head.removeprefix('head')}." if branch == "discriminator_heads" else ""
    return f"{branch}.{which}{index}.{'bias' if kind == 'bias' else 'weight'}"
