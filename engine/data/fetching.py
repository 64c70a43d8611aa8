"""Fetches from stores what a shard will read next, so that their latency is hidden behind what is computed.

Threads of a shard bring bytes and never decode them: they open its next files, and fetch the row groups of the slices
to come as far as `FETCH_BYTES` go. Decoding is left to the shard's own thread, which reads from memory. Start at
`Fetcher`.
"""

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.pieces import Piece, check_unchanged
from engine.data.row_groups import largest_group_bytes
from engine.data.storage.places import is_local
from engine.data.storage.reading import Storage

# So many bytes of a shard are held or under way at a time; a larger row group is read through buffers of that size.
FETCH_BYTES, FETCH_BUFFER_BYTES = 64 * 2**20, 8 * 2**20
# The end of a file comes with one request, in which most footers are; a small file comes whole.
TAIL_BYTES, WHOLE_BYTES = 2**16, 4 * 2**20
FILES_AHEAD = 4
# AWS advises ranges of 8 to 16 MB, and a request at a time for each 85 to 90 MB/s that is wanted of S3.
BLOCK_BYTES, NUM_THREADS = 16 * 2**20, 6
AHEAD_BYTES = FETCH_BYTES + FILES_AHEAD * WHOLE_BYTES
"""The most bytes of a shard that are held at a time, row groups above `FETCH_BYTES` apart."""

Idle = Callable[[], contextlib.AbstractContextManager[None]]
Range = tuple[int, int]
Plan = Callable[[Piece, pq.FileMetaData], Sequence[Sequence[Range]]]


@dataclass(slots=True)
class _Held:
    """Bytes `start` to `stop` of a file, or what brings them."""

    start: int
    stop: int
    buffer: pa.Buffer
    blocks: list[Future[None]] = field(default_factory=list)


class RemoteFile:
    """A file in a store as pyarrow reads Python's: from memory what was fetched, the rest by a request each."""

    closed = False

    def __init__(self, piece: Piece, storage: Storage, plan: Plan, pool: ThreadPoolExecutor) -> None:
        """Open the file, with its footer; it has to be as it was listed.

        Raises:
            DataError: if it changed, is not there, or is no Parquet file.
            StorageError: if it cannot be read for now.
        """
        self.idle: Idle = contextlib.nullcontext
        """What is entered while the reader waits for the store."""
        self._piece, self._storage, self._pool = piece, storage, pool
        self._file, state = storage.open_with_state(piece.path)
        check_unchanged(piece, state.size_bytes, state.mtime_ns)
        self._size, self._position = state.size_bytes, 0
        length = self._size if self._size <= WHOLE_BYTES else min(self._size, TAIL_BYTES)
        with reading(piece.path):
            data = pa.py_buffer(self._file.read_at(length, self._size - length))
            self._held = [_Held(self._size - length, self._size, data)]
            metadata = pq.read_metadata(self)
            is_small = largest_group_bytes(metadata) <= FETCH_BYTES
            self.parquet = pq.ParquetFile(
                self, metadata=metadata, pre_buffer=False, buffer_size=0 if is_small else FETCH_BUFFER_BYTES
            )
        self._slices = plan(piece, metadata) if is_small else ()
        self._fetched: list[list[_Held]] = []
        self._check: Future[None] | None = None

    def fetch(self, room: int, is_any: bool) -> tuple[int, bool]:
        """Begin to fetch the slices that come next.

        Args:
            room: bytes that they may have.
            is_any: whether the first of them may have any size.

        Returns:
            Bytes that were begun, and whether that was the last slice.
        """
        begun = 0
        while len(self._fetched) < len(self._slices):
            ranges = [each for each in self._slices[len(self._fetched)] if self._find(*each) is None]
            num_bytes = sum(stop - start for start, stop in ranges)
            if begun + num_bytes > room and (begun or not is_any):
                return begun, False
            self._fetched.append([self._begin(*each) for each in ranges])
            self._held += self._fetched[-1]
            begun += num_bytes
        if self._check is None and self._slices:
            self._check = self._pool.submit(self._check_again, [b for each in self._held for b in each.blocks])
        return begun, True

    def forget(self, stop: int | None) -> int:
        """Let go of the slices before `stop`, of all for None; returns their bytes."""
        gone = [each for fetched in self._fetched[:stop] for each in fetched]
        self._held = [each for each in self._held if each not in gone]
        self._fetched[:stop] = [[] for _ in self._fetched[:stop]]
        return sum(each.stop - each.start for each in gone)

    def finish(self) -> None:
        """Check that the file did not change while it was read; errors as at the beginning."""
        if self._check is None:
            self._check = self._pool.submit(self._check_again, [])
        self._wait([self._check])

    def _check_again(self, before: list[Future[None]]) -> None:
        wait(before)  # they began before: a pool begins things in their order
        state = self._storage.state(self._piece.path)
        check_unchanged(self._piece, state.size_bytes, state.mtime_ns)

    def _begin(self, start: int, stop: int) -> _Held:
        held = _Held(start, stop, pa.allocate_buffer(stop - start))
        view = memoryview(held.buffer)
        for first in range(start, stop, BLOCK_BYTES):
            last = min(first + BLOCK_BYTES, stop)
            held.blocks.append(self._pool.submit(self._fill, view[first - start : last - start], first))
        return held

    def _fill(self, view: memoryview, start: int) -> None:
        with reading(self._piece.path), self._file.get_stream(start, len(view)) as stream:
            if stream.readinto(view) != len(view):
                raise OSError("the file ends before its footer says so")

    def _find(self, start: int, stop: int) -> _Held | None:
        return next((each for each in self._held if each.start <= start and stop <= each.stop), None)

    def _wait(self, futures: list[Future[None]]) -> None:
        if not all(each.done() for each in futures):
            with self.idle():
                wait(futures)
        for each in futures:
            each.result()

    def read(self, num_bytes: int = -1) -> pa.Buffer | bytes:
        """Return the next bytes."""
        start = self._position
        stop = self._size if num_bytes < 0 else min(self._size, start + num_bytes)
        held = self._find(start, stop)
        if held is None:
            with self.idle(), reading(self._piece.path):
                data = self._file.read_at(stop - start, start)
            self._position += len(data)
            return data
        self._wait(held.blocks)
        self._position = stop
        return held.buffer.slice(start - held.start, stop - start)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Whether it can be read."""
        return True

    def seekable(self) -> bool:
        """Whether it has positions."""
        return True

    def close(self) -> None:
        """Let go of what was fetched."""
        if not self.closed:
            self.closed = True
            self._held, self._fetched = [], []
            self._file.close()


class Fetcher:
    """Opens and fetches the remote files of a shard ahead of its reader, who takes them in their order."""

    def __init__(self, pieces: Sequence[Piece], storage: Storage, plan: Plan, idle: Idle) -> None:
        """Begin with the first files; nothing is waited for.

        Args:
            pieces: what will be read; local ones are left to their reader.
            storage: how the files are reached.
            plan: tells the ranges of each slice of a file, from its footer.
            idle: what is entered while the reader waits for the store.
        """
        self._storage, self._plan, self._idle = storage, plan, idle
        self._to_open = deque(piece for piece in pieces if not is_local(piece.path))
        self._files: deque[Future[RemoteFile]] = deque()  # the one that is read, and those ahead of it
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(NUM_THREADS, "fetching")
        self._open_more()

    def _open_more(self) -> None:
        while self._to_open and len(self._files) <= FILES_AHEAD:
            piece = self._to_open.popleft()
            self._files.append(self._pool.submit(RemoteFile, piece, self._storage, self._plan, self._pool))
            self._files[-1].add_done_callback(lambda _: self._fetch_more())

    def _fetch_more(self) -> None:
        """Fetch what comes next while there is room; one slice is fetched whatever its size."""
        with self._lock, contextlib.suppress(RuntimeError):  # the pool has ended
            for future in list(self._files):
                if not future.done() or future.cancelled() or future.exception() is not None:
                    return
                begun, is_all = future.result().fetch(FETCH_BYTES - self._held_bytes, not self._held_bytes)
                self._held_bytes += begun
                if not is_all:
                    return

    @contextlib.contextmanager
    def next_file(self) -> Iterator[RemoteFile]:
        """Give the next file, once it is open; errors as those of `RemoteFile`."""
        future = self._files[0]
        if not future.done():
            with self._idle():
                wait([future])
        file = future.result()
        file.idle = self._idle
        try:
            yield file
        finally:
            with self._lock:
                self._files.popleft()
                self._held_bytes -= file.forget(None)
                file.close()
            self._open_more()
            self._fetch_more()

    def pass_by(self, file: RemoteFile, stop: int) -> None:
        """Let go of the slices of a file before `stop`, and fetch others instead."""
        with self._lock:
            self._held_bytes -= file.forget(stop)
        self._fetch_more()

    def __enter__(self) -> Self:
        """Give the fetcher."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all threads; what is under way is waited for, and nothing else begins."""
        self._to_open.clear()
        self._pool.shutdown(cancel_futures=True)
        for future in self._files:
            if not future.cancelled() and future.exception() is None:
                future.result().close()
