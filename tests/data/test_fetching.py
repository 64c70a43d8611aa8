"""What is fetched ahead: the same rows in order, errors where they belong, bounded, and no thread left behind."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import wait_for
from object_store import Fault, FaultyProxy, ObjectStore

from engine.data import fetching, row_groups
from engine.data.pieces import Piece
from engine.data.source import Selection, Slice, begin_fetching, read_slices
from engine.data.storage.reading import FileState, Storage, storage_of
from engine.errors import DataError, RefusedError, StorageError

SCHEMA = pa.schema([("id", pa.int64()), ("x", pa.float64())])
GROUP_ROWS, GROUP_BYTES = 10_000, 80_000
THROTTLED = "AWS Error SLOW_DOWN during GetObject operation: HTTP response code 503"


class Watched(Storage):
    """Reads by fsspec, tells what was asked for, and does to it what a test says."""

    def __init__(self, befall: Callable[[str, int], None] = lambda place, start: None) -> None:
        super().__init__()
        object.__setattr__(self, "asked", [])
        object.__setattr__(self, "befall", befall)

    def open_with_state(self, place: str) -> tuple[Any, FileState]:
        file, state = super().open_with_state(place)
        return _WatchedFile(self, place, file), state

    def asked_of(self, name: str) -> list[tuple[int, int]]:
        return sorted((start, size) for place, start, size in self.asked if place.endswith(name))


class _WatchedFile:
    def __init__(self, storage: Watched, place: str, file: pa.NativeFile) -> None:
        self._storage, self._place, self._file = storage, place, file

    def read_at(self, num_bytes: int, offset: int) -> bytes:
        self._note(offset, num_bytes)
        return self._file.read_at(num_bytes, offset)

    def get_stream(self, offset: int, num_bytes: int) -> pa.NativeFile:
        self._note(offset, num_bytes)
        return self._file.get_stream(offset, num_bytes)

    def close(self) -> None:
        self._file.close()

    def _note(self, start: int, size: int) -> None:
        self._storage.asked.append((self._place, start, size))
        self._storage.befall(self._place, start)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slices of one row group, and room for two and a half of them; no thread outlives a test."""
    monkeypatch.setattr(fetching, "FETCH_BYTES", GROUP_BYTES * 5)
    monkeypatch.setattr(fetching, "WHOLE_BYTES", 1 << 10)
    monkeypatch.setattr(row_groups, "SLICE_BYTES", GROUP_BYTES * 2)
    monkeypatch.setattr(row_groups.cut_slices, "__defaults__", (GROUP_BYTES * 2,))
    yield
    assert not [each for each in threading.enumerate() if each.name.startswith("fetching")]


def write(path: Path, num_groups: int = 6, seed: int = 0) -> Piece:
    ids = np.random.default_rng(seed).integers(0, 1 << 60, num_groups * GROUP_ROWS)
    table = pa.table({"id": ids, "more": ids, "x": ids * 0.5})
    pq.write_table(table, path, row_group_size=GROUP_ROWS, use_dictionary=False, compression="none")
    return piece_of(path)


def piece_of(path: Path) -> Piece:
    place = f"local://{path}"
    state = Storage().state(place)
    return Piece(place, path.name, state.size_bytes, state.mtime_ns, 0, state.size_bytes, None)


def read(pieces: list[Piece], storage: Storage, idle: fetching.Idle = contextlib.nullcontext) -> Iterator[Slice]:
    selection = Selection(SCHEMA, storage=storage)
    with begin_fetching(pieces, selection, 100, idle) as fetcher:
        for piece in pieces:
            yield from read_slices(piece, selection, 100, fetcher)


def plainly(pieces: list[Piece]) -> list[Slice]:
    return [each for piece in pieces for each in read_slices(piece, Selection(SCHEMA), 100)]


def is_same(some: list[Slice], others: list[Slice]) -> bool:
    return [(each.path, each.rows_in, each.rows.tolist()) for each in some] == [
        (each.path, each.rows_in, each.rows.tolist()) for each in others
    ] and all(one.table.equals(other.table) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("room", [1, GROUP_BYTES * 5, 1 << 30], ids=["none: buffered", "two slices", "all"])
@pytest.mark.parametrize("whole", [0, 1 << 30], ids=["ends first", "whole files"])
def test_what_is_fetched_ahead_is_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, whole: int
) -> None:
    monkeypatch.setattr(fetching, "FETCH_BYTES", room)
    monkeypatch.setattr(fetching, "WHOLE_BYTES", whole)
    monkeypatch.setattr(fetching, "BLOCK_BYTES", 50_000)
    pieces = [write(tmp_path / f"{i}.parquet", i % 4, i) for i in range(12)]
    assert is_same(list(read(pieces, Storage())), plainly(pieces))


def test_the_next_slices_come_while_one_is_computed_and_no_more_than_there_is_room_for(tmp_path: Path) -> None:
    piece, storage = write(tmp_path / "a.parquet"), Watched()
    slices = read([piece], storage)
    for taken in range(1, 7):
        next(slices)
        # Two columns of a row group are 160,160 bytes, of which two and a half have room.
        wait_for(lambda taken=taken: len(storage.asked) == 1 + 2 * min(6, taken + 1))
        time.sleep(0.01)
        assert len(storage.asked) == 1 + 2 * min(6, taken + 1)
    assert list(slices) == []


def test_a_slice_without_room_comes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piece, storage = write(tmp_path / "a.parquet"), Watched()
    monkeypatch.setattr(fetching, "FETCH_BYTES", GROUP_BYTES * 3 + 500)
    slices = read([piece], storage)
    next(slices)
    assert len(storage.asked) == 1 + 2
    slices.close()


def test_the_next_file_is_fetched_while_one_is_computed(tmp_path: Path) -> None:
    pieces, storage = [write(tmp_path / f"{i}.parquet", 1, i) for i in range(9)], Watched()
    slices = read(pieces, storage)
    next(slices)
    wait_for(lambda: len(storage.asked_of("1.parquet")) == 3)
    wait_for(lambda: len(storage.asked_of(f"{fetching.FILES_AHEAD}.parquet")) == 1)
    assert not storage.asked_of(f"{fetching.FILES_AHEAD + 1}.parquet")
    assert is_same([*list(slices)], plainly(pieces)[1:])


@pytest.mark.parametrize("nth", [0, 2, 5])
def test_an_error_comes_out_behind_the_slices_before_it(tmp_path: Path, nth: int) -> None:
    piece = write(tmp_path / "a.parquet")
    start = pq.read_metadata(tmp_path / "a.parquet").row_group(nth).column(2).data_page_offset

    def befall(place: str, at: int) -> None:
        if at == start:
            raise OSError(THROTTLED)

    found: list[Slice] = []
    with pytest.raises(StorageError, match=r"a\.parquet: cannot be read now: AWS Error SLOW_DOWN"):
        found.extend(iter_into(read([piece], Watched(befall)), found))
    assert is_same(found, plainly([piece])[:nth])


def iter_into(slices: Iterator[Slice], found: list[Slice]) -> Iterator[Slice]:
    for each in slices:
        found.append(each)
    yield from ()


def test_a_later_file_that_is_gone_or_changed_fails_when_its_turn_comes(tmp_path: Path) -> None:
    pieces = [write(tmp_path / f"{i}.parquet", 2, i) for i in range(3)]
    os.utime(tmp_path / "2.parquet", (1, 1))
    found: list[Slice] = []
    with pytest.raises(DataError, match=r"2\.parquet changed since the job was planned"):
        found.extend(iter_into(read(pieces, Storage()), found))
    assert is_same(found, plainly(pieces[:2]))
    (tmp_path / "1.parquet").unlink()
    with pytest.raises(DataError, match=r"1\.parquet.*no such file|1\.parquet.*No such file"):
        list(read(pieces, Storage()))


def test_a_file_that_changes_while_it_is_read_is_told_at_its_end(tmp_path: Path) -> None:
    piece = write(tmp_path / "a.parquet")
    slices = read([piece], Storage())
    next(slices)
    os.utime(tmp_path / "a.parquet", (1, 1))
    with pytest.raises(DataError, match="touched, same size"):
        list(slices)


def test_a_file_that_was_cut_short_is_told(tmp_path: Path) -> None:
    piece = write(tmp_path / "a.parquet")

    def befall(place: str, at: int) -> None:
        if at < GROUP_BYTES:
            os.truncate(tmp_path / "a.parquet", GROUP_BYTES)

    with pytest.raises(DataError, match=r"changed since the job was planned: \d+ bytes then, now 80000 bytes"):
        list(read([piece], Watched(befall)))


def test_only_what_is_waited_for_is_idle_time(tmp_path: Path) -> None:
    gate, idle = threading.Event(), []

    @contextlib.contextmanager
    def note() -> Iterator[None]:
        idle.append(threading.current_thread())
        gate.set()
        yield

    piece = write(tmp_path / "a.parquet")
    first = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(0).data_page_offset
    storage = Watched(lambda place, at: None if at != first else idle.clear() or gate.clear() or _wait(gate))
    slices = read([piece], storage, note)
    next(slices)
    assert idle == [threading.current_thread()]
    wait_for(lambda: len(storage.asked) == 5)
    time.sleep(0.05)
    next(slices)
    assert len(idle) == 1
    slices.close()


def _wait(gate: threading.Event) -> None:
    assert gate.wait(10)


def test_a_reader_that_leaves_early_leaves_nothing_behind(tmp_path: Path) -> None:
    pieces, storage = [write(tmp_path / f"{i}.parquet", 6, i) for i in range(3)], Watched()
    slices = read(pieces, storage)
    next(slices)
    slices.close()
    num_asked = len(storage.asked)
    time.sleep(0.05)
    assert len(storage.asked) == num_asked
    assert begin_fetching([], Selection(SCHEMA), 100, contextlib.nullcontext).__exit__(None, None, None) is None


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


def in_store(proxy: FaultyProxy, path: Path) -> tuple[Piece, Selection]:
    proxy.store.put("in/a.parquet", path.read_bytes())
    storage, place = storage_of([proxy.uri(path="in")]), "s3://data/in/a.parquet"
    state = storage.state(place)
    piece = Piece(place, "a.parquet", state.size_bytes, state.mtime_ns, 0, state.size_bytes, None)
    return piece, Selection(SCHEMA, storage=storage)


@pytest.mark.store
def test_what_is_asked_of_a_store(tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    local = write(tmp_path / "a.parquet")
    with FaultyProxy(store) as proxy:
        piece, selection = in_store(proxy, tmp_path / "a.parquet")
        for whole, num_gets in ((0, 1 + 12), (1 << 30, 1)):
            monkeypatch.setattr(fetching, "WHOLE_BYTES", whole)
            proxy.clear()
            found = list(read([piece], selection.storage))
            assert [each.table for each in found] == [each.table for each in plainly([local])]
            assert (proxy.count("HEAD"), proxy.count("GET"), len(proxy.requests)) == (2, num_gets, 2 + num_gets)


@pytest.mark.store
def test_a_store_that_refuses_a_range(tmp_path: Path, store: ObjectStore) -> None:
    write(tmp_path / "a.parquet")
    with FaultyProxy(store) as proxy:
        piece, selection = in_store(proxy, tmp_path / "a.parquet")
        proxy.set_faults(Fault("access_denied", "GET", "a.parquet", skip=3, times=100))
        slices = read([piece], selection.storage)
        with pytest.raises(RefusedError, match=r"s3://data/in/a\.parquet: the store refuses"):
            list(slices)
