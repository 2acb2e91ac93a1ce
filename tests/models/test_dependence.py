"""What a result depends on, told from the trace."""

import jax
import jax.numpy as jnp
import pytest

from diffjax.models import dependence

W = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}


def outer(params, x):
    return jax.jit(lambda p, x: x @ W["w"] + 0 * x)(params, x)


@pytest.mark.parametrize(
    ("function", "depends"),
    [
        (lambda p, x: x @ p["w"], True),
        (lambda p, x: x + p["b"], True),
        (lambda p, x: x, False),
        (lambda p, x: x @ W["w"], False),
        (lambda p, x: 0 * jnp.ones(3), False),
        (jax.jit(lambda p, x: x @ p["w"]), True),
        (outer, False),  # though the inner function is given them
        (jax.jit(outer), False),
        (jax.checkpoint(lambda p, x: jnp.sin(x @ p["w"])), True),
        (jax.checkpoint(lambda p, x: jnp.sin(x)), False),
        (lambda p, x: jax.nn.relu(x @ p["w"]), True),  # a custom JVP
        (lambda p, x: jax.nn.relu(x), False),
        (lambda p, x: jax.lax.fori_loop(0, 3, lambda i, y: y @ p["w"], x), True),
        (lambda p, x: jax.lax.cond(x[0, 0] > 0, lambda: x, lambda: x + p["b"]), True),
        (lambda p, x: jax.vmap(lambda row: row @ p["w"])(x), True),
        (lambda p, x: [x, x + p["b"]], True),
    ],
)
def test_a_result_depends_on_parameters(function, depends):
    abstract = jax.eval_shape(lambda: W)
    assert dependence.on_first(function, abstract, jnp.ones((3, 2))) == depends
