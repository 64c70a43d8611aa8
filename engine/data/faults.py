"""Bad rows and why they are bad: what quarantine is made of.

Pure. Vectorised checks add the rows that they find; the first reason found for a row is the one that is kept.
Start at `Faults`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Reason(StrEnum):
    """Class of a fault, as `_error` says it; what the graph refuses has TensorFlow's own name (InvalidArgument)."""

    NULL = "Null"
    WRONG_LENGTH = "WrongLength"
    WRONG_BYTES = "WrongBytes"
    OVERFLOW = "Overflow"
    NOT_FINITE = "NotFinite"
    NOT_UTF8 = "NotUtf8"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be scored, and why."""

    row_index: int
    """Position in what was looked at."""
    reason: str
    """Class of the fault."""
    message: str
    """What was found, and what was expected."""


class Faults:
    """The bad rows among `num_rows`."""

    def __init__(self, num_rows: int) -> None:
        """Start without any."""
        self.num_rows = num_rows
        """Rows that were looked at."""
        self._found: dict[int, BadRow] = {}

    def __len__(self) -> int:
        """Count the bad rows."""
        return len(self._found)

    def add(self, reason: str, rows: Array, messages: str | Sequence[str]) -> None:
        """Note that `rows` are bad, with one message for all or one each; rows known to be bad keep their reason."""
        each = [messages] * len(rows) if isinstance(messages, str) else messages
        for row, message in zip(rows.tolist(), each, strict=True):
            self._found.setdefault(row, BadRow(row, reason, message))

    def extend(self, faults: Iterable[BadRow], rows: Array) -> None:
        """Note faults found in a selection of the rows; `rows` holds the position of each selected row here."""
        for fault in faults:
            row = int(rows[fault.row_index])
            self._found.setdefault(row, BadRow(row, fault.reason, fault.message))

    def in_order(self) -> list[BadRow]:
        """Return the bad rows, first to last."""
        return [self._found[row] for row in sorted(self._found)]

    def rows(self) -> Array:
        """Return the positions of the bad rows, ascending."""
        return np.array(sorted(self._found), np.int64)

    def good_rows(self) -> Array:
        """Return the positions of all other rows, ascending."""
        is_good = np.ones(self.num_rows, bool)
        is_good[self.rows()] = False
        return np.flatnonzero(is_good)
