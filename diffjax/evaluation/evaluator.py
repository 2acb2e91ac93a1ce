"""Evaluation of a generator by metrics, in one pass over images that are never all in memory.

Images and, where they are JAX, features are computed by all devices, in one compiled call a batch
for a one-step generator. The sums over images are the host's, in float64: they don't depend on how
many devices there are, so neither do the metrics.

Images of our own networks are measured as uint8, as they are stored, all other samples as they are,
float32 in the units of the data. Metrics that compare samples themselves keep all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from diffjax.diffusion.noise import PUBLISHED_SIGMA_DATA
from diffjax.distributed import sharding
from diffjax.evaluation import drawing, measures, requests, sampling
from diffjax.evaluation.features import (
    Features,
    compile_apply,
    one_behind,
    to_rows,
    values,
)
from diffjax.evaluation.measures import result_name
from diffjax.evaluation.references import Reference
from diffjax.interfaces import Array, Params
from diffjax.models.teacher import CondLaw


class Evaluator:
    """Evaluator of a generator by metrics.

    Attributes:
      seed: of the samples, which are equal every time.
      names: metric -> the name of its value.
    """

    def __init__(
        self,
        *,
        features: Features | None,
        names: Sequence[str],
        reference: Reference | None,
        count: int,
        batch_size: int,
        seed: int,
        mesh: Mesh,
        classes: tuple[int, ...] = (),
        cond: CondLaw | None = None,
        sigma_data: float = PUBLISHED_SIGMA_DATA,
        quantise: bool = True,
    ) -> None:
        """Prepare to measure.

        Args:
          features: features that metrics are computed on; None where none is.
          names: metrics, of `METRICS`.
          reference: real images that metrics compare with; None where no metric compares.
          count: number of images to generate.
          batch_size: images that one device makes at a time. It isn't divided by the number of
            devices, so that a device is given the same work however many there are, and on as many
            cores a device makes images that are equal to the bit.
          seed: of the images and their classes.
          mesh: the devices.
          classes: those that are drawn; () for all.
          cond: law by which conditions are drawn, in place of uniform classes.
          sigma_data: standard deviation of the data, in the units of the samples.
          quantise: whether samples are images in [-1, 1], which are measured as uint8.

        Raises:
          ValueError: if a metric's name implies Inception, and the features are something else.
        """
        requests.check_features(names, features)
        self.seed = seed
        own = features.name if features is not None else ""
        self.names = {n: result_name(n, features=own, count=count) for n in names}
        self._features, self._reference, self._classes = features, reference, classes
        self._cond, self._sigma_data, self._quantise = cond, sigma_data, quantise
        # Once, not with every batch.
        variables = features.variables if features is not None else None
        self._variables = sharding.put(variables, sharding.replicated(mesh))
        self._count, self._batch_size, self._mesh = count, batch_size * mesh.size, mesh
        self._calls: dict[tuple[sampling.SampleBatch, int], Callable[..., Any]] = {}
        mean = reference.mean if reference is not None else None
        if mean is not None and count < mean.size:
            logging.warning(
                "%d images can't fill a covariance of %d features: distances of so few say more "
                "about their number than about the generator.",
                count,
                mean.size,
            )

    @property
    def record(self) -> dict[str, Any]:
        """Description of the measure: how and against what, for files that hold its numbers."""
        return {
            "metrics": list(self.names),
            "features": self._features.record if self._features is not None else None,
            "reference": dict(self._reference.record) if self._reference is not None else None,
            "images": self._count,
            "seed": self.seed,
        }

    @property
    def examples(self) -> np.ndarray | None:
        """Samples of the reference to look at, [N, *shape] float32, where it isn't images."""
        return self._reference.examples if self._reference is not None else None

    def __call__(
        self, sampler: sampling.SampleBatch, params: Params, *, label_dim: int, repeat: int = 0
    ) -> dict[str, float]:
        """Measure `count` images with uniform classes, or with conditions as the law draws them.

        Args:
          sampler: function that makes images; its seed should be this evaluator's.
          params: of the sampler's network.
          label_dim: number of classes; 0 for none.
          repeat: r takes the images from r · count on, so that repeats share none.

        Returns:
          Name -> value. Beside an inception score stands the deviation of its splits, `..._std`,
          beside the moments their parts, `..._mean`, `..._std` and, with a reference, `..._cov`.

        Raises:
          FloatingPointError: if an image holds NaN, or a sample or its features infinity.
        """
        return self.values(self.collect(sampler, params, label_dim=label_dim, repeat=repeat))

    def collect(
        self, sampler: sampling.SampleBatch, params: Params, *, label_dim: int, repeat: int = 0
    ) -> measures.Tally:
        """Make samples, and keep of them what the metrics need: all that is the devices' work.

        Args:
          sampler: as in a call.
          params: likewise.
          label_dim: likewise.
          repeat: likewise.

        Returns:
          What `values` takes.

        Raises:
          FloatingPointError: as in a call.
        """
        tally = measures.Tally(
            keep_rows=requests.needs_rows(self.names), keep_logits="is" in self.names
        )
        for batch in self._generated(sampler, params, label_dim, repeat * self._count):
            tally.add(*batch)
        return tally

    def values(self, tally: measures.Tally) -> dict[str, float]:
        """Compute the metrics of what `collect` kept; the result is that of a call."""
        return measures.measure(
            self.names,
            tally,
            self._reference,
            logit_bias=self._features.logit_bias if self._features is not None else None,
            sigma_data=self._sigma_data,
        )

    def compile(self, sampler: sampling.SampleBatch, params: Params, *, label_dim: int) -> None:
        """Make the first batch and forget it, so that later calls needn't compile.

        Args:
          sampler: that they will have.
          params: of its network.
          label_dim: number of classes; 0 for none.

        Raises:
          FloatingPointError: if an image holds NaN, or a sample or its features infinity.
        """
        next(self._generated(sampler, params, label_dim, 0))

    def _generated(
        self, sampler: sampling.SampleBatch, params: Params, label_dim: int, first: int
    ) -> Iterator[tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]]:
        """Yield features, logits and samples `first` to `first + count`, a batch at a time."""
        features, size = self._features, self._batch_size
        call = self._call(sampler, label_dim)
        dispatched = (
            (min(size, self._count - done), *call(params, self._variables, first + done))
            for done in range(0, self._count, size)
        )
        # Every batch is of one size, so that one is compiled; images that are too many are cut.
        for count, output, samples, is_bad in one_behind(dispatched):
            if sharding.gather(is_bad):
                what = "images hold NaN" if self._quantise else "samples hold NaN or infinity"
                raise FloatingPointError(f"the generated {what}: what made them has diverged.")
            made = None if samples is None else sharding.gather(samples)[:count]
            if features is not None and not features.compiled:
                output = features.apply(features.variables, made)
            kept = None
            if made is not None and requests.uses_samples(self.names):
                kept = values(made).astype(np.float32)
            if features is None:
                yield None, None, kept
            else:
                rows, logits = (to_rows(features, each, count) for each in output)
                if not np.isfinite(rows).all():
                    raise FloatingPointError(
                        f"features={features.name!r} make NaN or infinity of generated samples."
                    )
                yield rows, logits, kept

    def _call(self, sampler: sampling.SampleBatch, label_dim: int) -> Callable[..., Any]:
        """Compiled (params, variables, first) -> (output, samples, whether they are bad).

        The output is features and logits where these are compiled; samples are None where the host
        needs none.
        """
        if (sampler, label_dim) not in self._calls:
            self._calls[sampler, label_dim] = self._join(sampler, label_dim)
        return self._calls[sampler, label_dim]

    def _join(self, sampler: sampling.SampleBatch, label_dim: int) -> Callable[..., Any]:
        mesh, size, seed, features = self._mesh, self._batch_size, self.seed, self._features
        convert = _quantise if self._quantise else _as_float

        def indices(first: Any) -> Array:
            return first + jnp.arange(size, dtype=jnp.int32)

        def generate(params: Params, first: Array, drawn: Any) -> tuple[Array, Array]:
            if self._cond is None:
                drawn = drawing.random_classes(seed, indices(first), label_dim, self._classes)
            return convert(sampler(params, indices(first), drawn))

        # A sampler that calls the network many times in Python's loop stays outside of `jit`.
        one_call = isinstance(sampler, jax.stages.Wrapped)
        make = jax.jit(generate) if one_call else generate
        extract = None
        if features is not None and features.compiled:
            extract = compile_apply(features, mesh)
        needs_samples = extract is None or requests.uses_samples(self.names)

        def call(params: Params, variables: Params, first: Any, drawn: Any) -> tuple[Any, ...]:
            samples, is_bad = make(params, first, drawn)
            output = extract(variables, samples) if extract is not None else None
            return output, samples if needs_samples else None, is_bad

        joined = jax.jit(call) if one_call and extract is not None else call
        if self._cond is None:
            return lambda params, variables, first: joined(params, variables, first, None)

        def conditioned(params: Params, variables: Params, first: int) -> tuple[Any, ...]:
            # Drawn outside of `jit`, which would hold a law's table as a constant.
            drawn = drawing.random_conditions(seed, indices(first), label_dim, law=self._cond)
            return joined(params, variables, first, drawn)

        return conditioned


@jax.jit
def _quantise(x: Array) -> tuple[Array, Array]:
    """Quantise images as `images.to_uint8`, on the devices; tell whether they hold NaN."""
    return jnp.clip(x * 127.5 + 128, 0, 255).astype(jnp.uint8), jnp.isnan(x).any()


@jax.jit
def _as_float(x: Array) -> tuple[Array, Array]:
    """Leave samples as they are; tell whether they hold NaN or infinity."""
    return x.astype(jnp.float32), ~jnp.isfinite(x).all()
