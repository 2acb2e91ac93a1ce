"""Experiments: an update, what it reads, how it starts, and how its network is sampled."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from diffjax.distributed import numerics, sharding
from diffjax.evaluation import sampling
from diffjax.interfaces import Params
from diffjax.methods import Learner, Method
from diffjax.models import guidance, model_card, network_folder, record_folder
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.discriminator import Headed
from diffjax.models.guidance import NEGATIVE, Guided
from diffjax.models.model_card import ModelCard
from diffjax.models.record_folder import Origin
from diffjax.models.records import RecordGenerator
from diffjax.models.teacher import CondLaw
from diffjax.runs import initial_networks, record_checks, students
from diffjax.runs.decoders import Decoder
from diffjax.runs.inputs import Input
from diffjax.runs.networks import Denoiser, Network
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
      init_kwargs: what makes the network that is sampled: arguments of `from_edm_kwargs`, or the
        names of a user's functions.
      denoiser: the teacher's network, or the one that is trained; that of learners, but for those
        of `networks`.
      heun: how a denoiser is sampled, the teacher for comparison among them.
      seed: of fresh parameters.
      init_sigma: noise level at which the generator asks its denoiser, in the data's units.
      initial: where the parameters are that the sampled learner starts from; "" for the method's
        own start.
      teacher: name of the teacher, for errors.
      classes: those that are drawn, where images of others were never seen; () for all.
      method_name: name of the method, for errors and model cards.
      networks: learner -> its network, where that isn't the teacher's copy.
      origin: functions that make the network that is sampled, of a user's.
      remarks: lines on what was derived, for the log.
      heads: learner -> its network with a discriminator's head, where it has one.
      decoder: what makes images of samples, where these are latents.
    """

    update: Update
    inputs: Mapping[str, Input]
    init_kwargs: dict[str, Any]
    denoiser: Denoiser
    heun: sampling.HeunSettings
    seed: int = 0
    init_sigma: float = 1.0
    initial: str = ""
    teacher: str = ""
    classes: tuple[int, ...] = ()
    method_name: str = ""
    networks: Mapping[str, Network] = dataclasses.field(default_factory=dict)
    origin: Origin | None = None
    remarks: tuple[str, ...] = ()
    heads: Mapping[str, Headed] = dataclasses.field(default_factory=dict)
    decoder: Decoder | None = None

    def model_of(self, learner: str) -> Any:
        """Model whose parameters a learner has.

        Args:
          learner: its name.
        """
        return self.networks[learner].model if learner in self.networks else self.denoiser

    @property
    def examples(self) -> Denoiser | Decoder:
        """Decoder or denoiser, which says how samples are looked at and measured."""
        return self.decoder or self.denoiser

    @property
    def sampled(self) -> Any:
        """Model of the network that is sampled."""
        return self.model_of(self.method.samples_from)

    @property
    def method(self) -> Method:
        """Method of the update."""
        return self.update.method

    @property
    def batch_size(self) -> int:
        """Images an update."""
        return self.update.batch_size

    @property
    def condition_law(self) -> CondLaw | None:
        """Law by which samples' conditions are drawn, in place of uniform `classes`."""
        return None if isinstance(self.denoiser, NetworkDenoiser) else self.denoiser.cond

    def check_records(self) -> None:
        """Evaluate users' networks a few times, before anything long; ours need none of it.

        Raises:
          RefusedError: in one line, naming what to change.
        """
        if "teacher" in self.inputs:
            record_checks.check_denoiser(self.denoiser)
        if NEGATIVE in self.inputs:
            guided: Any = self.method.networks["teacher"]
            record_checks.check_denoiser(guided.negative)
        learners = [each for each in self.method.learners if each.is_network]
        models = [(each, self.model_of(each.name)) for each in learners]
        record_checks.check_learners(models, self.denoiser, self.method.samples_from)
        if self.decoder is not None:
            self.decoder.check()

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
        """Read what learners start from instead of the method's own; see `initial_networks`."""
        return initial_networks.load(
            self.initial,
            learner=self.method.samples_from,
            sampled=self.sampled,
            networks=self.networks,
            init_sigma=self.init_sigma,
            teacher=self.teacher,
        )

    def init_state(
        self, inputs: Mapping[str, Any], initial: Mapping[str, Params] | None = None
    ) -> TrainState:
        """Make the state before the first update.

        Args:
          inputs: what updates read, float32.
          initial: parameters by learner, which come before the method's own start.
        """

        def start(learner: Learner) -> Params:
            if callable(learner.starts_as):
                return learner.starts_as()
            if learner.name in given:
                params = given[learner.name]
            elif learner.starts_as == "teacher" and learner.name not in self.networks:
                params = inputs["teacher"]
            else:
                params = self.model_of(learner.name).init(numerics.key(self.seed))
            headed = self.heads.get(learner.name)
            return headed.start(params, numerics.key(self.seed)) if headed else params

        given = initial or {}
        params = {learner.name: start(learner) for learner in self.method.learners}
        return train_state.create(params, self.update.optimizers, self.update.averaged)

    def first_state(
        self, inputs: Mapping[str, Any], initial: Mapping[str, Params], mesh: Mesh
    ) -> TrainState:
        """Make the state before the first update, laid over the devices.

        Args:
          inputs: what updates read, float32, on the devices.
          initial: parameters by learner, which come before the method's own start.
          mesh: the devices.
        """
        initial = sharding.put(initial, sharding.state(initial, mesh))
        shardings = sharding.state(self.abstract_state(), mesh)
        read = {name: inputs[name] for name in inputs if name == "teacher"}
        state: TrainState = jax.jit(self.init_state, out_shardings=shardings)(read, initial)
        return state

    def abstract_state(self) -> TrainState:
        """Shapes of the state."""
        return self._abstract_state

    @functools.cached_property
    def _abstract_state(self) -> TrainState:
        others = {name: each.model.abstract_params() for name, each in self.networks.items()}
        inputs = {"teacher": self.denoiser.abstract_params()}
        return jax.eval_shape(self.init_state, inputs, others)

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
        abstract = self.sampled.abstract_params()
        abstract = sharding.with_shardings(abstract, sharding.state(abstract, mesh))
        return checkpointer.restore_part(
            abstract, layouts.places_of_average(self.method.samples_from), step
        )

    def averaged(self, state: TrainState) -> Params:
        """Average of the learner that is sampled."""
        return state.averages[self.method.samples_from]

    @property
    def is_one_step(self) -> bool:
        """Whether what is sampled is a student, of one step or a few, and no denoiser."""
        return self.method.sampled_by == "one_step"

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the steps of a student of several; () for others."""
        return getattr(self.method.networks[self.method.samples_from], "sigmas", ())

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample."""
        return max(1, len(self.sigmas)) if self.is_one_step else self.heun.evaluations

    @property
    def caption(self) -> str:
        """Caption of the samples."""
        plural = "s" if self.evaluations > 1 else ""
        what = "student" if self.is_one_step else "samples"
        return f"{what}, {self.evaluations} evaluation{plural}"

    def card(self, images: int) -> ModelCard:
        """Model card of the network that is sampled, after training on so many images."""
        is_student = self.is_one_step
        return ModelCard(
            kind=model_card.STUDENT if is_student else model_card.DENOISER,
            method=self.method_name,
            init_sigma=self.init_sigma if is_student else None,
            steps=self.evaluations if is_student else None,
            sigmas=self.sigmas,
            dtype=np.dtype(self.sampled.dtype).name,
            images=images,
            **model_card.of_denoiser(self.denoiser),
        )

    def save_network(
        self,
        directory: Path,
        init_kwargs: Mapping[str, Any],
        params: Params,
        *,
        card: ModelCard,
        classes: tuple[int, ...] = (),
    ) -> None:
        """Write the network that is sampled, ours or a user's; one process alone may do so.

        Args:
          directory: the folder to make.
          init_kwargs: of one of ours.
          params: of the network, which this process can read.
          card: what it is.
          classes: that it was trained on; () for all.

        Raises:
          SaveError: if it can't be written.
        """
        if self.origin is None or isinstance(self.sampled, NetworkDenoiser):
            network_folder.save_denoiser(directory, init_kwargs, params, card=card, classes=classes)
        else:
            record_folder.save(directory, self.origin, self.sampled.arrays, params, card)

    def sampler(
        self,
        *,
        seed: int,
        mesh: Mesh,
        denoiser: Any = None,
        card: ModelCard | None = None,
    ) -> sampling.SampleBatch:
        """Compile sampling, of the learner or of another network, as its card says or as that."""
        if not self.is_one_step:
            return self._heun(denoiser or self.denoiser, seed, mesh)
        generator = self.method.networks[self.method.samples_from]
        if denoiser is not None:
            init_sigma, sigmas = self.init_sigma, self.sigmas
            if card is not None and card.init_sigma is not None:
                init_sigma, sigmas = card.init_sigma, card.sigmas
            generator = denoiser
            if not isinstance(denoiser, RecordGenerator):
                generator = students.of_card(denoiser, init_sigma, sigmas)
        sampler = sampling.one_step(
            generator,
            seed=seed,
            shape=self.denoiser.shape,
            label_dim=self.denoiser.label_dim,
            mesh=mesh,
            cond=self.denoiser.cond,
            latent=getattr(generator, "latent", None),
        )
        return self.decoder.decoded(sampler, mesh) if self.decoder else sampler

    def _heun(self, denoiser: Any, seed: int, mesh: Mesh) -> sampling.SampleBatch:
        sampler = sampling.heun(denoiser, settings=self.heun, seed=seed, mesh=mesh)
        return self.decoder.decoded(sampler, mesh) if self.decoder else sampler

    def comparisons(self, inputs: Mapping[str, Any], *, seed: int, mesh: Mesh) -> list[Comparison]:
        """List what samples are compared with, from the same latents: a teacher, if any."""
        if "teacher" not in inputs:
            return []
        teacher: Any = self.method.networks["teacher"]
        name = "teacher"
        if isinstance(teacher, Guided):
            name = f"teacher guided by {teacher.scale:g}"
        else:
            teacher = self.denoiser
        sampler = self._heun(teacher, seed, mesh)
        caption = f"{name}, {self.teacher_evaluations} evaluations"
        return [(caption, sampler, guidance.paired(inputs)["teacher"])]

    @property
    def teacher_evaluations(self) -> int:
        """Network evaluations a sample of the teacher; guidance takes two where there is one."""
        is_guided = isinstance(self.method.networks.get("teacher"), Guided)
        return self.heun.evaluations * (1 + is_guided)
