"""An output folder of an object store, of HDFS, or of whatever fsspec speaks to. Start at `RemoteFolder`."""

import contextlib
import hashlib
import mmap
import tempfile
import uuid
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.fs as pafs

from engine.data.arrow_errors import reading, writing
from engine.data.storage.connecting import SMALL_BYTES, can_rename, connected, is_whole_on_upload
from engine.data.storage.folder import (
    COPY_BYTES,
    JOB_FOLDER,
    TEMPORARY_PREFIX,
    Draft,
    OutputFolder,
    PublishedPart,
    hash_file,
)
from engine.data.storage.places import place_of
from engine.data.storage.retrying import persistent
from engine.errors import DataError, JobFailedError, PlanError

# A small file that is read again and again, as the plan is before each part, is not sent again while it is the same.
REMEMBERED_BYTES = 2**16


class RemoteFolder(OutputFolder):
    """A folder that is reached over the network."""

    def __init__(self, uri: str) -> None:
        """Point at the folder; nothing is read or made yet."""
        self.place = place_of(uri)
        self.is_whole = is_whole_on_upload(uri)
        self.can_rename = can_rename(uri)
        self._uri = uri
        self._path = connected(uri)[1].rstrip("/")
        self._is_s3 = isinstance(self._file_system, pafs.S3FileSystem)
        self._last_read: dict[str, tuple[str, bytes]] = {}
        self._has_folders = not isinstance(self._file_system, pafs.S3FileSystem | pafs.GcsFileSystem)

    @property
    def _file_system(self) -> pafs.FileSystem:
        return connected(self._uri)[0]

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    @persistent
    def read(self, name: str) -> bytes | None:
        """Return a small file; None where there is none."""
        with reading(self.place_of(name)):
            try:
                with self._file_system.open_input_file(self._at(name)) as file:
                    version = _version_of(file) if self._is_s3 else ""
                    if version and self._last_read.get(name, ("",))[0] == version:
                        return self._last_read[name][1]
                    data = bytes(file.readall())
                    if version and len(data) <= REMEMBERED_BYTES:
                        self._last_read[name] = version, data
                    return data
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file: an upload appears when it is complete."""
        self.upload(name, pa.py_buffer(data), lambda: None)

    @persistent
    def upload(self, name: str, data: pa.Buffer, confirm: Callable[[], None]) -> None:
        """Write `data` in one go, once `confirm` has not objected.

        One write: leaving a stream of pyarrow 26 by an exception, or to the garbage collector, completes the upload
        of what was written so far.
        """
        confirm()
        with writing(self.place_of(name)):
            if self._has_folders:
                self._file_system.create_dir(self._at(name).rpartition("/")[0], recursive=True)
            file_system = self._file_system if data.size <= SMALL_BYTES else connected(self._uri, True)[0]
            stream = file_system.open_output_stream(self._at(name))
            try:
                stream.write(data)
            finally:
                stream.close()

    def rename(self, old: str, new: str) -> None:
        """Give a file another name."""
        with writing(self.place_of(new)):
            self._file_system.move(self._at(old), self._at(new))

    @persistent
    def _list(self) -> list[pafs.FileInfo]:
        with reading(self.place):
            selector = pafs.FileSelector(self._path, allow_not_found=True, recursive=True)
            return list(self._file_system.get_file_info(selector))

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of each file."""
        found = self._list()
        start = len(self._path.strip("/")) + 1
        names = [(info.path.lstrip("/")[start:], info) for info in found if info.type is pafs.FileType.File]
        sign = f"/{JOB_FOLDER}/"
        others = tuple({name.partition(sign)[0] + "/" for name, _ in names if sign in name})
        for name, info in names:
            if not name.startswith(others):
                yield name, int(info.size or 0)

    @persistent
    def children(self, name: str = "") -> list[str]:
        """Return the names of the files and folders right below `name`."""
        path = self._at(name).rstrip("/")
        with reading(self.place):
            found = self._file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        return sorted(info.base_name for info in found if info.path.strip("/") != path.strip("/"))

    def make(self) -> None:
        """Make the folder; an object store has none, but a bucket that has to be there."""
        bucket = self._path.partition("/")[0]
        try:
            if self._has_folders:
                self._make_folder()
            elif not self._has_bucket(bucket):
                raise PlanError(f"--output {self.place}: there is no bucket {bucket}; make it first")
        except (DataError, JobFailedError) as error:
            raise PlanError(f"--output {error}") from error

    @persistent
    def _make_folder(self) -> None:
        with writing(self.place):
            self._file_system.create_dir(self._path, recursive=True)

    @persistent
    def _has_bucket(self, bucket: str) -> bool:
        with reading(self.place):
            return self._file_system.get_file_info(bucket).type is not pafs.FileType.NotFound

    @persistent
    def size(self, name: str) -> int | None:
        """Return the size of a file; None where there is none."""
        with reading(self.place_of(name)):
            if self._is_s3:  # one request; `get_file_info` makes sure by a second one that it is no folder
                try:
                    with self._file_system.open_input_file(self._at(name)) as file:
                        return int(file.size())
                except FileNotFoundError:
                    return None
            info = self._file_system.get_file_info(self._at(name))
        return int(info.size or 0) if info.type is pafs.FileType.File else None

    @persistent
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with writing(self.place_of(name)), contextlib.suppress(FileNotFoundError):
            self._file_system.delete_file(self._at(name))

    @persistent
    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read anywhere in it."""
        with reading(self.place_of(name)):
            return self._file_system.open_input_file(self._at(name))

    @persistent
    def hash(self, name: str) -> PublishedPart:
        """Return size and sha-256 of a file; errors as `open`."""
        with reading(self.place_of(name)), self._file_system.open_input_file(self._at(name)) as file:
            digest = hashlib.sha256()
            while block := file.read(COPY_BYTES):  # a request each
                digest.update(block)
            return PublishedPart(file.tell(), digest.hexdigest())

    def draft(self, name: str) -> Draft:
        """Begin a file that will be called `name`."""
        return _UploadedDraft(self, name)


def _version_of(file: pa.NativeFile) -> str:
    """Return what changes with the content of an object of S3; empty where the store does not tell."""
    told = file.metadata()
    return str([told[name] for name in ("ETag", "Last-Modified", "Content-Length")]) if "ETag" in told else ""


class _UploadedDraft(Draft):
    """A nameless local file, of which nothing is left whatever happens, uploaded in one go.

    HDFS gets it under a temporary name first, which is then renamed. Elsewhere a part that appears in the same instant
    would be replaced; it can only be a twin's, or be told by its plan id.
    """

    def __init__(self, folder: RemoteFolder, name: str) -> None:
        self._folder, self._name = folder, name
        parent, _, last = name.rpartition("/")
        temporary = f"{TEMPORARY_PREFIX}{last}-{uuid.uuid4().hex}"
        self._temporary = f"{parent}/{temporary}" if parent else temporary
        with writing(tempfile.gettempdir()):
            self.file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by drop

    def publish(self, confirm: Callable[[], None], is_twin: Callable[[], bool]) -> PublishedPart:
        folder = self._folder
        with writing(tempfile.gettempdir()):
            self.file.flush()
            part = hash_file(self.file)
            data = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ)
        if folder.can_rename:
            folder.upload(self._temporary, pa.py_buffer(data), lambda: None)
        is_taken = folder.size(self._name) is not None
        if is_taken and is_twin():
            return folder.hash(self._name)
        if folder.can_rename:
            confirm()
            if is_taken:
                folder.remove(self._name)
            folder.rename(self._temporary, self._name)
        else:
            folder.upload(self._name, pa.py_buffer(data), confirm)
            self._take_back(confirm, is_twin)
        return part

    def _take_back(self, confirm: Callable[[], None], is_twin: Callable[[], bool]) -> None:
        """Remove a part that arrived after its plan was replaced, unless another job's has replaced it in turn."""
        try:
            confirm()
        except JobFailedError:
            if self._folder.size(self._name) is not None and is_twin():
                self._folder.remove(self._name)
            raise

    def drop(self) -> None:
        with contextlib.suppress(OSError):
            self.file.close()
        if self._folder.can_rename:
            with contextlib.suppress(Exception):
                if self._folder.size(self._temporary) is not None:
                    self._folder.remove(self._temporary)
