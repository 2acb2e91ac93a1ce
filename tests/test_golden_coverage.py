"""Recorded cases that no test asks for, each skipped by name."""

import importlib
from pathlib import Path

import pytest

from tests.support import golden_cases

ROOT = Path(__file__).parents[1]


def import_all_that_ask() -> None:
    """Import the tests that ask for cases, so that `golden_cases.asked_for` knows them."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.parent.name != "support" and "golden_cases.cases" in path.read_text():
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def described(meta: dict) -> str:
    config = meta.get("config") or {}
    details = {"algo": meta.get("algo"), "precond": config.get("precond")}
    said = ", ".join(f"{key} {value}" for key, value in details.items() if value)
    return f"kind {meta['kind']}" + f" ({said})" * bool(said)


@pytest.mark.golden
@pytest.mark.parametrize("name", golden_cases.known())
def test_each_case_has_a_test(name: str) -> None:
    import_all_that_ask()
    if name not in golden_cases.asked_for:
        message = f"{name}: no test of {described(golden_cases.known()[name])} yet"
        if golden_cases.GOLDEN == golden_cases.OWN:
            pytest.fail(message)  # a recorded case of this repository must be used
        pytest.skip(message)
