"""Tells which rows a condition keeps, from the values of one column, and which row groups it surely does not.

Pure functions of Arrow values and of Parquet statistics. No file is opened here, no column looked up by name and
no two conditions joined. Nulls as in SQL: a null row holds for `is-null` alone. NaN as in IEEE 754: it holds for
`!=` and `not-in` alone. Start at `parse_condition` (in `engine.data.filtering.parsing`), then `bind_condition`.
"""

import json
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.data.filtering.literals import (
    Literal,
    comparable_type,
    describe_literal,
    read_literal,
    stored_type,
)
from engine.data.filtering.parsing import NULL_TESTS, Condition, parse_condition, read_number
from engine.data.leaves import is_binary, is_text
from engine.errors import ConfigError, PlanError

__all__ = ["BoundCondition", "Condition", "bind_condition", "parse_condition"]

_SET_TESTS = {"=": "in", "in": "in", "!=": "not-in", "not-in": "not-in"}
_ORDER_TESTS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_KERNELS = {"<": pc.less, "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal}
# With F the greatest value below a literal: x < literal is x <= F, and x >= literal is x > F. Above, the other two.
_BESIDE = {("<", -1): "<=", (">=", -1): ">", ("<=", 1): "<", (">", 1): ">="}


@dataclass(frozen=True, slots=True)
class BoundCondition:
    """A condition with the type of its column; made by `bind_condition`, which checked that they fit."""

    condition: Condition
    """As it was written."""
    test: str
    """What is tested of each value: in, not-in, <, <=, >, >=, is-null or is-not-null."""
    operands: pa.Array | None
    """The value of `<` and its like; the values of `in` and `not-in`, which may be none, as for a null test.
    None where statistics tell nothing: a partition, or a type with null tests alone."""
    is_partition: bool
    """Whether the column is a Hive partition, whose values are text."""

    def mask(self, column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
        """Return booleans without nulls, one a row: whether it holds.

        Args:
            column: values of the type that was bound, any length.
        """
        if self.is_partition:
            return pa.array([self.holds(value) for value in column.to_pylist()], pa.bool_())
        if self.operands is None or self.test in NULL_TESTS:
            return pc.is_null(column) if self.test == "is-null" else pc.is_valid(column)
        values = _decode(column).cast(self.operands.type)
        if self.test in _KERNELS:
            return pc.fill_null(_KERNELS[self.test](values, self.operands[0]), False)
        members = pc.is_in(values, value_set=self.operands)
        return members if self.test == "in" else pc.and_(pc.is_valid(values), pc.invert(members))

    def holds(self, value: str | None) -> bool:
        """Whether it holds for the rows of a Hive partition.

        Numbers are compared where every literal is an unquoted number; else text, by code points.

        Args:
            value: the partition's text; None for `__HIVE_DEFAULT_PARTITION__`, which is null.

        Raises:
            PlanError: if the value is no number where numbers are compared.
        """
        if self.test in NULL_TESTS:
            return (value is None) == (self.test == "is-null")
        if value is None:
            return False
        words = self.condition.values
        numbers = [None if word.is_quoted else read_number(word.text) for word in words]
        found: Any = value
        literals: list[Any] = [word.text for word in words]
        if None not in numbers:
            found, literals = read_number(value), numbers
            if found is None:
                raise _not_a_number(self.condition, value)
        if self.test in _ORDER_TESTS:
            return bool(_ORDER_TESTS[self.test](found, literals[0]))
        return (found in literals) == (self.test == "in")

    def can_match(self, statistics: Any | None, num_rows: int) -> bool:
        """Whether a row group may hold a row that is kept; False only where surely none is.

        Args:
            statistics: `pyarrow.parquet.Statistics` of the column's chunk; None where there are none.
            num_rows: rows of the row group.
        """
        if num_rows == 0:
            return False
        if statistics is None or self.operands is None:
            return True
        # A writer that miscounts is not believed.
        if statistics.has_null_count and statistics.num_values + statistics.null_count == num_rows:
            if self.test == "is-null":
                return bool(statistics.null_count > 0)
            if statistics.null_count == num_rows:
                return False
        if self.test in NULL_TESTS:
            return True
        bounds = _read_bounds(statistics, self.operands.type)
        return bounds is None or _can_match_between(self.test, self.operands, *bounds)


def bind_condition(condition: Condition, field_type: pa.DataType, is_partition: bool = False) -> BoundCondition:
    """Give the literals of a condition the type of its column.

    Args:
        condition: from `parse_condition`.
        field_type: type of the column; not looked at for a partition.
        is_partition: whether the column is a Hive partition, whose type its literals decide: see `holds`.

    Raises:
        ConfigError: with the column, its type, the literal expected and the one found.
    """
    test = _SET_TESTS.get(condition.operator, condition.operator)
    if is_partition:
        return BoundCondition(condition, test, None, True)
    stored = stored_type(field_type)
    compared = comparable_type(stored)
    if test in NULL_TESTS:
        return BoundCondition(condition, test, None if compared is None else pa.array([], compared), False)
    if compared is None:
        raise ConfigError(
            f"--where '{condition.text}': column {condition.column!r} is {field_type}, which compares with nothing; "
            f"expected is-null or is-not-null, such as --where '{condition.spelled_column} is-not-null'"
        )
    literals = [_read(condition, word.text, field_type, stored) for word in condition.values]
    if test in _KERNELS:
        value, side = literals[0]
        return BoundCondition(condition, _BESIDE.get((test, side), test), pa.array([value], value.type), False)
    members = [one.value for one in literals if one.side == 0]
    if pa.types.is_floating(compared) and any(member.as_py() == 0 for member in members):
        # 0.0 and -0.0 are equal, but `is_in` of Arrow 26 tells them apart.
        members += [pa.scalar(0.0, compared), pa.scalar(-0.0, compared)]
    return BoundCondition(condition, test, pa.array(members, compared), False)


def _read(condition: Condition, text: str, field_type: pa.DataType, stored: pa.DataType) -> Literal:
    try:
        return read_literal(text, stored)
    except ValueError as error:  # pa.ArrowInvalid and UnicodeEncodeError among them
        raise ConfigError(
            f"--where '{condition.text}': column {condition.column!r} is {field_type}: "
            f"expected {describe_literal(stored)}, found {text!r}"
        ) from error


def _decode(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return the values of a column as `stored_type` names them."""
    while column.type != stored_type(column.type):
        is_extension = isinstance(column.type, pa.BaseExtensionType)
        column = column.cast(column.type.storage_type if is_extension else column.type.value_type)
    return column


def _read_bounds(statistics: Any, compared: pa.DataType) -> tuple[pa.Scalar, pa.Scalar] | None:
    """Return the least and the greatest value of a column chunk as the statistics have them; None where in doubt."""
    if not statistics.has_min_max:
        return None
    try:
        # Text cut inside a character, years beyond datetime's, bounds of another type than the column.
        if compared in (pa.time64("ns"), pa.timestamp("ns", getattr(compared, "tz", None))):
            low, high = _read_nanoseconds(statistics, compared)
        else:
            low, high = _as_bound(statistics.min, compared), _as_bound(statistics.max, compared)
        is_ordered = pc.less_equal(low, high).as_py()  # False where an old writer put NaN there
    except (ArithmeticError, NotImplementedError, TypeError, ValueError):
        return None
    return (low, high) if is_ordered else None


def _read_nanoseconds(statistics: Any, compared: pa.DataType) -> tuple[pa.Scalar, pa.Scalar]:
    """Read bounds in nanoseconds from what is stored: pyarrow 26 cuts such times, and asks pandas for such instants."""
    if json.loads(statistics.logical_type.to_json()).get("timeUnit") != "nanoseconds":
        raise ValueError("the file counts in another unit than the column")
    low, high = (pa.scalar(raw, pa.int64()).cast(compared) for raw in (statistics.min_raw, statistics.max_raw))
    return low, high


def _can_match_between(test: str, operands: pa.Array, low: pa.Scalar, high: pa.Scalar) -> bool:
    """Whether a value between `low` and `high`, both included, may hold."""
    if test in _KERNELS:
        best = low if test in ("<", "<=") else high
        return bool(_KERNELS[test](best, operands[0]).as_py())
    inside = bool(pc.any(pc.and_(pc.greater_equal(operands, low), pc.less_equal(operands, high))).as_py())
    if test == "in":
        return inside
    # Where all values are one, it may be ruled out; but NaN is in no statistics, and bounds of text may be cut.
    is_sure = not pa.types.is_floating(low.type) and not is_text(low.type) and not is_binary(low.type)
    return not (is_sure and inside and low.equals(high))


def _as_bound(bound: Any, compared: pa.DataType) -> pa.Scalar:
    if isinstance(bound, bytes) and compared == pa.float32():  # half floats come as their two bytes
        return pa.scalar(float(np.frombuffer(bound, "<f2")[0]), compared)
    return pa.scalar(bound, compared)


def _not_a_number(condition: Condition, value: str) -> PlanError:
    words = ", ".join(word.text for word in condition.values)
    quoted = ", ".join(f'"{word.text}"' for word in condition.values)
    return PlanError(
        f"--where '{condition.text}': partition {condition.column}={value} is no number, as {words} is; "
        f"quote the value to compare as text: --where '{condition.spelled_column} {condition.operator} {quoted}'"
    )
