"""The layers of the package, kept by reading its imports and docstrings, without running it."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "diffjax"

# From bottom to top: a package may import what stands in a lower row, and itself, nothing else.
ROWS = [
    ["interfaces"],
    ["losses", "metrics"],
    ["diffusion", "files"],
    ["noise", "samplers"],  # short names for what lies in diffusion/
    ["networks"],
    ["models"],
    ["methods", "data", "distributed"],
    ["convert"],
    ["evaluation"],
    ["training", "reports"],
    ["runs"],
    ["main", "stats", "tools", "export"],
]
HEIGHT = {package: height for height, row in enumerate(ROWS) for package in row}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Packages that know ConfigDict, and those that need arrays only.
CONFIG_PACKAGES = {"runs", "main", "tools"}
PURE_PACKAGES = {"interfaces", "losses", "diffusion"}
PURE_LIBRARIES = {"jax", "numpy", "chex"}
FOREIGN = {"torch", "tensorflow"}


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = children & set(MODULES)
            found |= modules if modules == children else modules | {node.module}
    return found


def package_of(module: str) -> str:
    """The second part of a name in diffjax: diffjax.losses.sid -> losses."""
    return module.split(".")[1] if "." in module else ""


def libraries(module: str) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(MODULES[module])}
    return tops - {"diffjax"}


def test_every_module_has_a_package_of():
    assert {package_of(module) for module in MODULES} - {""} == set(HEIGHT)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module):
    for name in imports(MODULES[module]):
        if name.partition(".")[0] != "diffjax":
            continue
        assert name in MODULES, f"{module} imports {name}, which isn't a module"
        below = HEIGHT.get(package_of(name), -1) < HEIGHT.get(package_of(module), -1)
        assert below or package_of(name) == package_of(module), f"{module} imports {name}"


def test_imports_make_no_circle():
    """Within a package neither."""
    edges = {m: {n for n in imports(MODULES[m]) if n in MODULES} for m in MODULES}
    while edges:
        leaves = [module for module, targets in edges.items() if not targets & set(edges)]
        assert leaves, f"these import each other in a circle: {sorted(edges)}"
        for module in leaves:
            del edges[module]


@pytest.mark.parametrize("module", MODULES)
def test_other_libraries_stay_where_they_are_needed(module):
    used = libraries(module)
    assert not used & FOREIGN
    if package_of(module) not in CONFIG_PACKAGES:
        assert "ml_collections" not in used
    if package_of(module) == "reports":
        assert "jax" not in used
    if package_of(module) in PURE_PACKAGES and module != "diffjax.diffusion.augmentation":
        standard = {"dataclasses", "math", "typing", "collections", "itertools", "functools"}
        standard |= {"difflib"}
        assert used <= PURE_LIBRARIES | standard
    if package_of(module) == "":
        assert used <= {"importlib", "types"}


@pytest.mark.parametrize(
    "module",
    [*(m for m in MODULES if package_of(m) == "methods"), "diffjax.training.update"],
)
def test_updates_know_no_compilation_no_mesh_and_no_file(module):
    tree = ast.parse(MODULES[module].read_text())
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"jax.jit", "jax.pmap", "jax.sharding", "jax.device_put", "jax.devices"}
    assert not libraries(module) & {"orbax", "os", "pathlib", "io"}


def test_few_modules_lie_at_the_top():
    top = [module for module in MODULES if MODULES[module].parent == PACKAGE]
    assert len(top) <= 8, top


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_long(module):
    assert len(MODULES[module].read_text().splitlines()) <= 400


def test_standard_modules_are_not_hidden():
    names = {module.rpartition(".")[2] for module in MODULES} - {"main", "__main__"}
    assert not names & {"logging", "types", "typing", "io", "json", "statistics", "random"}


def public_definitions(path: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    definitions = (ast.FunctionDef, ast.ClassDef)
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, definitions)]
    public = [node for node in top if not node.name.startswith("_")]
    for node in list(public):
        if isinstance(node, ast.ClassDef):
            public += [
                member
                for member in node.body
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
            ]
    return public


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_what_they_offer_are_documented(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text())), module
    for node in public_definitions(MODULES[module]):
        assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"


@pytest.mark.parametrize("module", MODULES)
def test_public_functions_are_annotated(module):
    for node in public_definitions(MODULES[module]):
        if not isinstance(node, ast.FunctionDef):
            continue
        assert node.returns is not None, f"{module}.{node.name}"
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare = {arg.arg for arg in every if arg.annotation is None} - {"self", "cls"}
        assert not bare, f"{module}.{node.name}: {bare}"


@pytest.mark.parametrize(
    "name",
    ["losses", "diffusion.samplers", "metrics", "convert.edm", "files.download"],
)
def test_packages_that_others_call_describe_arguments(name):
    """Functions of more than one argument, which the section Args describes by name."""
    checked = 0
    for module in (m for m in MODULES if f"{m}.".startswith(f"diffjax.{name}.")):
        if "._" in module:
            continue
        for node in ast.parse(MODULES[module].read_text()).body:
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            arguments = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
            text = ast.get_docstring(node) or ""
            if len(arguments) > 1:
                checked += 1
                assert "Args:\n" in text, f"{module}.{node.name}"
                for argument in arguments:
                    assert f"{argument}:" in text or f"{argument}," in text, (
                        f"{module}.{node.name}: {argument}"
                    )
    assert checked


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="asks git what is committed")
def test_no_committed_file_names_a_place_outside():
    # Written apart, so that this file doesn't name them either.
    places = ["/work" + "/", "../" + "shared", "/tmp" + "/brief", "/tmp" + "/venv"]
    patterns = [argument for place in places for argument in ("-e", place)]
    result = subprocess.run(
        ["git", "grep", "--name-only", "--fixed-strings", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, f"found in: {result.stdout}{result.stderr}"
