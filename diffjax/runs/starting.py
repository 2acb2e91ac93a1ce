"""The start of a run, which a rehearsal of it shares: its first state and its update."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import sharding
from diffjax.interfaces import Params
from diffjax.runs import building
from diffjax.runs.experiment import Experiment
from diffjax.training import compilation
from diffjax.training.separate_programs import SeparatePrograms
from diffjax.training.state import TrainState


def updates(config: ConfigDict, exp: Experiment, mesh: Mesh) -> Any:
    """Make the update, one program or several as the config says; nothing is compiled yet.

    Args:
      config: of any method.
      exp: built from it.
      mesh: the devices.
    """
    abstract = exp.abstract_state()
    if building.compiles_apart(config, exp):
        return SeparatePrograms(exp.update, abstract, mesh)
    return compilation.compile_updates(exp.update, abstract, mesh, config.updates_per_call)


def first_state(
    exp: Experiment, inputs: Mapping[str, Any], initial: Mapping[str, Params], mesh: Mesh
) -> TrainState:
    """Make the state before the first update, laid over the devices.

    Args:
      exp: whose state it is.
      inputs: what updates read, float32, on the devices.
      initial: parameters by learner, which come before the method's own start.
      mesh: the devices.
    """
    initial = sharding.put(initial, sharding.state(initial, mesh))
    shardings = sharding.state(exp.abstract_state(), mesh)
    read = {name: inputs[name] for name in inputs if name == "teacher"}
    state: TrainState = jax.jit(exp.init_state, out_shardings=shardings)(read, initial)
    return state
