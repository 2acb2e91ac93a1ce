"""Draws made by hand: JAX's random generator is slow to compile."""

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.methods.draws import Draws


def make(sigma, data_shape, *, rounds=1, fake_score_updates=1, label_dim=0, seed=0):
    """Draws with the noise levels `sigma` [B] for both networks."""
    random = np.random.RandomState(seed)
    lead = (rounds, len(sigma) // rounds)

    def network(times):
        shape = (times, *lead)
        labels = (
            jax.nn.one_hot(random.randint(label_dim, size=shape), label_dim) if label_dim else None
        )
        return Draws(
            z=jnp.asarray(random.standard_normal((*shape, *data_shape)), jnp.float32),
            sigma=jnp.broadcast_to(jnp.reshape(jnp.asarray(sigma, jnp.float32), lead), shape),
            noise=jnp.asarray(random.standard_normal((*shape, *data_shape)), jnp.float32),
            labels=labels,
            dropout=jax.random.wrap_key_data(
                random.randint(2**31, size=(times, rounds, 2)).astype(np.uint32)
            ),
        )

    return {"fake_score": network(fake_score_updates), "generator": network(1)}
