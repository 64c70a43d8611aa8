"""Files that are read: opened, looked at and listed wherever they lie.

A file is named by its place, which holds no secret; the root below which it lies says how it is reached. Start at
`Storage`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.fs as pafs

from engine.data.arrow_errors import reading
from engine.data.storage.connecting import connected
from engine.data.storage.places import is_local, local_path, place_of, store_of
from engine.data.storage.retrying import persistent

NS_PER_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file has changed."""

    size_bytes: int
    """Size."""
    mtime_ns: int
    """Time of the last change, nanoseconds since 1970; whole seconds where a store keeps it, 0 where none is kept."""


@dataclass(frozen=True, slots=True)
class Root:
    """A folder, bucket or file that was named in the call, and how it is reached."""

    place: str
    """What is shown of it."""
    uri: str = field(repr=False)
    """The URI with the credentials that were given in it."""


def root_of(uri: str) -> Root:
    """Return the root that a URI names."""
    return Root(place_of(uri), uri)


@dataclass(frozen=True, slots=True)
class Storage:
    """How the files of some stores are reached; local paths need none."""

    roots: tuple[Root, ...] = ()
    """What the call names; all else in their stores is reached alike."""

    def reach(self, place: str) -> tuple[pafs.FileSystem, str]:
        """Return the file system of a place, and the path in it."""
        if is_local(place):
            return pafs.LocalFileSystem(), local_path(place)
        store = store_of(place)
        mine = [root for root in self.roots if store_of(root.place) == store] or [root_of(place)]
        root = max(mine, key=lambda each: len(os.path.commonprefix([each.place, place])))
        file_system, path = connected(root.uri)
        if place == root.place:
            return file_system, path  # a file by HTTP keeps its query, which may be a signature
        start = path.rstrip("/").removesuffix(root.place[len(store) :])  # what this file system calls the store
        return file_system, start + place[len(store) :]

    @persistent
    def open(self, place: str) -> pa.NativeFile:
        """Open a file to read anywhere in it.

        Raises:
            DataError: if it is not there, or the store refuses.
            StorageError: if it cannot be read for now.
        """
        file_system, path = self.reach(place)
        with reading(place):
            return file_system.open_input_file(path)

    @persistent
    def open_with_state(self, place: str) -> tuple[pa.NativeFile, FileState]:
        """Open a file, and look how it is; S3 tells both at once. Errors as `open`."""
        file_system, path = self.reach(place)
        with reading(place):
            file = file_system.open_input_file(path)
            told = file.metadata() if isinstance(file_system, pafs.S3FileSystem) else {}
            changed = told.get("Last-Modified")
            if changed is None:
                return file, self.state(place)
            seconds = round(datetime.fromisoformat(changed.decode()).timestamp())
            return file, FileState(file.size(), seconds * NS_PER_SECOND)

    @persistent
    def read(self, place: str) -> bytes:
        """Return a whole file; errors as `open`."""
        file_system, path = self.reach(place)
        with reading(place), file_system.open_input_file(path) as file:
            return bytes(file.readall())

    @persistent
    def state(self, place: str) -> FileState:
        """Look whether a file is there and how it is; errors as `open`."""
        if is_local(place):
            with reading(place):
                status = os.stat(place)
            return FileState(status.st_size, status.st_mtime_ns)
        file_system, path = self.reach(place)
        with reading(place):
            info = file_system.get_file_info(path)
            if info.type is pafs.FileType.NotFound:
                raise FileNotFoundError("no such file")
            return state_of(info)

    @persistent
    def list_files(self, place: str) -> list[tuple[str, FileState]]:
        """Return every file below a folder, by its name below it; errors as `open`."""
        file_system, path = self.reach(place)
        with reading(place):
            found = file_system.get_file_info(pafs.FileSelector(path, recursive=True))
        start = len(path.strip("/")) + 1
        files = (info for info in found if info.type is pafs.FileType.File)
        return [(info.path.lstrip("/")[start:], state_of(info)) for info in files]

    @persistent
    def children(self, place: str) -> list[str]:
        """Return the names of the files right below a folder, sorted; errors as `open`."""
        file_system, path = self.reach(place)
        with reading(place):
            found = file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type is pafs.FileType.File)

    @persistent
    def find(self, place: str) -> pafs.FileType:
        """Return whether a place is a file, a folder or nothing; errors as `open`."""
        file_system, path = self.reach(place)
        with reading(place):
            return file_system.get_file_info(path).type


LOCAL = Storage()


def state_of(info: pafs.FileInfo) -> FileState:
    """Return the state of a file that a store tells of; some listings have fractions of seconds, others none."""
    seconds = None if info.mtime_ns is None else info.mtime_ns // NS_PER_SECOND
    return FileState(int(info.size or 0), (seconds or 0) * NS_PER_SECOND)


def storage_of(uris: Sequence[str]) -> Storage:
    """Return how everything below `uris` is reached."""
    return Storage(tuple(root_of(uri) for uri in uris if not is_local(uri)))
