import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engine.data.source
from engine.data.columns import ColumnPath, InputSchema, resolve_column
from engine.data.filtering.conditions import bind_condition, parse_condition
from engine.data.pieces import Piece
from engine.data.row_groups import RowGroup, SlicePlan, cut_slices, read_row_groups, row_width
from engine.data.source import Selection, open_parquet, read_slices
from engine.errors import DataError

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None)
SCHEMA = pa.schema([("id", pa.int64())])


def piece_of(path: Path, start: int = 0, stop: int | None = None, stop_row: int | None = None) -> Piece:
    status = path.stat()
    end = status.st_size if stop is None else stop
    return Piece(str(path), path.name, status.st_size, status.st_mtime_ns, start, end, stop_row)


def write_ids(path: Path, num_rows: int, row_group_size: int, start: int = 0) -> Path:
    ids = np.arange(start, start + num_rows)
    table = pa.table({"id": ids, "text": [f"row {i}" for i in ids], "x": ids * 0.5})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def read_ids(piece: Piece, batch_rows: int = 16, schema: pa.Schema = SCHEMA) -> list[int]:
    return [
        i for each in read_slices(piece, Selection(schema), batch_rows) for i in each.table.column("id").to_pylist()
    ]


# --- slices from a footer alone


@st.composite
def row_groups(draw: st.DrawFn) -> list[RowGroup]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 40)), max_size=8))
    groups, start = [], draw(st.integers(0, 100))
    for index, (num_rows, width) in enumerate(sizes, draw(st.integers(0, 5))):
        groups.append(RowGroup(index, start, num_rows, num_rows * width, 0))
        start += num_rows
    return groups


def reads_of(plan: SlicePlan) -> list[tuple[int, int]]:
    """Half-open ranges of rows, one a read."""
    stop = plan.start_row + plan.num_rows
    return [(start, min(start + plan.rows_per_read, stop)) for start in range(plan.start_row, stop, plan.rows_per_read)]


@QUICK
@given(row_groups(), st.integers(1, 64), st.integers(1, 2000))
def test_every_row_is_in_one_slice_in_order(groups: list[RowGroup], batch_rows: int, slice_bytes: int) -> None:
    plans = cut_slices(groups, batch_rows, slice_bytes)
    rows = [row for plan in plans for start, stop in reads_of(plan) for row in range(start, stop)]
    assert rows == [row for group in groups for row in range(group.start_row, group.start_row + group.num_rows)]
    assert [i for plan in plans for i in plan.row_groups] == [group.index for group in groups if group.num_rows]


@QUICK
@given(row_groups(), st.integers(1, 64), st.integers(1, 2000))
def test_slices_are_small_and_cut_at_whole_batches(groups: list[RowGroup], batch_rows: int, slice_bytes: int) -> None:
    by_index = {group.index: group for group in groups}
    for plan in cut_slices(groups, batch_rows, slice_bytes):
        num_bytes = sum(by_index[index].num_bytes for index in plan.row_groups)
        if num_bytes <= slice_bytes:
            assert plan.rows_per_read == plan.num_rows
        else:
            assert len(plan.row_groups) == 1
            assert plan.rows_per_read % batch_rows == 0
            width = num_bytes // plan.num_rows
            # a read of more than one batch keeps to the size
            assert plan.rows_per_read == batch_rows or plan.rows_per_read * width <= slice_bytes


def test_small_row_groups_share_a_slice_and_large_ones_are_cut() -> None:
    sizes = [(10, 100), (10, 100), (10, 100), (100, 1000), (0, 0), (10, 100)]  # rows, bytes
    starts = np.cumsum([0, *(rows for rows, _ in sizes)])
    groups = [RowGroup(i, int(starts[i]), rows, num_bytes, 0) for i, (rows, num_bytes) in enumerate(sizes)]
    assert cut_slices(groups, 8, 200) == [
        SlicePlan((0, 1), 0, 20, 20),
        SlicePlan((2,), 20, 10, 10),
        SlicePlan((3,), 30, 100, 16),  # two batches of 80 bytes
        SlicePlan((5,), 130, 10, 10),
    ]
    assert cut_slices([], 8, 200) == []


@pytest.mark.parametrize(
    ("field_type", "width"),
    [
        (pa.int8(), 1),
        (pa.float64(), 8),
        (pa.bool_(), 1),  # a bit in Arrow, a byte as a tensor
        (pa.timestamp("us"), 8),
        (pa.binary(12), 12),
        (pa.list_(pa.float32(), 64), 256),
        (pa.list_(pa.list_(pa.uint8(), 3), 4), 12),
        (pa.fixed_shape_tensor(pa.float32(), [2, 3]), 24),
        (pa.struct([("a", pa.int32()), ("b", pa.int64())]), 12),
        (pa.struct([("a", pa.int32()), ("b", pa.string())]), None),
        (pa.string(), None),
        (pa.binary(), None),
        (pa.list_(pa.float32()), None),
        (pa.list_(pa.string(), 2), None),
    ],
    ids=str,
)
def test_bytes_of_one_value(field_type: pa.DataType, width: int | None) -> None:
    assert row_width(field_type) == width


def test_row_groups_tell_the_bytes_of_the_columns_to_read(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 250, 100)
    with open_parquet(str(path)) as file:
        fixed = read_row_groups(file.metadata, pa.schema([("id", pa.int64()), ("x", pa.float64())]))
        text = read_row_groups(file.metadata, pa.schema([("text", pa.string())]))
    assert [(g.index, g.start_row, g.num_rows, g.num_bytes) for g in fixed] == [
        (0, 0, 100, 1600), (1, 100, 100, 1600), (2, 200, 50, 800),
    ]  # fmt: skip
    assert all(group.num_bytes > 500 for group in text)


def test_a_column_with_a_dot_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a.b": ["x" * 100] * 10, "a": range(10)}), path, use_dictionary=False)
    with open_parquet(str(path)) as file:
        (group,) = read_row_groups(file.metadata, pa.schema([("a.b", pa.string())]))
    assert group.num_bytes > 100  # else a slice of it would have no bound
    (read,) = read_slices(piece_of(path), Selection(pa.schema([("a.b", pa.string())])), 4)
    assert read.table.column_names == ["a.b"]
    assert len(read.table) == 10


# --- byte ranges: each row group belongs to the one that holds its midpoint

NUM_ROWS = 700


@pytest.fixture(scope="module")
def many_groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ids(tmp_path_factory.mktemp("source") / "many.parquet", NUM_ROWS, 23)


@settings(QUICK, max_examples=25)
@given(st.data())
def test_ranges_that_partition_a_file_read_each_row_once(many_groups: Path, data: st.DataObject) -> None:
    size = many_groups.stat().st_size
    cuts = sorted(data.draw(st.lists(st.integers(0, size), max_size=6)))
    bounds = [0, *cuts, size]
    pieces = [piece_of(many_groups, start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]
    assert [i for piece in pieces for i in read_ids(piece)] == list(range(NUM_ROWS))


def test_every_byte_as_the_cut(many_groups: Path) -> None:
    with open_parquet(str(many_groups)) as file:
        groups = read_row_groups(file.metadata, SCHEMA)
    midpoints = [group.midpoint for group in groups]
    assert midpoints == sorted(set(midpoints))
    assert midpoints[0] >= 0
    assert midpoints[-1] < many_groups.stat().st_size
    for midpoint in midpoints[3:6]:  # the byte itself belongs to the range that begins with it
        left, right = piece_of(many_groups, 0, midpoint), piece_of(many_groups, midpoint)
        assert len(read_ids(left)) + len(read_ids(right)) == NUM_ROWS
        assert read_ids(right)[0] % 23 == 0
        assert midpoint in [groups[read_ids(right)[0] // 23].midpoint]


def test_one_large_row_group_belongs_to_one_range(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 500, 500)
    third = path.stat().st_size // 3
    reads = [read_ids(piece_of(path, i * third, (i + 1) * third if i < 2 else None)) for i in range(3)]
    assert sorted(map(len, reads)) == [0, 0, 500]


# --- reading


def slices_of(path: Path, **options: Any) -> list[tuple[int, int]]:
    return [
        (int(each.rows[0]), len(each.table)) for each in read_slices(piece_of(path, **options), Selection(SCHEMA), 16)
    ]


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slices of 1,024 bytes: 128 ids. The size is a default argument, so the function gets another default."""
    monkeypatch.setattr(engine.data.source.cut_slices, "__defaults__", (1024,))
    return


@pytest.mark.usefixtures("small_slices")
def test_large_row_groups_are_read_in_ranges_of_whole_batches(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 500, 300)
    assert slices_of(path) == [(0, 128), (128, 128), (256, 44), (300, 128), (428, 72)]
    assert read_ids(piece_of(path)) == list(range(500))


@pytest.mark.usefixtures("small_slices")
def test_columns_come_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 200, 150)  # one group cut into ranges, one read whole
    schema = pa.schema([("x", pa.float64()), ("id", pa.int64())])
    tables = [each.table for each in read_slices(piece_of(path), Selection(schema), 16)]
    assert all(table.schema == schema for table in tables)
    assert sum(map(len, tables)) == 200
    assert {each.path for each in read_slices(piece_of(path), Selection(schema), 16)} == {str(path)}


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("row_group_size", [37, 64, 300, 500])
@pytest.mark.parametrize("stop_row", [0, 1, 127, 128, 129, 300, 499, 500, 900])
def test_rows_from_stop_row_on_are_left_out(tmp_path: Path, row_group_size: int, stop_row: int) -> None:
    path = write_ids(tmp_path / "a.parquet", 500, row_group_size)
    assert read_ids(piece_of(path, stop_row=stop_row)) == list(range(min(stop_row, 500)))


def test_a_limit_holds_over_the_ranges_of_a_file(many_groups: Path) -> None:
    middle = many_groups.stat().st_size // 2
    pieces = [piece_of(many_groups, 0, middle, 400), piece_of(many_groups, middle, None, 400)]
    assert [i for piece in pieces for i in read_ids(piece)] == list(range(400))


@pytest.mark.usefixtures("small_slices")
def test_nothing_is_read_past_the_limit(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 1000, 100)
    with open_parquet(str(path)) as file:
        start = file.metadata.row_group(5).column(0).dictionary_page_offset
    piece = piece_of(path, stop_row=10)
    with path.open("r+b") as damaged:  # the footer stays whole
        damaged.seek(start)
        damaged.write(b"\xff" * 2000)
    os.utime(path, ns=(piece.mtime_ns, piece.mtime_ns))
    assert read_ids(piece) == list(range(10))


def test_a_file_without_rows(tmp_path: Path) -> None:
    assert read_ids(piece_of(write_ids(tmp_path / "a.parquet", 0, 10))) == []


def test_a_piece_without_bytes(many_groups: Path) -> None:
    assert read_ids(piece_of(many_groups, 50, 50)) == []


# --- files that are not what they were


@pytest.mark.parametrize("is_same_size", [True, False])
def test_a_file_that_changed_since_the_listing(tmp_path: Path, is_same_size: bool) -> None:
    path = write_ids(tmp_path / "a.parquet", 100, 50)
    piece = piece_of(path)
    if is_same_size:
        os.utime(path, ns=(piece.mtime_ns + 1, piece.mtime_ns + 1))
    else:
        write_ids(path, 300, 50)
    with pytest.raises(DataError, match=r"a\.parquet changed since the job was planned"):
        read_ids(piece)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 100, 50)
    piece = piece_of(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.parquet: .*No such file"):
        read_ids(piece)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def without_footer_length(data: bytes) -> bytes:
    return data[:-8] + b"\xff\xff\xff\x7fPAR1"


def with_damaged_pages(data: bytes) -> bytes:
    return data[:4] + b"\xff" * 600 + data[604:]


def with_damaged_footer(data: bytes) -> bytes:
    return data[:-200] + b"\xff" * 150 + data[-50:]


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        without_footer_length,
        with_damaged_pages,
        with_damaged_footer,
        lambda data: b"",
        lambda data: b"id,x\n1,2\n" * 50,
        lambda data: b"PAR1",
        lambda data: b"PAR1PAR1",
        lambda data: b"\0" * len(data),
    ],
    ids=["truncated", "footer length", "pages", "footer", "empty", "text", "magic", "magic twice", "zeros"],
)
def test_a_damaged_file_is_bad_data_and_named(tmp_path: Path, damage: Any) -> None:
    path = write_ids(tmp_path / "a.parquet", 2000, 500)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.parquet: no readable Parquet file"):
        read_ids(piece_of(path), schema=pa.schema([("id", pa.int64()), ("text", pa.string())]))


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        open_parquet(str(tmp_path))


def test_a_later_file_without_the_column(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "b.parquet", 10, 10)
    with pytest.raises(DataError, match=r"b\.parquet: no column 'y', which the first input file has \(float\)"):
        read_ids(piece_of(path), schema=pa.schema([("id", pa.int64()), ("y", pa.float32())]))


def test_a_later_file_with_another_type(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "b.parquet", 10, 10)
    with pytest.raises(DataError, match=r"b\.parquet: column 'x' is double where the first input file has float"):
        read_ids(piece_of(path), schema=pa.schema([("id", pa.int64()), ("x", pa.float32())]))


def test_a_later_file_with_its_columns_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"more": [1], "x": [0.5], "id": [7]}), path)
    (read,) = read_slices(piece_of(path), Selection(pa.schema([("id", pa.int64()), ("x", pa.float64())])), 4)
    assert read.table.to_pylist() == [{"id": 7, "x": 0.5}]


# --- rows that conditions leave out


def where(*texts: str, schema: pa.Schema = SCHEMA) -> Selection:
    first = InputSchema("x.parquet", schema, ())
    parsed = [parse_condition(text) for text in texts]
    paths = [resolve_column(first, each.column, "--where") for each in parsed]
    bound = [bind_condition(each, path.type) for each, path in zip(parsed, paths, strict=True)]
    return Selection(schema, (), tuple(zip(paths, bound, strict=True)))


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("row_group_size", [10, 100, 300])
@pytest.mark.parametrize("stop_row", [None, 0, 155, 250])
def test_rows_are_filtered_and_every_row_is_counted(tmp_path: Path, row_group_size: int, stop_row: int | None) -> None:
    path = write_ids(tmp_path / "a.parquet", 300, row_group_size)
    read = list(read_slices(piece_of(path, stop_row=stop_row), where("id >= 95", "id < 205", "id != 100"), 16))
    stop = 300 if stop_row is None else stop_row
    expected = [i for i in range(min(205, stop)) if i >= 95 and i != 100]
    assert [i for each in read for i in each.table["id"].to_pylist()] == expected
    assert [i for each in read for i in each.rows.tolist()] == expected
    assert sum(each.rows_in for each in read) == stop


def test_row_groups_that_cannot_match_are_not_read(tmp_path: Path) -> None:
    path = write_ids(tmp_path / "a.parquet", 1000, 100)
    piece = piece_of(path)
    with open_parquet(str(path)) as file:
        start = file.metadata.row_group(5).column(0).dictionary_page_offset
    with path.open("r+b") as damaged:
        damaged.seek(start)
        damaged.write(b"\xff" * 2000)
    os.utime(path, ns=(piece.mtime_ns, piece.mtime_ns))
    read = list(read_slices(piece, where("id not-in 500,501", "id < 450"), 16))
    assert [i for each in read for i in each.table["id"].to_pylist()] == list(range(450))
    assert sum(each.rows_in for each in read) == 1000


def test_a_condition_on_a_struct_field_and_a_partition_column(tmp_path: Path) -> None:
    path = tmp_path / "dt=2026-01-01" / "a=b.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"id": range(4), "s": [{"n": i, "t": "x"} for i in range(4)]}), path)
    schema = pa.schema([("id", pa.int64()), ("s", pa.struct([("n", pa.int64())]))])
    (_, bound) = where("s.n > 1", schema=schema).conditions[0]
    selection = Selection(schema, ("dt", "a"), ((ColumnPath(("s", "n"), pa.int64()), bound),))
    piece = replace(piece_of(path), relative_path="dt=2026-01-01/a=b.parquet")
    (read,) = read_slices(piece, selection, 4)
    assert read.table.schema.names == ["id", "s", "dt", "a"]
    assert read.table.to_pylist() == [{"id": i, "s": {"n": i}, "dt": "2026-01-01", "a": None} for i in (2, 3)]


@pytest.mark.parametrize("text", ["s.n < 5", "'s.n' < 5"])
def test_statistics_of_a_column_of_the_same_path_prune_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.parquet"
    table = {"id": range(10), "s": [{"n": i} for i in range(10)], "s.n": range(100, 110)}
    pq.write_table(pa.table(table), path)
    selection = where(text, schema=pa.schema([("id", pa.int64()), ("s", pa.struct([("n", pa.int64())]))]))
    as_struct = Selection(selection.columns, (), ((ColumnPath(("s", "n"), pa.int64()), selection.conditions[0][1]),))
    assert [i for each in read_slices(piece_of(path), as_struct, 4) for i in each.table["id"].to_pylist()] == [
        *range(5)
    ]


def test_nothing_but_a_partition_column_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dt=5" / "a.parquet"
    path.parent.mkdir()
    write_ids(path, 100, 30)
    piece = replace(piece_of(path), relative_path="dt=5/a.parquet")
    (read,) = read_slices(piece, Selection(pa.schema([]), ("dt",)), 16)
    assert read.table.to_pydict() == {"dt": ["5"] * 100}
