"""A row's program of `benchmarks.family_run`, the same for all learning rates and seeds."""

import dataclasses
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import family_jobs, measuring, turns
from benchmarks.family_jobs import Study
from benchmarks.family_measures import GRID_SEED, SAMPLES_SEED
from diffjax.distributed import numerics, runtime, sharding
from diffjax.interfaces import Array
from diffjax.runs import building

_WARM_UP = 3  # updates


class Rated(NamedTuple):
    """State of an optimiser whose learning rate has a factor.

    Attributes:
      inner: state of the optimiser.
      factor: scalar, on its updates.
    """

    inner: optax.OptState
    factor: Array


def rated(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Have a factor on an optimiser's learning rate in its state, so that no program depends on it.

    Args:
      optimizer: one whose updates are proportional to its rate.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: optax.Params) -> Rated:
        return Rated(inner.init(params), jnp.float32(1))

    def update(
        updates: optax.Updates, state: Rated, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Rated]:
        updates, after = inner.update(updates, state.inner, params, **extra)
        scaled = jax.tree.map(lambda x: state.factor.astype(x.dtype) * x, updates)
        return scaled, Rated(after, state.factor)

    return optax.GradientTransformationExtraArgs(init, update)


def with_factors(state: Any, factors: dict[str, float]) -> Any:
    """Set the factors of learners' rates in a training state.

    Args:
      state: of an update whose optimisers are `rated`.
      factors: by learner.
    """
    opt = dict(state.opt)
    for name, factor in factors.items():
        placed = jax.device_put(np.float32(factor), opt[name].factor.sharding)
        opt[name] = opt[name]._replace(factor=placed)
    return dataclasses.replace(state, opt=opt)


class Program:
    """A row's update, compiled, and what it reads.

    Attributes:
      exp: the experiment, its optimisers rated.
      mesh: one device.
      call: (state, inputs, key, count) -> (state, sums of metrics).
      inputs: what updates read.
      compile_seconds: of tracing and compiling.
      memory_gib: the most memory so far, once it is warm; None before and where nobody counts.
      flops: of matrix products and convolutions of an update.
      an_update: learner -> images that an update has of it.
      networks: learners with a learning rate.
      measured: sampler of what is measured.
      shown: sampler of grids.
    """

    def __init__(self, study: Study, name: str) -> None:
        """Build, load and compile.

        Args:
          study: that the row is part of.
          name: of the row.
        """
        config = family_jobs.config_of(study, name)
        exp = building.build(config)
        self.networks = [each.name for each in exp.method.learners if each.is_network]
        optimizers = dict(exp.update.optimizers)
        optimizers |= {name: rated(optimizers[name]) for name in self.networks}
        self.exp = dataclasses.replace(
            exp, update=dataclasses.replace(exp.update, optimizers=optimizers)
        )
        self.mesh = sharding.make_mesh(data=1)
        self.measured = self.exp.sampler(seed=SAMPLES_SEED, mesh=self.mesh)
        self.shown = self.exp.sampler(seed=GRID_SEED, mesh=self.mesh)
        inputs = self.exp.load_inputs()
        self._initial_inputs = sharding.put(inputs, sharding.state(inputs, self.mesh))
        self.inputs = self.exp.narrowed(self._initial_inputs)
        self.an_update = {
            turn.learner: study.batch_size * turn.times / turn.every
            for turn in self.exp.update.turns
        }
        self.memory_gib: float | None = None
        self._most = study.updates_per_call
        state = self.first_state(0)
        arguments = (state, self.inputs, numerics.key(0), study.updates_per_call)
        start = time.perf_counter()
        lowered = building.updates(config, self.exp, self.mesh).lower(*arguments)
        self.call = lowered.compile()
        self.compile_seconds = time.perf_counter() - start
        self.flops = measuring.update_flops(config)

    def first_state(self, seed: int) -> Any:
        """Make the state before the first update of a run from a seed."""
        exp = dataclasses.replace(self.exp, seed=seed)
        return exp.first_state(self._initial_inputs, {}, self.mesh)

    def warm_up(self) -> None:
        """Do a few updates and forget them, before anything is timed or takes memory of its own.

        Kernels are loaded when they first run, which takes a process seconds.
        """
        with turns.turn():
            count = min(_WARM_UP, self._most)
            after = self.call(self.first_state(0), self.inputs, numerics.key(0), count)
            jax.block_until_ready(after)
            self.memory_gib = runtime.peak_memory_gib()
