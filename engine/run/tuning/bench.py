"""One actor of a setting, as it is in its own process: loads the model, and does one thing at a time when told.

Knows neither Ray nor the search. Each method runs in a child (`engine.run.tuning.child`), for the threads of TensorFlow
are fixed by a process's first session, and peak memory is the process's. Start at `Bench`.
"""

import gc
import itertools
import pickle
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from engine.data.assembly import ScoredRows
from engine.data.binding import bind_feed
from engine.data.faults import Faults
from engine.data.feeding.conversion import FedRows, convert_rows
from engine.data.manifest import RowCounts
from engine.data.quarantine import quarantine_name
from engine.data.sink import PartWriter, choose_encoding
from engine.data.source import Slice, read_slices
from engine.data.storage.opening import open_folder
from engine.errors import DataError, EngineError
from engine.model.known import BoundModel
from engine.model.session import SessionOptions, load_session
from engine.run.attempt import Attempt
from engine.run.batches import BatchCaller, score_batch
from engine.run.comparison import compare
from engine.run.freezing import ScoredModel, freeze_here
from engine.run.memory import peak_bytes
from engine.run.numeric_drift import Drift
from engine.run.plan import Shard
from engine.run.scheduling.fleet import SHARDS_PER_WORKER
from engine.run.shard import Scorer
from engine.run.spec import ScoringSpec
from engine.run.tuning.sample import Sample, take_turns
from engine.run.tuning.settings import RowCosts
from engine.run.tuning.windows import Span, rows_within

# Actors are numbered apart, so that no two write a part of one name.
IDS_PER_ACTOR = 10_000_000
# Of a window, before it: until then the threads of an actor all read at once, which they do not do later.
LEAD = 0.2
MIN_CALLS = 3
MAX_OUTPUT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured with; the same for every setting."""

    spec: ScoringSpec
    """The job; its output is a folder that goes again."""
    model_path: str
    """File with the serialised GraphDef."""
    sample: Sample
    """Rows to score."""
    reference_path: str
    """File that the values of float32 are kept in."""


@dataclass(frozen=True, slots=True)
class Warm:
    """What the first calls with a batch size show."""

    first_call_seconds: float
    """Seconds of the process's first call, and of those with this batch size until it runs as it will."""
    batch_seconds: float
    """Seconds of a call with this batch size then."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one actor did in a window of time."""

    rows: float
    """Input rows that were read, scored and written; what lies across the window's ends counts by its share."""
    seconds: float
    """Length of the window."""
    max_rows: int | None
    """Rows that the device has room for, once it ran out of memory; larger batches are halved."""
    bad_share: float
    """Share of the rows that went to quarantine."""


class Bench:
    """A model in a process of its own, measured."""

    def __init__(self) -> None:
        """Make a bench without a model; `load` comes first."""
        self._start_seconds = 0.0
        self._scorers: dict[int, Scorer] = {}

    def freeze(self, bound: BoundModel, uri: str) -> ScoredModel:
        """Freeze a model in this process.

        Raises:
            EngineError: if it cannot be.
        """
        found = freeze_here((bound, uri))
        if isinstance(found, EngineError):
            raise found
        return found

    def load(self, work: Work, options: SessionOptions, position: int) -> float:
        """Import TensorFlow and load the model.

        Args:
            work: what to measure with.
            options: threads, share of a GPU, precision and XLA.
            position: which of the setting's actors this is.

        Returns:
            The seconds that it took.

        Raises:
            EngineError: if TensorFlow refuses the graph, or the device what is asked of it.
        """
        started, spec = time.perf_counter(), replace(work.spec, precision=options.precision, xla=options.xla)
        pa.set_cpu_count(options.threads)
        tensors, columns = [name for name, _ in spec.feeds], [name for name, _ in spec.fetches]
        data = Path(work.model_path).read_bytes()
        self._session = load_session(data, tensors, columns, spec.constants, spec.init_ops, options, spec.op_libraries)
        self._work, self._spec, self._ids = work, spec, itertools.count(position * IDS_PER_ACTOR)
        sources = dict(spec.feeds)
        self._feeds = [
            bind_feed(sources[each.name], each, spec.rules.fills, spec.rules.unbatched) for each in self._session.inputs
        ]
        gc.freeze()  # as an actor does
        return time.perf_counter() - started

    def warm(self, batch_rows: int) -> Warm:
        """Bind the job with a batch size, and make its first calls.

        Raises:
            EngineError: if the graph cannot be run.
        """
        started, before = time.perf_counter(), self._start_seconds
        self._scorer(batch_rows)
        probe_seconds = time.perf_counter() - started
        self._start_seconds = before or probe_seconds
        fed, call, seconds = self._first_rows(batch_rows), self._caller(batch_rows), list[float]()
        for _ in range(3):
            started = time.perf_counter()
            score_batch(call, fed, range(min(batch_rows, len(fed.rows))), Faults(int(fed.rows[-1]) + 1))
            seconds.append(time.perf_counter() - started)
        # XLA compiles a shape when it comes for the second time.
        return Warm(before + probe_seconds + seconds[0] + max(0.0, seconds[1] - seconds[2]), seconds[2])

    def score(self, batch_rows: int, shard_rows: int, seconds: float) -> Round:
        """Score shards as an actor does, several at once, for a while.

        Args:
            batch_rows: rows per graph call.
            shard_rows: rows of a shard.
            seconds: length of the window; a fifth of that is scored before it begins, and its last shards end after.
        """
        scorer, spans, counts = self._scorer(batch_rows), list[Span](), list[RowCounts]()
        helpings = take_turns(self._work.sample, shard_rows)
        turn, errors = threading.Lock(), list[BaseException]()
        started = time.perf_counter()
        start, stop = started + LEAD * seconds, started + (1 + LEAD) * seconds

        def work() -> None:
            try:
                while time.perf_counter() < stop and not errors:
                    with turn:
                        shard = Shard(next(self._ids), "", next(helpings))
                    spans.append(self._score_one(scorer, shard, counts))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(SHARDS_PER_WORKER)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        total = sum(counts, RowCounts())
        share = total.rows_quarantined / max(1, total.rows_in)
        return Round(rows_within(spans, start, stop), seconds, self._session.max_rows, share)

    def _score_one(self, scorer: Scorer, shard: Shard, counts: list[RowCounts]) -> Span:
        started = time.perf_counter()
        result = scorer.score(shard, Attempt())
        counts.append(result.facts.counts)
        span = Span(started, time.perf_counter(), result.facts.counts.rows_in)
        folder = Path(self._work.spec.output)
        (folder / result.part).unlink()
        (folder / quarantine_name(result.part)).unlink(missing_ok=True)
        return span

    def session_seconds(self, batch_rows: int, seconds: float) -> float:
        """Return what a row costs in the session alone, in the quickest call: seconds of CPU, on a GPU of the clock."""
        fed, call = self._first_rows(batch_rows), self._caller(batch_rows)
        size = min(batch_rows, len(fed.rows))
        clock = time.process_time if self._session.device == "CPU" else time.perf_counter
        until, took = time.perf_counter() + seconds, list[float]()
        while len(took) < MIN_CALLS or time.perf_counter() < until:
            before = clock()
            score_batch(call, fed, range(size), Faults(int(fed.rows[-1]) + 1))
            took.append(clock() - before)
        return min(took) / size

    def row_costs(self, batch_rows: int, seconds: float) -> RowCosts:
        """Measure what a row costs beside the session: read and converted, assembled and written."""
        scorer, num_read, decoding = self._scorer(batch_rows), 0, 0.0
        until, before, kept = time.perf_counter() + seconds / 2, time.process_time(), list[Slice]()
        for read in itertools.chain.from_iterable(self._slices(batch_rows) for _ in itertools.count()):
            convert_rows(self._feeds, read.table)
            num_read += read.rows_in
            decoding = time.process_time() - before
            kept = [*kept, read][:1] if len(read.table) else kept
            if time.perf_counter() > until and kept:
                break
        _, table = scorer.score_again(kept[0], np.arange(len(kept[0].table)))
        spec, num_written = self._work.spec, 0
        encoding = choose_encoding(scorer.schema, [column for _, column in spec.fetches], spec.encoding)
        until, before = time.perf_counter() + seconds / 2, time.process_time()
        with PartWriter(open_folder(spec.output), f"part-costs-{next(self._ids)}", scorer.schema, encoding) as part:
            while not num_written or time.perf_counter() < until:
                part.write(table)
                num_written += max(1, len(table))
        return RowCosts(decoding / num_read, (time.process_time() - before) / num_written)

    def keep_values(self, batch_rows: int, num_rows: int) -> int:
        """Keep the values of the first rows as the reference; return how many rows these are."""
        pieces = self._values(batch_rows, num_rows)
        Path(self._work.reference_path).write_bytes(pickle.dumps(pieces))
        return sum(len(each.rows) for each in pieces)

    def drift(self, batch_rows: int, num_rows: int) -> dict[str, Drift]:
        """Return how far the values of the first rows lie from the reference, by output column of numbers."""
        reference = pickle.loads(Path(self._work.reference_path).read_bytes())
        return compare(reference, self._values(batch_rows, num_rows), [name for _, name in self._work.spec.fetches])

    def peak_bytes(self) -> int:
        """Return the most memory that this process has had."""
        return peak_bytes()

    def _scorer(self, batch_rows: int) -> Scorer:
        if batch_rows not in self._scorers:
            self._scorers = {batch_rows: Scorer(replace(self._spec, batch_rows=batch_rows), self._session)}
        return self._scorers[batch_rows]

    def _caller(self, batch_rows: int) -> BatchCaller:
        """Return what a scorer calls the session by: for XLA every batch has the same rows."""
        return BatchCaller(self._session, self._feeds, batch_rows if self._spec.xla else None)

    def _slices(self, batch_rows: int) -> Iterator[Slice]:
        for piece in self._work.sample.pieces:
            yield from read_slices(piece, self._work.spec.selection, batch_rows)

    def _first_rows(self, batch_rows: int) -> FedRows:
        """Return the rows of the first slice that has some, those of one shape."""
        for read in self._slices(batch_rows):
            groups, _ = convert_rows(self._feeds, read.table)
            if groups:
                return max(groups, key=lambda each: len(each.rows))
        raise DataError("no row of the sample can be scored: all are filtered, or cannot become tensors")

    def _values(self, batch_rows: int, num_rows: int) -> list[ScoredRows]:
        """Score the first rows of the sample; positions count on from slice to slice."""
        scored, start, num_bytes, call = list[ScoredRows](), 0, 0, self._caller(batch_rows)
        for read in self._slices(batch_rows):
            groups, faults = convert_rows(self._feeds, read.table)
            for fed in groups:
                for begin in range(0, len(fed.rows), batch_rows):
                    if start + begin >= num_rows or num_bytes > MAX_OUTPUT_BYTES:
                        return scored
                    span = range(begin, min(begin + batch_rows, len(fed.rows)))
                    for each in score_batch(call, fed, span, faults):
                        arrays = [np.asarray(array) for array in each.arrays]
                        scored.append(ScoredRows(each.rows + start, arrays))
                        num_bytes += sum(array.nbytes for array in arrays)
            start += len(read.table)
        return scored
