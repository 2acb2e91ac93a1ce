"""Docstrings that stand alone in an index, and errors that name plain arguments below runs/."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "diffjax").rglob("*.py"))
}
# Packages and modules whose docstrings are still to be rewritten; to be emptied.
PENDING: set[str] = set()
# Those that know a run's config, and so may name its fields.
KNOW_CONFIGS = {"main", "runs", "tools"}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef

VAGUE = re.compile(r"(What|The same|Nothing|None|Those|That|Whose|How|Where it)\b")
THIRD_PERSON = re.compile(
    r"(Adds|Applies|Builds|Checks|Computes|Converts|Finds|Gives|Loads|Makes|Opens|Reads|Returns|"
    r"Runs|Says|Takes|Writes|Yields)\b"
)
# `jax.config.update` and the names of files aren't fields of a run's config.
FIELD = re.compile(r"(?<!jax\.)\bconfig\.(?!json\b|py\b)[\w{]")


def room(module: str) -> str:
    """The second part of a name in diffjax: diffjax.losses.sid -> losses."""
    return module.split(".")[1] if "." in module else ""


def documented(module: str) -> Iterator[tuple[str, Documented, bool]]:
    """All that may have a docstring: its name, its node, and whether it is public."""

    def walk(name: str, node: ast.AST, public: bool) -> Iterator[tuple[str, Documented, bool]]:
        if isinstance(node, Documented):
            yield name, node, public
        inside_function = isinstance(node, ast.FunctionDef)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                is_public = public and not inside_function and not child.name.startswith("_")
                yield from walk(f"{name}.{child.name}", child, is_public)

    yield from walk(module, ast.parse(MODULES[module].read_text()), True)


def strings(module: str) -> Iterator[str]:
    """All string constants, docstrings among them, those of f-strings with {} for values."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) not in PENDING])
def test_first_lines_stand_alone_in_an_index(module):
    for name, node, public in documented(module):
        text = ast.get_docstring(node)
        if text is None:
            assert not public, f"{name} has no docstring"
            continue
        first, *rest = text.splitlines()
        assert first.endswith("."), f"{name}: {first}"
        assert not rest or not rest[0], f"{name}: its first sentence goes on in the second line"
        assert not VAGUE.match(first), f"{name}: {first}"
        if isinstance(node, ast.FunctionDef):
            assert not THIRD_PERSON.match(first), f"{name}: {first}"


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) not in KNOW_CONFIGS | PENDING])
def test_only_what_knows_configs_names_their_fields(module):
    for text in strings(module):
        found = FIELD.search(text)
        assert not found, f"{module}: {' '.join(text.split())[:200]}"


def test_a_program_prints_its_docstring_as_it_stands():
    # argparse otherwise fills it into one paragraph, in which commands break at hyphens.
    for path in [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("diffjax/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {each.arg: ast.unparse(each.value) for each in node.keywords}
                kept = "argparse.RawDescriptionHelpFormatter"
                assert given.get("description") != "__doc__" or given["formatter_class"] == kept
