"""Lists the input files: folders, files and globs, on this machine or in a store. Start at `list_inputs`.

Only names, sizes and times are looked at, which a store tells by the page; no file is opened.
"""

import fnmatch
import glob
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from engine.data.pieces import InputFile, partition_folder
from engine.data.storage.places import is_inside, is_local, place_of
from engine.data.storage.reading import FileState, Storage, storage_of
from engine.errors import DataError, PlanError, system_text

SUFFIXES = (".parquet", ".parq", ".pq")
HIDDEN = ("_", ".")
TABLE_FORMATS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi", "metadata": "Iceberg"}
MAGIC = re.compile("[*?[]")


def list_inputs(uris: Sequence[str]) -> tuple[InputFile, ...]:
    """List the files, folders and globs `uris`, sorted by path below their roots.

    Folders are walked; names that begin with `_` or `.` are skipped, and `*.parquet`, `*.parq`, `*.pq` taken.

    Raises:
        PlanError: if one of them yields no file, a file is named twice, or a folder is a table of another format.
    """
    files: dict[str, InputFile] = {}
    for uri in uris:
        num_before = len(files)
        for real, file in _list_local(uri) if is_local(uri) else _list_remote(uri):
            twin = files.setdefault(real, file)
            if twin is not file:
                raise PlanError(f"--input {place_of(uri)}: {file.path} is the same file as {twin.path}; name it once")
        if len(files) == num_before:
            suffixes = ", ".join("*" + suffix for suffix in SUFFIXES)
            raise PlanError(f"--input {place_of(uri)}: no input files; expected {suffixes} in it")
    # By the path below its root first, so that renaming a root keeps the order, and with it every shard.
    return tuple(sorted(files.values(), key=lambda file: (file.relative_path, file.path)))


def would_list(uri: str, folder: str) -> bool:
    """Whether what is written to the place `folder` (which need not exist yet) would become part of the input `uri`."""
    if is_local(uri) != is_local(folder):
        return False
    if not is_local(uri):
        place = place_of(uri)
        return is_inside(folder, _glob_root(place) if MAGIC.search(place) else place)
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
    found = MAGIC.search(pattern)
    return os.path.dirname(pattern[: found.start()] if found else pattern)


def is_hidden(name: str) -> bool:
    """Whether a file or one of the folders on the way to it begins with `_` or `.`."""
    return any(part.startswith(HIDDEN) for part in name.split("/"))


def _list_local(uri: str) -> Iterator[tuple[str, InputFile]]:
    """Yield the files of a local input, each with its real path, by which two names of one file are told."""
    path = os.path.abspath(uri)
    if os.path.isdir(path):
        yield from _walk(path, path)
    elif os.path.exists(path):
        yield _input_file(path, os.path.dirname(path))
    elif glob.has_magic(path):
        root = _glob_root(path)
        seen: set[str] = set()  # ** matches folders and the files in them alike
        for match in sorted(glob.iglob(path, recursive=True)):
            if not is_hidden(os.path.relpath(match, root)):
                found = _walk(match, root) if os.path.isdir(match) else [_input_file(match, root)]
                for real, file in found:
                    if file.path not in seen:
                        seen.add(file.path)
                        yield real, file
        for folder in {os.path.dirname(name) for name in seen}:
            _refuse_local_table(folder, os.listdir(folder))
    else:
        raise PlanError(f"--input {uri}: no such file or folder")


def _walk(folder: str, root: str) -> Iterator[tuple[str, InputFile]]:
    def refuse(error: OSError) -> None:
        raise PlanError(f"--input {folder}: cannot list {error.filename} ({system_text(error)})")

    for place, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        _refuse_local_table(place, folders)
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN))
        real = os.path.realpath(place)
        for name in folders:
            if (real + os.sep).startswith(os.path.realpath(os.path.join(place, name)) + os.sep):
                raise PlanError(f"--input {folder}: {os.path.join(place, name)} links to a folder above itself")
        below = os.path.relpath(place, root)
        start = "" if below == "." else below + os.sep
        partition = partition_folder(below)
        for name in names:
            if name.endswith(SUFFIXES) and not name.startswith(HIDDEN):
                path = os.path.join(place, name)
                status = _stat(path)
                is_link = status is not None and os.path.islink(path)
                yield (
                    os.path.realpath(path) if is_link else real + os.sep + name,
                    InputFile(path, start + name, status.st_size, status.st_mtime_ns, partition),
                )


def _input_file(path: str, root: str) -> tuple[str, InputFile]:
    status, relative = _stat(path), os.path.relpath(path, root)
    partition = partition_folder(os.path.dirname(relative))
    return os.path.realpath(path), InputFile(path, relative, status.st_size, status.st_mtime_ns, partition)


def _stat(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise PlanError(f"--input {path}: {system_text(error)}") from error


def _refuse_local_table(folder: str, names: Collection[str]) -> None:
    for marker in TABLE_FORMATS.keys() & set(names):
        if marker != "metadata" or glob.glob(os.path.join(glob.escape(folder), marker, "*.metadata.json")):
            _refuse_table(folder, marker)


def _refuse_table(folder: str, marker: str) -> None:
    raise PlanError(
        f"--input {folder}: this is a {TABLE_FORMATS[marker]} table, whose plain listing holds deleted rows; "
        "export a snapshot of it to Parquet first"
    )


def _list_remote(uri: str) -> Iterator[tuple[str, InputFile]]:
    """Yield the files of an input in a store, each with its place."""
    place, storage = place_of(uri), storage_of([uri])
    try:
        yield from ((file.path, file) for file in _list_place(place, storage))
    except DataError as error:
        raise PlanError(f"--input {error.message}") from error


def _list_place(place: str, storage: Storage) -> Iterator[InputFile]:
    found = storage.find(place)
    if found.name == "File":
        root = os.path.dirname(place)
        yield _remote_file(place, root, storage.state(place))
    elif found.name == "Directory":
        yield from _choose(storage.list_files(place), place)
    elif MAGIC.search(place):
        root = _glob_root(place)
        patterns = place[len(root) + 1 :].split("/")
        matched = (each for each in storage.list_files(root) if _matches(each[0].split("/"), patterns))
        yield from _choose(matched, root)
    else:
        raise PlanError(f"--input {place}: no such file or folder")


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a glob means a file, by its own name or that of a folder above it; `**` means any folders."""
    if not patterns:
        return True
    if patterns[0] == "**":
        return any(_matches(parts[start:], patterns[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])


def _choose(files: Iterable[tuple[str, FileState]], root: str) -> Iterator[InputFile]:
    """Yield those of the files below `root` that are inputs."""
    for name, state in files:
        folder, _, last = name.rpartition("/")
        for marker in TABLE_FORMATS:
            is_metadata = marker != "metadata" or last.endswith(".metadata.json")
            if is_metadata and f"/{marker}/" in f"/{folder}/":
                _refuse_table(f"{root}/{folder.partition(marker)[0]}".rstrip("/"), marker)
        if last.endswith(SUFFIXES) and not is_hidden(name):
            yield _remote_file(f"{root}/{name}", root, state)


def _remote_file(place: str, root: str, state: FileState) -> InputFile:
    relative = place[len(root) + 1 :]
    partition = partition_folder(os.path.dirname(relative))
    return InputFile(place, relative, state.size_bytes, state.mtime_ns, partition)
