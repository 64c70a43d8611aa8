"""Decides what is measured next: layouts and batch sizes in float32 first, then other ways to compute.

Pure: outcomes go in, the next step comes out, and the time is handed in. It always ends: each step is asked for once,
those that decide a second time, and none after the budget. Start at `Search`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.run.tuning.candidates import CLEARLY_WORSE, default_layout, next_batch
from engine.run.tuning.choice import best_plain
from engine.run.tuning.settings import FLOAT32, Failure, Layout, Measurement, Setting

# Of the budget, where there is more to try than layouts: until when these are begun, and measured once more.
LAYOUTS_SHARE, CONFIRMED_SHARE = 0.55, 0.7
# Of what is left for layouts, to the one whose turn it is: so many times its even share.
SWEEP_SHARE = 1.5
# A first layout that is clearly worse says nothing of the others: they begin at both ends.
MIN_LAYOUTS = 2
VARIANT_BATCHES = 2
MAX_BATCH_SECONDS = 2.0
MEMORY_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """What to measure next."""

    setting: Setting
    """What to start processes with, unless they run already."""
    batch_rows: int
    """Rows per graph call."""
    deadline: float
    """When it has to be given up, in seconds of the clock that was handed in."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a search has to keep within."""

    start: float
    """When it began, in seconds of a clock."""
    stop: float
    """When it ends."""
    step_seconds: float
    """What measuring one batch size takes, about."""
    auto_rows: int
    """The batch size that a job would choose."""
    max_rows: int
    """The largest batch size to try; `auto_rows` is tried in any case."""
    is_fixed: bool
    """Whether the graph takes `auto_rows` and nothing else."""
    memory_bytes: int
    """Memory that is free before anything runs; 0 where that is not known."""


class Search:
    """What was measured so far, and what comes next."""

    def __init__(self, layouts: Sequence[Layout], variants: Sequence[tuple[str, bool]], bounds: Bounds) -> None:
        """Take the candidates, in the order in which they are tried."""
        self._layouts, self._variants, self._bounds = layouts, variants, bounds
        self._outcomes: list[Measurement | Failure] = []
        self._steps = self._run()
        self._now = bounds.start
        self.left_out: list[str] = []
        """What was not measured, and why: a sentence each."""

    @property
    def measurements(self) -> list[Measurement]:
        """What was measured, in that order; what was measured twice by its mean."""
        same: dict[tuple[Setting, int], list[Measurement]] = {}
        for each in self._outcomes:
            if isinstance(each, Measurement):
                same.setdefault((each.setting, each.batch_rows), []).append(each)
        return [join_measurements(mine) for mine in same.values()]

    @property
    def failures(self) -> list[Failure]:
        """What could not be measured, in that order."""
        return [each for each in self._outcomes if isinstance(each, Failure)]

    def next(self, now: float) -> Step | None:
        """Return the next step; None when all is done, or the time is up.

        Call `take` with its outcome before the next call.
        """
        self._now = now
        return next(self._steps, None)

    def take(self, outcome: Measurement | Failure) -> None:
        """Take what became of the last step."""
        self._outcomes.append(outcome)

    def _run(self) -> Iterator[Step]:
        until = self._share_of_time(LAYOUTS_SHARE)
        for i, layout in enumerate(self._layouts):
            setting = Setting(layout)
            reason = self._reason_against(layout, i) or self._late(setting, until)
            if reason:
                self.left_out.append(f"{layout}: {reason}")
                continue
            mine = self._now + SWEEP_SHARE * (until - self._now) / (len(self._layouts) - i)
            yield from self._sweep(setting, min(until, mine))
        yield from self._confirm()
        yield from self._run_variants()

    def _share_of_time(self, share: float) -> float:
        """Return when so much of the budget is spent, as far as something comes after layouts."""
        return self._bounds.start + (share if self._variants else 1.0) * (self._bounds.stop - self._bounds.start)

    def _confirm(self) -> Iterator[Step]:
        """Measure the fastest and the default once more: the best of many figures is often the luckiest."""
        fastest, own = best_plain(self.measurements), Setting(default_layout(self._layouts))
        if fastest is None or (fastest.setting, fastest.batch_rows) == (own, self._bounds.auto_rows):
            return
        pair = [(own, self._bounds.auto_rows), (fastest.setting, fastest.batch_rows)]
        pair.sort(key=lambda each: not self._is_open(each[0]))
        for setting, batch_rows in pair:
            if self._rates(setting).get(batch_rows) and not self._late(setting, self._share_of_time(CONFIRMED_SHARE)):
                yield Step(setting, batch_rows, self._bounds.stop)

    def _is_open(self, setting: Setting) -> bool:
        """Whether the processes of a setting are those that the last step was measured with."""
        return bool(self._outcomes) and self._outcomes[-1].setting == setting

    def _sweep(self, setting: Setting, until: float) -> Iterator[Step]:
        """Measure the batch sizes of a layout."""
        while not self._has_failed(setting):
            batch_rows = self._next_batch(setting)
            if batch_rows is None:
                return
            if self._rates(setting) and self._late(setting, until):
                self.left_out.append(
                    f"{setting.layout}, batches of {batch_rows:,} and what comes after: no time was left"
                )
                return
            yield Step(setting, batch_rows, self._bounds.stop)

    def _next_batch(self, setting: Setting) -> int | None:
        rates, bounds = self._rates(setting), self._bounds
        if bounds.is_fixed:
            return None if rates else bounds.auto_rows
        best = max((rate for rate in rates.values() if rate is not None), default=0.0)
        bearable = int(best / setting.layout.actors * MAX_BATCH_SECONDS)
        return next_batch(rates, bounds.auto_rows, min(bounds.max_rows, bearable) if best else bounds.max_rows)

    def _run_variants(self) -> Iterator[Step]:
        best = best_plain(self.measurements)
        if best is None:
            return
        alike = [each for each in self.measurements if each.setting == best.setting]
        fastest = sorted(alike, key=lambda each: -each.rows_per_second)[:VARIANT_BATCHES]
        for i, (precision, xla) in enumerate(self._variants):
            setting = Setting(best.setting.layout, precision, xla)
            parts = [Setting(best.setting.layout, precision), Setting(best.setting.layout, FLOAT32, xla)]
            if any(self._has_failed(each) for each in parts):
                continue  # the reason is told with that part
            left = self._bounds.stop - self._now
            deadline = self._now + min(left, 2 * left / (len(self._variants) - i))
            for each in fastest:
                if self._has_failed(setting):
                    break
                if self._late(setting, deadline):
                    self.left_out.append(f"{setting.numbers}, batches of {each.batch_rows:,}: no time was left")
                    break
                yield Step(setting, each.batch_rows, deadline)

    def _reason_against(self, layout: Layout, position: int) -> str:
        """Say why a layout is not worth its time, or does not fit; empty where it is, and does."""
        measured = self.measurements
        if not measured:
            return ""
        room = MEMORY_SHARE * self._bounds.memory_bytes
        wanted = layout.actors * min(each.peak_bytes for each in measured)
        if room and wanted > room:
            return f"{wanted / 2**30:.1f} GiB of memory would be taken where {room / 2**30:.1f} GiB are free"
        last = [each.rows_per_second for each in measured if each.setting == measured[-1].setting]
        best = max(each.rows_per_second for each in measured)
        if position >= MIN_LAYOUTS and max(last) < CLEARLY_WORSE * best:
            return f"{measured[-1].setting.layout} was clearly slower than the best already"
        return ""

    def _late(self, setting: Setting, until: float) -> str:
        """Say that there is no time for a step of a setting; empty where there is."""
        seconds = self._bounds.step_seconds
        if not self._is_open(setting):
            seconds += max((each.load_seconds for each in self.measurements), default=0.0)
        is_first = not self._outcomes
        return "" if is_first or self._now + seconds <= until else "no time was left"

    def _rates(self, setting: Setting) -> dict[int, float | None]:
        mine = (each for each in self._outcomes if each.setting == setting and each.batch_rows is not None)
        return {
            each.batch_rows: each.rows_per_second if isinstance(each, Measurement) else None
            for each in mine
            if each.batch_rows is not None
        }

    def _has_failed(self, setting: Setting) -> bool:
        return any(each.setting == setting and each.batch_rows is None for each in self.failures)


def join_measurements(same: Sequence[Measurement]) -> Measurement:
    """Return what one setting and batch size did when measured several times: mean rate, least work, most memory."""
    return replace(
        same[0],
        rows_per_second=sum(each.rows_per_second for each in same) / len(same),
        session_seconds=min(each.session_seconds for each in same),
        peak_bytes=max(each.peak_bytes for each in same),
    )
