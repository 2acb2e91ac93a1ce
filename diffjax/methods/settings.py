"""Ranges of settings: a predicate, and the words for a value that it refuses."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """Range of one setting.

    Attributes:
      holds: value -> whether it lies in the range.
      wanted: what would do, as the end of an error's sentence.
    """

    holds: Callable[[Any], bool]
    wanted: str


def is_number(value: Any) -> bool:
    """Tell a number from anything else, booleans included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Tell an integer from anything else, booleans included."""
    return isinstance(value, int) and not isinstance(value, bool)


POSITIVE = Rule(
    lambda v: is_number(v) and math.isfinite(v) and v > 0, "a positive number is needed"
)
NOT_NEGATIVE = Rule(
    lambda v: is_number(v) and math.isfinite(v) and v >= 0, "a number of at least 0 is needed"
)
FINITE = Rule(lambda v: is_number(v) and math.isfinite(v), "a finite number is needed")
COUNT = Rule(lambda v: is_whole(v) and v >= 1, "a whole number of at least 1 is needed")
WHOLE = Rule(lambda v: is_whole(v) and v >= 0, "a whole number of at least 0 is needed")
WIDTH = Rule(  # of group norms
    lambda v: WHOLE.holds(v) and v % min(32, max(1, v // 4)) == 0,
    "0 is needed, or a multiple of 4, from 128 on of 32",
)
SHARE = Rule(lambda v: is_number(v) and 0 <= v <= 1, "it lies in [0, 1]")
FLAG = Rule(lambda v: isinstance(v, bool), "True or False is needed")
T_MAX = Rule(lambda v: is_number(v) and 0 < v <= 1000, "it lies in (0, 1000]; SiD takes 800")
SHARES = Rule(
    lambda v: (
        isinstance(v, tuple | list)
        and len(v) == 2
        and all(map(is_number, v))
        and 0 <= v[0] < v[1] <= 1
    ),
    "two numbers that rise are needed, in [0, 1]; SiD-LSG takes (0.02, 0.98)",
)
POWER_STDS = Rule(  # thousandths, since files are named by them
    lambda v: (
        isinstance(v, tuple | list)
        and all(is_number(each) and round(1000 * each, 6) in range(1, 289) for each in v)
        and len(set(v)) == len(v)
    ),
    "a tuple of different numbers is needed, thousandths from 0.001 to 0.288; () for none",
)


def named(*known: str) -> Rule:
    """Make the rule of a name that is one of those known."""
    return Rule(
        lambda v: isinstance(v, str) and v in known, f"is unknown; known are: {', '.join(known)}"
    )


def setting(default: Any, rule: Rule, *, field: str = "") -> Any:
    """Declare a dataclass field as a setting that users choose.

    Args:
      default: its published value, or that of the method's first config.
      rule: its range.
      field: its dotted name in a config, where that isn't the field's own name.
    """
    return dataclasses.field(default=default, metadata={"rule": rule, "field": field})


class Setting(NamedTuple):
    """One setting of a method.

    Attributes:
      name: of the dataclass field.
      field: dotted name in a config.
      rule: its range.
      default: its value where nothing is said.
    """

    name: str
    field: str
    rule: Rule
    default: Any


def settings_of(cls: type) -> tuple[Setting, ...]:
    """List the settings that a dataclass declares by `setting`, those of its bases first."""
    return tuple(
        Setting(f.name, f.metadata["field"] or f.name, f.metadata["rule"], f.default)
        for f in dataclasses.fields(cls)
        if "rule" in f.metadata
    )
