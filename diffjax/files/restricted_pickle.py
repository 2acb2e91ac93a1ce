"""Restricted reader of pickles as plain data, which runs nothing that they ask for.

A pickle is a program for a small stack machine, and two of its instructions name and call any
Python function. This module interprets the program itself, with a table of the names that it may
use; what stands behind a name is chosen by the caller, never imported from the file. Instructions
that checkpoints have no use for are refused.

The work and the memory that a file can cause are bounded by the file's own size: a string is never
longer than the bytes left, dictionary keys are short scalars (so hashing is cheap), and a `Budget`
counts the instructions of a file and of the pickles nested in it.
"""

import dataclasses
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

# A full-size EDM network takes about 10^5 instructions; the worst, an empty set, takes 216 bytes.
MAX_INSTRUCTIONS = 2_000_000
MAX_OPEN_MARKS = 1_000
MAX_STACK = 100_000

_PUSH_ARGUMENT = frozenset(
    (
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    )
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset(("PROTO", "FRAME"))


@dataclasses.dataclass
class Budget:
    """Budget of instructions that a file, with the pickles nested in it, may still take."""

    instructions: int = MAX_INSTRUCTIONS

    def spend(self, count: int) -> None:
        """Take `count` instructions off.

        Raises:
          ValueError: if fewer were left.
        """
        self.instructions -= count
        if self.instructions < 0:
            raise ValueError(f"it takes more than {MAX_INSTRUCTIONS} pickle instructions")


@dataclasses.dataclass(frozen=True)
class Constructor:
    """Stand-in for a function or class that a pickle may call.

    Attributes:
      name: the dotted name in the pickle, for error messages.
      build: takes the pickle's positional arguments, which are not to be trusted, and returns
        plain data; raises ValueError on arguments that do not fit.
    """

    name: str
    build: Callable[..., Any]


class Stateful:
    """Base of stand-ins whose state a pickle sets after it has made them."""

    def set_state(self, state: Any) -> None:
        """Take the state, which is not to be trusted.

        Raises:
          ValueError: if it does not fit.
        """
        raise NotImplementedError


def quote(text: Any) -> str:
    """Quote something read from a file in a short, printable form.

    Anything but a string is shown by its type alone, since `repr` of hostile nesting may never end.
    """
    if not isinstance(text, str):
        return f"<{type(text).__name__}>"
    return repr(text if len(text) <= 80 else text[:77] + "...")


def load(
    stream: BinaryIO,
    names: Mapping[str, object],
    *,
    budget: Budget,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Read one pickle and leave the stream behind it.

    Args:
      stream: seekable, in memory (so that a read never asks for more than there is).
      names: dotted name -> what the pickle gets for it; only a `Constructor` can be called.
      budget: instructions left.
      persistent_load: resolves persistent ids; None refuses them.

    Returns:
      What the pickle describes, made of None, bool, int, float, str, bytes, list, tuple, dict, set
      and what `names` and `persistent_load` give. It may hold cycles and shared parts.

    Raises:
      ValueError: on a name that is not in `names`, an unsupported instruction, a malformed or
        truncated pickle, or one beyond the bounds of this module.
    """
    machine = _Machine(names, persistent_load)
    for opcode, argument in _instructions(stream):
        budget.spend(1)
        machine.step(opcode.name, argument)
    return machine.result()


def _instructions(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any]]:
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode, argument
    except ValueError as error:
        place = stream.tell()
        if not stream.read(1):
            raise ValueError(
                f"its pickle is cut off: exhausted after {place} bytes; fetch the file again"
            ) from error
        raise ValueError(f"its pickle is damaged at byte {place}; fetch the file again") from error


class _Machine:
    """Pickle machine: a stack with marks, and a memo."""

    def __init__(
        self, names: Mapping[str, object], persistent_load: Callable[[Any], Any] | None
    ) -> None:
        self.names = names
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each open mark
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _PUSH_ARGUMENT:
            self.push(argument)
        elif opcode in _CONSTANTS:
            self.push(_CONSTANTS[opcode])
        elif opcode in _CONTAINERS:
            self.push(_CONTAINERS[opcode]())
        elif opcode in _TUPLE_LENGTHS:
            items = [self.pop() for _ in range(_TUPLE_LENGTHS[opcode])]
            self.push(tuple(reversed(items)))
        elif opcode in _HANDLERS:
            _HANDLERS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise ValueError(f"the pickle instruction {opcode} is not one that checkpoints use")

    def push(self, value: Any) -> None:
        if len(self.stack) >= MAX_STACK:
            raise ValueError(f"its pickle keeps more than {MAX_STACK} values waiting")
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("its pickle is malformed: it takes a value that was never given")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(
                f"its pickle is malformed: it adds to something other than a {kind.__name__}"
            )
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        if not self.below:
            raise ValueError("its pickle is malformed: a mark is missing")
        items, self.stack = self.stack, self.below.pop()
        return items

    def result(self) -> Any:
        if self.below or len(self.stack) != 1:
            raise ValueError("its pickle is malformed: it does not end in one value")
        return self.stack[0]

    def mark(self, _: None) -> None:
        if len(self.below) >= MAX_OPEN_MARKS:
            raise ValueError(f"its pickle is nested more than {MAX_OPEN_MARKS} deep")
        self.below.append(self.stack)
        self.stack = []

    def make_tuple(self, _: None) -> None:
        items = self.pop_to_mark()
        self.push(tuple(items))

    def make_frozenset(self, _: None) -> None:
        items = self.pop_to_mark()
        self.push(frozenset(_check_key(item) for item in items))

    def append(self, _: None) -> None:
        item = self.pop()
        self.top(list).append(item)

    def appends(self, _: None) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)

    def set_item(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self.top(dict)[_check_key(key)] = value

    def set_items(self, _: None) -> None:
        items = self.pop_to_mark()
        if len(items) % 2:
            raise ValueError("its pickle is malformed: a dictionary key lacks its value")
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_check_key(key)] = value

    def add_items(self, _: None) -> None:
        items = self.pop_to_mark()
        self.top(set).update(_check_key(item) for item in items)

    def memoize(self, _: None) -> None:
        self.put(len(self.memo))

    def put(self, index: int) -> None:
        if not self.stack:
            raise ValueError("its pickle is malformed: it stores a value that was never given")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("its pickle is malformed: it recalls a value that was never stored")
        self.push(self.memo[index])

    def find_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.push_global(module, name)

    def find_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("its pickle is malformed: the name of a global is not a string")
        dotted = f"{module}.{name}"
        if dotted not in self.names:
            wrapped = "; save the network inside its wrapper" if "Parallel" in dotted else ""
            raise ValueError(
                f"it asks for {quote(dotted)}, which is not on the list of names that such a "
                f"checkpoint may use; nothing was run{wrapped}"
            )
        self.push(self.names[dotted])

    def call(self, _: None) -> None:
        arguments, constructor = self.pop(), self.pop()
        if not isinstance(constructor, Constructor) or type(arguments) is not tuple:
            raise ValueError("its pickle is malformed: it calls something that is no function")
        try:
            value = constructor.build(*arguments)
        except TypeError as error:
            raise ValueError(f"the arguments of {constructor.name} do not fit: {error}") from error
        self.push(value)

    def build(self, _: None) -> None:
        state = self.pop()
        if not self.stack or not isinstance(self.stack[-1], Stateful):
            raise ValueError("its pickle is malformed: it sets the state of a foreign object")
        self.stack[-1].set_state(state)

    def resolve_persistent(self, _: None) -> None:
        if self.persistent_load is None:
            raise ValueError("it refers to data outside the pickle (a persistent id)")
        self.push(self.persistent_load(self.pop()))


def _check_key(key: Any) -> str | int:
    # Hashing a nested tuple can take exponential time; names and small numbers cannot.
    if type(key) is str or (type(key) is int and key.bit_length() < 32):
        return key
    raise ValueError(f"it uses {quote(key)} as a dictionary key; names and small integers may be")


_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": _Machine.make_tuple,
    "FROZENSET": _Machine.make_frozenset,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "MEMOIZE": _Machine.memoize,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.find_global,
    "STACK_GLOBAL": _Machine.find_stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.resolve_persistent,
    "STOP": lambda machine, _: None,
}
