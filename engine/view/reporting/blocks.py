"""What a report is made of: sections of sentences, tables and pictures; and how numbers are written in it.

Values only; the page's template sets them, and escapes what they hold. Start at `Section`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.data.storage.places import hide_secrets
from engine.view.tables import seconds_text

MAX_TEXT, MAX_VALUE = 200, 600
WIDE = 4
MINUTE_SECONDS, HOUR_SECONDS = 60, 3600
# Below it hundredths of a second are told, and from so large a number on thousands are set apart.
BRIEF_SECONDS, LONG = 10, 1e4
SMALL, LARGE = 1e-3, 1e7


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing beside which a table stands."""

    svg: str
    """The drawing, as SVG that stands in HTML; made by us, so it is set as it is."""
    caption: str
    """What it shows."""
    legend: tuple[tuple[str, str], ...] = ()
    """Colour, as the page's style calls it, and what it means."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under heads."""

    caption: str
    """What it holds."""
    heads: tuple[str, ...]
    """Names of the columns; none for a table of names and texts."""
    rows: tuple[tuple[str, ...], ...]
    """Texts."""
    numbers: tuple[int, ...] = ()
    """Columns that hold numbers."""
    marked: frozenset[int] = frozenset()
    """Rows that stand out."""
    is_folded: bool = False
    """Whether it is shown only when it is opened."""
    more: str = ""
    """What was left out of it."""

    @property
    def is_wide(self) -> bool:
        """Whether it needs the whole page, beside no picture."""
        return self.is_folded and len(self.heads) > WIDE


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy."""

    text: str
    """The lines."""


@dataclass(frozen=True, slots=True)
class Side:
    """A picture and what stands beside it, or sentences and tables alone."""

    title: str = ""
    """A title of its own; empty for none."""
    texts: tuple[str, ...] = ()
    """Sentences."""
    picture: Picture | None = None
    """The picture."""
    tables: tuple[Table, ...] = ()
    """Tables."""
    codes: tuple[Code, ...] = ()
    """Lines to copy."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page."""

    key: str
    """What links name it."""
    title: str
    """Its title."""
    sides: tuple[Side, ...] = field(default=())
    """What is in it."""


def shown(text: str, most: int = MAX_TEXT) -> str:
    """Return a text of unknown origin as a page can hold it: short, in one line, without signs that steer anything."""
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def told(text: str, most: int = MAX_VALUE) -> str:
    """Return a message or a setting as a page can hold it, without secrets."""
    return shown(hide_secrets(text), most)


def number(value: float) -> str:
    """Write a number with as many digits as tell something: `12,345`, `0.123`, `1.2e-07`."""
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < LARGE:
        return f"{int(value):,}"
    if SMALL <= abs(value) < LARGE:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.3g}"


def tick(value: float) -> str:
    """Write a round number on an axis: `0`, `2.5`, `40,000`, `1e-07`."""
    return f"{value:,.0f}" if LONG <= abs(value) < LARGE else f"{value:.4g}"


def share(part: float, whole: float) -> str:
    """Write a share in percent."""
    return "–" if not whole else f"{part / whole:.1%}"


def duration(seconds: float) -> str:
    """Write a length of time: `42 ms`, `1.25 s`, `3 min 20 s`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.2f} s" if 1 <= seconds < BRIEF_SECONDS else seconds_text(seconds)


def clock(seconds: float, longest: float) -> str:
    """Write a point of time on an axis of `longest` seconds: `0:42`, `1:02:03`, or `0.42 s` on a short one."""
    if longest < MINUTE_SECONDS:
        return f"{seconds:.4g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if longest >= HOUR_SECONDS else f"{minutes}:{rest:02}"


def capped(rows: Sequence[tuple[str, ...]], most: int, what: str = "more") -> tuple[tuple[tuple[str, ...], ...], str]:
    """Return at most `most` rows, and what to say of the others."""
    left = len(rows) - most
    return tuple(rows[:most]), f"and {left:,} {what}" if left > 0 else ""
