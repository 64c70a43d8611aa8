"""Sets bad rows aside: the row as it was read, where it came from, and why it could not be scored.

One file a shard, written before its part and by the same rules: whole or not at all. Start at `Quarantine`.
"""

import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

import pyarrow as pa

from engine.data.faults import Faults
from engine.data.sink import PartWriter, choose_encoding
from engine.data.source import Slice
from engine.data.storage.folder import OutputFolder

FOLDER = "_icefloe/quarantine"
QUARANTINE = re.compile(r"bad-(?:g\d{4,}-)?\d{5,}-of-\d{5,}\.parquet")
REASONS = (
    pa.field("_file", pa.string()),
    pa.field("_row", pa.int64()),
    pa.field("_error", pa.string()),
    pa.field("_message", pa.string()),
)
NUM_SHOWN = 3


def quarantine_name(part: str) -> str:
    """Return the path below the output folder of the quarantine of a part, which is numbered alike."""
    return f"{FOLDER}/bad-{part.rpartition('/')[2].removeprefix('part-')}"


class Quarantine:
    """The bad rows of one shard, being written; without bad rows there is no file."""

    def __init__(self, folder: OutputFolder, name: str, schema: pa.Schema) -> None:
        """Point at the file `name` of `folder`, whose rows have the columns of `schema` and the reasons.

        Columns of the input that are called like the reasons are left out.
        """
        ours = {field.name for field in REASONS}
        self._schema = pa.schema([*(field for field in schema if field.name not in ours), *REASONS])
        self._folder, self._name = folder, name
        self._writer: PartWriter | None = None
        self.num_rows = 0
        """Rows set aside so far."""
        self.shown: list[str] = []
        """The first few of them, in words."""

    def __enter__(self) -> Self:
        """Give the quarantine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was not published."""
        if self._writer is not None:
            self._writer.__exit__(kind, error, trace)

    def write(self, read: Slice, faults: Faults) -> None:
        """Set the bad rows of a slice aside.

        Raises:
            StorageError: if the disk refuses.
        """
        if not len(faults):
            return
        if self._writer is None:
            self._writer = PartWriter(self._folder, self._name, self._schema, choose_encoding(self._schema, ()))
        bad = faults.in_order()
        positions = faults.rows()
        rows = read.table.take(pa.array(positions)) if read.table.num_columns else read.table
        numbers = read.rows[positions]
        columns = {name: rows.column(name) for name in self._schema.names[: -len(REASONS)]}
        columns |= {
            "_file": pa.repeat(pa.scalar(read.relative_path), len(bad)),
            "_row": pa.array(numbers),
            "_error": pa.array([str(each.reason) for each in bad], pa.string()),
            "_message": pa.array([each.message for each in bad], pa.string()),
        }
        self._writer.write(pa.Table.from_arrays(list(columns.values()), schema=self._schema))
        self.num_rows += len(bad)
        for each, number in zip(bad[: NUM_SHOWN - len(self.shown)], numbers, strict=False):
            self.shown.append(f"{read.path}, row {number}: {each.message}")

    def publish(self, facts: Mapping[str, str], confirm: Callable[[], None], has_part: Callable[[], bool]) -> None:
        """Give the file its name; one that a cut-off attempt left behind is replaced, that of a finished twin is not.

        Args:
            facts: what the footer says.
            confirm: raises if the output folder is no longer this job's.
            has_part: whether the shard's part is there already.

        Raises:
            StorageError: if the disk refuses.
        """
        if self._writer is not None:
            self._writer.publish(facts, confirm, has_part)
        elif self._folder.size(self._name) is not None and not has_part():
            self._folder.remove(self._name)
