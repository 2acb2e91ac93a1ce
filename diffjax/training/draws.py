"""Draws and networks of an update, laid over a mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from diffjax.distributed import sharding
from diffjax.interfaces import Array, PRNGKey
from diffjax.methods import Method
from diffjax.methods.draws import Dataset, Draws
from diffjax.models.teacher import CondLaw
from diffjax.training.update import Update

_EXAMPLES = 2  # axis of [T, R, B, ...]


DATA, CONDITIONS = "data", "conditions"  # inputs that draws are made of


def parted(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part inputs into what draws are made of, as arguments of `draw`, and what networks read."""
    drawn = {name: tree for name, tree in inputs.items() if name in (DATA, CONDITIONS)}
    return drawn, {name: tree for name, tree in inputs.items() if name not in drawn}


def draw(
    method: Method,
    key: PRNGKey,
    data: Dataset | None,
    mesh: Mesh,
    conditions: CondLaw | None = None,
    images: Array | None = None,
) -> dict[str, Draws]:
    """Draw an update's randomness inside jit, split over the devices.

    Args:
      method: that draws.
      key: of the update.
      data: real images, where the method reads any.
      mesh: the devices.
      conditions: the law of conditions, where it holds arrays: so that a large table is an
        argument of a program and no constant in it.
      images: uint32 scalar, seen before the update, where the method has phases.
    """
    if conditions is not None:
        batch = dataclasses.replace(method.batch, cond=conditions)
        method = dataclasses.replace(method, batch=batch)
    draws = method.draw(key, data)
    if method.has_phases:
        assert images is not None, "a method with phases is told the images seen"
        draws = {name: told(each, images) for name, each in draws.items()}
    return sharding.constrain(draws, shardings(draws, mesh), mesh)


def told(draws: Draws, images: Array) -> Draws:
    """Add to draws the images seen before their update, for each repetition and round.

    Args:
      draws: of a turn.
      images: uint32 scalar.
    """
    seen = jnp.broadcast_to(images, draws.dropout.shape)
    return dataclasses.replace(draws, more={**draws.more, "images": seen})


def shardings(draws: Any, mesh: Mesh) -> Any:
    """Place draws, or their shapes: one sharding an array."""
    return sharding.batches(draws, mesh, _EXAMPLES)


def on_mesh(update: Update, mesh: Mesh) -> Update:
    """Have an update's networks gather parameters that are split over devices, prepared or not."""
    method = update.method
    networks = {
        name: sharding.gathering(network, mesh) for name, network in method.networks.items()
    }
    changes: dict[str, Any] = {"method": dataclasses.replace(method, networks=networks)}
    if prepared := getattr(update, "prepared", {}):  # an update of one's own may have none
        split = {name: sharding.splitting(each, mesh) for name, each in prepared.items()}
        changes["prepared"] = split
    return dataclasses.replace(update, **changes)
