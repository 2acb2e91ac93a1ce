"""Tables of `benchmarks.scale`, in Markdown."""

from typing import Any

from benchmarks.scale_case import TOTAL

Result = dict[str, Any]

COLUMNS = (
    "config",
    "images",
    "the same",
    "GPUs",
    "state",
    "images/s",
    "of one",
    "efficiency",
    "peak share",
    "GiB a GPU",
    "GB over the links",
    "compile s",
)


def report(results: list[Result]) -> str:
    """Write all tables.

    Args:
      results: lines of `results.jsonl`.
    """
    done = [each for each in results if "failed" not in each]
    lines = [_row(COLUMNS), "|-" * len(COLUMNS) + "|"]
    for each in sorted(results, key=_order):
        lines.append(_row(_cells(each, done)))
    for each in done:
        if profile := each.get("profile"):
            lines += ["", *_profile(each, profile)]
    return "\n".join(lines)


def alone(result: Result, done: list[Result]) -> float | None:
    """Average images/s of one GPU alone, at the same batch a GPU or in all.

    Args:
      result: of any case.
      done: all results.
    """
    batch = result["batch_size"] // (result["accumulation"] or 1)
    batch = batch if result["same"] == TOTAL else batch // result["gpus"]
    own = ("config", "dtype", "changes")
    rates = [
        each["images_per_second"]
        for each in done
        if all(each[name] == result[name] for name in own)
        and (each["gpus"], each["batch_size"], each["accumulation"] or 1) == (1, batch, 1)
    ]
    return sum(rates) / len(rates) if rates else None


def _order(result: Result) -> tuple[Any, ...]:
    return result["config"], result["same"], result["fsdp"], result["gpus"], result["first"]


def _cells(result: Result, done: list[Result]) -> list[str]:
    rounds = result["accumulation"] or 1
    images = f"{result['batch_size']}" + (f" in {rounds}" if rounds > 1 else "")
    gpus = str(result["gpus"]) + (f", number {result['first']}" if result["first"] else "")
    state = "split" if result["fsdp"] else "whole"
    head = [result["config"], images, result["same"], gpus, state]
    if "failed" in result:
        reason = " ".join(result["failed"].split()).replace("|", "/")
        return [*head, f"failed: {reason}", *[""] * (len(COLUMNS) - len(head) - 1)]
    rate, one = result["images_per_second"], alone(result, done)
    share, memory = result["share_of_peak"], result["memory_gib"]
    planned = result["planned_gib"]
    return [
        *head,
        f"{rate:,.1f}",
        f"{rate / one:.2f}" if one else "-",
        f"{rate / one / result['gpus']:.1%}" if one else "-",
        f"{share:.0%}" if share else "-",
        f"{max(memory):.1f}" if memory else f"{planned:.2f} planned" if planned else "-",
        _links(result["collectives"]),
        f"{result['compile_seconds']:.0f}",
    ]


def _links(collectives: dict[str, dict[str, int]] | None) -> str:
    if collectives is None:
        return "-"
    kinds = sorted(collectives.items(), key=lambda item: -item[1]["bytes"])
    return ", ".join(f"{n['count']} {kind} {n['bytes'] / 1e9:.3g}" for kind, n in kinds) or "0"


def _profile(result: Result, profile: dict[str, Any]) -> list[str]:
    span = profile["span"]
    rows = [
        *profile["kinds"].items(),
        ("collectives while nothing else ran", profile["collectives_alone"]),
        ("nothing ran", profile["idle"]),
        ("from the first kernel to the last", span),
    ]
    return [
        f"`{result['name']}`, profiled:\n",
        "| kind | ms an update | share |",
        "|-|-|-|",
        *(f"| {name} | {seconds * 1e3:.2f} | {seconds / span:.1%} |" for name, seconds in rows),
    ]


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
