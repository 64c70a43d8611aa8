"""What has to hold before anything else is imported: our packages, and no foreign one of our name beside us.

`engine` and `jobs` are common words, and the import path of Ray's actors begins with the driver's working folder.
Start at `check_packages` and `check_working_folder`.
"""

import importlib.util
import sys
from pathlib import Path

# One that every verb needs stands for all of the lock.
PACKAGE = "cyclopts"


def check_packages() -> None:
    """End with exit code 2 where this Python has not what icefloe needs: a checkout run by another one than its own."""
    if importlib.util.find_spec(PACKAGE) is None:
        sys.stderr.write(
            f"icefloe: error: {sys.executable} has none of the packages that icefloe needs; type make setup in the "
            "checkout, then .venv/bin/icefloe\n"
        )
        raise SystemExit(2)


def check_working_folder() -> None:
    """End with exit code 2 where the working folder is gone, or holds a package that would be taken for ours."""
    _refuse_foreign_packages(_working_folder(), Path(__file__).resolve().parent.parent)


def _refuse_foreign_packages(folder: Path, home: Path) -> None:
    for name in ("engine", "jobs"):
        for found in (folder / name / "__init__.py", folder / f"{name}.py"):
            ours = home / name / "__init__.py"
            if found.exists() and not (ours.exists() and found.samefile(ours)):
                sys.stderr.write(
                    f"icefloe: error: the working folder holds a package {name} of its own, {found}, which Ray's "
                    f"actors would import instead of {ours}; run icefloe from another folder\n"
                )
                raise SystemExit(2)


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        sys.stderr.write("icefloe: error: the working folder is gone; run icefloe from one that is there\n")
        raise SystemExit(2) from None
