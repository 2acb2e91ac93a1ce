"""Time of a profiled call, by kind of kernel.

    python -m benchmarks.profile trace

reads what `step.py --profile=trace` wrote, or `sample.py` in a folder for each sampler, where a
batch stands for an update (`--updates=1 trace/heun`). Kinds are told by kernels' names, as NVIDIA's
libraries and XLA give them; what no rule knows is listed by name.
"""

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

COLLECTIVES = "collectives"
# cuDNN's kernels of attention are fprop, bprop and dgrad too; what it does before and after them is
# in a namespace called fusion, as in `cudnn::fusion::compute_dot_do_o_specialized`.
_ATTENTION = r"flash|fmha|sdpa|cudnn(?:::|\d)fusion"
KINDS = {
    COLLECTIVES: r"nccl",
    "convolutions, forward": rf"^(?!.*(?:{_ATTENTION})).*fprop",
    "convolutions, gradient of the input": rf"^(?!.*(?:{_ATTENTION})).*dgrad",
    "convolutions, gradient of the weights": r"wgrad",
    "matrix products and attention": rf"gemm|nvjet|cutlass|{_ATTENTION}|cudnn_generated",
    "fusions that end in reductions": r"reduce",
    "concatenations, transposes, copies, fills": r"concat|transpose|copy|memcpy|memset|nchw|nhwc",
    "other elementwise fusions": r"fusion|wrapped",
}


class Kernel(NamedTuple):
    """A kernel's run.

    Attributes:
      name: of the kernel.
      start: in seconds, from any origin.
      end: likewise.
    """

    name: str
    start: float
    end: float

    @property
    def interval(self) -> tuple[float, float]:
        """From its start to its end."""
        return self.start, self.end


def kernels(folder: Path) -> list[Kernel]:
    """Read what ran on the first GPU, from the newest trace in a folder.

    Raises:
      FileNotFoundError: if there is no trace.
    """
    traces = sorted(folder.rglob("*.trace.json.gz"))
    if not traces:
        raise FileNotFoundError(f"{folder} holds no *.trace.json.gz: profile something first")
    events = json.loads(gzip.decompress(traces[-1].read_bytes()))["traceEvents"]
    titles = [event for event in events if event.get("ph") == "M"]
    gpus = sorted(
        event["pid"]
        for event in titles
        if event["name"] == "process_name" and "GPU" in event["args"]["name"]
    )
    streams = {
        event["tid"]
        for event in titles
        if event["name"] == "thread_name"
        and event["pid"] in gpus[:1]
        and event["args"]["name"].startswith("Stream")
    }
    kernels = [
        event
        for event in events
        if event.get("ph") == "X" and event["pid"] in gpus[:1] and event["tid"] in streams
    ]
    # How long kernels took is known of traces too that don't say when they began.
    starts = [event.get("ts", 0.0) for event in kernels]
    return [
        Kernel(event["name"], start / 1e6, (start + event["dur"]) / 1e6)
        for event, start in zip(kernels, starts, strict=True)
    ]


def kernel_seconds(folder: Path) -> Counter[str]:
    """Read name of a kernel -> seconds on the first GPU, of the newest trace in a folder.

    Raises:
      FileNotFoundError: if there is no trace.
    """
    seconds: Counter[str] = Counter()
    for kernel in kernels(folder):
        seconds[kernel.name] += kernel.end - kernel.start
    return seconds


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Measure the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def kind_of(kernel: str) -> str:
    """Tell the kind of a kernel, or its own name without numbers."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, kernel, re.IGNORECASE):
            return kind
    return re.sub(r"[\d_.]+$", "", kernel)


def by_kind(seconds: Counter[str]) -> Counter[str]:
    """Add up seconds of kernels by kind."""
    total: Counter[str] = Counter()
    for kernel, value in seconds.items():
        total[kind_of(kernel)] += value
    return total


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=4, help="updates in the profiled call")
    parser.add_argument("--top", type=int, default=0, help="so many single kernels too")
    arguments = parser.parse_args()
    try:
        seconds = kernel_seconds(arguments.folder)
    except FileNotFoundError as error:
        parser.error(str(error))
    tables = [("kind", by_kind(seconds).most_common())]
    if arguments.top:
        tables.append(("kernel", seconds.most_common(arguments.top)))
    whole = sum(seconds.values())
    for title, rows in tables:
        print(f"| {title} | ms an update | share |\n|-|-|-|")
        for name, value in rows:
            print(f"| {name} | {value / arguments.updates * 1e3:.2f} | {value / whole:.1%} |")


if __name__ == "__main__":
    main()
