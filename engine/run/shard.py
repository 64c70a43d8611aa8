"""One shard, start to finish: read a slice, score its batches, write it, set its bad rows aside, publish the part.

An actor runs several of these side by side, each in its own thread, so that one reads or writes while another
scores; the session is shared. Start at `Scorer`.
"""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from engine.data.assembly import ScoredRows, assemble, output_schema
from engine.data.binding import bind_feed
from engine.data.faults import Array, BadRow, Faults
from engine.data.feeding.conversion import FedRows, convert_rows
from engine.data.fetching import Fetcher
from engine.data.ledger import read_plan_id
from engine.data.manifest import PartFacts, read_part_facts
from engine.data.output import bind_output
from engine.data.quarantine import Quarantine, quarantine_name
from engine.data.read_ahead import read_ahead
from engine.data.sink import PartWriter, choose_encoding
from engine.data.source import Slice, begin_fetching, read_slices
from engine.data.storage.opening import open_folder
from engine.data.verdicts import count_odd_values, set_bad_aside
from engine.errors import DataError, EngineError, GraphError, JobFailedError, Mistake, RefusedError, SchemaError
from engine.model.session import ModelSession
from engine.model.tensor import TensorSpec
from engine.run.attempt import Attempt
from engine.run.batches import BatchCaller, join_rows, score_batch
from engine.run.comparison import compare_with_plain
from engine.run.meter import UNMETERED, Meter
from engine.run.numeric_drift import Drift
from engine.run.plan import Shard, part_name
from engine.run.probing import PROBE_ROWS, probe
from engine.run.spec import ScoringSpec, ShardResult
from engine.run.turns import Turns

# Rows of a graph that takes one at a time are joined again to so many before they become columns.
JOINED_ROWS = 4096
# One row at fault says nothing of the others.
MIN_ALIKE = 2


class Scorer:
    """A loaded model bound to the job's columns; scores shards."""

    def __init__(
        self,
        spec: ScoringSpec,
        session: ModelSession,
        open_plain: Callable[[], ModelSession] | None = None,
        meter: Meter = UNMETERED,
    ) -> None:
        """Bind the columns to the tensors of the imported graph, and fix the output's schema.

        Up to 16 rows of the first input are scored: what only running the graph can show is told here, before a
        shard is given out, the session warms up, and extents that the graph leaves open are seen.

        Args:
            spec: the job.
            session: its model.
            open_plain: opens another session of the model, in float32 and without XLA.
            meter: is told what is done.

        Raises:
            SchemaError, GraphError: if a column cannot fill its tensor, or a fetch cannot become a column.
        """
        self._spec, self._session, rules = spec, session, spec.rules
        self._folder = open_folder(spec.output)
        sources = dict(spec.feeds)
        self._feeds = [bind_feed(sources[t.name], t, rules.fills, rules.unbatched) for t in session.inputs]
        fixed_rows = next((feed.fixed_rows for feed in self._feeds if feed.fixed_rows is not None), None)
        self._batch_rows = fixed_rows or spec.batch_rows  # a worker may have frozen a batch axis that is fixed
        call = BatchCaller(session, self._feeds, self._batch_rows if spec.xla else None)
        self._turns = Turns(session.threads if session.device == "CPU" else None)
        self._open_plain = open_plain
        tensors = [_row_spec(tensor) for tensor in session.outputs] if rules.unbatched else session.outputs
        seen = probe(spec, self._feeds, tensors, call, self._batch_rows)
        self._meter, self._call = meter, meter.timed(call)
        self._is_proven = seen.is_proven
        self._outputs = [
            bind_output(tensor, name, name in rules.utf8)
            for tensor, (_, name) in zip(seen.outputs, spec.fetches, strict=True)
        ]
        self.schema = output_schema(spec.keep, self._outputs, rules.provenance)
        """Schema of every part: kept columns first, then the fetches."""
        self._encoding = choose_encoding(self.schema, [output.column for output in self._outputs], spec.encoding)

    def score(self, shard: Shard, attempt: Attempt) -> ShardResult:
        """Score one shard and publish its part, its bad rows in quarantine first.

        Args:
            shard: what to score.
            attempt: counts what is done, and tells when it is no longer wanted.

        Raises:
            DataError: for a file that cannot be scored, or more bad rows than the job puts up with.
            StorageError: if reading or writing failed for now.
            JobFailedError: if the output folder belongs to another job by now, or the attempt was cancelled.
            GraphError, SchemaError: if the graph cannot run, or takes none of the first rows.
        """
        started, spec = time.perf_counter(), self._spec
        name, folder = part_name(shard, spec.num_shards, spec.generation), self._folder
        sources = json.dumps([[piece.relative_path, piece.start_byte, piece.stop_byte] for piece in shard.pieces])
        aside = quarantine_name(name)
        with (
            PartWriter(folder, name, self.schema, self._encoding) as part,
            Quarantine(folder, aside, spec.selection.schema) as bad,
        ):
            with (
                self._begin_fetching(shard, attempt) as fetcher,
                self._turns.taken(attempt, lambda: read_ahead(shard.pieces, spec.selection)),
            ):
                for read in self._read(shard, attempt, fetcher):
                    self._score_slice(read, attempt, part, bad)
                    self._meter.slice(attempt, bad.num_rows)
                    del read  # the next slice is not to be read while this one is held
                    if spec.rules.budget.is_over(bad.num_rows):
                        break
                part.finish()
            facts = PartFacts(spec.plan_id, shard.shard_id, sources, attempt.counts(bad), attempt.odd_values)
            attempt.mark("write")
            bad.publish(facts.to_metadata(), self._confirm_plan, lambda: self._has_part(name))
            spec.rules.budget.check(bad.num_rows, bad.shown, folder.place_of(aside))
            if not facts.counts.is_complete:
                raise JobFailedError(f"{name}: not every row is accounted for: {facts.counts}")
            published = part.publish(facts.to_metadata(), self._confirm_plan, lambda: self._is_twin(name))
        attempt.end("write")
        seconds = {**attempt.seconds, "total": time.perf_counter() - started - attempt.seconds["wait"]}
        result = ShardResult(
            name, facts, published, tuple(bad.shown), attempt.batches_split, seconds,
            self._session.batches_halved, self._session.busy_seconds, self._find_drift(shard, attempt),
        )  # fmt: skip
        self._meter.shard(shard, attempt, result)
        return result

    def score_again(self, read: Slice, rows: Array) -> tuple[Array, pa.Table]:
        """Score the batches that hold `rows` of a slice, and write nothing.

        Returns:
            Positions in the slice, ascending, of the rows that were scored, and what a part has of them.
        """
        groups, faults = convert_rows(self._feeds, read.table)
        step, scored = 1 if self._spec.rules.unbatched else self._batch_rows, list[ScoredRows]()
        for fed in groups:
            for start in range(0, len(fed.rows), step):
                span = range(start, min(start + step, len(fed.rows)))
                if np.isin(fed.rows[span.start : span.stop], rows).any():
                    scored += score_batch(self._call, fed, span, faults)
        good = [set_bad_aside(each, self._outputs, faults, self._spec.rules.nan_is_bad) for each in scored]
        good = [each for each in good if len(each.rows)]
        positions = np.sort(np.concatenate([np.empty(0, np.int64), *(each.rows for each in good)]))
        return positions, assemble(self.schema, self._spec.keep, self._outputs, read, good)

    def _begin_fetching(self, shard: Shard, attempt: Attempt) -> Fetcher:
        """Fetch from stores ahead; while one is waited for, another shard may compute."""
        selection, turns = self._spec.selection, self._turns
        return begin_fetching(shard.pieces, selection, self._batch_rows, lambda: turns.given_up(attempt, "read"))

    def _read(self, shard: Shard, attempt: Attempt, fetcher: Fetcher) -> Iterator[Slice]:
        for piece in shard.pieces:
            for read in read_slices(piece, self._spec.selection, self._batch_rows, fetcher):
                attempt.end("read")
                yield read
                del read
            attempt.end("read")

    def _find_drift(self, shard: Shard, attempt: Attempt) -> dict[str, Drift]:
        """Compare first rows with what the plain graph gives, on one shard of a run; a failure there fails nothing."""
        if shard.shard_id != self._spec.drift_shard or self._open_plain is None:
            return {}
        pieces, step = (*shard.pieces, *self._spec.samples), 1 if self._spec.rules.unbatched else self._batch_rows
        slices = (read for each in pieces for read in read_slices(each, self._spec.selection, self._batch_rows))
        try:
            with contextlib.closing(self._open_plain()) as plain:
                calls = BatchCaller(plain, self._feeds), self._call
                return compare_with_plain(
                    slices, self._feeds, self._outputs, calls, step, lambda: attempt.mark("comparing")
                )
        except EngineError:
            return {}

    def _confirm_plan(self) -> None:
        found = read_plan_id(self._folder, self._spec.generation)
        if found is None:
            raise JobFailedError(f"{self._folder.place}: its plan is gone; nothing more is written to it")
        if found != self._spec.plan_id:
            raise JobFailedError(f"{self._folder.place} belongs to another job now; nothing more is written to it")

    def _is_twin(self, name: str) -> bool:
        """Whether the part that is there already is of this plan; one that was cut off in its upload is not."""
        try:
            return read_part_facts(self._folder, name).plan_id == self._spec.plan_id
        except RefusedError:
            raise
        except DataError:
            if self._folder.is_whole:
                raise
            return False

    def _has_part(self, name: str) -> bool:
        return self._folder.size(name) is not None and self._is_twin(name)

    def _score_slice(self, read: Slice, attempt: Attempt, part: PartWriter, bad: Quarantine) -> None:
        """Score the rows of a slice; each goes to the part or to quarantine."""
        groups, faults = convert_rows(self._feeds, read.table)
        if not groups:
            self._check_hope(SchemaError, faults.in_order(), read)
        attempt.end("bind")
        scored: list[ScoredRows] = []
        while groups:  # what was converted goes before rows are encoded
            for each in self._score_rows(groups.pop(0), faults, read, attempt, bad.num_rows):
                good = set_bad_aside(each, self._outputs, faults, self._spec.rules.nan_is_bad)
                scored += [good] if len(good.rows) else []
        attempt.end("session")
        table = assemble(self.schema, self._spec.keep, self._outputs, read, scored)
        part.write(table)
        bad.write(read, faults)
        attempt.count(read, table, count_odd_values(scored, self._outputs))
        attempt.end("write")

    def _score_rows(
        self, fed: FedRows, faults: Faults, read: Slice, attempt: Attempt, num_bad: int
    ) -> Iterator[ScoredRows]:
        """Score rows of one shape, batch by batch, until there are more bad rows than the job puts up with."""
        is_unbatched, scored, num_rows = self._spec.rules.unbatched, list[ScoredRows](), len(fed.rows)
        step = 1 if is_unbatched else self._batch_rows
        trial = min(num_rows, max(step, PROBE_ROWS))
        for start in range(0, num_rows, step):
            stop = min(start + step, num_rows)
            batch = score_batch(self._call, fed, range(start, stop), faults)
            attempt.batches_split += stop - start > 1 and [len(each.rows) for each in batch] != [stop - start]
            scored += batch
            attempt.rows_tried += stop - start
            attempt.mark("batch")
            if not self._is_proven and not scored:  # until one was, a row may fail for what all fail for
                if start < trial <= stop or stop == num_rows:
                    tried = set(fed.rows[:stop].tolist())
                    self._check_hope(GraphError, [b for b in faults.in_order() if b.row_index in tried], read)
                continue
            self._is_proven = True
            if self._spec.rules.budget.is_over(num_bad + len(faults)):
                break
        return join_rows(scored, JOINED_ROWS if is_unbatched else step)

    def _check_hope(self, kind: type[Mistake], bad: Sequence[BadRow], read: Slice) -> None:
        """End the job where no row was ever scored, and most that were tried are at fault for one reason.

        Raises:
            Mistake: of `kind`, with the message of the first row of that reason.
        """
        if self._is_proven or len(bad) < MIN_ALIKE:
            return
        ((reason, count),) = Counter(each.reason for each in bad).most_common(1)
        if count >= MIN_ALIKE and count > len(bad) / 2:
            first = next(each for each in bad if each.reason == reason)
            raise kind(
                f"all of the first {len(bad)} rows are at fault ({reason}), which is no matter of single rows but "
                f"of the model or of what it is fed; {read.path}, row {read.rows[first.row_index]}: {first.message}"
            )


def _row_spec(tensor: TensorSpec) -> TensorSpec:
    """Return the tensor that the rows of a graph without batch axis make together."""
    return TensorSpec(tensor.name, tensor.dtype, None if tensor.shape is None else (None, *tensor.shape))
