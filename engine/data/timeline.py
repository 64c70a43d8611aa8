"""What happened when, and on which actor: the rows of `_icefloe/timeline.parquet`, one for each span of time.

Runs of one job are kept one after another, so that a report tells of those that were cut off, too. Times of a run count
from its beginning. Start at `Span`.
"""

import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.storage.folder import JOB_FOLDER, OutputFolder
from engine.errors import DataError

TIMELINE = f"{JOB_FOLDER}/timeline.parquet"
RUN, LOAD, READY, ATTEMPT = "run", "load", "ready", "attempt"
ROWS_AT_ONCE = 65_536
OK, FAILED, LOST, CANCELLED, INTERRUPTED, RUNNING = "done", "failed", "lost", "cancelled", "interrupted", "running"


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time: of a run, of an actor that loads or is ready, or of an attempt at a shard."""

    plan_id: str
    """Plan that was run."""
    run: float
    """When the run began, in seconds since 1970; the same for all spans of a run."""
    kind: str
    """run; load (from asked for to loaded); ready (from loaded to given back); or attempt (at a shard)."""
    start_seconds: float
    """When it began, from the beginning of the run."""
    stop_seconds: float
    """When it ended; as of the moment of writing where it goes on."""
    outcome: str
    """done, failed, lost (with its actor), cancelled (another attempt was first), interrupted, or running."""
    worker_id: int = -1
    """The actor's number in this run; -1 for a run."""
    node: str = ""
    """The actor's host name, or its node's id as far as that is known."""
    shard_id: int = -1
    """The shard of an attempt; else -1."""
    attempt: int = 0
    """How many attempts the shard has had with this one; 0 for what is no attempt."""
    is_backup: bool = False
    """Whether the attempt is the second one of a straggler, beside its first."""
    message: str = ""
    """Why it failed or was lost."""
    rows: int = 0
    """Rows that a done attempt wrote; for a run, its rows."""
    rows_quarantined: int = 0
    """Rows that a done attempt set aside."""
    bytes: int = 0
    """Input bytes of the attempt's shard."""
    read_seconds: float = 0.0
    """Seconds of a done attempt spent reading. Phases lie anywhere in the attempt, in turns."""
    wait_seconds: float = 0.0
    """Seconds waiting for its turn at the CPU."""
    bind_seconds: float = 0.0
    """Seconds converting columns."""
    session_seconds: float = 0.0
    """Seconds inside the session."""
    write_seconds: float = 0.0
    """Seconds encoding and writing."""


_TYPES: dict[Any, pa.DataType] = {str: pa.string(), float: pa.float64(), int: pa.int64(), bool: pa.bool_()}
TIMELINE_SCHEMA = pa.schema([(each.name, _TYPES[each.type]) for each in fields(Span)])


def read_timeline_table(folder: OutputFolder) -> pa.Table | None:
    """Return the timeline of an output folder; None where there is none, or none that this engine can read.

    Raises:
        StorageError: if it cannot be read for now.
    """
    data = folder.read(TIMELINE)
    try:
        return None if data is None else pa.Table.from_batches(_batches(data, folder), TIMELINE_SCHEMA)
    except DataError:
        return None


def read_timeline(folder: OutputFolder) -> list[Span]:
    """Return the spans of an output folder, one run after another; none where nothing was kept."""
    data, spans = folder.read(TIMELINE), list[Span]()
    try:
        for batch in () if data is None else _batches(data, folder):
            spans += [Span(*row) for row in zip(*map(_values, batch.columns), strict=True)]
    except DataError:
        return []
    return spans


def _batches(data: bytes, folder: OutputFolder) -> Iterator[pa.RecordBatch]:
    """Decode a timeline bit by bit: that of a million shards takes 200 MB at once.

    Raises:
        DataError: if this engine cannot read it.
    """
    place = folder.place_of(TIMELINE)
    with reading(place):
        parquet = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
        if not parquet.schema_arrow.equals(TIMELINE_SCHEMA):
            raise DataError(f"{place}: it is no timeline of this engine")
        yield from parquet.iter_batches(ROWS_AT_ONCE, use_threads=False)


def _values(column: pa.Array) -> list[Any]:
    """Return the values of a column, equal texts as one: a million spans would hold five million otherwise."""
    if not pa.types.is_string(column.type):
        return list(column.to_pylist())
    codes = column.dictionary_encode()
    texts = [None if text is None else sys.intern(text) for text in codes.dictionary.to_pylist()]
    return [None if code is None else texts[code] for code in codes.indices.to_pylist()]


def write_timeline(folder: OutputFolder, spans: Sequence[Span], earlier: pa.Table | None = None) -> None:
    """Replace the timeline of an output folder: that of `earlier` runs, and the spans of this one.

    Raises:
        StorageError: if it cannot be written.
    """
    columns = [pa.array([getattr(span, each.name) for span in spans], each.type) for each in TIMELINE_SCHEMA]
    table = pa.table(columns, schema=TIMELINE_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table if earlier is None else pa.concat_tables([earlier, table]), sink)
    folder.write(TIMELINE, sink.getvalue())
