"""Scores Parquet with frozen TensorFlow graphs on Ray: `from engine import JobConfig, score`.

Importing this package loads neither TensorFlow nor Ray; the names below are loaded when they are first used.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

OLDEST = (3, 11)
if sys.version_info < OLDEST:  # for whoever imports the package from a checkout; pip refuses by itself
    raise ImportError(f"icefloe needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}")

__version__ = "0.1.0"
__all__ = ["EngineError", "JobConfig", "score"]

if TYPE_CHECKING:
    from engine.config import JobConfig
    from engine.errors import EngineError
    from engine.job import score

_HOMES = {"EngineError": "engine.errors", "JobConfig": "engine.config", "score": "engine.job"}


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'engine' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
