"""Points: a generator without a network, whose parameters are its examples."""

import dataclasses
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params, PRNGKey
from diffjax.models import conditions
from diffjax.models import teacher as teacher_lib
from diffjax.models.generator import Generator
from diffjax.models.teacher import Cond, Teacher


@dataclasses.dataclass(frozen=True)
class Indices:
    """Law of latents that are indices, drawn evenly.

    A batch holds each index as often as any other, or once more; at least `count` draws hold all.
    Pictures and samples take them in turn, each once before one comes again.

    Attributes:
      count: number of indices.
      classes: number of classes, which samples have in turn too; 1 for none.
    """

    count: int
    classes: int = 1

    def __call__(self, key: PRNGKey, batch: int) -> Array:
        """Draw indices [batch] int32, each alike likely."""
        first = jax.random.randint(key, (), 0, self.count, jnp.int32)
        return (first + jnp.arange(batch, dtype=jnp.int32)) % self.count

    def in_turn(self, samples: Array) -> Array:
        """Give each sample its index, so that each class has all, and so has one class alone.

        Args:
          samples: [B] numbers of the samples.

        Returns:
          [B] int32 indices.
        """
        row, column = samples // self.classes, samples % self.classes
        return ((row + column) % self.count).astype(jnp.int32)


def points(teacher: Teacher, count: int = 10, std: float | None = None, seed: int = 0) -> Generator:
    """Make a student that is a table: of each index, and of each class if any, one example.

    Score distillation sampling moves such points. A config names it, with these defaults, as
    "diffjax.models.points:points".

    Args:
      teacher: whose examples they are like; unconditional, or of one-hot classes.
      count: number of points, for each class if there are any.
      std: standard deviation of the normal noise that they start from, in the teacher's units; None
        for sigma_data.
      seed: of that noise.

    Returns:
      The student, whose parameters are `{"points": [count, *shape]}`, or [classes, count, *shape].

    Raises:
      ValueError: if `count` or `std` isn't positive, or the condition is no one-hot class.
    """
    teacher = teacher_lib.checked(teacher, "points")
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"points: count={count!r} must be a positive integer")
    std = teacher.sigma_data if std is None else teacher_lib.positive(std, "points: std")
    classes, drawn = conditions.classes_of(teacher.cond)
    if teacher.cond is not None and not classes:
        raise ValueError(
            "points: the teacher's condition isn't a one-hot class (models.one_hot), so that no "
            "point can belong to it; write a models.Generator that says which belongs to which"
        )
    lead = (classes, int(count)) if classes else (int(count),)
    start = std * jax.random.normal(jax.random.key(seed), (*lead, *teacher.shape), jnp.float32)

    def generate(params: Params, z: Any, cond: Cond = None) -> Array:
        table = params["points"]
        return table[jnp.argmax(cond, axis=-1), z] if classes else table[z]

    law = Indices(int(count), len(drawn) or max(classes, 1))
    return Generator(generate, {"points": start}, law)
