r"""Picture of score distillation: points of each class, at several scales of guidance.

    python -m benchmarks.sds --picture=docs/sds.png
    python -m benchmarks.sds --teacher=teachers/cifar_small_cond --scales=1,2,4 --count=4 \
        --picture=sds_cifar.png

The first panel is of the teacher's own samples, the next of points, all from one start. For scales
of guidance other than 1 the teacher must have been trained with label dropout, so that zeros ask it
for no class. A minute on a CPU for the digits, minutes on a GPU for 32x32 images.
"""

import argparse
import functools
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from diffjax import models
from diffjax.convert import teacher as teachers
from diffjax.diffusion import noise, samplers
from diffjax.files import images
from diffjax.methods import sds
from diffjax.methods.draws import Batch
from diffjax.models import conditions
from diffjax.models.records import RecordDenoiser, RecordGenerator
from diffjax.training import optimizer, state
from diffjax.training.ema import Averages
from diffjax.training.update import Update

_UPDATES_A_CALL = 50


def distil(teacher: models.Teacher, arguments: argparse.Namespace) -> np.ndarray:
    """Move points to where a teacher would have them.

    Args:
      teacher: of classes.
      arguments: of the command line.

    Returns:
      The points, [count, classes, H, W, C].
    """
    start = models.points(teacher, arguments.count, arguments.std)
    generator = RecordGenerator(start, "points", teacher.shape)
    denoiser = RecordDenoiser(teacher, "the teacher")
    method = sds.SDS(
        networks={"generator": generator, "teacher": denoiser},
        batch=Batch(teacher.shape, arguments.batch, cond=teacher.cond, latent=generator.latent),
        sigma_min=teacher.sigma_min,
        sigma_max=teacher.sigma_max,
        sigma_data=teacher.sigma_data,
        p_mean=arguments.p_mean,
        weight=arguments.weight,
    )
    adam = optimizer.adam(arguments.rate, b1=0.9)
    update = Update(
        method=method,
        optimizers={"generator": adam},
        averages=Averages(arguments.batch * arguments.updates / 40),
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def updates(current: state.TrainState, teacher: models.Teacher) -> tuple:
        def one(current: state.TrainState, _: None) -> tuple:
            draws = method.draw(jax.random.fold_in(jax.random.key(0), current.step))
            return update(current, {"teacher": teacher}, draws)

        return jax.lax.scan(one, current, length=min(_UPDATES_A_CALL, arguments.updates))

    params = denoiser.arrays.start()
    current = state.create(
        {"generator": generator.arrays.start()}, update.optimizers, update.averaged
    )
    for _ in range(-(-arguments.updates // _UPDATES_A_CALL)):
        current, metrics = updates(current, params)
        print(" ".join(f"{name} {float(value[-1]):.4g}" for name, value in metrics.items()))
    moved = generator.arrays.whole(current.averages["generator"])["points"]
    return np.asarray(moved).swapaxes(0, 1)


def sampled(teacher: models.Teacher, count: int) -> np.ndarray:
    """Sample a teacher by Heun's method, 35 evaluations, [count, classes, H, W, C]."""
    classes, _ = conditions.classes_of(teacher.cond)
    labels = jnp.tile(jnp.eye(classes), (count, 1))
    sigmas = noise.heun_sigmas(18, teacher.sigma_min, teacher.sigma_max)
    z = jax.random.normal(jax.random.key(1), (len(labels), *teacher.shape))
    denoise = jax.jit(teacher.denoise)
    x = samplers.edm_heun(lambda x, s: denoise(teacher.params, x, s, labels), z, sigmas)
    return np.asarray(x).reshape(count, classes, *teacher.shape)


def variety(points: np.ndarray) -> float:
    """Standard deviation of a pixel over the points of a class, mean over pixels and classes."""
    return float(points.std(axis=0).mean())


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive whole number")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive number")
    return number


def _scales(text: str) -> list[float]:
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        found = []
    if not found or not np.isfinite(found).all():
        raise ValueError(f"--scales={text!r}: a number or more are needed, such as 1,2,4")
    return found


def parse() -> argparse.Namespace:
    """Read the command line, and refuse what can't be before any compute."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="digits", help="a name, folder or pickle of ours")
    parser.add_argument("--scales", default="1", help="of guidance, such as 1,2,4")
    parser.add_argument("--count", type=_count, default=8, help="points of each class")
    parser.add_argument("--batch", type=_count, default=400, help="points an update")
    parser.add_argument("--updates", type=_count, default=600, help="in steps of 50 from 50 on")
    parser.add_argument("--rate", type=_positive, default=1e-2, help="Adam's")
    parser.add_argument("--std", type=_positive, help="of the start; sigma_data by default")
    parser.add_argument("--p_mean", type=float, default=-1.2, help="mean of ln sigma")
    parser.add_argument("--weight", default="denoisers", choices=tuple(sds.WEIGHTS))
    parser.add_argument("--bfloat16", action="store_true", help="compute in it")
    parser.add_argument("--picture", type=Path, required=True, help="a PNG to write")
    arguments = parser.parse_args()
    name = arguments.teacher
    try:
        arguments.scales = _scales(arguments.scales)
        described = teachers.describe(name, field="--teacher")
        if not described.get("label_dim"):
            raise ValueError(f"--teacher={name} has no classes")
        if set(arguments.scales) != {1} and not described.get("label_dropout"):
            raise ValueError(
                f"--teacher={name} was trained without label dropout, so that it has no answer for "
                "no class: give --scales=1"
            )
        dtype = jnp.bfloat16 if arguments.bfloat16 else jnp.float32
        arguments.teacher = teachers.read(name, dtype=dtype, field="--teacher")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return arguments


def main() -> None:
    """Write the picture, and print how much the points of a class differ."""
    arguments = parse()
    teacher = arguments.teacher
    classes, _ = conditions.classes_of(teacher.cond)
    panels = [("samples, 35 evaluations", sampled(teacher, arguments.count))]
    for scale in arguments.scales:
        begun = time.time()
        guided = teacher if scale == 1 else models.guided(teacher, scale, jnp.zeros(classes))
        caption = "SDS" if arguments.scales == [1] else f"SDS, guidance {scale:g}"
        panels.append((caption, distil(guided, arguments)))
        print(f"{caption}: {time.time() - begun:.0f} s")
    for caption, points in panels:
        print(f"{caption}: standard deviation over the points of a class {variety(points):.3f}")
    drawn = [(caption, images.to_uint8(p.reshape(-1, *teacher.shape))) for caption, p in panels]
    images.save_png(
        arguments.picture,
        images.labelled_panels(drawn, columns=classes, scale=max(1, 32 // teacher.shape[0])),
    )


if __name__ == "__main__":
    main()
