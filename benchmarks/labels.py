"""Distance, precision and recall of a class-conditional denoiser, asked with labels and without.

    python -m benchmarks.labels --teacher=teachers/cifar_small_cond --data=cifar10-32x32.zip

Samples are EDM's, of 35 evaluations in bfloat16. Needs what `benchmarks.efficientnet` needs, or
other `--features`.
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.convert import teacher
from diffjax.distributed import sharding
from diffjax.evaluation import evaluator, features, references, sampling
from diffjax.interfaces import Array, Params
from diffjax.models.denoiser import NetworkDenoiser, from_edm_kwargs


@dataclasses.dataclass(frozen=True)
class Unconditional:
    """A conditional denoiser that is never told a class."""

    denoiser: NetworkDenoiser
    label_dim: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def __call__(self, params: Params, x: Array, sigma: Array, labels: None = None) -> Array:
        """Denoise; `labels` is None where `label_dim` is 0."""
        return self.denoiser(params, x, sigma, labels=labels)


def main() -> None:
    """Print a line a measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="a denoiser with classes")
    parser.add_argument("--data", required=True, help="real images")
    parser.add_argument("--features", default="benchmarks.efficientnet:efficientnet_lite0")
    parser.add_argument("--count", type=int, default=50_000, help="samples of the distance")
    parser.add_argument("--few", type=int, default=10_000, help="of precision and recall")
    parser.add_argument("--batch_size", type=int, default=500)
    arguments = parser.parse_args()
    network = teacher.load(arguments.teacher)
    denoiser = from_edm_kwargs(network.init_kwargs, dtype=jnp.bfloat16)
    params, mesh = jax.device_put(network.params), sharding.make_mesh()
    extract = features.load(arguments.features, "")
    reference = references.load(
        arguments.data,
        extract,
        image_shape=denoiser.image_shape,
        keep_rows=True,
        batch_size=arguments.batch_size,
        mesh=mesh,
    )
    assert reference.rows is not None
    few = dataclasses.replace(reference, rows=reference.rows[: arguments.few])
    for words, asked in (("with", denoiser), ("without", Unconditional(denoiser))):
        sampler = sampling.heun(asked, settings=sampling.HeunSettings(), seed=0, mesh=mesh)
        for names, count, compared in (
            (("fd",), arguments.count, reference),
            (("precision", "recall"), arguments.few, few),
        ):
            measure = evaluator.Evaluator(
                features=extract,
                names=names,
                reference=compared,
                count=count,
                batch_size=arguments.batch_size,
                seed=0,
                mesh=mesh,
            )
            print(words, "labels:", measure(sampler, params, label_dim=asked.label_dim), flush=True)


if __name__ == "__main__":
    main()
