"""Entry points, thin: each verb of `icefloe` is a module that also runs as `python -m jobs.VERB`.

`engine` and `jobs` are common words, and the import path of Ray's actors begins with the driver's working folder,
so a foreign package of that name there is refused before anything of ours is imported.
"""

import sys
from pathlib import Path


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


_refuse_foreign_packages(_working_folder(), Path(__file__).resolve().parent.parent)
