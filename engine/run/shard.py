"""One shard, start to finish: read a slice, score its batches, write it, publish the part.

An actor runs several of these side by side, each in its own thread, so that one reads or writes while another
scores; the session is shared. Start at `Scorer`.
"""

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.data.binding import FeedBinding, bind_feed, peel_type
from engine.data.conversion import FeedColumn
from engine.data.ledger import read_plan_id
from engine.data.listing import Piece
from engine.data.manifest import part_metadata, read_part_facts
from engine.data.output import (
    OutputColumn,
    bind_output,
    check_batch_axis,
    check_output_names,
    observe_shape,
    to_column,
)
from engine.data.sink import PartWriter
from engine.data.source import Slice, read_slices
from engine.errors import DataError, JobFailedError, StorageError
from engine.model.session import ModelSession
from engine.model.tensor import TensorSpec
from engine.run.plan import Shard, part_name

Array = npt.NDArray[Any]
PROBE_ROWS = 16


@dataclass(frozen=True, slots=True)
class ScoringSpec:
    """What an actor needs to know of the job, besides the model's bytes."""

    plan_id: str
    """Plan that its parts belong to."""
    output: str
    """Output folder, absolute."""
    num_shards: int
    """Shards of the plan; part of every part's name."""
    feeds: tuple[tuple[str, str], ...]
    """Pairs of tensor name and column."""
    fetches: tuple[tuple[str, str], ...]
    """Pairs of tensor name and column."""
    constants: Mapping[str, Any]
    """Values fed with every batch, by tensor name."""
    init_ops: tuple[str, ...]
    """Operations run once after loading."""
    op_libraries: tuple[str, ...]
    """Libraries of custom operations, loaded first."""
    read_schema: pa.Schema
    """Input columns to read, fed and kept, with the types of the first input file."""
    keep: tuple[str, ...]
    """Input columns carried to the output, in its order."""
    batch_rows: int
    """Rows per graph call."""
    samples: tuple[Piece, ...]
    """Some whole input files; every actor opens the first, and looks at rows of them where shapes are open."""
    versions: Mapping[str, str]
    """Versions of engine, tensorflow, pyarrow and ray at the driver."""


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard that is done: its part lies in the output folder."""

    shard_id: int
    """Position in the plan."""
    part: str
    """Path of the part below the output folder."""
    rows_in: int
    """Input rows read."""
    rows_out: int
    """Rows written."""
    num_bytes: int
    """Size of the part."""
    sha256: str
    """Hash of the part."""
    sources: str
    """JSON: the input files, below their roots, and byte ranges that it was made of."""
    seconds: Mapping[str, float]
    """Seconds by phase: read, bind, session, write; and total."""
    batches_halved: int
    """Times that this actor has halved a batch so far."""
    busy_seconds: float
    """Seconds that this actor's session has been computing so far, for any of its shards."""


@dataclass(slots=True)
class PhaseTimer:
    """Adds up the seconds of one attempt's phases."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "bind", "session", "write"), 0.0))
    """Seconds by phase."""
    _since: float = field(default_factory=time.perf_counter)

    def end(self, phase: str) -> None:
        """Charge the time since the last call to `phase`."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now


class Scorer:
    """A loaded model bound to the job's columns; scores shards."""

    def __init__(self, spec: ScoringSpec, session: ModelSession) -> None:
        """Bind the columns to the tensors of the imported graph, and fix the output's schema.

        Up to 16 rows of the first input are scored: what only running the graph can show is told here, before a
        shard is given out, the session warms up, and extents that the graph leaves open are seen.

        Raises:
            SchemaError, GraphError: if a column cannot fill its tensor, or a fetch cannot become a column.
        """
        self._spec = spec
        self._session = session
        columns = dict(spec.feeds)
        self._feeds = [bind_feed(spec.read_schema.field(columns[t.name]), t) for t in session.inputs]
        self._fixed_rows = next((feed.fixed_rows for feed in self._feeds if feed.fixed_rows is not None), None)
        self._batch_rows = self._fixed_rows or spec.batch_rows  # a worker may have frozen a batch axis that is fixed
        tensors = self._observe(session.outputs)
        self._outputs = [bind_output(t, name) for t, (_, name) in zip(tensors, spec.fetches, strict=True)]
        self.schema = output_schema(spec, self._outputs)
        """Schema of every part: kept columns first, then the fetches."""

    def _observe(self, tensors: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
        is_open = any(tensor.shape is None or None in tensor.shape[1:] for tensor in tensors)
        slices = (read_slices(piece, self._spec.read_schema, self._batch_rows) for piece in self._spec.samples)
        sample = next(itertools.chain.from_iterable(slices), None)
        if sample is None:
            return tensors
        # Two batches of different size: an extent that follows the data or the batch shows as a difference.
        sizes = [min(PROBE_ROWS, len(sample.table), self._batch_rows), 1][: 1 + is_open]
        try:
            feeds = self._bind(replace(sample, table=sample.table.slice(0, PROBE_ROWS)))
            runs = [(rows, self._run(feeds, 0, rows)) for rows in sizes]
        except DataError as error:
            if is_open:
                raise _located(error, sample) from error
            return tensors  # a bad row among the first is its shard's to tell
        can_vary = len(sample.table) == 1 or any(self._can_vary(feed) for feed in self._feeds)
        seen = [[(rows, arrays[i]) for rows, arrays in runs] for i in range(len(tensors))]
        return [observe_shape(each, samples, can_vary) for each, samples in zip(tensors, seen, strict=True)]

    def _can_vary(self, feed: FeedBinding) -> bool:
        """Whether batches of this feed may differ in shape: lists of any length into an extent left open."""
        lengths, _ = peel_type(self._spec.read_schema.field(feed.column).type)
        return None in lengths and (feed.row_shape is None or None in feed.row_shape)

    def score(self, shard: Shard) -> ShardResult:
        """Score one shard and publish its part.

        Raises:
            DataError: for a file or row that cannot be scored, naming it.
            StorageError: if reading or writing failed for now.
            JobFailedError: if the output folder belongs to another job by now.
            GraphError: if the graph cannot run.
        """
        started, timer = time.perf_counter(), PhaseTimer()
        name = part_name(shard, self._spec.num_shards)
        path = Path(self._spec.output) / name
        sources = json.dumps([[piece.relative_path, piece.start_byte, piece.stop_byte] for piece in shard.pieces])
        rows = 0
        with PartWriter(path, self.schema, _dictionary_columns(self.schema, self._spec.keep)) as part:
            for piece in shard.pieces:
                for read in read_slices(piece, self._spec.read_schema, self._batch_rows):
                    timer.end("read")
                    part.write(self._score_slice(read, timer))
                    rows += len(read.table)
                    timer.end("write")
            facts = part_metadata(self._spec.plan_id, shard.shard_id, sources, rows, rows)
            published = part.publish(facts, self._confirm_plan, self._is_twin)
        timer.end("write")
        seconds = {**timer.seconds, "total": time.perf_counter() - started}
        return ShardResult(
            shard.shard_id, name, rows, rows, published.num_bytes, published.sha256, sources, seconds,
            self._session.batches_halved,
            self._session.busy_seconds,
        )  # fmt: skip

    def _confirm_plan(self) -> None:
        found = read_plan_id(self._spec.output)
        if found is None:
            raise StorageError(f"{self._spec.output}: its plan cannot be read")
        if found != self._spec.plan_id:
            raise JobFailedError(f"{self._spec.output} belongs to another job now; nothing more is written to it")

    def _is_twin(self, part: Path) -> bool:
        return bool(read_part_facts(part)["plan_id"] == self._spec.plan_id)

    def _score_slice(self, read: Slice, timer: PhaseTimer) -> pa.Table:
        num_rows, step = len(read.table), self._batch_rows
        try:
            feeds = self._bind(read)
            timer.end("bind")
            columns: list[list[pa.Array]] = [[] for _ in self._outputs]
            for start in range(0, num_rows, step):
                arrays = self._run(feeds, start, min(start + step, num_rows))
                for chunks, output, array in zip(columns, self._outputs, arrays, strict=True):
                    chunks.append(to_column(output, array))
                timer.end("session")
        except DataError as error:
            raise _located(error, read) from error
        kept = [read.table.column(name) for name in self._spec.keep]
        scored = [pa.chunked_array(chunks, o.type) for chunks, o in zip(columns, self._outputs, strict=True)]
        return pa.Table.from_arrays([*kept, *scored], schema=self.schema)

    def _bind(self, read: Slice) -> list[tuple[FeedBinding, FeedColumn]]:
        return [(feed, FeedColumn(feed, read.table.column(feed.column))) for feed in self._feeds]

    def _run(self, feeds: list[tuple[FeedBinding, FeedColumn]], start: int, stop: int) -> list[Array]:
        batch = {feed.tensor.name: column.batch(start, stop) for feed, column in feeds}
        num_rows = stop - start
        padding = (self._fixed_rows or num_rows) - num_rows
        if padding:
            batch = {name: np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for name, a in batch.items()}
        try:
            arrays = self._session.run(batch)
        except DataError as error:
            raise DataError(f"rows {start} to {stop} of the slice: {error.message}", start) from error
        for tensor, array in zip(self._session.outputs, arrays, strict=True):
            check_batch_axis(tensor, array, num_rows + padding)
        return [array[:num_rows] for array in arrays] if padding else arrays


def _located(error: DataError, read: Slice) -> DataError:
    """Say in which file and row of it the error lies."""
    return DataError(f"{read.path}, row {read.start_row + (error.row_index or 0)}: {error.message}")


def output_schema(spec: ScoringSpec, outputs: list[OutputColumn]) -> pa.Schema:
    """Return the schema of every part: the kept columns as they are, then the fetches.

    Raises:
        SchemaError: if two columns have one name.
    """
    kept = [spec.read_schema.field(name) for name in spec.keep]
    fields = [*kept, *(pa.field(output.column, output.type) for output in outputs)]
    check_output_names([each.name for each in fields])
    return pa.schema(fields)


def _dictionary_columns(schema: pa.Schema, keep: tuple[str, ...]) -> list[str]:
    """Dictionaries pay for text that repeats; on numbers, and on predictions above all, they only cost time."""
    return [name for name in keep if pa.types.is_string(schema.field(name).type)]
