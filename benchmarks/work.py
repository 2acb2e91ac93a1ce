"""Least bytes and FLOPs of a compiled program's kernels, read from XLA's text of it.

Bytes are those of every kernel's operands and results, each array once, as if nothing stayed in a
cache from one kernel to the next. Of an operand that is only sliced, the slices count; of a result
that is an update in place, the update. FLOPs are those of convolutions and matrix products; cuDNN's
fused attention has none here.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

from diffjax.tools import hlo

# Instructions that start no kernel, and those whose kernels are in the computations that they run.
NO_KERNEL = {
    "parameter",
    "constant",
    "get-tuple-element",
    "bitcast",
    "tuple",
    "after-all",
    "add-dependency",
    "opt-barrier",
    "domain",
    "partition-id",
    "replica-id",
}
CONTROL = {"while", "call", "conditional", "async-start"}
# Tuples of operands and results, where all-reduce-start is of results alone.
_SHOWS_OPERANDS = {"all-gather-start", "collective-permute-start"}
SLICES = {"slice", "dynamic-slice", "gather"}
# What a call of a library is named after: a word that the names of its kernels hold.
LIBRARIES = {
    r"__cudnn\$conv(Bias|Forward)": "fprop",
    r"__cudnn\$convBackwardInput": "dgrad",
    r"__cudnn\$convBackwardFilter": "wgrad",
    r"__cudnn\$fmha": "fmha",
    r"__cublas": "gemm",
}

_INSTRUCTION = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\(([^)]*)\)")
_NAMES = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_CALLS = re.compile(r"calls=%?([\w.\-]+)")
_DIMS = re.compile(r"\w+\[([\d,]*)\]")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][\[{]([^\]}]*)[\]}]')


@dataclasses.dataclass(frozen=True)
class Kernel:
    """Kernels of one instruction.

    Attributes:
      name: the instruction's, or a word for the library it calls; kinds are told by it.
      times: how often it runs in a call of the program.
      bytes: at least, in one run.
      flops: of convolutions and matrix products, in one run.
    """

    name: str
    times: int
    bytes: int
    flops: float


@dataclasses.dataclass(frozen=True)
class _Instruction:
    root: bool
    name: str
    shape: str
    opcode: str
    arguments: str
    line: str

    @property
    def operands(self) -> list[str]:
        return _NAMES.findall(self.arguments)


_Body = dict[str, _Instruction]


def kernels(text: str, updates: int) -> list[Kernel]:
    """List the kernels of an optimised HLO module for GPUs.

    A loop whose length isn't known is taken for the loop of updates, unless it's within such a
    one: there it counts once. Every branch of a conditional counts.

    Args:
      text: of the module, as `compiled.as_text()` gives it.
      updates: in a call.

    Raises:
      ValueError: if the text isn't that of an HLO module, or has no such loop for more than one
        update.
    """
    entry, lines = hlo.split(text)
    program = {name: _parse(body) for name, body in lines.items()}
    unknown = []

    def visit(name: str, times: int, inside: bool) -> Iterator[Kernel]:
        for each in program.get(name, {}).values():
            if each.opcode in CONTROL:
                trips = hlo.trips(each.line, lines)
                of_updates = each.opcode == "while" and trips is None and not inside
                if of_updates:
                    unknown.append(each.name)
                    trips = updates
                for callee, count in hlo.callees(each.line, 1 if trips is None else trips):
                    yield from visit(callee, times * count, inside or of_updates)
            elif each.opcode not in NO_KERNEL and not re.search("-(done|update)$", each.opcode):
                yield _kernel(each, program[name], program, times)

    found = list(visit(entry, 1, False))
    if updates > 1 and not unknown:
        raise ValueError("the program has no loop of unknown length: it holds one update a call.")
    return found


def _parse(lines: list[str]) -> _Body:
    matches = ((_INSTRUCTION.match(line), line) for line in lines)
    found = [
        _Instruction(bool(match[1]), match[2], match[3], match[4], match[5], line)
        for match, line in matches
        if match
    ]
    return {each.name: each for each in found}


def _kernel(each: _Instruction, scope: _Body, program: dict[str, _Body], times: int) -> Kernel:
    called = _CALLS.search(each.line) if each.opcode == "fusion" else None
    body = program.get(called[1], {}) if called else {}
    moved = _read(each, scope, body) + _written(each, scope, body)
    return Kernel(_kernel_name(each, body), times, moved, _flops(each, scope, program))


def _kernel_name(each: _Instruction, body: _Body) -> str:
    """Make a name like the kernel's own, as far as its kind goes."""
    if target := _TARGET.search(each.line):
        for pattern, name in LIBRARIES.items():
            if re.match(pattern, target[1]):
                return name
        return target[1]
    if each.opcode == "fusion":
        if "kind=kCustom" in each.line:
            inner = {one.opcode: one for one in body.values()}
            if "convolution" in inner:
                return _direction(inner["convolution"])
            if "dot" in inner:
                return "gemm"
        return each.name.replace("-", "_")
    if each.opcode.removesuffix("-start") in hlo.KINDS:
        return f"nccl_{each.opcode}"
    return {"convolution": _direction(each), "dot": "gemm"}.get(each.opcode, each.opcode)


def _direction(convolution: _Instruction) -> str:
    """Tell a convolution that no library names: by its mark, or as JAX writes gradients."""
    if marked := re.search(r"\b(fprop|dgrad|wgrad)\b", convolution.line, re.IGNORECASE):
        return marked[1].lower()
    if "rhs_reversal=" in convolution.line:
        return "dgrad"
    return "wgrad" if re.search(r"dim_labels=f\d+b_", convolution.line) else "fprop"


def _source(name: str, scope: _Body) -> str:
    """Find the array that a name stands for."""
    while name in scope and scope[name].opcode == "bitcast":
        name = scope[name].operands[0]
    return name


def _size(name: str, scope: _Body) -> int:
    return hlo.array_bytes(scope[name].shape) if name in scope else 0


def _read(each: _Instruction, scope: _Body, body: _Body) -> int:
    if each.opcode in SLICES:
        return hlo.array_bytes(each.shape)
    sizes: dict[str, int] = {}
    parameters = {one.arguments: one.name for one in body.values() if one.opcode == "parameter"}
    for index, name in enumerate(each.operands):
        if each.opcode == "dynamic-update-slice" and not index:
            continue
        size = _size(name, scope)
        if str(index) in parameters:
            size = min(size, _touched(parameters[str(index)], size, body))
        source = _source(name, scope)
        sizes[source] = max(size, sizes.get(source, 0))
    return sum(sizes.values())


def _touched(name: str, whole: int, body: _Body) -> int:
    """Count the bytes of a fusion's parameter that it reads."""
    total = 0
    for user in body.values():
        if name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _touched(user.name, whole, body)
        elif user.opcode in SLICES and user.operands[0] == name:
            total += hlo.array_bytes(user.shape)
        elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
            return whole
    return total


def _written(each: _Instruction, scope: _Body, body: _Body) -> int:
    if each.opcode in _SHOWS_OPERANDS:
        return hlo.array_bytes(each.shape) - sum(_size(name, scope) for name in each.operands)
    if each.opcode == "custom-call":
        # The last result of a call of NVIDIA's libraries is scratch memory.
        libraries = re.search(r'custom_call_target="__cu', each.line)
        scratch = r", (?:/\*index=\d+\*/)?[us]8\[\d*\]\S*\)$"
        return hlo.array_bytes(re.sub(scratch, ")", each.shape) if libraries else each.shape)
    if each.opcode == "fusion":
        return sum(_result(one, body) for one in body.values() if one.root)
    return _result(each, body)


def _result(each: _Instruction, body: _Body) -> int:
    if each.opcode in ("tuple", "bitcast"):
        return sum(_result(body[name], body) for name in each.operands if name in body)
    if each.opcode == "dynamic-update-slice" and each.operands[1] in body:
        return _size(each.operands[1], body)
    return hlo.array_bytes(each.shape)


def _flops(each: _Instruction, scope: _Body, program: dict[str, _Body]) -> float:
    if each.opcode == "fusion" and (called := _CALLS.search(each.line)):
        body = program.get(called[1], {})
        return sum(_flops(one, body, program) for one in body.values())
    target = _TARGET.search(each.line)
    if each.opcode == "dot" or (target and target[1].startswith("__cublas")):
        return _product_flops(each, scope)
    if each.opcode == "convolution" or (target and target[1].startswith("__cudnn$conv")):
        return _convolution_flops(each, scope)
    return 0


def _dims(shape: str) -> list[int]:
    """Read the sizes of the first array of a shape."""
    found = _DIMS.search(shape)
    return [int(size) for size in found[1].split(",") if size] if found else []


def _product_flops(each: _Instruction, scope: _Body) -> float:
    left = scope.get(each.operands[0])
    contracted = _CONTRACTED.search(each.line)
    if left is None or contracted is None:
        return 0
    axes = json.loads(f"[{contracted[1]}]")
    dims = _dims(left.shape)
    return 2 * math.prod(_dims(each.shape)) * math.prod(dims[int(axis)] for axis in axes)


def _convolution_flops(each: _Instruction, scope: _Body) -> float:
    """Count 2 x outputs x numbers of the filter an output needs, whichever of them is sought."""
    arrays = [_dims(scope[name].shape) for name in each.operands[:2] if name in scope]
    labels = _LABELS.search(each.line)
    if len(arrays) < 2 or labels is None:
        return 0
    output, kernel = _dims(each.shape), arrays[1]
    if each.opcode == "custom-call":  # its labels are those of the forward pass
        name = _kernel_name(each, {})
        output, kernel = {"dgrad": arrays, "wgrad": (arrays[1], output)}.get(name, (output, kernel))
    per_output = math.prod(kernel) / kernel[labels[1].index("o")]
    dilated = re.search(r"lhs_dilate=([\dx]+)", each.line)
    holes = math.prod(map(int, dilated[1].split("x"))) if dilated else 1
    return 2 * math.prod(output) * per_output / holes
