import io
import pickle
import pickletools
import struct

import pytest

from diffjax.files import restricted_pickle
from diffjax.files.restricted_pickle import Budget, Constructor
from tests.support.fabricate import Call, Global, PersistentId, Raw, encode, pickle_bytes


def load(data, names=None, **kwargs):
    return restricted_pickle.load(io.BytesIO(data), names or {}, budget=Budget(), **kwargs)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_is_read_as_pickle_reads_it(protocol):
    shared = ["shared"]
    value = {
        "scalars": [None, True, False, 0, -1, 255, 65536, -(2**40), 2**100, 0.5, float("inf")],
        "text": ["", "é", "x" * 300],
        "bytes": [b"", b"\x00" * 300] if protocol > 2 else [],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "nested": {"a": {"b": [shared, shared]}},
        "long list": list(range(2500)),
        3: "small integer key",
        "sets": [set(), {"a", "b"}, frozenset(("c",))] if protocol > 3 else [],
    }
    read = load(pickle.dumps(value, protocol))
    assert read == pickle.loads(pickle.dumps(value, protocol))
    assert read["nested"]["a"]["b"][0] is read["nested"]["a"]["b"][1]


def test_only_listed_names_are_given_and_called():
    names = {"a.b": Constructor("a.b", lambda *args: list(args))}
    assert load(pickle_bytes(Call("a.b", (1, 2))), names) == [1, 2]
    with pytest.raises(ValueError, match=r"'a\.c', which is not on the list"):
        load(pickle_bytes(Call("a.c")), names)
    with pytest.raises(ValueError, match=r"'a\.b', which is not on the list"):
        load(pickle_bytes(Global("a.b")))


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "builtins.getattr", "posix.system"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_dangerous_names_are_refused_by_name(name, protocol, tmp_path):
    marker = tmp_path / "was_run"

    class Attack:
        def __reduce__(self):
            import builtins
            import os

            module, attribute = name.split(".")
            return getattr({"os": os, "posix": os}.get(module, builtins), attribute), (
                f"touch {marker}",
            )

    data = pickle.dumps(Attack(), protocol)
    with pytest.raises(ValueError, match=r"'(posix|builtins|__builtin__)\.\w+', which is not on"):
        load(data)
    assert not marker.exists()


def test_a_nested_reduce_is_refused():
    getattr_of_os = Call("builtins.getattr", (Global("os.path"), "join"))
    inner = Raw(encode(getattr_of_os) + encode(("x",)) + b"R")
    with pytest.raises(ValueError, match=r"builtins\.getattr"):
        load(pickle_bytes(inner))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (b"K\x01)R", "no function"),  # 1()
        (b"})R", "no function"),  # {}()
        (b"}}b", "foreign object"),  # {}.__setstate__({})
        (b"K\x01Q", "persistent id"),
        (b"]K\x01s", "other than a dict"),
        (b"K\x05K\x01K\x02s", "other than"),
        (b"}]K\x01s", "dictionary key"),
        (b"}((K\x01tK\x02u", "dictionary key"),
        (b"}(K\x01u", "lacks its value"),
        (b"h\x07", "never stored"),
        (b"q\x07", "never given"),
        (b"t", "mark is missing"),
        (b"\x85", "never given"),
        (b"K\x01K\x02", "one value"),
        (b"(K\x01", "one value"),
        (b"", "one value"),
        (b"0", "POP"),
        (b"\x82\x01", "EXT1"),
        (b"I1\n", "INT"),
        (b"K\x01K\x02\x93", "not a string"),
        (b"](K\x01\x90", "other than a set"),
    ],
)
def test_malformed_programs_are_refused(code, message):
    with pytest.raises(ValueError, match=message):
        load(b"\x80\x04" + code + b".")


@pytest.mark.parametrize(
    "code",
    [
        b"X\xff\xff\xff\x7fabc",
        b"B\xff\xff\xff\xffabc",
        b"\x8e" + struct.pack("<Q", 2**62) + b"abc",
        b"\x8d" + struct.pack("<Q", 2**63 + 5) + b"abc",
        b"\x8b\xff\xff\xff\x7fabc",
    ],
)
def test_a_declared_length_allocates_nothing(code):
    with pytest.raises(ValueError, match=r"byte|data"):
        load(b"\x80\x04" + code + b".")


def test_a_large_memo_index_allocates_nothing():
    assert load(b"\x80\x02K\x01r\xff\xff\xff\xff.") == 1


def test_reference_doubling_stays_small():
    doubling = b")" + b"q\x00h\x00\x86" * 100_000
    assert load(b"\x80\x02" + doubling + b".") is not None
    with pytest.raises(ValueError, match="dictionary key"):
        load(b"\x80\x02}" + doubling + b"K\x01s.")


def test_nesting_is_bounded():
    with pytest.raises(ValueError, match="1000 deep"):
        load(b"\x80\x02" + b"(" * 100_000 + b".")
    with pytest.raises(ValueError, match="100000 values waiting"):
        load(b"\x80\x02" + b"]" * 200_000 + b".")


def test_deep_tuples_do_not_exhaust_the_c_stack():
    deep = b")" + b"\x85" * 1_000_000
    with pytest.raises(ValueError, match="dictionary key"):
        load(b"\x80\x02}" + deep + b"K\x01s.")


def test_instructions_are_counted_over_nested_pickles():
    budget = Budget(instructions=10)
    stream = io.BytesIO(pickle_bytes(1) * 5)
    for _ in range(3):
        restricted_pickle.load(stream, {}, budget=budget)
    with pytest.raises(ValueError, match="pickle instructions"):
        restricted_pickle.load(stream, {}, budget=budget)


def test_persistent_ids_go_to_the_caller():
    assert load(pickle_bytes(PersistentId("key")), persistent_load=str.upper) == "KEY"


def test_wrong_arguments_are_a_value_error():
    with pytest.raises(ValueError, match=r"arguments of a\.b do not fit"):
        load(pickle_bytes(Call("a.b", (1, 2))), {"a.b": Constructor("a.b", lambda: None)})


def test_truncation_is_a_value_error_wherever_it_is():
    data = pickle_bytes({"a": [1, (2, "three")], "b": b"four"})
    for length in range(len(data)):
        with pytest.raises(ValueError):  # noqa: PT011 - pickletools words it
            load(data[:length])


def test_quoting_never_unfolds_a_structure():
    pair = ()
    for _ in range(200):
        pair = (pair, pair)
    assert restricted_pickle.quote(pair) == "<tuple>"
    assert len(restricted_pickle.quote("x" * 10_000)) < 100
    assert "\n" not in restricted_pickle.quote("a\nb")


def test_every_instruction_that_is_handled_exists():
    known = {opcode.name for opcode in pickletools.opcodes}
    handled = (
        set(restricted_pickle._PUSH_ARGUMENT)
        | set(restricted_pickle._CONSTANTS)
        | set(restricted_pickle._CONTAINERS)
        | set(restricted_pickle._TUPLE_LENGTHS)
        | set(restricted_pickle._HANDLERS)
        | set(restricted_pickle._IGNORED)
    )
    assert handled <= known
