"""The output folder wherever it lies: small files read and replaced, parts published whole or not at all.

A *draft* is a file being written that no reader takes for a part. Where a file can appear under its name at once, the
draft lies beside it; elsewhere it is a nameless local file, uploaded when it is complete. Start at `OutputFolder`.
"""

import abc
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from engine.data.arrow_errors import reading
from engine.data.storage.places import below

TEMPORARY_PREFIX = ".icefloe-"
JOB_FOLDER = "_icefloe"
COPY_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class PublishedPart:
    """A part as it lies in the output folder."""

    num_bytes: int
    """Size of the file."""
    sha256: str
    """Hash of the file's bytes, hexadecimal."""


class Draft(abc.ABC):
    """A file being written; nothing of it is seen until `publish`."""

    file: io.BufferedRandom
    """Where its bytes go."""

    @abc.abstractmethod
    def publish(self, confirm: Callable[[], None], is_twin: Callable[[], bool]) -> PublishedPart:
        """Give the file its name.

        Args:
            confirm: raises if the output folder is no longer this job's; called just before the name is given.
            is_twin: whether the file that has the name already is as good as this one; it then stays as it is, another
                is what a late actor of a discarded job left behind, and goes.

        Returns:
            What lies there now: this file, or its twin.

        Raises:
            StorageError, JobFailedError: if the storage refuses.
        """

    @abc.abstractmethod
    def drop(self) -> None:
        """Forget the file, unless it was published; never raises."""


class OutputFolder(abc.ABC):
    """A folder that a job writes to; names are below it, with `/`."""

    place: str
    """What messages call it."""
    is_whole: bool = True
    """Whether a file under its name is always whole: publishing that is cut off leaves nothing behind."""

    @abc.abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a small file; None where there is none."""

    @abc.abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a small file so that readers see the old one or the new one, never a part of it."""

    @abc.abstractmethod
    def files(self) -> Iterator[tuple[str, int]]:
        """Yield name and size of each file, unsorted; the outputs of other jobs below this one are not ours."""

    @abc.abstractmethod
    def children(self, name: str = "") -> list[str]:
        """Return the names of the files and folders right below `name`, sorted; none where that is not there."""

    @abc.abstractmethod
    def make(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            PlanError: if it cannot be.
        """

    @abc.abstractmethod
    def size(self, name: str) -> int | None:
        """Return the size of a file; None where there is none."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there, and its folder where nothing else is in it."""

    @abc.abstractmethod
    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read anywhere in it."""

    @abc.abstractmethod
    def draft(self, name: str) -> Draft:
        """Begin a file that will be called `name`."""

    def place_of(self, name: str) -> str:
        """Return what messages call a file of this folder."""
        return below(self.place, name)

    def hash(self, name: str) -> PublishedPart:
        """Return size and sha-256 of a file; errors as `open`."""
        with self.open(name) as file, reading(self.place_of(name)):
            return hash_stream(file)


def hash_stream(file: pa.NativeFile | io.BufferedIOBase) -> PublishedPart:
    """Return size and sha-256 of what is left of a local file."""
    digest = hashlib.file_digest(file, "sha256")
    return PublishedPart(file.tell(), digest.hexdigest())


def hash_file(file: io.BufferedIOBase) -> PublishedPart:
    """Return size and sha-256 of an open file, which is left at its end."""
    file.seek(0)
    return hash_stream(file)
