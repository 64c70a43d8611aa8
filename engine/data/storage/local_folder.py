"""An output folder on a file system of this machine, a mounted one too. Start at `LocalFolder`."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from engine.data.arrow_errors import reading, writing
from engine.data.storage.folder import JOB_FOLDER, TEMPORARY_PREFIX, Draft, OutputFolder, PublishedPart, hash_file
from engine.errors import PlanError, system_text


class LocalFolder(OutputFolder):
    """A folder of this machine."""

    def __init__(self, path: str) -> None:
        """Point at the folder; nothing is read or made yet."""
        self.place = path
        self.root = Path(path)

    def read(self, name: str) -> bytes | None:
        """Return a small file; None where there is none.

        Raises:
            PlanError: if the folder is a file.
        """
        path = self.root / name
        with reading(str(path)):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None
            except NotADirectoryError:
                raise PlanError(f"{self.place}: expected a folder, found a file") from None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file so that readers see the old one or the new one, never a part of it."""
        write_whole(self.root / name, data)

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of each file."""

        def refuse(error: OSError) -> None:
            if error.filename != str(self.root) or not isinstance(error, FileNotFoundError):
                raise error

        with reading(self.place):
            for place, folders, names in os.walk(self.root, onerror=refuse):
                folders[:] = [name for name in folders if not os.path.exists(os.path.join(place, name, JOB_FOLDER))]
                for name in names:
                    path = os.path.join(place, name)
                    with contextlib.suppress(FileNotFoundError):  # a temporary file that is gone by now
                        yield os.path.relpath(path, self.root), os.stat(path).st_size

    def children(self, name: str = "") -> list[str]:
        """Return the names of the files and folders right below `name`."""
        with reading(self.place):
            try:
                return sorted(os.listdir(self.root / name))
            except FileNotFoundError:
                return []

    def make(self) -> None:
        """Make the folder, unless it is there."""
        try:
            (self.root / JOB_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(f"--output {self.place}: cannot make this folder ({system_text(error)})") from error

    def size(self, name: str) -> int | None:
        """Return the size of a file; None where there is none."""
        with reading(self.place_of(name)):
            try:
                found = (self.root / name).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and its folder where nothing else is in it."""
        path = self.root / name
        with writing(str(path)):
            path.unlink(missing_ok=True)
        if path.parent not in (self.root, self.root / JOB_FOLDER):
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read anywhere in it."""
        with reading(self.place_of(name)):
            return pa.OSFile(str(self.root / name))

    def draft(self, name: str) -> Draft:
        """Begin a file that will be called `name`."""
        path = self.root / name
        with writing(str(path)):
            if not self.root.is_dir():  # a folder that vanished is not made again by a late actor
                raise FileNotFoundError(errno.ENOENT, "the output folder is gone")
            path.parent.mkdir(parents=True, exist_ok=True)
        return _LinkedDraft(path)


class _LinkedDraft(Draft):
    """A file with a temporary name in the same folder; published by a link, which never replaces a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex}")
        with writing(str(path)):
            self.file = self._temporary.open("w+b")

    def publish(self, confirm: Callable[[], None], is_twin: Callable[[], bool]) -> PublishedPart:
        with writing(str(self._path)):
            self.file.flush()
            os.fsync(self.file.fileno())
            part = hash_file(self.file)
            self.file.close()
            confirm()
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                if is_twin():
                    with self._path.open("rb") as twin:
                        return hash_file(twin)
                confirm()
                self._path.unlink(missing_ok=True)
                os.link(self._temporary, self._path)
            sync_folder(self._path.parent)
            return part

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that readers see the old one or the new one, never a part of it.

    Raises:
        StorageError, JobFailedError: if the storage refuses.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}")
    with writing(str(path)):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
