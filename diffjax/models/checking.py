"""The check of a teacher: what it returns, whether it denoises, in which units, where it is right.

`short` takes seconds and comes before anything long. `check` samples from the teacher, measures the
orthogonality slope by noise level, and where it isn't 1 tries what may have been meant.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.diffusion.predictions import ProcessDenoiser
from diffjax.interfaces import PRNGKey
from diffjax.models import alternatives, probing, slopes
from diffjax.models import teacher as teacher_lib
from diffjax.models.alternatives import Alternative
from diffjax.models.contract import NotFiniteError, short
from diffjax.models.probing import Measured, Probe
from diffjax.models.slopes import Denoise, Examples, Level
from diffjax.models.teacher import Teacher

__all__ = ["Report", "check", "short"]

_NUMBERS = 8192  # that the samples hold together, at least
_OFF = 0.2  # relative difference of standard deviations that is told
_COLLAPSED = 0.05  # of sigma_data
_NOTHING = 1e-3  # of the least that ‖ε̂‖² can be
_UNTRAINED = "denoise returns y nearly as it is: are the trained weights in params?"
_TRIED = 6  # alternatives of a group that are sampled from, after the screen


@dataclasses.dataclass(frozen=True)
class Report:
    """Findings of the check of a teacher.

    Attributes:
      name: of the teacher.
      levels: slopes by noise level, rising.
      origin: of the examples that the slopes were taken on, in words.
      std: standard deviation of the teacher's own samples; NaN if they aren't finite or weren't
        drawn.
      sigma_data: what the teacher says.
      problems: one line each, naming what to change; () if there are none.
    """

    name: str
    levels: tuple[Level, ...]
    origin: str
    std: float
    sigma_data: float
    problems: tuple[str, ...]

    def lines(self) -> list[str]:
        """List the report's lines, a table by noise level and then the problems."""
        made = []
        if self.levels:
            made += [
                f"{self.name}: orthogonality slope on {self.origin}, 1 for a right denoiser",
                "     sigma    slope  +- error  draws",
            ]
            made += [
                f"{each.sigma:10.4g} {each.slope:8.3f} {each.error:9.3f} {each.draws:6d}  "
                f"{each.verdict}"
                for each in self.levels
            ]
            made.append(f"std of its samples {self.std:.3g}, sigma_data={self.sigma_data:g}")
        return made + list(self.problems or (f"{self.name}: no problem found",))


def check(
    teacher: Teacher,
    *,
    name: str,
    key: PRNGKey,
    data: Any = None,
    samples: int = 64,
    levels: int = 9,
) -> Report:
    """Check that a teacher denoises, by its own samples or by data.

    With y = x + σ n and ε̂ = (y − D)/σ, ⟨ε̂, n⟩/‖ε̂‖² is 1 on average for any right denoiser. Where
    it isn't, other signs, predictions, times and processes are tried on the same network. Where
    none of them mends it, the range of noise levels in which it is right is looked for.

    Args:
      teacher: to check; any object with its names.
      name: of the teacher, such as "my_teacher:sky", for the lines.
      key: of all draws.
      data: [M, *shape] in the teacher's units, or (data, their conditions); None: the slope is
        taken on the teacher's own samples.
      samples: number of examples, at least; more if they hold fewer than 8192 numbers together.
      levels: number of noise levels, geometric from sigma_min to sigma_max, at least 3.

    Returns:
      The report. A teacher that fails the short check has its line as only problem.

    Raises:
      ValueError: for data of another shape, or fewer than three levels.
    """
    if levels < 3:
        raise ValueError(f"check: levels={levels} must be at least 3")
    given = _data(data, teacher, name)
    failed: tuple[str, ...] = ()
    try:
        teacher = teacher_lib.checked(teacher, name)
        short(teacher, name)
    except NotFiniteError as error:  # a wrong time or process may be the reason
        failed = (str(error),)
    except ValueError as error:
        sigma_data = float(getattr(teacher, "sigma_data", math.nan))
        return Report(name, (), "", math.nan, sigma_data, (str(error),))
    count = max(samples, math.ceil(_NUMBERS / math.prod(teacher.shape)))
    report = _Check(teacher, name, Probe(teacher, key, given, count, levels)).report()
    return dataclasses.replace(report, problems=(*report.problems, *failed))


def _data(data: Any, teacher: Teacher, name: str) -> Examples | None:
    if data is None:
        return None
    x, cond = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    x, shape = np.asarray(x), tuple(teacher.shape)
    if x.shape[1:] != shape or len(x) < 2 or x.dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: data are {x.dtype} {list(x.shape)}; they must be numbers [M, "
            f"{', '.join(map(str, shape))}] in the teacher's units"
        )
    if teacher.cond is not None and cond is None:
        raise ValueError(f"{name} is conditional: data must be (data, their conditions)")
    return Examples(jnp.asarray(x, jnp.float32), cond, 0.0, "data")


@dataclasses.dataclass(frozen=True)
class _Check:
    teacher: Teacher
    name: str
    probe: Probe

    def report(self) -> Report:
        compiled = slopes.compiled(self.teacher.denoise, self.teacher.params)

        def denoise(y: Any, sigma: Any, cond: Any) -> Any:
            return compiled(self.teacher.params, y, sigma, cond)

        grid = self.probe.grid()
        found = self.probe.measured(denoise, grid)
        problems = self._of_slopes(denoise, found) if found.wrong else self._of_std(found)
        return Report(
            self.name,
            found.levels,
            found.examples.origin,
            found.std,
            self.teacher.sigma_data,
            tuple(f"{self.name}: {each}" for each in problems),
        )

    def _of_std(self, found: Measured) -> list[str]:
        told, std = self.teacher.sigma_data, found.std
        problems = []
        if not math.isfinite(std):
            problems.append(
                "samples (Heun from sigma_max to sigma_min) aren't finite: denoise fails for some "
                "y; look at its scaling of inputs"
            )
        elif std < _COLLAPSED * told:
            problems.append(
                f"samples have std {std:.2g}, sigma_data={told:g}: denoise hardly looks at y; are "
                "the trained weights in params?"
            )
        elif abs(std / told - 1) > _OFF:
            given = self.teacher.denoise
            bare = isinstance(given, ProcessDenoiser) and given.sigma_data is None
            also = (
                f" (or, if the network was trained on data divided by {told:g}, say so: "
                f"process.denoiser(…, sigma_data={told:g}))"
                if bare and abs(std - 1) < _OFF
                else ""
            )
            problems.append(
                f"samples have std {std:.3g}, sigma_data={told:g} says otherwise (over 20 % off): "
                f"set sigma_data={std:.3g}{also}"
            )
        return problems + self._of_units(found)

    def _of_units(self, found: Measured) -> list[str]:
        """Say that data and samples have different units, if they differ that much."""
        std = found.std
        if self.probe.data is None or not std > _COLLAPSED * self.teacher.sigma_data:
            return []
        of_data = self.probe.data.std
        if abs(of_data / std - 1) <= _OFF:
            return []
        return [
            f"data have std {of_data:.3g} and the teacher's samples {std:.3g}, not in the same "
            f"units: multiply the data by {std / of_data:.3g}, or give the teacher theirs by "
            f"models.scaled(teacher, std={std / of_data:.3g})"
        ]

    def _of_slopes(self, denoise: Denoise, found: Measured) -> list[str]:
        units = self._of_units(found)
        if units and found.std <= probing.FAR * self.teacher.sigma_data:
            grid = [each.sigma for each in found.levels]
            if not any(each.is_wrong for each in self.probe.slopes(denoise, found.samples, grid)):
                return units
        problems = []
        if not found.std <= probing.FAR * self.teacher.sigma_data:
            how = f"have std {found.std:.3g}" if math.isfinite(found.std) else "aren't finite"
            problems.append(
                f"samples (Heun from sigma_max to sigma_min) {how}, with "
                f"sigma_data={self.teacher.sigma_data:g}: mend the slope first"
            )
        if all(each.power < _NOTHING for each in found.levels if math.isfinite(each.slope)):
            return [f"{_at(found.wrong[-1])}; {_UNTRAINED}", *problems]
        ranged = self._range(denoise, found) if _only_ends_are_wrong(found) else None
        if ranged is not None and ranged.is_wide:
            return ranged.problems
        told, second = self.teacher.sigma_data, None
        for group in alternatives.readings(self.teacher):
            mends = [(each, self._mends(each, found)) for each in self._screened(group)]
            right = [(each, mended) for each, mended in mends if mended is not None]
            if right:
                # Of those that are as good the first, which is the commonest.
                right.sort(key=lambda pair: (int(pair[1].deviation / 0.03), group.index(pair[0])))
                best = next((pair for pair in right if abs(pair[1].std / told - 1) <= _OFF), None)
                if best is not None:
                    return [self._alternative(*best, denoise), *problems]
                second = second or right[0]  # with samples of another size than was told
        if second is not None:
            return [self._alternative(*second, denoise), *problems]
        if ranged is not None:
            return ranged.problems
        worst = max(found.wrong, key=lambda level: abs(level.slope - 1))
        if worst.power <= 0.5:
            why = _UNTRAINED
        elif abs(worst.slope - 1) < 3 * slopes.TOLERANCE:
            why = "no other reading of the network mends it; it may be too little trained there"
        else:
            why = (
                "no sign, prediction, time scale or usual process mends it: look at a and s of "
                "the process, at the times that the network is told, and at scalings of its input"
            )
        return [f"{_at(worst)}; {why}", *problems]

    def _screened(self, group: list[Alternative]) -> list[Alternative]:
        """Pick those with slopes near 1 where noise is strong, and all data look alike."""
        if len(group) <= _TRIED:
            return group
        teacher = self.teacher
        x = self.probe.data if self.probe.data is not None else self.probe.normal()
        grid = self.probe.grid(1.5 * teacher.sigma_data, 30 * teacher.sigma_data) or [
            teacher.sigma_max
        ]
        errors = [0.0] * len(group)
        size = min(len(x.x), max(16, self.probe.count // 4))
        x = Examples(x.x[:size], jax.tree.map(lambda leaf: leaf[:size], x.cond), 0.0, x.origin)
        for sigma in grid[:3]:
            shared = alternatives.once()
            n = jax.random.normal(jax.random.fold_in(self.probe.key, 5), x.x.shape)
            y, sigmas = x.x + sigma * n, jnp.full(size, sigma, jnp.float32)
            for i, each in enumerate(group):
                if math.isinf(errors[i]) or not each.sigma_min <= sigma <= each.sigma_max:
                    continue
                try:
                    out = shared(each).bound(teacher.params)(y, sigmas, x.cond)
                except Exception:  # a network may refuse another form of time
                    errors[i] = math.inf
                    continue
                eps = (y - out) / sigma
                slope = float((eps * n).sum() / (eps * eps).sum())
                errors[i] = max(errors[i], abs(slope - 1)) if math.isfinite(slope) else math.inf
        order = sorted(range(len(group)), key=lambda i: round(errors[i], 2) if errors[i] < 9 else 9)
        return [group[i] for i in order if errors[i] < 0.35][:_TRIED]

    def _mends(self, alternative: Alternative, found: Measured) -> Measured | None:
        """Measurement of an alternative that is right where the teacher is wrong."""
        grid = self.probe.grid(alternative.sigma_min, alternative.sigma_max)
        mendable = [each for each in found.wrong if each.sigma <= grid[-1] * 1.3] if grid else []
        mendable = [each for each in mendable if each.sigma >= grid[0]]
        if len(grid) < 3 or len(mendable) * 2 < len(found.wrong):
            return None
        measured = self.probe.measured(alternative.bound(self.teacher.params), grid, stand_in=False)
        right = not measured.wrong and math.isfinite(measured.std)
        told = any(each.is_told for each in measured.levels)
        ratio = measured.std / self.teacher.sigma_data
        return measured if right and told and _COLLAPSED < ratio < 20 else None

    def _alternative(self, alternative: Alternative, mended: Measured, denoise: Denoise) -> str:
        # Both readings on the samples of the right one, where the wrong one's fault shows best.
        grid = [each.sigma for each in mended.levels]
        given = self.probe.slopes(denoise, mended.examples, grid)
        pairs = [pair for pair in zip(given, mended.levels, strict=True) if pair[1].is_told]
        pairs = [pair for pair in pairs if math.isfinite(pair[0].slope)] or pairs
        wrong = [pair for pair in pairs if pair[0].is_wrong] or pairs
        near = self.teacher.sigma_data
        before, after = min(wrong, key=lambda pair: abs(math.log(pair[0].sigma / near)))
        if alternative.is_sign:
            surest = min(given, key=lambda level: level.error).slope
            return f"slope is {surest:.2f}: the sign of {alternative.change} is the other way round"
        return (
            f"slope is {before.slope:.3g} at sigma={before.sigma:.3g}; {alternative.change} gives "
            f"{after.slope:.2f}: is that it?"
        )

    def _range(self, denoise: Denoise, found: Measured) -> "_Range | None":
        """Narrow the range of noise levels from its ends until the slope holds."""
        grid = self.probe.grid()
        first, measured = found, found
        while measured.wrong and len(grid) > 3:
            # Samples come down from the top, so that what is wrong there spoils all below.
            if measured.levels[-1].is_wrong:
                grid = grid[:-1]
            elif measured.levels[0].is_wrong:
                grid = grid[1:]
            else:
                return None
            measured = self.probe.measured(denoise, grid, stand_in=False)
        low, high = grid[0], grid[-1]
        if measured.wrong or not low <= self.teacher.sigma_data <= high:
            return None
        holds = f"it is right from {low:.3g} to {high:.3g}"
        made = []
        below = [each for each in first.wrong if each.sigma < low]
        above = [each for each in first.wrong if each.sigma > high * (1 + 1e-6)]
        if low > self.teacher.sigma_min * (1 + 1e-6):
            at = max(below or first.wrong, key=lambda level: level.sigma)
            made.append(f"{_at(at)}; {holds}: set sigma_min={_rounded(low, math.ceil)}")
        if high < self.teacher.sigma_max * (1 - 1e-6):
            at = min(above or first.wrong, key=lambda level: level.sigma)
            made.append(f"{_at(at)}; {holds}: set sigma_max={_rounded(high, math.floor)}")
        is_wide = low <= self.teacher.sigma_data / 4 and high >= 4 * self.teacher.sigma_data
        return _Range([*made, *self._of_std(measured)], is_wide)


@dataclasses.dataclass(frozen=True)
class _Range:
    """Lines on the range that holds, and whether it is wide enough to look no further."""

    problems: list[str]
    is_wide: bool


def _only_ends_are_wrong(found: Measured) -> bool:
    """Whether a few levels are wrong at the top, then one is right; below, samples are spoiled."""
    falling = [each.is_wrong for each in reversed(found.levels)]
    return False in falling[: len(falling) // 2]


def _at(level: Level) -> str:
    return f"at sigma={level.sigma:.3g} the slope is {level.slope:.3g}, not 1 ± {slopes.TOLERANCE}"


def _rounded(value: float, towards: Any) -> str:
    """Two digits, rounded into the range."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{towards(value / unit) * unit:.2g}"
