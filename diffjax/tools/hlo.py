"""Collectives of a compiled program, read from XLA's text of it."""

import dataclasses
import math
import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

_COMPUTATION = re.compile(r"(?!HloModule)(ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start|-done)?\(")
_CALLED = re.compile(r"(calls|body|condition|to_apply|(?:true|false)_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"?known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)"?')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LESS = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_ARRAY = re.compile(r"\b(pred|token|(?:bf|f|s|u|c)(\d+)\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Traffic of one kind of collective, over one run of a program.

    Attributes:
      count: number of collectives that are executed.
      bytes: the size of their results on one chip, without padding.
    """

    count: int = 0
    bytes: int = 0

    def plus(self, other: "Traffic", times: int = 1) -> "Traffic":
        """Sum with `times` times another's traffic."""
        return Traffic(self.count + times * other.count, self.bytes + times * other.bytes)


def collectives(text: str) -> dict[str, Traffic]:
    """Count the collectives of an optimised HLO module.

    A loop's body counts as often as XLA says that it runs, or else as the constant that its counter
    stays below, since JAX counts from 0; and once where there is neither. Of a collective that is
    split in two, `-start` and `-done`, the second counts.

    Args:
      text: of the module, as `compiled.as_text()` gives it.

    Returns:
      Kind -> traffic, of the kinds in `KINDS` that occur.

    Raises:
      ValueError: if the text isn't that of an HLO module.
    """
    entry, computations = split(text)
    known: dict[str, dict[str, Traffic]] = {}

    def visit(name: str) -> dict[str, Traffic]:
        if name not in known:
            total: dict[str, Traffic] = {}
            for line in computations.get(name, ()):
                _add(total, _own(line))
                counted = trips(line, computations)
                for callee, times in callees(line, 1 if counted is None else counted):
                    _add(total, visit(callee), times)
            known[name] = total
        return known[name]

    return visit(entry)


def array_bytes(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple, written as in HLO: `(f32[3,4], s8[2])`.

    Layouts are left aside, and so is the padding that they stand for.
    """
    total = 0
    for name, bits, dims in _ARRAY.findall(shape):
        size = {"pred": 8, "token": 0}.get(name, int(bits or 0))
        total += math.ceil(math.prod(int(n) for n in dims.split(",") if n) * size / 8)
    return total


def split(text: str) -> tuple[str, dict[str, list[str]]]:
    """Split an HLO module into its computations.

    Args:
      text: of the module.

    Returns:
      The entry's name, and each computation's instructions by its name.

    Raises:
      ValueError: if the text isn't that of an HLO module.
    """
    entry, lines = "", list[str]()
    computations: dict[str, list[str]] = {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        else:
            # Names of the source's functions stand in the metadata, and say nothing here.
            lines.append(re.sub(r", metadata=\{[^}]*\}", "", line))
    if not entry:
        raise ValueError("this is no text of an HLO module: no computation is marked ENTRY.")
    return entry, computations


def trips(line: str, computations: dict[str, list[str]]) -> int | None:
    """Number of times that a loop runs its body; None for other instructions or if unknown."""
    if known := _TRIPS.search(line):
        return int(known[1])
    if condition := _CONDITION.search(line):
        lines = computations.get(condition[1], [])
        if limit := _LESS.search("\n".join(lines)):
            constant = re.compile(rf"%?{re.escape(limit[1])} = s32\[\]\S* constant\((\d+)\)")
            return next((int(found[1]) for found in map(constant.search, lines) if found), None)
    return None


def callees(line: str, times: int) -> list[tuple[str, int]]:
    """Computations that an instruction runs, and how often.

    Args:
      line: the instruction.
      times: number of runs of its body, if it is a loop.
    """
    if " async-done(" in line or " async-update(" in line:  # counted where it starts
        return []
    called = [(name, times if role == "body" else 1) for role, name in _CALLED.findall(line)]
    branches = _BRANCHES.search(line)
    if branches:
        called += [(name.strip().lstrip("%"), 1) for name in branches[1].split(",")]
    return called


def _own(line: str) -> dict[str, Traffic]:
    match = _COLLECTIVE.search(line)
    if match is None or match[3] == "-start":
        return {}
    return {match[2]: Traffic(1, array_bytes(match[1]))}


def _add(total: dict[str, Traffic], more: dict[str, Traffic], times: int = 1) -> None:
    for kind, traffic in more.items():
        total[kind] = total.get(kind, Traffic()).plus(traffic, times)
