"""What stands in for nulls (`--fill COLUMN=VALUE`): which fed columns it is meant for, and its value in their type.

Pure. Start at `match_fills` and `read_fill`.
"""

import fnmatch
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from engine.data.columns import ColumnPath, FeedSource
from engine.data.leaves import is_binary
from engine.errors import ConfigError
from engine.model.tensor import TensorSpec, numpy_dtype


def match_fills(fills: Mapping[str, str], sources: Sequence[FeedSource]) -> dict[str, str]:
    """Return the fill of each fed column, by its path; a glob or a whole `--feed` stands for all of its columns.

    Raises:
        ConfigError: for a fill of a column that is not fed.
    """
    found: dict[str, str] = {}
    fed = [(source.text, str(column)) for source in sources for column in source.columns]
    for name, value in fills.items():
        meant = [c for text, c in fed if name in (c, text)] or [c for _, c in fed if fnmatch.fnmatchcase(c, name)]
        if not meant:
            known = ", ".join(dict.fromkeys(column for _, column in fed))
            raise ConfigError(f"--fill {name}: no fed column; expected one of {known}")
        found.update({column: value for column in meant if column not in found or name == column})
    return found


def read_fill(value: str, column: ColumnPath, leaf: pa.DataType, tensor: TensorSpec) -> pa.Scalar:
    """Return VALUE as a scalar of the leaves' type, float64 where that alone can hold it, or a raw tensor's number.

    Raises:
        ConfigError: if it is no value of that type.
    """
    is_bytes = is_binary(leaf)
    if is_bytes and tensor.dtype == "string":
        return pa.scalar(_text(value).encode())
    if not is_bytes and not pa.types.is_primitive(leaf):
        return pa.scalar(_text(value))
    kind, number = _arrow(tensor) if is_bytes else leaf, _number(value)
    takes_fractions = pa.types.is_floating(_arrow(tensor))
    for each in (kind, pa.float64()) if takes_fractions else (kind,):
        scalar = _scalar(number, each)
        if scalar is not None:
            return scalar
    raise ConfigError(f"--fill {column}={value}: expected a value of {kind}, found {value!r}")


def _scalar(number: Any, kind: pa.DataType) -> pa.Scalar | None:
    """Return the number as a scalar; None where the type cannot hold it (pyarrow 26 makes 0 of 0.5 and Inf of 1e10)."""
    if number is None or isinstance(number, bool) != pa.types.is_boolean(kind):
        return None
    try:
        scalar = pa.scalar(number, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    found = scalar.as_py()
    if pa.types.is_floating(kind):
        return scalar if not math.isinf(found) or math.isinf(number) else None
    return scalar if found == number else None


def _arrow(tensor: TensorSpec) -> pa.DataType:
    try:
        return pa.from_numpy_dtype(numpy_dtype(str(tensor.dtype)))
    except (pa.ArrowException, TypeError):  # bfloat16, complex
        return pa.float64()


def _text(value: str) -> str:
    """Return text as it was written; a quoted word is a JSON string."""
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            return value
    return value


def _number(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}.get(value.lower(), value)
