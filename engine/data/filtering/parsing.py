"""Reads the text of `--where 'COLUMN OP VALUE'`: which column, which operator, which words.

Pure. It knows no column and no type: `conditions.py` beside it gives the words theirs. One text is one condition; there
is no `and`, no `or` and no function. Start at `parse_condition`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from engine.errors import ConfigError

NULL_TESTS = ("is-null", "is-not-null")
LIST_OPERATORS = ("in", "not-in")
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", *LIST_OPERATORS, *NULL_TESTS)

_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*\""""
_HEAD = re.compile(
    rf"""\s*(?P<column>{_QUOTED}|[^\s=<>!'"]+)\s*
    (?P<operator>==|!=|<=|>=|=|<|>|(?<=[\s'"])(?:is-not-null|is-null|not-in|in)(?=[\s(\['"]|$))""",
    re.IGNORECASE | re.VERBOSE,
)
_ITEM = re.compile(rf"\s*({_QUOTED}|[^,]*?)\s*,")
_CONJUNCTION = re.compile(r"\s(and|or|&&|\|\|)\s", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


class Word(NamedTuple):
    """A literal before it has a type."""

    text: str
    """What was written, without its quotes."""
    is_quoted: bool
    """Whether it stood in quotes, which make it text."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as it was written; no column has been looked at."""

    text: str
    """As the user wrote it."""
    column: str
    """Column name or dotted path of a struct's field, without quotes."""
    operator: str
    """One of `OPERATORS`."""
    values: tuple[Word, ...]
    """The literals: none for a null test, one or more for `in` and `not-in`, else one."""

    @property
    def spelled_column(self) -> str:
        """The column as it has to be typed, with quotes where it holds blanks or operators."""
        if re.fullmatch(r"""[^\s=<>!'"]+""", self.column):
            return self.column
        return '"' + self.column.replace('"', '""') + '"'


def parse_condition(text: str) -> Condition:
    """Read `COLUMN OP VALUE`.

    `==` is `=`. Column and words may stand in single or double quotes; a quote inside is written twice. `in` and
    `not-in` take words between commas, in brackets or without, or a JSON array.

    Raises:
        ConfigError: naming what is missing or not understood, with an example to type.
    """
    head = _HEAD.match(text)
    if head is None:
        raise _misread(text, f"found none of the operators {' '.join(OPERATORS)} after a column")
    column = _unquote(head["column"])
    if not column:
        raise _misread(text, "found no column")
    operator = "=" if head["operator"] == "==" else head["operator"].lower()
    rest = text[head.end() :].strip()
    if operator in NULL_TESTS:
        if rest:
            raise _misread(text, f"{operator} takes no value, found {rest!r}")
        return Condition(text, column, operator, ())
    words = _read_list(text, rest) if operator in LIST_OPERATORS else (_read_word(text, rest),)
    condition = Condition(text, column, operator, words)
    if any(word.text.lower() == "null" and not word.is_quoted for word in words):
        test = "is-not-null" if operator in ("!=", "not-in") else "is-null"
        cure = f"--where '{condition.spelled_column} {test}'"
        raise _misread(text, f'null compares with nothing; type {cure}, or "null" in quotes for that word')
    return condition


def read_number(text: str) -> Decimal | None:
    """Return the finite number that `text` writes out in decimal digits, exact; None where it does not."""
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent of 19 digits
        return None


def _misread(text: str, problem: str) -> ConfigError:
    examples = "--where 'score >= 0.5' or --where 'country in de,fr'"
    return ConfigError(f"--where '{text}': expected COLUMN OP VALUE, such as {examples}; {problem}")


def _unquote(text: str) -> str:
    if not re.fullmatch(_QUOTED, text):
        return text
    return text[1:-1].replace(text[0] * 2, text[0])


def _read_word(text: str, part: str) -> Word:
    """Read one literal; a word without quotes may hold blanks, as a timestamp does."""
    if re.fullmatch(_QUOTED, part):
        return Word(_unquote(part), True)
    if not part:
        raise _misread(text, "found no value; type '' for empty text")
    if part[0] in "'\"":
        raise _misread(text, f"found {part!r}, whose quotes do not end where the value does")
    if part[0] in "=<>!":
        raise _misread(text, f"found the value {part!r}; operators are {' '.join(OPERATORS)}, quote text like this")
    if conjunction := _CONJUNCTION.search(part):
        raise _misread(text, f"found {conjunction[1]!r} in {part!r}; give one condition, or quote text like this")
    return Word(part, False)


def _read_list(text: str, rest: str) -> tuple[Word, ...]:
    closing = {"(": ")", "[": "]"}.get(rest[:1])
    if closing is None:
        body = rest
    elif rest.endswith(closing):
        body = rest[1:-1]
    else:
        raise _misread(text, f"found {rest[0]!r} without {closing!r} at the end")
    words = _read_json(text, rest) if closing == "]" else None
    if words is None:
        words = [_read_word(text, part) for part in _ITEM.findall(f"{body},")]
    if not words:
        raise _misread(text, "found an empty list")
    return tuple(words)


def _read_json(text: str, array: str) -> Sequence[Word] | None:
    """Read a JSON array of scalars; None where it is no JSON, such as `[de, fr]`."""

    def as_written(number: str) -> Word:
        return Word(number, False)

    def read(item: Any) -> Word:
        if isinstance(item, Word):
            return item
        if isinstance(item, str):
            return Word(item, True)
        if isinstance(item, dict | list):
            raise _misread(text, "found a list or an object inside the list")
        return Word(json.dumps(item), False)  # true, false, null

    try:
        items = json.loads(array, parse_int=as_written, parse_float=as_written, parse_constant=as_written)
    except ValueError:
        return None
    return [read(item) for item in items]
