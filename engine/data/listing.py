"""Lists the input files. Holds no pyarrow, so that planning stays light. Start at `list_inputs`."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from engine.errors import PlanError

SUFFIXES = (".parquet", ".parq", ".pq")
DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"
TABLE_FORMATS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "metadata": "Iceberg"}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file as the listing saw it."""

    path: str
    """Absolute path."""
    relative_path: str
    """Path below the folder that was listed, or below the fixed part of a glob."""
    size_bytes: int
    """Size on disk."""
    mtime_ns: int
    """Time of the last change, nanoseconds since 1970."""
    partition: str
    """Its Hive partition folder below the root, `dt=2026-01-01/country=de`; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A whole input file or a byte range of one: a row group belongs to the range that holds its midpoint."""

    path: str
    """Absolute path."""
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


def list_inputs(uris: Sequence[str]) -> tuple[InputFile, ...]:
    """List the files, folders and globs `uris`, sorted by path below their roots.

    Folders are walked; names that begin with `_` or `.` are skipped, and `*.parquet`, `*.parq`, `*.pq` taken.

    Raises:
        PlanError: if one of them yields no file, a file is named twice, or a folder is a table of another format.
    """
    files: dict[str, InputFile] = {}
    for uri in uris:
        found = list(_list_uri(uri))
        if not found:
            raise PlanError(f"--input {uri}: no input files; expected {', '.join('*' + s for s in SUFFIXES)} in it")
        for file in found:
            real = os.path.realpath(file.path)
            if real in files:
                raise PlanError(f"--input {uri}: {file.path} is the same file as {files[real].path}; name it once")
            files[real] = file
    # By the path below its root first, so that renaming a root keeps the order, and with it every shard.
    return tuple(sorted(files.values(), key=lambda file: (file.relative_path, file.path)))


def would_list(uri: str, folder: str) -> bool:
    """Whether what is written to `folder` (which need not exist yet) would become part of the input `uri`."""
    if glob.has_magic(uri) and not os.path.exists(uri):
        if "**" not in uri:
            return any(place.match(uri) for place in (Path(folder), *Path(folder).parents))
        uri = _glob_root(uri)
    if not os.path.isdir(uri):
        return False
    inside, real = os.path.realpath(uri), os.path.realpath(folder)
    return real == inside or real.startswith(inside + os.sep)


def _glob_root(pattern: str) -> str:
    """Return the folder that the fixed part of a glob names."""
    return os.path.dirname(pattern[: min(pattern.index(char) for char in "*?[" if char in pattern)])


def _list_uri(uri: str) -> Iterator[InputFile]:
    path = os.path.abspath(uri)
    if os.path.isdir(path):
        yield from _walk(path, path)
    elif os.path.exists(path):
        yield _input_file(path, os.path.dirname(path))
    elif glob.has_magic(path):
        root = _glob_root(path)
        seen: set[str] = set()  # ** matches folders and the files in them alike
        for match in sorted(glob.iglob(path, recursive=True)):
            is_hidden = any(part.startswith(("_", ".")) for part in Path(match).relative_to(root).parts)
            if not is_hidden:
                found = list(_walk(match, root)) if os.path.isdir(match) else [_input_file(match, root)]
                yield from (file for file in found if file.path not in seen)
                seen.update(file.path for file in found)
        for folder in {os.path.dirname(name) for name in seen}:
            _refuse_table(folder, os.listdir(folder))
    else:
        raise PlanError(f"--input {uri}: no such file or folder")


def _walk(folder: str, root: str) -> Iterator[InputFile]:
    def refuse(error: OSError) -> None:
        raise PlanError(f"--input {folder}: cannot list {error.filename} ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        _refuse_table(place, folders)
        folders[:] = sorted(name for name in folders if not name.startswith(("_", ".")))
        above = os.path.realpath(place) + os.sep
        for name in folders:
            if above.startswith(os.path.realpath(os.path.join(place, name)) + os.sep):
                raise PlanError(f"--input {folder}: {os.path.join(place, name)} links to a folder above itself")
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith(("_", ".")):
                yield _input_file(os.path.join(place, name), root)


def partition_values(folder: str) -> dict[str, str | None]:
    """Return the values of the Hive partitions in a folder's path, by name; None for Hive's default partition."""
    pairs = (part.partition("=") for part in folder.split("/") if "=" in part)
    return {name: None if value == DEFAULT_PARTITION else unquote(value) for name, _, value in pairs}


def _refuse_table(folder: str, names: Sequence[str]) -> None:
    for marker, table_format in TABLE_FORMATS.items():
        is_iceberg = marker != "metadata" or glob.glob(os.path.join(glob.escape(folder), marker, "*.metadata.json"))
        if marker in names and is_iceberg:
            raise PlanError(
                f"--input {folder}: this is a {table_format} table, whose plain listing holds deleted rows; "
                "export a snapshot of it to Parquet first"
            )


def _input_file(path: str, root: str) -> InputFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise PlanError(f"--input {path}: {error.strerror}") from error
    relative = os.path.relpath(path, root)
    partition = "/".join(part for part in Path(relative).parent.parts if "=" in part)
    return InputFile(path, relative, status.st_size, status.st_mtime_ns, partition)
