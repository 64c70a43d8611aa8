"""What pyproject.toml says of packages: all that is imported is named, and the oldest lock has the lowest of each."""

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
LOWEST_PYTHON = "3.11"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
DEV = [Requirement(line) for line in PROJECT["optional-dependencies"]["dev"]]


def imported() -> set[str]:
    """Top-level packages that engine and jobs import, without Python's own and ours."""
    found = set()
    for path in (path for folder in ("engine", "jobs") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            found |= {"google.protobuf" if name.startswith("google.protobuf") else name.split(".")[0] for name in names}
    return found - sys.stdlib_module_names - {"engine", "jobs"}


def pins(lock: str) -> Iterator[tuple[str, Version]]:
    """Packages and versions that `lock` has for the lowest Python, on Linux."""
    for line in (ROOT / lock).read_text().splitlines():
        if line[:1].isalnum():
            pin = Requirement(line.removesuffix("\\"))
            linux = {"python_full_version": f"{LOWEST_PYTHON}.0", "sys_platform": "linux"}
            if pin.marker is None or pin.marker.evaluate(linux):
                yield canonicalize_name(pin.name), Version(str(pin.specifier).removeprefix("=="))


def test_what_is_imported_is_named() -> None:
    homes = {**importlib.metadata.packages_distributions(), "google.protobuf": ["protobuf"]}
    needed = {canonicalize_name(homes[name][0]) for name in imported()}
    assert {"protobuf", "grpcio", "tensorflow"} <= needed
    assert needed <= {canonicalize_name(requirement.name) for requirement in RUNTIME}


@pytest.mark.parametrize("requirement", [*RUNTIME, *DEV], ids=str)
def test_the_oldest_lock_has_the_lowest_admitted(requirement: Requirement) -> None:
    lowest = [item.version for item in requirement.specifier if item.operator == ">="]
    pin = dict(pins("requirements-oldest.lock"))[canonicalize_name(requirement.name)]
    assert [str(pin).split(".")[: len(version.split("."))] for version in lowest] == [lowest[0].split(".")]


def test_locks_pin_what_is_admitted_and_name_no_index() -> None:
    locks = sorted(path.name for path in ROOT.glob("requirements*.lock"))
    assert len(locks) == 4
    for lock in locks:
        found = dict(pins(lock))
        assert all(found[canonicalize_name(need.name)] in need.specifier for need in RUNTIME), lock
        assert "://" not in (ROOT / lock).read_text(), lock


def test_the_lowest_python_is_the_one_that_is_tried() -> None:
    assert PROJECT["requires-python"] == f">={LOWEST_PYTHON}"
    assert f"VERSION := {LOWEST_PYTHON}\n" in (ROOT / "Makefile").read_text()
