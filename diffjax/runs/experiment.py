"""Experiments: an update, what it reads, how it starts, and how its network is sampled."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffjax.convert import teacher as teachers
from diffjax.distributed import numerics, sharding
from diffjax.evaluation import sampling
from diffjax.files import orbax_support
from diffjax.interfaces import Params
from diffjax.methods import Method
from diffjax.models import model_card
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs
from diffjax.models.generator import DenoiserGenerator
from diffjax.models.model_card import ModelCard
from diffjax.runs.inputs import Input
from diffjax.training import layouts, stored_trees
from diffjax.training import state as train_state
from diffjax.training.checkpointing import Checkpointer
from diffjax.training.state import TrainState
from diffjax.training.update import Update

# A caption, and the sampler and parameters of its images.
Comparison = tuple[str, sampling.SampleBatch, Params]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A run of a method, apart from where it is written.

    Attributes:
      update: the update.
      inputs: what updates read and never change, by name in `Method.reads`.
      init_kwargs: constructor arguments of the network, as `from_edm_kwargs` takes them.
      denoiser: that network; a generator's too, since it is a denoiser asked once.
      heun: how a denoiser is sampled, the teacher for comparison among them.
      seed: of fresh parameters.
      init_sigma: noise level at which the generator asks its denoiser.
      initial: where the parameters are that the sampled learner starts from; "" for the method's
        own start.
      teacher: name of the teacher, for errors.
      classes: those that are drawn, where images of others were never seen; () for all.
      method_name: name of the method, for errors and model cards.
    """

    update: Update
    inputs: Mapping[str, Input]
    init_kwargs: dict[str, Any]
    denoiser: NetworkDenoiser
    heun: sampling.HeunSettings
    seed: int = 0
    init_sigma: float = 1.0
    initial: str = ""
    teacher: str = ""
    classes: tuple[int, ...] = ()
    method_name: str = ""

    @property
    def method(self) -> Method:
        """Method of the update."""
        return self.update.method

    @property
    def batch_size(self) -> int:
        """Images an update."""
        return self.update.batch_size

    def load_inputs(self) -> dict[str, Any]:
        """Read what updates read and never change, by name; None where it is streamed."""
        return {name: each.load() for name, each in self.inputs.items()}

    def abstract_inputs(self) -> dict[str, Any]:
        """Shapes and types of what updates read, by name; None where it is streamed."""
        return {name: each.abstract() for name, each in self.inputs.items()}

    def narrowed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Convert inputs to the types that updates read them in.

        Raises:
          ValueError: if a type can't hold them.
        """
        return {name: each.narrowed(inputs[name]) for name, each in self.inputs.items()}

    def stream(self, start: int, mesh: Mesh) -> Iterator[dict[str, Any]] | None:
        """Give the streamed inputs of updates after `start` images were seen; None without any."""
        streams = {name: each.stream(start, mesh) for name, each in self.inputs.items()}
        streams = {name: stream for name, stream in streams.items() if stream is not None}
        if not streams:
            return None
        names = tuple(streams)
        return (dict(zip(names, each, strict=True)) for each in zip(*streams.values(), strict=True))

    def load_initial(self) -> dict[str, Params]:
        """Read the parameters that learners start from instead of the method's own start.

        Raises:
          ValueError: if they are another network's than the teacher's.
          FileNotFoundError, ConnectionError: as for a teacher.
        """
        if not self.initial:
            return {}
        learner = self.method.samples_from
        field = f"config.{learner}.initial"
        network = teachers.load(self.initial, field=field)
        card, params = network.card, network.params
        if card.init_sigma not in (None, self.init_sigma):
            raise ValueError(
                f"{field}={self.initial} is {card.title}, and config.init_sigma="
                f"{self.init_sigma:g} would ask it elsewhere: set config.init_sigma to "
                f"{card.init_sigma:g}."
            )
        differences = orbax_support.differing_arrays(params, self.denoiser.abstract_params())
        what = "Its arrays"
        if not differences:  # arrays don't tell all
            what = "The teacher's settings and its own"
            own = from_edm_kwargs(network.init_kwargs)
            differences = "; ".join(self.denoiser.differences(own))
        if differences:
            raise ValueError(
                f"{field}={self.initial} is another network than the teacher {self.teacher}; "
                "name a student of this teacher, or '' for the teacher itself. "
                f"{what}: {differences}"
            )
        return {learner: params}

    def init_state(
        self, inputs: Mapping[str, Any], initial: Mapping[str, Params] | None = None
    ) -> TrainState:
        """Make the state before the first update.

        Args:
          inputs: what updates read, float32.
          initial: parameters by learner, which come before the method's own start.
        """

        def start(starts_as: str) -> Params:
            if starts_as == "teacher":
                return inputs["teacher"]
            return self.denoiser.init(numerics.key(self.seed))

        given = initial or {}
        params = {
            learner.name: given[learner.name] if learner.name in given else start(learner.starts_as)
            for learner in self.method.learners
        }
        return train_state.create(params, self.update.optimizers, self.update.averaged)

    def abstract_state(self) -> TrainState:
        """Shapes of the state."""
        return self._abstract_state

    @functools.cached_property
    def _abstract_state(self) -> TrainState:
        return jax.eval_shape(self.init_state, {"teacher": self.denoiser.abstract_params()})

    def restore(
        self, checkpointer: Checkpointer, mesh: Mesh, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """Read a checkpoint, of whatever layout and from whatever devices.

        Args:
          checkpointer: where checkpoints are.
          mesh: the devices to lay the state over.
          step: which checkpoint; None is the newest that is whole.

        Returns:
          The state, and what was kept beside it.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it is damaged, or of another network.
        """
        abstract = self.abstract_state()
        abstract = sharding.with_shardings(abstract, sharding.state(abstract, mesh))

        def adapted(stored: Any) -> list[stored_trees.Layout]:
            fresh = layouts.fresh_moments(stored, abstract) if jax.process_index() == 0 else ()
            for learner in sorted(fresh):
                checkpointer.report(
                    f"the first moments of {learner}'s optimiser weren't kept; they start at 0"
                )
            return layouts.adapted(stored, abstract)

        state, meta = checkpointer.restore(abstract, step, older=adapted)
        if int(state.step) and not int(state.images):  # which earlier versions didn't count
            images = np.uint32(layouts.images_of(meta))
            images = sharding.put(images, sharding.replicated(mesh))
            state = dataclasses.replace(state, images=images)
        return state, meta

    def restore_average(
        self, checkpointer: Checkpointer, mesh: Mesh, step: int | None = None
    ) -> tuple[Params, dict[str, Any]]:
        """Read the average of the learner that is sampled, and nothing else of a checkpoint.

        The optimisers' state and the other learners may be of any layout.

        Args:
          checkpointer: where checkpoints are.
          mesh: the devices to lay the parameters over.
          step: which checkpoint; None is the newest that is whole.

        Returns:
          The parameters, and what was kept beside the state.

        Raises:
          FileNotFoundError: if there is no such checkpoint.
          ValueError: if it is damaged, or of another network.
        """
        abstract = self.denoiser.abstract_params()
        abstract = sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        return checkpointer.restore_part(
            abstract, layouts.places_of_average(self.method.samples_from), step
        )

    def averaged(self, state: TrainState) -> Params:
        """Average of the learner that is sampled."""
        return state.averages[self.method.samples_from]

    @property
    def is_one_step(self) -> bool:
        """Whether a sample takes one evaluation of the network."""
        return self.method.sampled_by == "one_step"

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample."""
        return 1 if self.is_one_step else self.heun.evaluations

    @property
    def caption(self) -> str:
        """Caption of the samples."""
        if self.is_one_step:
            return "student, 1 evaluation"
        return f"samples, {self.evaluations} evaluations"

    def card(self, images: int) -> ModelCard:
        """Model card of the network that is sampled, after training on so many images."""
        is_student = self.is_one_step
        return ModelCard(
            kind=model_card.STUDENT if is_student else model_card.DENOISER,
            method=self.method_name,
            init_sigma=self.init_sigma if is_student else None,
            steps=1 if is_student else None,
            dtype=np.dtype(self.denoiser.network.dtype).name,
            images=images,
            **model_card.of_denoiser(self.denoiser),
        )

    def sampler(
        self,
        *,
        seed: int,
        mesh: Mesh,
        denoiser: NetworkDenoiser | None = None,
        init_sigma: float | None = None,
    ) -> sampling.SampleBatch:
        """Compile sampling, of the learner or of another network, at the same σ_init or its own."""
        network = denoiser or self.denoiser
        if not self.is_one_step:
            return sampling.heun(network, settings=self.heun, seed=seed, mesh=mesh)
        generator = self.method.networks[self.method.samples_from]
        if denoiser is not None:
            generator = DenoiserGenerator(denoiser, init_sigma or self.init_sigma)
        return sampling.one_step(
            generator,
            seed=seed,
            shape=self.denoiser.image_shape,
            label_dim=self.denoiser.label_dim,
            mesh=mesh,
        )

    def comparisons(self, inputs: Mapping[str, Any], *, seed: int, mesh: Mesh) -> list[Comparison]:
        """List what samples are compared with, from the same latents: a teacher, if any."""
        if "teacher" not in inputs:
            return []
        sampler = sampling.heun(self.denoiser, settings=self.heun, seed=seed, mesh=mesh)
        caption = f"teacher, {self.heun.evaluations} evaluations"
        return [(caption, sampler, inputs["teacher"])]
