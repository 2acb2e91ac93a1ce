"""The documentation: the API is declared and described, links resolve, and examples run."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffjax import methods
from diffjax.methods import base
from diffjax.runs import bases
from tests.support import edm_cases, fabricate

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
# Whole packages, and modules, whose public names are the API.
PACKAGES = ["losses", "diffusion", "metrics", "methods", "models", "convert", "data", "evaluation"]
MODULES = [
    "interfaces",
    *(
        f"training.{name}"
        for name in ("update", "state", "compilation", "checkpointing", "ema", "optimizer")
    ),
    "runs.bases",
    *(
        f"files.{name}"
        for name in (
            "restricted_pickle",
            "torch_state_dict",
            "torch_storage",
            "images",
            "previews",
            "download",
        )
    ),
]
# First words of functions that do something: what they return needs words of its own.
DEEDS = re.compile(r"(Add|Apply|Check|Do|Follow|Move|Remove|Run|Save|Set|Update|Write)\b")
FENCE = re.compile(r"^(```+|~~~+).*?^\1", re.MULTILINE | re.DOTALL)
RUNNABLE = re.compile(r"<!-- runnable -->\n+```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

Function = ast.FunctionDef
Named = ast.FunctionDef | ast.ClassDef


def api_modules() -> dict[str, Path]:
    """The modules of the API without an underscore: name below diffjax -> file."""
    folder = ROOT / "diffjax"
    files = [path for package in PACKAGES for path in sorted((folder / package).glob("*.py"))]
    files += [(folder / module.replace(".", "/")).with_suffix(".py") for module in MODULES]
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for path in files
        if not path.stem.startswith("_")
    }


def public(path: Path) -> Iterator[Named]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Named) and not node.name.startswith("_"):
            yield node


NAMES = {
    f"{module}.{node.name}": node for module, path in api_modules().items() for node in public(path)
}


def declared() -> set[str]:
    """The public names that `docs/api` asks autodoc for, below diffjax."""
    found: set[str] = set()
    for page in (DOCS / "api").glob("*.md"):
        for module, options in re.findall(
            r"^\.\. automodule:: diffjax\.(\S+)\n((?: {3}:.*\n)*)", page.read_text(), re.MULTILINE
        ):
            path = ROOT / "diffjax" / module.replace(".", "/")
            if ":members:" not in options:
                continue
            if not path.is_dir():
                found |= {f"{module}.{node.name}" for node in public(path.with_suffix(".py"))}
                continue
            tree = ast.parse((path / "__init__.py").read_text())
            for node in tree.body:  # `from diffjax.losses.sid import sid`
                if isinstance(node, ast.ImportFrom) and node.module:
                    module = node.module.removeprefix("diffjax.")
                    found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def arguments(function: Function, *, bound: bool) -> list[str]:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args)]
    names = names[1:] if bound else names
    names += [each.arg for each in given.kwonlyargs]
    return names + [each.arg for each in (given.vararg, given.kwarg) if each]


def section(text: str, title: str) -> str:
    match = re.search(rf"^{title}:\n((?: .*\n|\n)*)", text + "\n", re.MULTILINE)
    return match.group(1) if match else ""


def raises_value_error(function: Function) -> bool:
    inner = {
        node
        for nested in ast.walk(function)
        if isinstance(nested, Named) and nested is not function
        for node in ast.walk(nested)
    }
    return any(
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func) == "ValueError"
        for node in ast.walk(function)
        if node not in inner
    )


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def test_the_api_declares_every_public_name():
    missing = NAMES.keys() - declared()
    assert not missing, sorted(missing)
    print(f"{len(NAMES)} public names in {len(api_modules())} modules")
    assert len(NAMES) > 100


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_say_what_goes_in_and_comes_out(name):
    node = NAMES[name]
    text = ast.get_docstring(node)
    assert text, f"{name} has no docstring"
    function = node
    if isinstance(node, ast.ClassDef):
        made = [
            each for each in node.body if isinstance(each, Function) and each.name == "__init__"
        ]
        if not made:
            fields = [
                each.target.id
                for each in node.body
                if isinstance(each, ast.AnnAssign)
                and isinstance(each.target, ast.Name)
                and "ClassVar" not in ast.unparse(each.annotation)
                and not each.target.id.startswith("_")
            ]
            missing = [each for each in fields if f"\n  {each}: " not in text]
            assert len(fields) < 2 or not missing, f"{name}: no Attributes for {missing}"
            return
        (function,) = made
        text += "\n" + (ast.get_docstring(function) or "")
    names = arguments(function, bound=function is not node)
    listed = section(text, "Args")
    missing = [each for each in names if not re.search(rf"^  \*{{0,2}}{each}: ", listed, re.M)]
    assert len(names) < 2 or not missing, f"{name}: no Args for {missing}"
    if raises_value_error(function):
        assert "ValueError: " in section(text, "Raises"), f"{name}: no Raises for ValueError"
    returned = ast.unparse(function.returns) if function.returns else "None"
    if function is node and returned not in ("None", "NoReturn"):
        told = section(text, "Returns") or section(text, "Yields") or "return" in text.lower()
        assert told or not DEEDS.match(text), f"{name}: no Returns"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page}: {target}"
        assert not anchor or anchor in slugs(found), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configs_fields_and_tests_that_pages_name_exist(page):
    text = page.read_text()
    for name in re.findall(r"configs/([a-z0-9_]+\.py)", text):
        assert (ROOT / "configs" / name).exists(), f"{page}: configs/{name}"
    fields = {field for method in methods.names() for field in bases.fields(method)}
    fields |= {f"edm2.{field}" for field in bases.edm2_fields("denoising")}
    for field in re.findall(r"--config\.([\w.]+)=", text):
        assert field in fields | {"KEY"}, f"{page}: --config.{field}"
    for path in re.findall(r"`((?:tests/)?(?:\w+/)+test_\w+\.py)`", text):
        assert (ROOT / "tests" / path.removeprefix("tests/")).exists(), f"{page}: {path}"


def examples() -> Iterator[tuple[str, str]]:
    for page in sorted(DOCS.rglob("*.md")):
        for number, code in enumerate(RUNNABLE.findall(page.read_text()), 1):
            yield f"{page.relative_to(DOCS)}-{number}", code


@pytest.mark.parametrize(("name", "code"), examples(), ids=[name for name, _ in examples()])
def test_examples_run(name, code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if "network.pkl" in code:
        Path("network.pkl").write_bytes(fabricate.edm_pickle(*edm_cases.small_network()))
    methods.names()  # all registered, before the registry is copied
    monkeypatch.setattr(base, "_registry", dict(base._registry))
    exec(compile(code, name, "exec"), {"__name__": "example"})


def test_sphinx_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "furo", "myst_parser", "sphinx_copybutton"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", tmp_path / "trees", DOCS]
    done = subprocess.run([*command, tmp_path / "site"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_page_of_configs_lists_them_all():
    page = (ROOT / "docs" / "guides" / "configs.md").read_text()
    section = page.partition("## The configs that are there")[2].partition("\n## ")[0]
    sizes = ["xs", "s", "m", "l", "xl", "xxl"]
    listed = set(re.findall(r"`([a-z]\w+)`", section))
    for family, last in re.findall(r"`(\w+)` to `_(\w+)`", section):
        stem, _, first = family.rpartition("_")
        between = sizes[sizes.index(first) : sizes.index(last) + 1]
        listed |= {f"{stem}_{size}" for size in between}
    assert listed == {path.stem for path in (ROOT / "configs").glob("[a-z]*.py")}


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_the_front_page_runs_examples_with_what_it_installs():
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = {re.split(r"[^\w-]", need)[0].replace("-", "_") for need in needs} | {"diffjax"}
    for name in re.findall(r"python examples/(\w+)\.py", (ROOT / "README.md").read_text()):
        for node in ast.walk(ast.parse((ROOT / "examples" / f"{name}.py").read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            found = {each.partition(".")[0] for each in names}
            assert found <= installed | sys.stdlib_module_names, name
