"""Generators of others by name, file or URL: pickles of StyleGAN2, as a config's student."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffjax.convert import catalogue, stylegan2
from diffjax.files import digests, download, paths
from diffjax.interfaces import Params
from diffjax.models.records import RecordGenerator

_SUFFIX = ".pkl"


@dataclasses.dataclass(frozen=True)
class Pickle:
    """Pickle of a generator.

    Attributes:
      source: its path or URL.
      init_kwargs: arguments of its network, as `stylegan2.build` takes them.
    """

    source: str
    init_kwargs: Mapping[str, Any]

    def load(self) -> Params:
        """Read its variables, {"params", "buffers"} of float32; a URL is downloaded once.

        Raises:
          FileNotFoundError: if there is no such file.
          ConnectionError: if it can't be downloaded.
          ValueError: if it is no such pickle, or describes another network.
        """
        with download.reading(self.source) as path:
            init_kwargs, state_dict = stylegan2.read_pickle(path)
            try:
                network = stylegan2.build(init_kwargs)
                variables = stylegan2.to_variables(network, state_dict)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
        if network != stylegan2.build(self.init_kwargs):
            raise ValueError(
                f"{path} isn't the network that diffjax knows by this name; name {self.source} "
                "instead, so that its own description is read"
            )
        return variables

    def student(
        self, teacher: Any, names: tuple[str, str] = ("", ""), dtype: Any = None
    ) -> RecordGenerator:
        """Make a student of it; its arrays aren't read yet.

        It draws the noise of its layers and truncates nothing, so that its buffers, the constant
        noise and the average of w, are without effect.

        Args:
          teacher: model whose shape and classes it must have.
          names: of the generator and of the teacher, for errors.
          dtype: that its convolutions compute in; None for float32.

        Raises:
          ValueError: in one line, if it has others.
        """
        network = stylegan2.build(self.init_kwargs, dtype=dtype)
        shape = (network.img_resolution, network.img_resolution, network.img_channels)
        name, of = names
        if shape != teacher.shape:
            raise ValueError(
                f"student {name!r} generates {shape} and teacher {of!r} denoises {teacher.shape}: "
                "they must be equal"
            )
        whose = "takes conditions that are no classes"
        if teacher.label_dim or teacher.cond is None:
            whose = _classes(teacher.label_dim)
        if (own := _classes(network.c_dim)) != whose:
            raise ValueError(f"student {name!r} {own} and teacher {of!r} {whose}: they must agree")
        # Zeros of no memory stand for shapes and types.
        stand_in = jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),
            network.abstract_variables(),
        )
        generator = stylegan2.to_generator(network, stand_in)
        return RecordGenerator(generator, name, shape, read=self.load)

    def content(self) -> dict[str, Any]:
        """Describe what it holds, wherever it lies: what `digests.of_file` gives.

        Raises:
          OSError: if there is nothing there, or it can't be downloaded.
        """
        return digests.of_file(download.fetch(self.source))


def _classes(count: int) -> str:
    return f"has {count} classes" if count else "is unconditional"


def is_one(source: str) -> bool:
    """Tell whether a name is a pickle's or a released generator's, from its form alone.

    Args:
      source: a name, path or URL.
    """
    return source in catalogue.GENERATORS or source.partition("#")[0].endswith(_SUFFIX)


def describe(source: str) -> Pickle:
    """Find a generator, and read what network it is; of a released one nothing is downloaded.

    Args:
      source: a name in `catalogue.GENERATORS`, or the path or https URL of a StyleGAN2 pickle.

    Raises:
      FileNotFoundError: if there is no such file.
      ConnectionError: if it can't be downloaded.
      ValueError: if it is no such pickle.
    """
    if source in catalogue.GENERATORS:
        released = catalogue.GENERATORS[source]
        return Pickle(released.url, released.init_kwargs)
    source = paths.expanded(source)
    with download.reading(source) as path:
        init_kwargs, _ = stylegan2.read_pickle(path)
        try:
            stylegan2.build(init_kwargs)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return Pickle(source, init_kwargs)
