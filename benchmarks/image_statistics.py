"""Seconds from images to reference statistics, and the distance between halves of a data set.

    python benchmarks/image_statistics.py --data=cifar10-32x32.zip --features_weights=random
    python benchmarks/image_statistics.py --data=cifar10-32x32.zip --features=pixels --halves

The first is what `python -m diffjax.stats` does, timed part by part; random weights are as fast as
the published ones. The second splits the images at random and prints the Fréchet distance between
the halves: what a perfect generator would score with as many samples against as many real images.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from typing import SupportsIndex

import jax
import numpy as np

from diffjax import data, metrics
from diffjax.data import DataSource
from diffjax.distributed import runtime, sharding
from diffjax.evaluation import evaluator, features, image_statistics


class Subset:
    """Some images of a source, in the order given."""

    def __init__(self, source: DataSource, indices: np.ndarray) -> None:
        self._source, self._indices = source, indices
        self.name, self.image_shape = source.name, source.image_shape
        self.num_classes = source.num_classes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, int]:
        return self._source[self._indices[index]]


def statistics(source: DataSource, extract: features.Features, batch_size: int) -> metrics.Moments:
    """Moments of all images, on all devices, as `diffjax.stats` computes them."""
    mesh = sharding.make_mesh()
    batches = data.in_order(source, batch_size=batch_size * mesh.size)
    images: Iterator[np.ndarray] = (batch.images for batch in batches)
    return image_statistics.compute(images, extract, mesh=mesh, batch_size=batch_size)


def time_statistics(source: DataSource, extract: features.Features, batch_size: int) -> None:
    """Print seconds, images a second and peak memory."""
    start = time.monotonic()
    data.verify(source)
    verified = time.monotonic()
    # All batches are of one shape, so one of them compiles all there is.
    first = Subset(source, np.arange(min(len(source), batch_size * jax.device_count())))
    statistics(first, extract, batch_size)
    compiled = time.monotonic()
    moments = statistics(source, extract, batch_size)
    seconds = time.monotonic() - compiled
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{moments.count} images, {moments.mean.size} features {extract.name}, on {devices}")
    print(f"images looked through: {verified - start:.1f} s")
    print(f"compiled, first batches: {compiled - verified:.1f} s")
    print(f"statistics: {seconds:.1f} s, {moments.count / seconds:.0f} images/s")
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of the process: {resident:.2f} GiB")
    peak = runtime.peak_memory_gib()
    if peak is not None:
        print(f"peak memory of a device: {peak:.2f} GiB")


def compare_halves(
    source: DataSource, extract: features.Features, batch_size: int, seed: int
) -> None:
    """Print the Fréchet distance between two random halves, N in its name."""
    order = np.random.default_rng(seed).permutation(len(source))
    half = len(source) // 2
    first, second = (
        statistics(Subset(source, indices), extract, batch_size)
        for indices in (order[:half], order[half : 2 * half])
    )
    distance = metrics.frechet_distance(first.mean, first.cov, second.mean, second.cov)
    itself = metrics.frechet_distance(first.mean, first.cov, first.mean, first.cov)
    metric = "fid" if extract.is_published_inception else "fd"
    name = evaluator.result_name(metric, features=extract.name, count=half)
    print(f"{name} of two halves, seed {seed}: {distance:.6g}; of one with itself: {itself:.2g}")


def main() -> None:
    """Do what the flags say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", default=features.INCEPTION)
    parser.add_argument("--features_weights", default="")
    parser.add_argument("--batch_size", type=int, default=256, help="images a device at a time")
    parser.add_argument("--count", type=int, default=0, help="so many of the images; 0 for all")
    parser.add_argument("--halves", action="store_true", help="compare halves instead of timing")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    arguments = parser.parse_args()
    source: DataSource = data.open_source(arguments.data, field="--data")
    if arguments.count:
        source = Subset(source, np.arange(min(arguments.count, len(source))))
    extract = features.load(arguments.features, arguments.features_weights)
    extract.check_channels(source.image_shape[2], arguments.data)
    if arguments.halves:
        compare_halves(source, extract, arguments.batch_size, arguments.seed)
    else:
        time_statistics(source, extract, arguments.batch_size)


if __name__ == "__main__":
    main()
