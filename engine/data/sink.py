"""Encodes the rows of a part as Parquet, and publishes the part whole or not at all.

Rows are gathered to row groups of a size that readers like, whatever slices they came in. How a file gets its name is
the output folder's (`engine.data.storage`). Start at `PartWriter`.
"""

import contextlib
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import writing
from engine.data.storage.folder import OutputFolder, PublishedPart
from engine.errors import SchemaError

VERSION = "2.6"
# Readers skip and share out work by row groups; of an 8 MiB slice of images 55 rows are left, which is no row group.
GROUP_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class EncodingRules:
    """How the call wants parts to be encoded."""

    compression: str = "zstd"
    """Codec of the pages, as Parquet calls it."""
    group_rows: int | None = None
    """Rows of a row group; None for about 8 MiB of them in memory."""
    dictionary: Sequence[str] | None = None
    """Output columns that get dictionaries, `all` or `none`; None for text that is carried along."""

    def settings(self) -> dict[str, Any]:
        """Return what decides the bytes of a part, for the plan."""
        dictionary = "text kept" if self.dictionary is None else self.dictionary
        return {
            "compression": self.compression,
            "row_group_size": self.group_rows or f"{GROUP_BYTES} bytes",
            "dictionary": dictionary if isinstance(dictionary, str) else sorted(dictionary),
            "version": VERSION,
            "statistics": "not of fetched floats",
        }

    def has_dictionary(self, field: pa.Field, is_fetched: bool) -> bool:
        """Whether a column gets a dictionary, which pays for what repeats and costs time on what does not.

        Predictions are float noise: 0.60 s against 0.19 s for 2M x 10 float32 without one.
        """
        match self.dictionary:
            case None:
                return bool(pa.types.is_string(field.type)) and not is_fetched
            case "all" | "none":
                return self.dictionary == "all"
            case names:
                return field.name in names


DEFAULT_RULES = EncodingRules()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a part is encoded; leaf columns by their paths in the Parquet schema."""

    compression: str
    """Codec of the pages."""
    group_rows: int | None
    """Rows of a row group; None for about 8 MiB of them in memory."""
    dictionary: tuple[str, ...]
    """Leaves that get dictionaries, which pay for text that repeats and cost time on numbers."""
    statistics: tuple[str, ...]
    """Leaves whose row groups tell their least and greatest value."""


def choose_encoding(
    schema: pa.Schema,
    fetched: Collection[str],
    rules: EncodingRules = DEFAULT_RULES,
) -> Encoding:
    """Choose how the columns of a part are encoded.

    Fetched floats get no statistics: these leave NaN out, so that DuckDB 2.0 (`isnan(x)`) and pyarrow 26 (`x != 1`)
    would pass over row groups that hold NaN.

    Args:
        schema: all columns of the part.
        fetched: those that the graph gave.
        rules: what the call asks for.

    Raises:
        SchemaError: for a type that Parquet lacks.
    """
    leaves: list[tuple[str, bool, bool]] = []
    for field in schema:
        sink = io.BytesIO()
        try:
            pq.write_table(pa.Table.from_batches([], pa.schema([field])), sink)
        except pa.ArrowException as error:
            raise SchemaError(f"column {field.name!r} ({field.type}): Parquet holds no such column: {error}") from error
        columns = pq.ParquetFile(sink).schema
        for i in range(len(columns)):
            leaf = columns.column(i)
            is_float = leaf.physical_type in ("FLOAT", "DOUBLE") or leaf.logical_type.type == "FLOAT16"
            is_fetched = field.name in fetched
            leaves.append((leaf.path, rules.has_dictionary(field, is_fetched), not (is_float and is_fetched)))
    return Encoding(
        rules.compression,
        rules.group_rows,
        tuple(path for path, has_dictionary, _ in leaves if has_dictionary),
        tuple(path for path, _, has_statistics in leaves if has_statistics),
    )


class PartWriter:
    """One part being written; nothing of it is seen until `publish`."""

    def __init__(self, folder: OutputFolder, name: str, schema: pa.Schema, encoding: Encoding) -> None:
        """Begin the file `name` of `folder`.

        Raises:
            StorageError, JobFailedError: if it cannot be written to.
        """
        self._place = folder.place_of(name)
        self._encoding = encoding
        self._waiting: list[pa.Table] = []
        self._draft = folder.draft(name)
        with contextlib.ExitStack() as undo, writing(self._place):
            undo.callback(self._draft.drop)
            self._writer = pq.ParquetWriter(
                self._draft.file,
                schema,
                compression=encoding.compression,
                version=VERSION,
                use_dictionary=list(encoding.dictionary),
                write_statistics=list(encoding.statistics),
            )
            undo.pop_all()

    def __enter__(self) -> Self:
        """Give the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was not published."""
        with contextlib.suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()
        self._draft.drop()

    def write(self, table: pa.Table) -> None:
        """Append the rows of one slice; they are encoded once there are enough for a row group.

        Raises:
            DataError: for rows that Parquet cannot hold.
            StorageError, JobFailedError: if the storage refuses.
        """
        if not len(table):
            return
        self._waiting.append(table)
        group_rows = self._encoding.group_rows
        if group_rows is None:
            if sum(each.nbytes for each in self._waiting) >= GROUP_BYTES:
                self._encode(pa.concat_tables(self._waiting))
            return
        while sum(map(len, self._waiting)) >= group_rows:
            rows = pa.concat_tables(self._waiting)
            self._encode(rows.slice(0, group_rows))
            self._waiting = [rows.slice(group_rows)]

    def _encode(self, rows: pa.Table) -> None:
        """Write a row group."""
        self._waiting = []
        if len(rows):
            with writing(self._place):
                self._writer.write_table(rows, row_group_size=len(rows))

    def finish(self) -> None:
        """Encode the rows that wait; errors as `write`."""
        if self._waiting:
            self._encode(pa.concat_tables(self._waiting))

    def publish(
        self, metadata: Mapping[str, str], confirm: Callable[[], None], is_twin: Callable[[], bool]
    ) -> PublishedPart:
        """Close the file with `metadata` in its footer and give it its name; see `Draft.publish`.

        Returns:
            The part that lies there: this one, or its twin.

        Raises:
            StorageError, JobFailedError: if the storage refuses.
        """
        self.finish()
        with writing(self._place):
            self._writer.add_key_value_metadata(dict(metadata))
            self._writer.close()
        return self._draft.publish(confirm, is_twin)
