"""The show mode: the fields of a config, and whether its base, file or command line set them."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffjax.runs import bases, checks


class Field(NamedTuple):
    """Value of a field, and who set it.

    Attributes:
      value: as the config has it.
      origin: "command line" if it was given there; "file" if it differs from the base of the
        config's method, or that has no such field; otherwise "base".
    """

    value: Any
    origin: str


def fields(config: ConfigDict, given: Iterable[str] = ()) -> dict[str, Field]:
    """List the fields of a config by their dotted names, the base's first and in its order.

    Args:
      config: of any method; its fields are checked, and no device is asked for.
      given: dotted names of what the command line set, groups of fields among them.

    Raises:
      ValueError: naming a field that is missing or off.
    """
    config = checks.upgraded(config)
    checks.check(config)
    return origins(bases.flat(config.to_dict()), bases.fields(config.method), given)


def origins(
    values: Mapping[str, Any], base: Mapping[str, Any], given: Iterable[str] = ()
) -> dict[str, Field]:
    """List fields with who set them, the base's first and in its order, then others.

    Args:
      values: of a config, by dotted names.
      base: of its method, likewise; those of them that the config lacks are left out.
      given: dotted names of what the command line set, groups of fields among them.
    """
    given = tuple(given)

    def origin(name: str) -> str:
        if any(name == each or name.startswith(f"{each}.") for each in given):
            return "command line"
        is_base = name in base and _plain(base[name]) == _plain(values[name])
        return "base" if is_base else "file"

    ordered = [*(name for name in base if name in values)]
    ordered += [name for name in values if name not in base]
    return {name: Field(values[name], origin(name)) for name in ordered}


def show(config: ConfigDict, given: Iterable[str] = (), *, layout: str = "text") -> None:
    """Print a config, one field a line with its origin, or as one JSON object.

    Args:
      config: as for `fields`.
      given: likewise.
      layout: "text", or "json": {field: [value, origin]}, tuples as lists, infinities as "inf".

    Raises:
      ValueError: naming a field that is missing or off.
    """
    found = fields(config, given)
    if layout == "json":
        print(json.dumps({name: [_plain(value), who] for name, (value, who) in found.items()}))
        return
    lines = {f"{name} = {value!r}": who for name, (value, who) in found.items()}
    width = min(max(map(len, lines)), 56)
    for line, who in lines.items():
        print(f"{line:{width}}  # {who}")


def _plain(value: Any) -> Any:
    """Convert a value to what JSON can hold."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
