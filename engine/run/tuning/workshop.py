"""Measures one step after another: keeps the processes of a setting as long as its batch sizes are tried.

Start at `Workshop.measure`.
"""

import os

from engine.errors import DataError, EngineError, JobInterrupted, Mistake
from engine.model.session import SessionOptions
from engine.run.tuning.bench import Bench, Work
from engine.run.tuning.crew import Crew, OutOfTimeError, cause
from engine.run.tuning.search import Step
from engine.run.tuning.settings import Failure, Layout, Measurement, RowCosts, Setting

# A window has to be long enough that its shards are not all beginnings, and a budget has room for some 100 of these.
MIN_SECONDS, MAX_SECONDS, WINDOWS = 0.2, 2.0, 90
# Of a window: the pilot before it, and one actor alone in its session after it.
PILOT, ALONE = 0.1, 0.15
SHARDS_IN_WINDOW = 6
DRIFT_ROWS = 20_000


def window_seconds(budget: float) -> float:
    """Return how long a batch size is measured, by the seconds that all may take."""
    return min(MAX_SECONDS, max(MIN_SECONDS, budget / WINDOWS))


class Workshop:
    """The processes of one setting at a time, and what is measured with them."""

    def __init__(self, work: Work, seconds: float, auto_rows: int, allow_cpu: bool) -> None:
        """Start nothing yet.

        Args:
            work: what to measure with.
            seconds: length of one window.
            auto_rows: the batch size that a job would choose, with which float32's values are kept.
            allow_cpu: whether to go on where TensorFlow sees no GPU.
        """
        self._work, self._seconds, self._auto_rows, self._allow_cpu = work, seconds, auto_rows, allow_cpu
        self._crew: Crew | None = None
        self._setting: Setting | None = None
        self._load_seconds, self._has_reference = 0.0, False
        self.costs: RowCosts | None = None
        """What a row costs beside the graph, once that was measured."""
        self.bad_share = 0.0
        """Largest share of rows that went to quarantine."""
        self._has_measured = False

    def close(self) -> None:
        """End all processes at once."""
        if self._crew is not None:
            self._crew.close()
        self._crew = self._setting = None

    def measure(self, step: Step) -> Measurement | Failure:
        """Measure a step; what goes wrong with it is an outcome, too.

        Raises:
            JobInterrupted: on a signal.
            Mistake, DataError: if nothing was measured yet, and this would end a job as well.
        """
        batch_rows: int | None = None
        try:
            crew = self._open(step)
            batch_rows = step.batch_rows
            found = self._measure(crew, step)
        except JobInterrupted:
            raise
        except EngineError as error:
            self.close()  # others of the crew may still be at it
            if not self._has_measured and step.setting.is_plain and isinstance(error, (Mistake, DataError)):
                raise
            return Failure(step.setting, batch_rows, cause(error), isinstance(error, (Mistake, OutOfTimeError)))
        self._has_measured |= isinstance(found, Measurement)
        return found

    def _open(self, step: Step) -> Crew:
        """Return the processes of a step's setting, with the model loaded."""
        if self._crew is not None and self._setting == step.setting:
            return self._crew
        self.close()
        layout = step.setting.layout
        options = SessionOptions(
            layout.threads, layout.gpu_share, self._allow_cpu, step.setting.precision, step.setting.xla
        )
        self._crew = Crew(
            [gpu_variables(layout, i, os.environ.get("CUDA_VISIBLE_DEVICES")) for i in range(layout.actors)]
        )
        given = [(self._work, options, i) for i in range(layout.actors)]
        self._load_seconds = max(self._crew.each(step.deadline, Bench.load, given))
        self._setting = step.setting
        return self._crew

    def _measure(self, crew: Crew, step: Step) -> Measurement | Failure:
        setting, batch_rows, deadline, seconds = step.setting, step.batch_rows, step.deadline, self._seconds
        warm = crew.all(deadline, Bench.warm, batch_rows)
        pilot_rows = batch_rows * max(1, int(PILOT * seconds / max(each.batch_seconds for each in warm)))
        pilot = crew.all(deadline, Bench.score, batch_rows, pilot_rows, PILOT * seconds)
        shard_rows = shard_size(max(each.rows for each in pilot) / PILOT / SHARDS_IN_WINDOW, batch_rows)
        rounds = crew.all(deadline, Bench.score, batch_rows, min(shard_rows, self._work.sample.num_rows), seconds)
        room = min((each.max_rows for each in rounds if each.max_rows is not None), default=batch_rows)
        if room < batch_rows:
            return Failure(setting, batch_rows, f"the device has room for batches of {room:,}")
        self.bad_share = max(self.bad_share, *(each.bad_share for each in rounds))
        alone = crew.first(deadline, Bench.session_seconds, batch_rows, ALONE * seconds)
        peak = max(crew.all(deadline, Bench.peak_bytes))
        rate = sum(each.rows / each.seconds for each in rounds)
        if setting.is_plain:
            self._look_around(crew, step, rate)
        drift_rows = self._drift_rows(rate, setting.layout)
        has_drift = self._has_reference and not setting.is_plain
        drift = crew.first(deadline, Bench.drift, batch_rows, drift_rows) if has_drift else {}
        first = max(each.first_call_seconds for each in warm)
        return Measurement(setting, batch_rows, rate, alone, peak, self._load_seconds, first, drift)

    def _look_around(self, crew: Crew, step: Step, rate: float) -> None:
        """Measure, once, what rows cost beside the graph, and keep the values of float32."""
        if self.costs is None:
            self.costs = crew.first(step.deadline, Bench.row_costs, step.batch_rows, self._seconds)
        if not self._has_reference:
            crew.first(step.deadline, Bench.keep_values, self._auto_rows, self._drift_rows(rate, step.setting.layout))
            self._has_reference = True

    def _drift_rows(self, rate: float, layout: Layout) -> int:
        """Return so many rows as one actor scores in about a window, at least a few."""
        return max(1, min(DRIFT_ROWS, int(rate / layout.actors * self._seconds)))


def shard_size(rows: float, batch_rows: int) -> int:
    """Return the rows of a shard: about so many, and whole batches, of which a real shard has many."""
    return batch_rows * max(1, round(rows / batch_rows))


def gpu_variables(layout: Layout, position: int, visible: str | None) -> dict[str, str]:
    """Return the environment of one of a layout's actors: its share of the GPUs, as Ray would give it.

    Args:
        layout: the actors.
        position: which of them, from 0.
        visible: CUDA_VISIBLE_DEVICES as it is; None where it is not set.
    """
    if not layout.gpu_share:
        return {}
    first, count = int(position * layout.gpu_share + 1e-9), max(1, int(layout.gpu_share))
    names = visible.split(",") if visible else [str(i) for i in range(first + count)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[first : first + count])}
