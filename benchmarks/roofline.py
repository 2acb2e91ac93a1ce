"""Comparison of a profiled update with the roofline, by kind of kernel: bytes, FLOPs and time.

    python -m benchmarks.roofline trace

reads what `step.py --profile=trace` wrote, or `sample.py` in `trace/one_step` (`--updates=1`): the
times, and the compiled program's text, in which `work.py` counts. The least time is that of each
kernel at the peaks given, the longer of its bytes' and its FLOPs', added up; so a kind can beat it
where a cache spares the memory. Library calls' auxiliary kernels, such as those that change
layouts, have times and no bytes. A folder without a trace gets the least times alone.
"""

import argparse
import gzip
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks import profile, work

COLUMNS = "ms|GB|GFLOP|GB/s|TFLOP/s|least ms|least of its time"


def least_seconds(kernel: work.Kernel, bandwidth: float, peak: float) -> float:
    """Bound the seconds of one run, at bytes/s and FLOP/s."""
    return max(kernel.bytes / bandwidth, kernel.flops / peak)


def table(
    seconds: Counter[str], kernels: list[work.Kernel], bandwidth: float, peak: float, updates: int
) -> list[str]:
    """Write an update's table in Markdown: a row for each kind, the longest first, and for all."""
    counted: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for kernel in kernels:
        each = kernel.bytes, kernel.flops, least_seconds(kernel, bandwidth, peak)
        for name in (profile.kind_of(kernel.name), "all"):
            sums = counted[name]
            counted[name] = [a + kernel.times * b for a, b in zip(sums, each, strict=True)]
    timed = profile.by_kind(seconds)
    timed["all"] = sum(seconds.values())
    kinds = (set(counted) | set(timed)) - {"all"}
    ordered = sorted(kinds, key=lambda kind: (timed[kind], counted[kind][2]), reverse=True)
    lines = [f"| kind | {COLUMNS.replace('|', ' | ')} |", "|-" * 8 + "|"]
    for kind in [*ordered, "all"]:
        cells = _cells(timed[kind] / updates, *(value / updates for value in counted[kind]))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _cells(seconds: float, moved: float, flops: float, least: float) -> list[str]:
    timed = f"{seconds * 1e3:.2f}" if seconds else "-"
    rates = [f"{moved / seconds / 1e9:.0f}", f"{flops / seconds / 1e12:.1f}"] if seconds else "--"
    share = f"{least / seconds:.0%}" if seconds else "-"
    amounts = [f"{moved / 1e9:.2f}", f"{flops / 1e9:.0f}"]
    return [timed, *amounts, *rates, f"{least * 1e3:.2f}", share]


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=4, help="updates in the profiled call")
    parser.add_argument("--bandwidth", type=float, default=3000, help="of the memory, GB/s")
    parser.add_argument("--peak", type=float, default=790, help="of matrix products, TFLOP/s")
    arguments = parser.parse_args()
    module = arguments.folder / "module.txt.gz"
    if not module.is_file():
        parser.error(
            f"there is no {module}: profile something with benchmarks.step first, an update as one "
            "program (--set compile_apart=never)"
        )
    try:
        kernels = work.kernels(gzip.decompress(module.read_bytes()).decode(), arguments.updates)
    except ValueError as error:
        parser.error(str(error))
    try:
        seconds = profile.kernel_seconds(arguments.folder)
    except FileNotFoundError:
        seconds = Counter[str]()
    peaks = arguments.bandwidth * 1e9, arguments.peak * 1e12
    print("\n".join(table(seconds, kernels, *peaks, arguments.updates)))


if __name__ == "__main__":
    main()
