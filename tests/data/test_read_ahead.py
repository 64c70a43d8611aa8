import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.listing import list_inputs
from engine.data.pieces import Piece
from engine.data.read_ahead import MAX_FILES, read_ahead
from engine.data.source import Selection


def write(path: Path, num_rows: int = 4000) -> None:
    columns = {name: pa.array(np.random.default_rng(0).standard_normal(num_rows)) for name in "abc"}
    pq.write_table(pa.table(columns), path, row_group_size=1000)


def pieces(folder: Path, num_ranges: int = 1) -> tuple[Piece, ...]:
    found = []
    for file in list_inputs([str(folder)]):
        for i in range(num_ranges):
            ends = [file.size_bytes * j // num_ranges for j in (i, i + 1)]
            found.append(Piece(file.path, file.relative_path, file.size_bytes, file.mtime_ns, *ends, None))
    return tuple(found)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []

    def note(_: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        ranges.append((start, length))

    monkeypatch.setattr(os, "posix_fadvise", note)
    return ranges


def test_only_the_chunks_of_columns_that_are_read_are_asked_for(tmp_path: Path, told: list[tuple[int, int]]) -> None:
    write(tmp_path / "a.parquet")
    read_ahead(pieces(tmp_path), Selection(pa.schema([("b", pa.float64())])))
    footer = pq.read_metadata(tmp_path / "a.parquet")
    chunks = [footer.row_group(i).column(1) for i in range(4)]
    assert told == [(chunk.dictionary_page_offset, chunk.total_compressed_size) for chunk in chunks]


def test_neighbours_are_asked_for_together(tmp_path: Path, told: list[tuple[int, int]]) -> None:
    write(tmp_path / "a.parquet")
    read_ahead(pieces(tmp_path), Selection(pa.schema([(name, pa.float64()) for name in "abc"])))
    ((start, length),) = told
    assert start == 4
    assert length > 4000 * 3 * 8


def test_the_ranges_of_a_file_ask_for_its_row_groups_once(tmp_path: Path, told: list[tuple[int, int]]) -> None:
    write(tmp_path / "a.parquet")
    for piece in pieces(tmp_path, num_ranges=7):
        read_ahead((piece,), Selection(pa.schema([("a", pa.float64())])))
    assert len(told) == len(set(told)) == 4


def test_what_cannot_be_read_is_left_for_the_reader_to_tell(tmp_path: Path, told: list[tuple[int, int]]) -> None:
    write(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"no Parquet")
    write(tmp_path / "c.parquet")
    found = pieces(tmp_path)
    (tmp_path / "c.parquet").unlink()
    read_ahead(found, Selection(pa.schema([("a", pa.float64())])))
    assert len(told) == 4


def test_of_many_files_the_first_are_asked_for(tmp_path: Path, told: list[tuple[int, int]]) -> None:
    for i in range(MAX_FILES + 3):
        write(tmp_path / f"{i:02}.parquet", num_rows=10)
    read_ahead(pieces(tmp_path), Selection(pa.schema([("a", pa.float64())])))
    assert len(told) == MAX_FILES


def test_the_kernel_takes_it(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    read_ahead(pieces(tmp_path), Selection(pa.schema([("a", pa.float64())])))
