"""Draws and networks of an update, laid over a mesh."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from diffjax.distributed import sharding
from diffjax.interfaces import PRNGKey
from diffjax.methods import Method
from diffjax.methods.draws import Dataset, Draws
from diffjax.training.update import Update

_EXAMPLES = 2  # axis of [T, R, B, ...]


def draw(method: Method, key: PRNGKey, data: Dataset | None, mesh: Mesh) -> dict[str, Draws]:
    """Draw an update's randomness inside jit, split over the devices.

    Args:
      method: that draws.
      key: of the update.
      data: real images, where the method reads any.
      mesh: the devices.
    """
    draws = method.draw(key, data)
    return sharding.constrain(draws, shardings(draws, mesh), mesh)


def shardings(draws: Any, mesh: Mesh) -> Any:
    """Place draws, or their shapes: one sharding an array."""
    return sharding.batches(draws, mesh, _EXAMPLES)


def on_mesh(update: Update, mesh: Mesh) -> Update:
    """Have an update's networks gather parameters that are split over devices."""
    method = update.method
    networks = {
        name: sharding.gathering(network, mesh) for name, network in method.networks.items()
    }
    return dataclasses.replace(update, method=dataclasses.replace(method, networks=networks))
