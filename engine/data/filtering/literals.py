"""Gives the words of a condition the type of their column.

Pure. A word that the type cannot hold (300 in int8, 1.255 in cents, the year 9999 in nanoseconds) becomes the
nearest value that it can, and the side on which that lies: so it compares rightly, and exactly. It reads no
column: that is `engine.data.filtering.conditions`. Start at `read_literal`.
"""

from decimal import ROUND_FLOOR, Context, Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.data.filtering.parsing import read_number
from engine.data.leaves import is_binary, is_text

# decimal256 has 76 digits, and a timestamp in nanoseconds 19; Python's default context would round at 28.
_EXACT = Context(prec=100)
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_INFINITIES = ("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity")


class Literal(NamedTuple):
    """A word as a value of its column's type, or the value beside it."""

    value: pa.Scalar
    """Of the type that `comparable_type` returns."""
    side: int
    """0: it is what was written. -1: the greatest value below what was written. 1: the least value above."""


def stored_type(field_type: pa.DataType) -> pa.DataType:
    """Return the type of the values themselves: an extension's storage, the values of a dictionary."""
    while True:
        if isinstance(field_type, pa.BaseExtensionType):
            field_type = field_type.storage_type
        elif pa.types.is_dictionary(field_type):
            field_type = field_type.value_type
        else:
            return field_type


def comparable_type(stored: pa.DataType) -> pa.DataType | None:
    """Return the type in which values are compared; None where only null tests make sense.

    Every value of `stored` is one of that type too. They differ where Arrow 26 has no kernel for `less`, `equal` or
    `is_in`: half floats, views, decimals below 128 bits; and where a literal has a length of its own.
    """
    types = pa.types
    if types.is_float16(stored):
        return pa.float32()
    if types.is_string_view(stored):
        return pa.string()
    if types.is_binary_view(stored) or types.is_fixed_size_binary(stored):
        return pa.binary()
    if types.is_decimal32(stored) or types.is_decimal64(stored):
        return pa.decimal128(stored.precision, stored.scale)
    numbers = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
    kinds = (*numbers, types.is_date, types.is_timestamp, types.is_time, is_text, is_binary)
    return stored if any(is_kind(stored) for is_kind in kinds) else None


def read_literal(text: str, stored: pa.DataType) -> Literal:
    """Read a word as a value of `stored`, a type that can be compared.

    Raises:
        ValueError: if it is none; `describe_literal` tells what is expected.
    """
    types = pa.types
    compared = comparable_type(stored)
    if types.is_integer(stored):
        return _read_integer(text, stored)
    if types.is_decimal(stored):
        largest = Decimal((0, (9,) * stored.precision, -stored.scale))
        number, side = _nearest(_number(text), largest.copy_negate(), largest, stored.scale)  # unary minus rounds
        return Literal(pa.scalar(number, compared), side)
    if types.is_floating(stored):
        return _read_float(text, stored)
    if types.is_timestamp(stored):
        return _read_instant(text, stored, stored.tz)
    if types.is_time(stored):
        return _read_instant(f"1970-01-01 {text}", stored, None)
    if types.is_binary(compared) or types.is_large_binary(compared):
        return Literal(pa.scalar(text.encode(), compared), 0)
    return Literal(pa.scalar(text).cast(compared), 0)


def describe_literal(stored: pa.DataType) -> str:
    """Say what `read_literal` expects, with an example to type."""
    if pa.types.is_timestamp(stored):
        if stored.tz is None:
            return "a time without offset, such as 2024-01-31T12:30:00"
        return "a time with its offset, such as 2024-01-31T12:30:00Z or 2024-01-31T12:30:00+02:00"
    examples = (
        (pa.types.is_integer, "a number, such as 5"),
        (pa.types.is_floating, "a number, such as 0.5 (>= -inf keeps all but nan)"),
        (pa.types.is_decimal, "a number, such as 1.25"),
        (pa.types.is_boolean, "true or false"),
        (pa.types.is_date, "a date, such as 2024-01-31"),
        (pa.types.is_time, "a time of day, such as 12:30:00"),
    )
    return next((example for is_kind, example in examples if is_kind(stored)), "UTF-8 text")


def _number(text: str) -> Decimal:
    number = Decimal(text) if text.lower() in _INFINITIES else read_number(text)
    if number is None:
        raise ValueError(f"{text!r} is no number")
    return number


def _nearest(number: Decimal, low: Decimal, high: Decimal, scale: int) -> tuple[Decimal, int]:
    """Return the nearest multiple of 10 ** -scale between `low` and `high`, and on which side of `number` it is.

    At or below `number` wherever there is one; exact, however long `number` is.
    """
    if number > high:
        return high, -1
    if number < low:
        return low, 1
    floor = number.quantize(Decimal((0, (1,), -scale)), rounding=ROUND_FLOOR, context=_EXACT)
    return floor, 0 if floor == number else -1


def _integer_range(bits: int, is_signed: bool) -> tuple[Decimal, Decimal]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    return Decimal(low), Decimal(high)


def _read_integer(text: str, stored: pa.DataType) -> Literal:
    low, high = _integer_range(stored.bit_width, pa.types.is_signed_integer(stored))
    number, side = _nearest(_number(text), low, high, 0)
    return Literal(pa.scalar(int(number), stored), side)


def _read_float(text: str, stored: pa.DataType) -> Literal:
    """Round to the column's precision, so that 0.1 finds the 0.1 of a float32 column; but never to infinity."""
    number = _number(text)
    value = pa.scalar(str(number)).cast(stored).cast(comparable_type(stored))
    if number.is_finite() and not np.isfinite(value.as_py()):
        largest = float(np.finfo(stored.to_pandas_dtype()).max)
        return Literal(pa.scalar(largest if number > 0 else -largest, value.type), -1 if number > 0 else 1)
    return Literal(value, 0)


def _read_instant(text: str, stored: pa.DataType, zone: str | None) -> Literal:
    """Read a time in the unit that its text fits, and count it in the unit of the column."""
    for unit in (stored.unit, *_UNIT_DIGITS):
        try:
            count = pa.scalar(text).cast(pa.timestamp(unit, zone)).value
        except pa.ArrowInvalid:  # too fine or too far for this unit, or no time at all
            continue
        low, high = _integer_range(stored.bit_width, True)
        exact = _EXACT.scaleb(Decimal(count), _UNIT_DIGITS[stored.unit] - _UNIT_DIGITS[unit])
        number, side = _nearest(exact, low, high, 0)
        counted = pa.scalar(int(number), pa.int32() if pa.types.is_time32(stored) else pa.int64())
        return Literal(counted.cast(stored), side)
    raise ValueError(f"{text!r} is no time")
