import ast
import importlib.util
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
MAX_LINES = 300
RAY_ROOMS = {"engine.run.cluster", "engine.view.metrics", "engine.ray_data"}
TENSORFLOW_ROOMS = {"engine.model.session", "engine.model.checkpoint"}
# The house, from the ground up: a module may import what stands at its own height or below, and nothing above.
HEIGHTS = {
    "engine.errors": 0,
    "engine.config": 0,
    "engine.options": 0,
    "engine.job_toml": 0,
    "engine.model": 1,
    "engine.data": 2,
    "engine.run": 3,
    "engine.view": 3,
    "engine.preparing": 4,
    "engine.freezing": 4,
    "engine.preview": 5,
    "engine.summing_up": 5,
    "engine.telling": 5,
    "engine.following": 5,
    "engine.drafting": 5,
    "engine.job": 5,
    "engine.sampling": 5,
    "engine.ray_data": 5,
    "engine.tuning": 5,
    "jobs": 6,
}
# Same height, but not the same room.
APART = {"engine.run": "engine.view", "engine.view": "engine.run", "engine.preview": "engine.job"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str | None:
    return next((name for name in HEIGHTS if module == name or module.startswith(name + ".")), None)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path: Path, with_types: bool) -> Iterator[str]:
    """Every imported module, wherever in the file it is imported; `from a import b` gives a.b and a."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield str(node.module)
            if node.module in ("engine", "jobs", "engine.run", "engine.data", "engine.model", "engine.view"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if with_types or not is_type_checking(node):
            todo.extend(ast.iter_child_nodes(node))


def importers(package: str) -> set[str]:
    return {
        module_name(path)
        for path in MODULES
        if any(name.split(".")[0] == package for name in imports(path, with_types=True))
    }


def test_ray_is_imported_in_its_rooms_alone() -> None:
    assert "engine.run.cluster" in importers("ray")
    assert importers("ray") <= RAY_ROOMS


def test_matplotlib_is_imported_where_pictures_are_drawn() -> None:
    assert importers("matplotlib") == {"engine.view.tuning_picture", "engine.view.reporting.charts"}


def test_tensorflow_is_imported_in_its_rooms_alone() -> None:
    assert "engine.model.session" in importers("tensorflow")
    assert importers("tensorflow") <= TENSORFLOW_ROOMS


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_down(path: Path) -> None:
    mine = room(module_name(path))
    if mine is None:
        assert module_name(path) == "engine", "a module that HEIGHTS does not know"
        return
    for name in imports(path, with_types=False):
        theirs = room(name)
        if theirs is not None and theirs != mine:
            assert HEIGHTS[theirs] <= HEIGHTS[mine], f"{module_name(path)} imports {name}, which stands above it"
            assert APART.get(mine) != theirs, f"{module_name(path)} imports {name}, which stands beside it"


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room(module_name(path)) in ("engine.errors", "engine.config")], ids=module_name
)
def test_errors_and_config_stand_on_the_ground(path: Path) -> None:
    assert {name for name in imports(path, with_types=True) if name.startswith("engine")} <= {
        "engine.errors",
        "engine.options",
    }


def test_only_the_view_refers_to_rooms_above_it_for_types() -> None:
    for path in MODULES:
        hidden = set(imports(path, with_types=True)) - set(imports(path, with_types=False))
        above = {name for name in hidden if room(name) and room(name) != room(module_name(path))}
        assert not above or module_name(path) == "engine" or module_name(path).startswith("engine.view."), path


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_is_short_and_opens_with_a_docstring(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        (
            (
                "engine.config",
                "engine.errors",
                "engine.run.plan",
                "engine.run.schedule",
                "engine.run.simulating.simulation",
                "engine.run.stalls",
                "engine.run.places",
                "engine.run.pool",
                "engine.run.summary",
            ),
            ("ray", "tensorflow", "pyarrow"),
        ),
        (("engine.job", "engine.preview", "engine.tuning"), ("ray", "tensorflow", "matplotlib")),
        (("jobs.__main__",), ("ray", "tensorflow", "pyarrow", "matplotlib")),
    ],
    ids=["pure", "driver", "commands"],
)
def test_importing_stays_light(modules: tuple[str, ...], banned: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}; print([name for name in {banned!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def drawn_modules() -> list[str]:
    """Return the files that the drawing of the house names, folders by their indentation."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawing = re.search(r"^```\n(engine/\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert drawing is not None
    folders: list[str] = []
    found = []
    for line in drawing[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = list(itertools.takewhile(re.compile(r"[a-z_/]+(\.py|/)|\.toml").fullmatch, line.split()))
        assert names, f"names no file: {line}"
        found += ["".join([*folders[:depth], name]) for name in names if name.endswith(".py")]
        if names[0].endswith("/"):
            folders = [*folders[:depth], names[0]]
    return found


def test_the_drawing_of_the_house_names_every_module_once() -> None:
    drawn = drawn_modules()
    assert sorted(drawn) == sorted(set(drawn)), "named twice"
    ours = {name for name in drawn if name.startswith(("engine/", "jobs/")) and not name.endswith("__init__.py")}
    there = {path.relative_to(ROOT).as_posix() for path in MODULES if path.name != "__init__.py"}
    assert (sorted(there - ours), sorted(ours - there)) == ([], []), "not drawn; drawn, but gone"
    assert [name for name in drawn if not (ROOT / name).is_file()] == []


def test_the_picture_of_the_house_is_drawn_from_the_code_as_it_is() -> None:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    drawing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawing)
    house = drawing.read_house()
    assert set(house) == set(HEIGHTS)
    assert drawing.drawn_house() == house, "docs/architecture.svg is out of date: type make docs"
