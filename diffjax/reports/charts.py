"""Curves as SVG in a page, each with its figures in words."""

import dataclasses
import math

from diffjax.reports import axes
from diffjax.reports.axes import Axis
from diffjax.reports.fits import Fit, fit, fitted
from diffjax.reports.html import Html, element
from diffjax.reports.series import Series, thinned

# In units of the picture, which is as wide as there is room for.
_WIDTH, _HEIGHT = 480, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 44
_MOST_POINTS = 400
# So few that each gets a mark.
_FEW = 60
_COLOURS = 8


@dataclasses.dataclass(frozen=True)
class Curve:
    """One curve of a chart.

    Attributes:
      label: what it is of, among others of the chart; "" where it is alone.
      points: (thousands of images, value), in order.
    """

    label: str
    points: Series


def chart(
    title: str,
    curves: list[Curve],
    *,
    is_measure: bool = False,
    rises: bool = False,
    unit: str = "",
) -> Html:
    """Draw curves against images.

    Args:
      title: what is drawn.
      curves: those of one chart.
      is_measure: draws both axes by logarithms, where values allow it, with a fitted line.
      rises: whether higher is better, of a measure.
      unit: of the values.
    """
    curves = [curve for curve in curves if curve.points]
    shown = [
        (kimg, value)
        for curve in curves
        for kimg, value in curve.points
        if _is_drawn(value) and (kimg > 0 or not is_measure)
    ]
    values = [value for _, value in shown]
    is_log = is_measure and axes.has_logarithms(values)
    x = axes.around((kimg for kimg, _ in shown), is_log=is_measure)
    if not is_measure:
        x = Axis(min(0.0, x.low), x.high, False)
    fits = [fit(curve.points, rises=rises) if is_log else None for curve in curves]
    ends = [
        value
        for curve, line in zip(curves, fits, strict=True)
        for _, value in _ends(curve, line, rises=rises)
    ]
    y = axes.around([*values, *ends], is_log=is_log or axes.is_wide(values))
    lines = [
        _drawn(curve, number, x, y, line, rises=rises)
        for number, (curve, line) in enumerate(zip(curves, fits, strict=True))
    ]
    notes = [
        _note(curve, line, unit=unit, rises=rises) for curve, line in zip(curves, fits, strict=True)
    ]
    aim = ("higher" if rises else "lower") + " is better" if is_measure else ""
    axis_of_y = "".join(f"{each}, " for each in (unit, aim) if each)
    scale = "logarithmic axes" if is_log else "logarithmic" if y.is_log else "linear"
    picture = element(
        "svg",
        *_frame(x, y),
        *lines,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{title} against images ({axis_of_y}{scale}). {' '.join(notes)}",
    )
    legend = [
        element(
            "li",
            element("span", class_=f"key c{number % _COLOURS}", aria_hidden="true")
            if len(curves) > 1
            else None,
            note,
        )
        for number, note in enumerate(notes)
    ]
    heading = element("h3", title, element("small", f" {axis_of_y}{scale}"))
    return element(
        "figure",
        element("figcaption", heading),
        picture,
        element("ul", *legend, class_="notes"),
        class_="chart",
    )


def _is_drawn(value: float) -> bool:
    return abs(value) <= axes.LARGEST  # NaN isn't


def _across(x: Axis, kimg: float) -> float:
    return _LEFT + x.place(kimg) * (_WIDTH - _LEFT - _RIGHT)


def _up(y: Axis, value: float) -> float:
    return _HEIGHT - _BOTTOM - y.place(value) * (_HEIGHT - _TOP - _BOTTOM)


def _frame(x: Axis, y: Axis) -> list[Html]:
    """Lines and numbers of both axes."""
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in y.ticks():
        height = f"{_up(y, tick):.1f}"
        parts.append(element("path", d=f"M{_LEFT} {height}H{right}", class_="rule"))
        parts.append(_label(axes.short(tick), _LEFT - 8, float(height) + 5, "end"))
    for tick in _apart(x):
        place = f"{_across(x, tick):.1f}"
        parts.append(element("path", d=f"M{place} {_TOP}V{bottom}", class_="rule"))
        parts.append(_label(axes.images(tick), float(place), bottom + 18, "middle"))
    parts.append(element("path", d=f"M{_LEFT} {_TOP}V{bottom}H{right}", class_="axis"))
    parts.append(_label("images", (_LEFT + right) / 2, _HEIGHT - 6, "middle"))
    return parts


def _apart(x: Axis) -> list[float]:
    """Ticks whose numbers don't touch."""
    kept: list[float] = []
    for tick in x.ticks():
        if not kept or _across(x, tick) - _across(x, kept[-1]) > 48:
            kept.append(tick)
    return kept


def _label(content: str, x: float, y: float, anchor: str) -> Html:
    return element("text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _drawn(curve: Curve, number: int, x: Axis, y: Axis, line: Fit | None, *, rises: bool) -> Html:
    """One curve with its marks and its fitted line; what isn't finite is a cross at the top."""
    points = [p for p in thinned(curve.points, _MOST_POINTS) if p[0] > 0 or not x.is_log]
    path, marks, is_pen_down = "", [], False
    for kimg, value in points:
        across = _across(x, kimg)
        if not _is_drawn(value):
            is_pen_down = False
            cross = f"M{across - 4:.1f} {_TOP}l8 8m0 -8l-8 8"
            marks.append(element("path", element("title", _point(kimg, value)), d=cross))
            continue
        up = _up(y, value)
        path += f"{'L' if is_pen_down else 'M'}{across:.1f} {up:.1f}"
        is_pen_down = True
        if len(points) <= _FEW:
            tip = element("title", f"{curve.label} {_point(kimg, value)}".strip())
            marks.append(element("circle", tip, cx=f"{across:.1f}", cy=f"{up:.1f}", r=3.5))
    parts = [element("path", d=path, class_="line"), *marks]
    if ends := _ends(curve, line, rises=rises):
        path = "L".join(f"{_across(x, kimg):.1f} {_up(y, value):.1f}" for kimg, value in ends)
        parts.append(element("path", d=f"M{path}", class_="fit"))
    return element("g", *parts, class_=f"c{number % _COLOURS}")


def _ends(curve: Curve, line: Fit | None, *, rises: bool) -> Series:
    """Both ends of a fitted line; none without one."""
    if line is None:
        return []
    span = fitted(curve.points, rises=rises)
    return [(kimg, line.at(kimg * 1000)) for kimg in (span[0][0], span[-1][0])]


def _point(kimg: float, value: float) -> str:
    return f"{axes.short(value)} at {axes.images(kimg)} images"


def _note(curve: Curve, line: Fit | None, *, unit: str, rises: bool) -> str:
    """Figures of a curve in words."""
    label = f"{curve.label}: " if curve.label else ""
    finite = [point for point in curve.points if math.isfinite(point[1])]
    lost = len(curve.points) - len(finite)
    parts = []
    if finite:
        last = axes.short(finite[-1][1])
        parts.append(f"last {last} {unit}".strip())
        best = (max if rises else min)(finite, key=lambda point: point[1])
        name = "highest" if rises else "lowest"
        parts.append(f"{name} {_point(*best)}")
    if line is not None:
        parts.append(
            f"fitted: proportional to images to the power {line.slope:.3f}, R² {line.r2:.3f}"
        )
    if lost:
        parts.append(f"{lost} value{'s' if lost > 1 else ''} not finite, marked by crosses")
    if len(curve.points) > _MOST_POINTS:
        parts.append(f"{len(curve.points):,} values, thinned: peaks are kept")
    return f"{label}{'; '.join(parts)}."
