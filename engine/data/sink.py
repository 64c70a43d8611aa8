"""Writes parts whole or not at all.

A part is written under a temporary name in its own folder, flushed to disk, then linked to its final name, which
never replaces a part of the same plan. Start at `PartWriter`.
"""

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DataError, SchemaError, StorageError

TEMPORARY_PREFIX = ".icefloe-"
# Predictions are float noise: dictionary encoding only costs (0.60 s against 0.19 s for 2M x 10 float32).
ENCODING = {
    "compression": "snappy",
    "version": "2.6",
    "dictionary": "kept columns only",
    "statistics": "not of fetched floats",
}


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """A part as it lies in the output folder."""

    num_bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file's bytes, hexadecimal."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """Which leaf columns of a part are encoded how; leaves by their paths in the Parquet schema."""

    dictionary: tuple[str, ...]
    """Leaves that get dictionaries, which pay for text that repeats and cost time on numbers."""
    statistics: tuple[str, ...]
    """Leaves whose row groups tell their least and greatest value."""


def choose_encoding(schema: pa.Schema, fetched: Collection[str]) -> Encoding:
    """Choose how the columns of a part are encoded.

    Fetched floats get no statistics: these leave NaN out, so that DuckDB 2.0 (`isnan(x)`) and pyarrow 26 (`x != 1`)
    would pass over row groups that hold NaN.

    Args:
        schema: all columns of the part.
        fetched: those that the graph gave; of these text gets no dictionary.

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
            has_dictionary = pa.types.is_string(field.type) and field.name not in fetched
            leaves.append((leaf.path, has_dictionary, not (is_float and field.name in fetched)))
    return Encoding(
        tuple(path for path, has_dictionary, _ in leaves if has_dictionary),
        tuple(path for path, _, has_statistics in leaves if has_statistics),
    )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn refusals into errors that name the file and the cause: of rows a DataError, of the disk a StorageError."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: these rows cannot be written: {error}") from error
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that readers see the old one or the new one, never a part of it."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


class PartWriter:
    """One part being written; nothing of it is seen until `publish`."""

    def __init__(self, path: Path, schema: pa.Schema, encoding: Encoding) -> None:
        """Open a temporary file beside `path`.

        Raises:
            StorageError: if the folder cannot be written to.
        """
        self._path = path
        self._temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex}")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
            try:
                self._writer = pq.ParquetWriter(
                    self._file,
                    schema,
                    compression=ENCODING["compression"],
                    version=ENCODING["version"],
                    use_dictionary=list(encoding.dictionary),
                    write_statistics=list(encoding.statistics),
                )
            except BaseException:
                self._file.close()
                self._temporary.unlink()
                raise

    def __enter__(self) -> Self:
        """Give the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop what was not published."""
        with contextlib.suppress(OSError, pa.ArrowException):
            self._writer.close()
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, table: pa.Table) -> None:
        """Append the rows of one slice as one row group.

        Raises:
            StorageError: if the disk refuses.
        """
        with writing(self._path):
            if len(table):
                self._writer.write_table(table, row_group_size=len(table))

    def publish(
        self, metadata: Mapping[str, str], confirm: Callable[[], None], is_twin: Callable[[Path], bool]
    ) -> PublishedPart:
        """Close the file with `metadata` in its footer and give it its final name.

        Args:
            metadata: what the footer says of the part.
            confirm: raises if the output folder is no longer this job's; called just before the name is given.
            is_twin: whether a part that is there already is of the same plan. Such a one is left as it is; another
                is what a late actor of a discarded job left behind, and goes.

        Returns:
            The part that lies there: this one, or its twin.

        Raises:
            StorageError: if the disk refuses.
        """
        with writing(self._path):
            self._writer.add_key_value_metadata(dict(metadata))
            self._writer.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            part = hash_file(self._temporary)
            confirm()
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                if is_twin(self._path):
                    return hash_file(self._path)
                confirm()
                self._path.unlink()
                os.link(self._temporary, self._path)
            _sync_folder(self._path.parent)
            return part


def hash_file(path: Path) -> PublishedPart:
    """Return size and sha-256 of a file."""
    with path.open("rb") as file:
        return PublishedPart(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
