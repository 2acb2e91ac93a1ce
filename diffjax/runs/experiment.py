"""What a loop runs: the distillation of a teacher, or the training of one, by the same names."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffjax import data
from diffjax.convert import teacher as teachers
from diffjax.data import DataSource
from diffjax.distill import draws as distill_draws
from diffjax.distill import state as distill_state
from diffjax.distill import update as distill_update
from diffjax.distributed import sharding
from diffjax.evaluation import sampling
from diffjax.files import orbax_support
from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.generator import DenoiserGenerator
from diffjax.pretrain import state as pretrain_state
from diffjax.pretrain import update as pretrain_update
from diffjax.training import dataset, precision

_INITIAL = "config.generator.initial"

Metrics = dict[str, Array]
# A caption, and the sampler and parameters of its images.
Comparison = tuple[str, sampling.SampleBatch, Params]


@dataclasses.dataclass(frozen=True)
class DistillExperiment:
    """A teacher becomes a one-step generator.

    Attributes:
      teacher: where its parameters are; see `convert.teacher.load`.
      init_kwargs: constructor arguments of the network, as `from_edm_kwargs` takes them.
      denoiser: that network; the generator's too, since it is a denoiser asked once.
      setup: the update.
      draw: its randomness.
      heun: how the teacher is sampled, to compare with.
      init_sigma: σ at which the generator asks its denoiser.
      initial: where the parameters are that the generator starts from; "" for the teacher's.
      teacher_storage: type that the teacher's parameters are kept in; None is float32.
      max_skipped_in_a_row: updates whose numbers are not finite, after which nothing changes any
        more and a run stops.
      caption: of its samples.
      shown: metric's name -> its short name on the progress line.
    """

    teacher: str
    init_kwargs: dict[str, Any]
    denoiser: NetworkDenoiser
    setup: distill_update.Distillation
    draw: distill_draws.Sampler
    heun: sampling.HeunSettings
    init_sigma: float
    initial: str = ""
    teacher_storage: Any = None
    max_skipped_in_a_row: int = 10
    caption: str = "student, 1 evaluation"
    shown: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {
            "fake_loss": "fake",
            "generator_loss": "generator",
            "delta": "|Δ|",
        }
    )

    @property
    def batch_size(self) -> int:
        """Images an update."""
        return self.setup.batch_size

    def load_frozen(self) -> Params:
        """What updates read and never change: the teacher's parameters, float32."""
        return teachers.load(self.teacher).params

    def load_initial(self) -> Params | None:
        """What the generator starts as, float32, or None for the teacher.

        Raises:
          ValueError: if that is another network than the teacher's.
          FileNotFoundError, ConnectionError: as for a teacher.
        """
        if not self.initial:
            return None
        params = teachers.load(self.initial, field=_INITIAL).params
        differences = orbax_support.differing_arrays(params, self.denoiser.abstract_params())
        if differences:
            raise ValueError(
                f"{_INITIAL}={self.initial} is another network than the teacher {self.teacher}; "
                "name a student of this teacher, or '' for the teacher itself. Its arrays: "
                f"{differences}"
            )
        return params

    def narrowed(self, frozen: Params) -> Params:
        """The same in the type that updates read them in; buffers stay as they are.

        Raises:
          ValueError: if that type can't hold them.
        """
        if self.teacher_storage is None:
            return frozen
        dtype = jnp.dtype(self.teacher_storage)
        try:
            return {**frozen, "params": precision.cast(frozen["params"], dtype)}
        except ValueError as error:
            raise ValueError(
                f"config.teacher_dtype={dtype.name!r}: the teacher's {error} Set it to 'bfloat16', "
                "which has the range of float32."
            ) from error

    def abstract_frozen(self) -> Params:
        """The shapes and types of what updates read."""
        params = self.denoiser.abstract_params()
        dtype = self.teacher_storage or jnp.float32
        narrowed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params["params"])
        return {**params, "params": narrowed}

    def stream(self, start: int, mesh: Mesh) -> None:
        """Nothing: distillation needs no data."""
        del start, mesh

    def init_state(
        self, frozen: Params, initial: Params | None = None
    ) -> distill_state.DistillState:
        """The fake score starts as the teacher, and so does the generator without `initial`."""
        return distill_state.create(
            frozen if initial is None else initial,
            frozen,
            generator_optimizer=self.setup.generator_optimizer,
            fake_score_optimizer=self.setup.fake_score_optimizer,
        )

    def abstract_state(self) -> distill_state.DistillState:
        """The shapes of the state."""
        return self._abstract_state

    @functools.cached_property
    def _abstract_state(self) -> distill_state.DistillState:
        return jax.eval_shape(self.init_state, self.denoiser.abstract_params())

    def update(
        self, state: distill_state.DistillState, frozen: Params, key: PRNGKey, mesh: Mesh
    ) -> tuple[distill_state.DistillState, Metrics]:
        """One update, all its randomness from `key`."""
        return self.setup_on(mesh).update(
            state,
            frozen,
            self.draws(frozen, key, mesh),
            max_skipped_in_a_row=self.max_skipped_in_a_row,
        )

    def setup_on(self, mesh: Mesh) -> distill_update.Distillation:
        """The update, by networks whose parameters are split over devices."""
        return dataclasses.replace(
            self.setup,
            teacher=sharding.gathering(self.setup.teacher, mesh),
            fake_score=sharding.gathering(self.setup.fake_score, mesh),
            generator=sharding.gathering(self.setup.generator, mesh),
        )

    def draws(self, frozen: Params | None, key: PRNGKey, mesh: Mesh) -> distill_draws.Draws:
        """That randomness, laid over the devices; it isn't made from what is frozen."""
        del frozen
        draws = self.draw(key)
        return sharding.constrain(draws, self.draws_shardings(draws, mesh), mesh)

    def draws_shardings(self, draws: distill_draws.Draws, mesh: Mesh) -> distill_draws.Draws:
        """Where draws lie, or their shapes would: one sharding an array."""
        return distill_draws.Draws(
            fake_score=sharding.batches(draws.fake_score, mesh, 2),
            generator=sharding.batches(draws.generator, mesh, 1),
        )

    def ema_params(self, state: distill_state.DistillState) -> Params:
        """The generator's average."""
        return state.generator_ema

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample."""
        return 1

    def sampler(
        self, *, seed: int, mesh: Mesh, denoiser: NetworkDenoiser | None = None
    ) -> sampling.SampleBatch:
        """One-step samples, of the student or of another network that is asked as it is."""
        generator = self.setup.generator
        if denoiser is not None:
            generator = DenoiserGenerator(denoiser, self.init_sigma)
        return sampling.one_step(
            generator,
            seed=seed,
            shape=self.denoiser.image_shape,
            label_dim=self.denoiser.label_dim,
            mesh=mesh,
        )

    def comparisons(self, frozen: Params, *, seed: int, mesh: Mesh) -> list[Comparison]:
        """The teacher, from the same latents."""
        sampler = sampling.heun(self.denoiser, settings=self.heun, seed=seed, mesh=mesh)
        return [(f"teacher, {self.heun.evaluations} evaluations", sampler, frozen)]


@dataclasses.dataclass(frozen=True)
class PretrainExperiment:
    """A teacher is trained on real images; the same names as `DistillExperiment`'s.

    Attributes:
      source: the real images.
      init_kwargs: constructor arguments of the network.
      denoiser: that network.
      setup: the update.
      draw: its data and randomness.
      heun: how it is sampled.
      seed: of its first parameters.
      max_skipped_in_a_row: updates whose numbers are not finite, after which nothing changes any
        more and a run stops.
      shown: metric's name -> its short name on the progress line.
    """

    source: DataSource
    init_kwargs: dict[str, Any]
    denoiser: NetworkDenoiser
    setup: pretrain_update.Pretraining
    draw: pretrain_update.Sampler
    heun: sampling.HeunSettings
    seed: int
    max_skipped_in_a_row: int = 10
    shown: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"loss": "loss"})

    @property
    def batch_size(self) -> int:
        """Images an update."""
        return self.setup.batch_size

    def load_frozen(self) -> pretrain_update.Dataset | None:
        """What updates read and never change: the data set, or None where it is streamed."""
        if self.draw.in_order:
            data.verify(self.source)
            return None
        return dataset.load(self.source)

    def abstract_frozen(self) -> pretrain_update.Dataset | None:
        """The shapes and types of what updates read, or None where that is streamed."""
        return None if self.draw.in_order else dataset.abstract(self.source)

    def load_initial(self) -> None:
        """Nothing: a teacher starts from random parameters."""

    def narrowed(self, frozen: pretrain_update.Dataset | None) -> pretrain_update.Dataset | None:
        """The same: images are uint8 already."""
        return frozen

    def stream(self, start: int, mesh: Mesh) -> Iterator[pretrain_update.Dataset] | None:
        """The images of update `start` and of those after it, or None where all are frozen."""
        if not self.draw.in_order:
            return None
        return dataset.stream(
            self.source,
            batch_size=self.batch_size,
            seed=self.seed,
            x_flip=self.draw.x_flip,
            start=start,
            mesh=mesh,
        )

    def init_state(self, frozen: Any = None) -> pretrain_state.PretrainState:
        """Fresh parameters, from the seed."""
        params = self.denoiser.init(jax.random.key(self.seed))
        return pretrain_state.create(params, optimizer=self.setup.optimizer)

    def abstract_state(self) -> pretrain_state.PretrainState:
        """The shapes of the state."""
        return self._abstract_state

    @functools.cached_property
    def _abstract_state(self) -> pretrain_state.PretrainState:
        return jax.eval_shape(self.init_state)

    def update(
        self,
        state: pretrain_state.PretrainState,
        frozen: pretrain_update.Dataset,
        key: PRNGKey,
        mesh: Mesh,
    ) -> tuple[pretrain_state.PretrainState, Metrics]:
        """One update, all its randomness from `key`."""
        denoiser = sharding.gathering(self.setup.denoiser, mesh)
        setup = dataclasses.replace(self.setup, denoiser=denoiser)
        draws = self.draws(frozen, key, mesh)
        return setup.update(state, draws, max_skipped_in_a_row=self.max_skipped_in_a_row)

    def draws(
        self, frozen: pretrain_update.Dataset, key: PRNGKey, mesh: Mesh
    ) -> pretrain_update.Draws:
        """Its images and randomness, laid over the devices."""
        return sharding.constrain_batch(self.draw(key, frozen), mesh, 0)

    def ema_params(self, state: pretrain_state.PretrainState) -> Params:
        """The denoiser's average."""
        return state.denoiser_ema

    @property
    def evaluations(self) -> int:
        """Network evaluations a sample."""
        return self.heun.evaluations

    def sampler(
        self, *, seed: int, mesh: Mesh, denoiser: NetworkDenoiser | None = None
    ) -> sampling.SampleBatch:
        """Samples by Heun's method, of the trained network or of another one."""
        return sampling.heun(denoiser or self.denoiser, settings=self.heun, seed=seed, mesh=mesh)

    @property
    def caption(self) -> str:
        """Of the samples."""
        return f"samples, {self.evaluations} evaluations"

    def comparisons(self, frozen: Any, *, seed: int, mesh: Mesh) -> list[Comparison]:
        """Nothing."""
        return []


Experiment = DistillExperiment | PretrainExperiment
