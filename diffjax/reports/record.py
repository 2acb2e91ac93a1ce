"""Record of a run as its report shows it, gathered from its work directory."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from diffjax.reports.gallery import Gallery
from diffjax.reports.series import Series


class Field(NamedTuple):
    """A field of a config, its values as texts.

    Attributes:
      name: dotted.
      value: of the run.
      base: of the method's base; "" where that has no such field.
      origin: who set it: "base", "file" or "command line".
    """

    name: str
    value: str
    base: str
    origin: str


class Start(NamedTuple):
    """A start of a run.

    Attributes:
      time: of the clock, with its zone.
      step: updates done before.
      command: as it was typed; "" where the run was begun from Python.
      versions: of what computed it, by name.
    """

    time: str
    step: str
    command: str
    versions: Mapping[str, str]


class Evaluation(NamedTuple):
    """An `evaluation_*.json`.

    Attributes:
      file: its name.
      title: what was measured.
      values: name -> number, with its standard deviation where there is one, as a text.
      settings: of the measurement, dotted name -> text; empty where they weren't kept.
    """

    file: str
    title: str
    values: Mapping[str, str]
    settings: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as a report shows it; what wasn't kept is empty.

    Attributes:
      name: of its config, or its folder.
      folder: of the run.
      state: how far it is, in words.
      is_running: whether it goes on.
      as_of: when its files were read.
      facts: name -> text of what comes first.
      config: all fields.
      config_note: why there are none, or no base; "" is well.
      starts: in order.
      environment: of the latest start, name -> text.
      inputs: rows of field, source and content.
      scalars: curves that the seed decides.
      timing: curves of times and rates.
      measures: names of `scalars` that are measurements -> whether higher is better.
      measured: from which update on measurements were made how, dotted name -> text.
      evaluations: by file.
      galleries: pictures by kind.
      notes: lines on files that were damaged.
    """

    name: str
    folder: str
    state: str
    is_running: bool
    as_of: str
    facts: Mapping[str, str]
    config: Sequence[Field]
    config_note: str
    starts: Sequence[Start]
    environment: Mapping[str, str]
    inputs: Sequence[Sequence[str]]
    scalars: Mapping[str, Series]
    timing: Mapping[str, Series]
    measures: Mapping[str, bool]
    measured: Sequence[tuple[str, Mapping[str, str]]]
    evaluations: Sequence[Evaluation]
    galleries: Mapping[str, Gallery]
    notes: Sequence[str]
