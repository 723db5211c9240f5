"""The package reads downwards: what each room may import, from the source's own import statements."""

import ast
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# A room imports itself, rooms of its own line, and rooms of the lines below.
ORDER = """
__main__ cli verbs
serving
report bench planning
training
tasks
evaluation
inference
interop accounting
model checkpoints
preparation patching kernels distributed
data
sharding config config_file config_flags config_fields
files json_files progress errors output places platforms schema vocabulary precision timing\
 compilation_cache background heap
"""
LEVELS = {room: level for level, line in enumerate(ORDER.strip().splitlines()) for room in line.split()}
# What may import by a string: the package itself its public names, so that `import scratchpatch` does not load JAX, and
# the data the optional packages of formats.
BY_STRING = {"scratchpatch", "scratchpatch.data.extras"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): ast.parse(path.read_text()) for path in sorted((ROOT / "scratchpatch").rglob("*.py"))}


def imported(tree: ast.Module) -> set[str]:
    """The modules of this package that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            longer = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in longer}
    return names & set(MODULES)


ARROWS = {name: imported(tree) - {name} for name, tree in MODULES.items()}


def level(module: str) -> int | None:
    """The line of the module's room; the package itself is on the last line, for what every room may use."""
    room = module.removeprefix("scratchpatch").strip(".").partition(".")[0]
    return LEVELS.get(room or "errors")


def test_every_room_has_a_place_in_the_order():
    strange = [module for module in MODULES if level(module) is None]
    assert not strange, "\n".join(strange)


def test_imports_go_downwards():
    upward = [f"{module} -> {name}" for module in ARROWS for name in ARROWS[module] if level(name) < level(module)]
    assert not upward, "\n".join(sorted(upward))


def test_imports_have_no_circles():
    arrows = {module: set(names) for module, names in ARROWS.items()}
    circles = []
    for _ in range(100):
        try:
            graphlib.TopologicalSorter(arrows).prepare()
        except graphlib.CycleError as error:
            imported_module, importer, *_ = circle = error.args[1]
            circles.append(" -> ".join(reversed(circle)))
            # Without this arrow the search finds the next circle.
            arrows[importer].remove(imported_module)
    assert not circles, "\n".join(circles)


def test_nothing_is_imported_by_a_string():
    calls = []
    for module in set(MODULES) - BY_STRING:
        names = {node.attr for node in ast.walk(MODULES[module]) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(MODULES[module]) if isinstance(node, ast.Name)}
        calls += [f"{module}: {name}" for name in names & {"import_module", "__import__"}]
    assert not calls, "\n".join(sorted(calls))


def test_no_line_is_exempt_from_the_linter():
    marks = tuple("# " + word for word in ("noqa", "fmt:", "ruff:", "isort:"))
    files = [path for room in ("scratchpatch", "tests", "experiments") for path in (ROOT / room).rglob("*.py")]
    lines = [(path, number, line) for path in files for number, line in enumerate(path.read_text().splitlines(), 1)]
    exempt = [f"{path.relative_to(ROOT)}:{number}" for path, number, line in lines if any(m in line for m in marks)]
    assert not exempt, "\n".join(sorted(exempt))
