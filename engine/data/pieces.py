"""What a job reads, as values: input files, ranges of them, and the partitions that their folders name.

Pure, and free of pyarrow, so that planning stays light. Start at `InputFile` and `Piece`.
"""

from dataclasses import dataclass
from urllib.parse import unquote

from engine.errors import DataError

DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as the listing saw it."""

    path: str
    """Absolute path, or URI without credentials."""
    relative_path: str
    """Path below the folder that was listed, or below the fixed part of a glob."""
    size_bytes: int
    """Size on disk."""
    mtime_ns: int
    """Time of the last change, nanoseconds since 1970; in stores whole seconds."""
    partition: str
    """Its Hive partition folder below the root, `dt=2026-01-01/country=de`; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A whole input file or a byte range of one: a row group belongs to the range that holds its midpoint."""

    path: str
    """Absolute path, or URI without credentials."""
    relative_path: str
    """Path below the folder that was listed; what a part says of its source."""
    size_bytes: int
    """Size when it was listed; compared when the file is opened."""
    mtime_ns: int
    """Time of the last change when it was listed; compared when the file is opened."""
    start_byte: int
    """First byte of the range."""
    stop_byte: int
    """End of the range, not in it."""
    stop_row: int | None
    """Rows of the file from this one on are left out (--limit); None for no limit."""


def check_unchanged(piece: Piece, size_bytes: int, mtime_ns: int) -> None:
    """Compare a file as it is with what the listing said.

    Raises:
        DataError: if it differs.
    """
    if (size_bytes, mtime_ns) != (piece.size_bytes, piece.mtime_ns):
        how = "touched, same size" if size_bytes == piece.size_bytes else f"now {size_bytes} bytes"
        raise DataError(f"{piece.path} changed since the job was planned: {piece.size_bytes} bytes then, {how}")


def partition_folder(folder: str) -> str:
    """Return the Hive partition folders in a folder's path below its root."""
    return "/".join(part for part in folder.split("/") if "=" in part)


def partition_values(folder: str) -> dict[str, str | None]:
    """Return the values of the Hive partitions in a folder's path, by name; None for Hive's default partition."""
    pairs = (part.partition("=") for part in folder.split("/") if "=" in part)
    return {name: None if value == DEFAULT_PARTITION else unquote(value) for name, _, value in pairs}
