"""Scores Parquet with frozen TensorFlow graphs on Ray: `from engine import JobConfig, score`.

Importing this package loads neither TensorFlow nor Ray; the names below are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

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
