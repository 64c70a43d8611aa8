"""What a part says of itself in its footer, and the row that the manifest has of it.

A footer holds nothing that differs between two runs of one plan. Start at `part_metadata` and `describe_part`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.sink import hash_file
from engine.errors import PlanError

METADATA_KEY = "icefloe"


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
    bytes: int
    """Size of the part."""
    sha256: str
    """Hash of the part."""
    attempts: int | None
    """Attempts that this run needed; None for a part of an earlier run."""
    seconds: float | None
    """Seconds from read to commit; None for a part of an earlier run."""


MANIFEST_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("shard_id", pa.int64()),
        ("sources", pa.string()),
        ("rows_in", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def part_metadata(plan_id: str, shard_id: int, sources: str, rows_in: int, rows: int) -> dict[str, str]:
    """Return what a part's footer says of it: nothing that differs between two runs of one plan."""
    facts = {"plan_id": plan_id, "shard_id": shard_id, "sources": json.loads(sources), "rows_in": rows_in, "rows": rows}
    return {METADATA_KEY: json.dumps(facts, sort_keys=True)}


def read_part_facts(path: Path) -> dict[str, Any]:
    """Return what `part_metadata` put into a part's footer.

    Raises:
        PlanError: if no job of ours wrote the file.
        DataError: if it is damaged.
    """
    with reading(str(path)):
        metadata = pq.read_metadata(path).metadata or {}
    try:
        facts = json.loads(metadata[METADATA_KEY.encode()])
        return {name: facts[name] for name in ("plan_id", "shard_id", "sources", "rows_in", "rows")}
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(f"{path} has a part's name, but no job of ours wrote it; move it away") from error


def describe_part(root: Path, name: str) -> ManifestRow:
    """Return the manifest's row of a part of an earlier run, from its footer and bytes."""
    path = root / name
    facts = read_part_facts(path)
    with reading(str(path)):
        part = hash_file(path)
    sources = json.dumps(facts["sources"], sort_keys=True)
    return ManifestRow(
        name, facts["shard_id"], sources, facts["rows_in"], facts["rows"], part.num_bytes, part.sha256, None, None
    )
