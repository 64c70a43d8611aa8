"""What each operation of TensorFlow does beside computing, as `operations.toml` lists it.

Pure, and needs no TensorFlow: the list is data, sorted by hand for one version. A name that the list lacks is
`UNKNOWN`, and so are the few operations that run something which cannot be read from the graph. Start at `effect_of`.
"""

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PURE = "pure"
UNKNOWN = "unknown"


def effect_of(operation: str) -> str:
    """Return what an operation does: PURE, `reads files`, `writes files`, ..., or UNKNOWN."""
    return _effects().get(operation, UNKNOWN)


def is_known(operation: str) -> bool:
    """Say whether TensorFlow has the operation."""
    return operation in _effects()


def hint_for(operation: str) -> str:
    """Return what to do about an operation that TensorFlow does not know; empty if nothing is known of it."""
    hints: Mapping[str, str] = _data()["hints"]
    if is_known(operation) or operation in hints:
        return hints.get(operation, "")
    prefixes = [name for name in hints if name.endswith("*") and operation.startswith(name[:-1])]
    return hints[max(prefixes, key=len)] if prefixes else ""


def tensorflow_version() -> str:
    """Return the version of TensorFlow that the list was made from: `2.21.0`."""
    return str(_data()["tensorflow"])


@functools.cache
def _data() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_name("operations.toml").read_text(encoding="utf-8"))


@functools.cache
def _effects() -> Mapping[str, str]:
    lists: Mapping[str, str] = _data()["effects"]
    return {operation: effect for effect, operations in lists.items() for operation in operations.split()}
