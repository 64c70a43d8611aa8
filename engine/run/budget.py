"""How many bad rows a job puts up with (`--max-bad-rows`). Pure. Start at `read_budget`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.data.quarantine import NUM_SHOWN
from engine.errors import DataError


@dataclass(frozen=True, slots=True)
class Budget:
    """Bad rows that a job puts up with."""

    max_rows: int | None
    """Rows past which the job ends early; None where a share is judged at the end."""
    max_percent: float | None
    """Percent of the rows that were to be scored; None where rows are counted."""

    def is_over(self, num_bad: int) -> bool:
        """Whether so many bad rows end the job at once."""
        return self.max_rows is not None and num_bad > self.max_rows

    def check(self, num_bad: int, shown: Sequence[str], folder: str) -> None:
        """End a job that has had too many bad rows already.

        Args:
            num_bad: bad rows so far.
            shown: a few of them, in words.
            folder: where they lie.

        Raises:
            DataError: naming some, and what to do.
        """
        if self.is_over(num_bad):
            advice = f"{_advice(shown, folder)} (the job stopped there: a share, as in 1%, is judged at the end)"
            raise DataError(f"{_count(num_bad)} where --max-bad-rows allows {self.max_rows}{advice}")

    def check_share(self, num_bad: int, num_rows: int, shown: Sequence[str], folder: str) -> None:
        """Judge the share of bad rows once all `num_rows` rows were tried.

        Raises:
            DataError: if it is larger than what was allowed.
        """
        if self.max_percent is not None and num_bad * 100 > self.max_percent * num_rows:
            found = f"{_count(num_bad)} of {num_rows} ({num_bad / num_rows:.3%})"
            raise DataError(f"{found} where --max-bad-rows allows {self.max_percent:g}%{_advice(shown, folder)}")


def read_budget(text: int | str) -> Budget:
    """Return the budget that `N` or `P%` means."""
    if isinstance(text, str):
        return Budget(None, float(text.rstrip("%")))
    return Budget(text, None)


def _count(num_bad: int) -> str:
    return "1 bad row" if num_bad == 1 else f"{num_bad:,} bad rows"


def _advice(shown: Sequence[str], folder: str) -> str:
    first = f": {'; '.join(shown)}" if shown else ""
    return f"{first}; see {folder}; mend the input, or type the same command with a larger --max-bad-rows"


@dataclass(slots=True)
class BadRowTally:
    """The bad rows of a job as its shards come in."""

    budget: Budget
    """How many are put up with."""
    folder: str
    """Where they lie."""
    num_bad: int = 0
    """Bad rows so far, those of earlier runs among them."""
    shown: list[str] = field(default_factory=list)
    """The first few of this run, in words."""

    def add(self, num_bad: int, shown: Sequence[str] = ()) -> None:
        """Count more bad rows.

        Raises:
            DataError: if there are more now than the job puts up with.
        """
        self.num_bad += num_bad
        self.shown += shown[: NUM_SHOWN - len(self.shown)]
        self.budget.check(self.num_bad, self.shown, self.folder)
