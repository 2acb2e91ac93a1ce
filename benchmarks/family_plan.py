"""Which runs a stage of `benchmarks.family` has, by what is known so far."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks import family_jobs
from benchmarks.family_jobs import Job, Study

STAGES = ("teacher", "rates", "seeds", "once", "long")
RATES = (2e-5, 5e-5, 1.25e-4)
KIMG = {"rates": 128.0, "seeds": 128.0, "once": 256.0, "long": 1000.0}
SEEDS = (1, 2)  # besides 0, which `rates` has
BEST = 3
# Runs whatever its place, and what it is measured by.
ALWAYS = {"seeds": ("sid", "diff_instruct"), "long": ("diff_instruct",)}

Results = list[dict[str, Any]]


def best_rate(results: Results, name: str, teacher: str) -> float | None:
    """Find the rate with the least distance after the longest of the runs that try rates.

    Those on this teacher count, if there are any.

    Args:
      results: so far.
      name: of a row.
      teacher: its name.

    Returns:
      None if no rate has been tried, or all runs broke down.
    """
    tried = [each for each in results if each["stage"] == "rates" and each["name"] == name]
    own = [each for each in tried if each["teacher"] == teacher]
    ended = _ended(own or tried)
    return float(ended[0]["rate"]) if ended else None


def _ended(runs: Results) -> Results:
    """List the longest runs but those that broke down, the least distance first."""
    whole = [each for each in family_jobs.longest(runs) if family_jobs.distance(each) < math.inf]
    return sorted(whole, key=family_jobs.distance)


def best_rows(results: Results, stage: str, teacher: str) -> list[str]:
    """List the rows of a stage, the least distance first, whose longest runs didn't break down.

    Args:
      results: so far.
      stage: whose runs count.
      teacher: its name.
    """
    own = [each for each in results if (each["stage"], each["teacher"]) == (stage, teacher)]
    return list(dict.fromkeys(each["name"] for each in _ended(own)))


def plan(
    stage: str,
    study: Study,
    rows: Iterable[str],
    results: Results,
    *,
    rates: Iterable[float] = RATES,
    kimg: Mapping[str, float] = KIMG,
) -> dict[str, list[Job]]:
    """List the runs of a stage that have no result, by row; those of `seeds` and on as known now.

    Args:
      stage: one of `STAGES` but "teacher".
      study: that they are part of.
      rows: methods and variants.
      results: so far.
      rates: that are tried.
      kimg: length of a stage's runs.
    """
    rows = list(rows)
    if stage in ALWAYS:
        before = {"seeds": "rates", "long": "once"}[stage]
        best = [name for name in best_rows(results, before, study.name) if name in rows][:BEST]
        always = [name for name in ALWAYS[stage] if name in rows and name not in best]
        rows = best + always
    length = kimg[stage]
    decay = length / 2 if stage == "long" else 0.0
    found = {}
    for name in rows:
        best = best_rate(results, name, study.name)
        tried = list(dict.fromkeys(rates)) if stage == "rates" else [best] if best else []
        jobs = [
            Job(name, rate, seed, length, decay, stage)
            for rate in tried
            for seed in (SEEDS if stage == "seeds" else (0,))
        ]
        found[name] = [job for job in jobs if not job.is_done(study, results)]
    return {name: jobs for name, jobs in found.items() if jobs}


def ready(
    stage: str, study: Study, rows: Iterable[str], results: Results, rates: Iterable[float] = RATES
) -> list[str]:
    """List the rows of which everything is known that a stage chooses by; of a choice all or none.

    Args:
      stage: one of `STAGES`.
      study: that it is part of.
      rows: methods and variants.
      results: so far.
      rates: that are tried.
    """
    if stage in ("teacher", "rates"):
        return list(rows)
    tried = {(each["name"], each["rate"]) for each in results if each["stage"] == "rates"}
    known = [name for name in rows if {(name, rate) for rate in rates} <= tried]
    if stage == "long":
        own = [each for each in results if (each["stage"], each["teacher"]) == ("once", study.name)]
        run = {each["name"] for each in family_jobs.longest(own)}
        broken = {name for name in known if best_rate(results, name, study.name) is None}
        return list(rows) if set(rows) <= run | broken else []
    return known if stage == "once" or known == list(rows) else []
