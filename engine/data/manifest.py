"""What a part says of itself in its footer, and the row that the manifest has of it.

A footer holds nothing that differs between two runs of one plan. Start at `PartFacts` and `describe_part`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.storage.folder import OutputFolder, PublishedPart
from engine.data.storage.retrying import persistent
from engine.errors import DataError, PlanError

METADATA_KEY = "icefloe"


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows of a part; `rows_in` is the sum of the other three."""

    rows_in: int = 0
    """Input rows looked at."""
    rows: int = 0
    """Rows written."""
    rows_quarantined: int = 0
    """Rows set aside with a reason."""
    rows_filtered: int = 0
    """Rows left out by a condition."""

    def __add__(self, other: "RowCounts") -> "RowCounts":
        """Add the rows of another part."""
        return RowCounts(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(RowCounts)))

    @property
    def is_complete(self) -> bool:
        """Whether every row is accounted for."""
        return self.rows_in == self.rows + self.rows_quarantined + self.rows_filtered


@dataclass(frozen=True, slots=True)
class PartFacts:
    """What a part's footer says of it: nothing that differs between two runs of one plan."""

    plan_id: str
    """Plan that it belongs to."""
    shard_id: int
    """Position in the plan."""
    sources: str
    """JSON: the input files, below their roots, and byte ranges that it was made of."""
    counts: RowCounts
    """What became of its rows."""
    odd_values: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """NaN and Inf values in it, by output column."""

    def to_metadata(self) -> dict[str, str]:
        """Return the facts as a footer holds them."""
        facts = {**asdict(self), **asdict(self.counts), "sources": json.loads(self.sources)}
        del facts["counts"]
        return {METADATA_KEY: json.dumps(facts, sort_keys=True)}


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One part as the manifest lists it."""

    part: str
    """Path below the output folder."""
    shard_id: int
    """Position in the plan."""
    sources: str
    """JSON: the input files and byte ranges that it was made of."""
    rows_in: int
    """Input rows read."""
    rows: int
    """Rows written."""
    rows_quarantined: int
    """Rows set aside with a reason."""
    rows_filtered: int
    """Rows left out by a condition."""
    odd_values: str
    """JSON: NaN and Inf values in it, by output column."""
    bytes: int
    """Size of the part."""
    sha256: str
    """Hash of the part."""
    attempts: int | None
    """Attempts that this run needed; None for a part of an earlier run."""
    seconds: float | None
    """Seconds from read to commit; None for a part of an earlier run."""

    @property
    def counts(self) -> RowCounts:
        """What became of its rows."""
        return RowCounts(self.rows_in, self.rows, self.rows_quarantined, self.rows_filtered)


MANIFEST_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("shard_id", pa.int64()),
        ("sources", pa.string()),
        ("rows_in", pa.int64()),
        ("rows", pa.int64()),
        ("rows_quarantined", pa.int64()),
        ("rows_filtered", pa.int64()),
        ("odd_values", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def read_small(file: pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a small Parquet file in this thread alone.

    `pq.read_table` is pyarrow's dataset reader, some threads of which are still at work when it returns: a process that
    ended just then was aborted (pyarrow 26).
    """
    return pq.ParquetFile(file, pre_buffer=False).read(columns, use_threads=False)


@persistent
def read_part_facts(folder: OutputFolder, name: str) -> PartFacts:
    """Return what the footer of the part `name` says.

    Raises:
        PlanError: if no job of ours wrote the file.
        DataError: if it is damaged.
    """
    place = folder.place_of(name)
    with folder.open(name) as file, reading(place):
        metadata = pq.read_metadata(file).metadata or {}
    return parse_part_facts(place, metadata)


def parse_part_facts(place: str, metadata: Mapping[bytes, bytes]) -> PartFacts:
    """Return what the metadata in the footer of the part at `place` say.

    Raises:
        PlanError: if no job of ours wrote the file.
    """
    try:
        facts = json.loads(metadata[METADATA_KEY.encode()])
        counts = RowCounts(*(facts[name] for name in ("rows_in", "rows", "rows_quarantined", "rows_filtered")))
        odd_values = {column: (nan, inf) for column, (nan, inf) in facts["odd_values"].items()}
        sources = json.dumps(facts["sources"], sort_keys=True)
        return PartFacts(facts["plan_id"], facts["shard_id"], sources, counts, odd_values)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise PlanError(f"{place} has a part's name, but no job of ours wrote it; move it away") from error


def parse_manifest(place: str, table: pa.Table) -> list[ManifestRow]:
    """Return the rows of the manifest at `place`, as those of an earlier run.

    Raises:
        DataError: if it is something else.
    """
    optional = ("attempts", "seconds")
    has_nulls = any(table[name].null_count for name in table.column_names if name not in optional)
    if not table.schema.equals(MANIFEST_SCHEMA) or has_nulls:
        raise DataError(f"{place} is no manifest; expected {', '.join(MANIFEST_SCHEMA.names)}")
    return [ManifestRow(**{**row, **dict.fromkeys(optional)}) for row in table.to_pylist()]


def manifest_row(
    name: str, facts: PartFacts, part: PublishedPart, attempts: int | None, seconds: float | None
) -> ManifestRow:
    """Return the manifest's row of a part."""
    return ManifestRow(
        part=name,
        shard_id=facts.shard_id,
        sources=facts.sources,
        **asdict(facts.counts),
        odd_values=json.dumps(facts.odd_values, sort_keys=True),
        bytes=part.num_bytes,
        sha256=part.sha256,
        attempts=attempts,
        seconds=seconds,
    )


def describe_part(folder: OutputFolder, name: str) -> ManifestRow:
    """Return the manifest's row of a part of an earlier run, from its footer and bytes."""
    return manifest_row(name, read_part_facts(folder, name), folder.hash(name), None, None)
