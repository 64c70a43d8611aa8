"""What is to be made of measurements: which setting a job should have, and what others would gain. Pure.

Start at `best_plain` and `Tuning`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.run.tuning.candidates import WITHIN_NOISE
from engine.run.tuning.settings import Failure, Layout, Machine, Measurement, RowCosts, rows_limit


def best_plain(measurements: Sequence[Measurement]) -> Measurement | None:
    """Return the fastest of what computes the graph as it is; None where there is none."""
    return max((m for m in measurements if m.setting.is_plain), key=lambda m: m.rows_per_second, default=None)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What a model does on a machine, with some rows."""

    model: str
    """The model."""
    machine: Machine
    """What was used of the machine."""
    sample_rows: int
    """Rows of the sample."""
    sample_files: int
    """Files that they come from."""
    auto_rows: int
    """Rows per graph call that a job chooses by itself."""
    default: Layout
    """Actors that a job takes by itself."""
    measurements: tuple[Measurement, ...]
    """What was measured, in that order."""
    failures: tuple[Failure, ...]
    """What could not be measured."""
    left_out: tuple[str, ...]
    """What was not measured, and why."""
    notes: tuple[str, ...]
    """What else there is to know."""
    costs: RowCosts | None
    """What a row costs beside the graph; None where there was no time to measure it."""
    seconds: float
    """Seconds that all of it took."""
    versions: Mapping[str, str]
    """Versions of engine, tensorflow, pyarrow and ray."""

    @property
    def best(self) -> Measurement:
        """The setting for a job: float32 without XLA, and the default unless another one is faster for sure."""
        fastest = best_plain(self.measurements)
        if fastest is None:
            raise ValueError("nothing was measured")
        own = self.by_default
        return own if own and own.rows_per_second >= WITHIN_NOISE * fastest.rows_per_second else fastest

    @property
    def by_default(self) -> Measurement | None:
        """What a job without any option does; None where it was not measured."""
        mine = (m for m in self.measurements if m.setting.is_plain and m.setting.layout == self.default)
        return next((m for m in mine if m.batch_rows == self.auto_rows), None)

    @property
    def faster(self) -> tuple[Measurement, ...]:
        """Other ways to compute that are faster for sure, the fastest first, each with its best batch size."""
        bound, found = self.best.rows_per_second / WITHIN_NOISE, dict[tuple[str, bool], Measurement]()
        for each in sorted(self.measurements, key=lambda m: -m.rows_per_second):
            if not each.setting.is_plain and each.rows_per_second > bound:
                found.setdefault((each.setting.precision, each.setting.xla), each)
        return tuple(found.values())

    def gain(self, measured: Measurement) -> float:
        """Return by how much the best is slower than another: 0.25 where that one does a quarter more rows."""
        return measured.rows_per_second / self.best.rows_per_second - 1

    def limit(self, measured: Measurement) -> float | None:
        """Return the rows per second that the machine could do at most with this way to compute, in one-thread work."""
        if self.costs is None:
            return None
        same = [m for m in self.measurements if _numbers(m) == _numbers(measured)]
        single = [m for m in same if m.setting.layout.threads == 1] or same
        return rows_limit(self.costs, min(m.session_seconds for m in single), self.machine)

    def efficiency(self, measured: Measurement) -> float | None:
        """Return the share of that limit which is reached."""
        limit = self.limit(measured)
        return measured.rows_per_second / limit if limit else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        document = asdict(self)
        for each, measured in zip(document["measurements"], self.measurements, strict=True):
            each["efficiency"] = self.efficiency(measured)
            each["is_auto"] = measured.batch_rows == self.auto_rows
        own = self.by_default
        document |= {
            "best": asdict(self.best),
            "default_behind": None if own is None else 1 - own.rows_per_second / self.best.rows_per_second,
            "faster": [asdict(each) for each in self.faster],
        }
        return {name: _finite(value) for name, value in document.items()}


def _finite(value: Any) -> Any:
    """Return the value with null for what is infinite, for JSON has no such number; as a summary has it."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(measured: Measurement) -> tuple[str, bool]:
    return measured.setting.precision, measured.setting.xla
