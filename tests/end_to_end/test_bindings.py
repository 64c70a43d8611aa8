"""Which columns reach which tensors, which rows are read, and how files that differ are read as one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import JobConfig, score
from engine.errors import DataError
from engine.run.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

NUM_ROWS = 12
NULL_ROW, BAD_ROW = 3, 8


def run(model: str, inputs: Path, output: Path, **settings: Any) -> Summary:
    config = {"model": model, "input": (str(inputs),), "output": str(output), "actors": 1}
    return score(JobConfig(**{**config, **settings}))


def read_parts(output: Path) -> pa.Table:
    return pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(output.rglob("part-*")))


def with_null(values: list[Any]) -> list[Any]:
    return [None if row == NULL_ROW else value for row, value in enumerate(values)]


def tensors(values: np.ndarray, shape: list[int], permutation: list[int] | None = None) -> pa.Array:
    """Return rows of values, as they lie in memory, as tensors of that physical shape."""
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), shape, permutation=permutation)
    return pa.ExtensionArray.from_storage(
        kind, pa.FixedSizeListArray.from_arrays(values.reshape(-1), int(np.prod(shape)))
    )


@dataclass(frozen=True)
class Feed:
    """A tensor, what is written for it behind --feed, and what it has to hold."""

    columns: str
    dtype: str
    shape: list[int | None]
    expected: list[Any]


ROWS = list(range(NUM_ROWS))
GOOD = [row for row in ROWS if row != BAD_ROW]
PIXELS = np.arange(NUM_ROWS * 6, dtype=np.float32).reshape(NUM_ROWS, 2, 3)
COLUMNS: dict[str, pa.Array] = {
    "id": pa.array(ROWS),
    "notes": pa.array([[{"key": f"k{row}", "values": [row, None]}] * (row % 3) for row in ROWS]),
    "image": pa.array([{"bytes": b"\0%d" % row, "path": f"{row}.jpg", "size": {"w": row, "h": 2}} for row in ROWS]),
    "f_int": pa.array(with_null(ROWS), pa.int16()),
    "f_long": pa.array([row * 10 for row in ROWS], pa.int64()),
    "f_double": pa.array([row / 4 for row in ROWS], pa.float64()),
    "f_flag": pa.array([row % 2 == 0 for row in ROWS]),
    "large": pa.array([None if row == BAD_ROW else f"é{row}" for row in ROWS], pa.large_string()),
    "viewed": pa.array([f"a view of some length, {row}" for row in ROWS], pa.string_view()),
    "blob_view": pa.array([bytes([row, 255]) for row in ROWS], pa.binary_view()),
    "coded": pa.array(with_null([f"c{row % 3}" for row in ROWS])).dictionary_encode(),
    "half": pa.array(np.arange(NUM_ROWS, dtype=np.float16) / 2),
    "tensor": tensors(PIXELS, [2, 3]),
    "turned": tensors(PIXELS, [2, 3], [1, 0]),
    "long_list": pa.array([[row, row + 1] for row in ROWS], pa.large_list(pa.int32())),
    "raw": pa.array([np.array([row, 0.5], "<f4").tobytes() for row in ROWS], pa.binary(8)),
    "nothing": pa.array([[] for _ in ROWS], pa.list_(pa.float32())),
    "level": pa.array(with_null(ROWS), pa.int32()),
    "pair": pa.array(with_null([[row, row] for row in ROWS]), pa.list_(pa.float32())),
}
FEEDS = {
    "one": Feed("f_long", "int64", [None], [row * 10 for row in ROWS]),
    "by_list": Feed("f_double,f_long", "float32", [None, 2], [[row / 4, row * 10] for row in ROWS]),
    "by_glob": Feed(
        "f_*",
        "float32",
        [None, 4],
        [[-1 if row == NULL_ROW else row, row * 10, row / 4, row % 2 == 0] for row in ROWS],
    ),
    "by_path": Feed("image.bytes", "string", [None], [b"\0%d" % row for row in ROWS]),
    "by_paths": Feed("image.size.*", "float32", [None, 2], [[row, 2] for row in ROWS]),
    "large": Feed("large", "string", [None], [f"é{row}".encode() for row in ROWS]),
    "viewed": Feed("viewed", "string", [None], [f"a view of some length, {row}".encode() for row in ROWS]),
    "blob_view": Feed("blob_view", "string", [None], [bytes([row, 255]) for row in ROWS]),
    "coded": Feed("coded", "string", [None], [b"none" if row == NULL_ROW else b"c%d" % (row % 3) for row in ROWS]),
    "half": Feed("half", "float16", [None], [row / 2 for row in ROWS]),
    "half_wide": Feed("half", "float32", [None, 1], [[row / 2] for row in ROWS]),
    "tensor": Feed("tensor", "float32", [None, 2, 3], PIXELS.tolist()),
    "turned": Feed("turned", "float32", [None, 3, 2], PIXELS.transpose(0, 2, 1).tolist()),
    "long_list": Feed("long_list", "float32", [None, 2], [[row, row + 1] for row in ROWS]),
    "raw": Feed("raw", "float32", [None, 2], [[row, 0.5] for row in ROWS]),
    "nothing": Feed("nothing", "float32", [None, 0], [[]] * NUM_ROWS),
    "level": Feed("level", "float32", [None], [0.5 if row == NULL_ROW else row for row in ROWS]),
    "pair": Feed("pair", "float32", [None, 2], [[7, 7] if row == NULL_ROW else [row, row] for row in ROWS]),
    "folder": Feed("country", "string", [None], [b"de" if row < 5 else b"f r" for row in ROWS]),
}


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """One job that feeds columns of every kind, from two partition folders, to a graph that gives them back.

    One row is bad, so that every kind of column has rows taken out of it.
    """
    folder = tmp_path_factory.mktemp("bound")
    table = pa.table(COLUMNS)
    for name, start, stop in (("de", 0, 5), ("f%20r", 5, NUM_ROWS)):
        (folder / "in" / f"country={name}").mkdir(parents=True)
        pq.write_table(table.slice(start, stop - start), folder / "in" / f"country={name}" / "x.parquet")
    nodes = []
    for name, feed in FEEDS.items():
        nodes += [graphs.placeholder(f"in/{name}", feed.dtype, feed.shape)]
        nodes += [graphs.node(f"out/{name}", "Identity", f"in/{name}", T=feed.dtype)]
    run(
        graphs.write(folder / "m.pb", graphs.graph(*nodes)),
        folder / "in",
        folder / "out",
        feed={f"in/{name}": feed.columns for name, feed in FEEDS.items()},
        fetch={f"out/{name}": f"{name}_out" for name in FEEDS},
        fill={"f_*": -1, "coded": "none", "level": 0.5, "pair": 7},
        keep="id,notes,image.path,country",
        provenance=True,
        batch_size=4,
        max_bad_rows=1,
    )
    return folder / "out", read_parts(folder / "out")


@pytest.mark.parametrize("name", FEEDS)
def test_a_column_of_any_kind_reaches_its_tensor(bound: tuple[Path, pa.Table], name: str) -> None:
    found, expected = bound[1][f"{name}_out"], [FEEDS[name].expected[row] for row in GOOD]
    if isinstance(found.type, pa.FixedShapeTensorType):
        np.testing.assert_array_equal(found.combine_chunks().to_numpy_ndarray(), expected)
    else:
        assert found.to_pylist() == expected


def test_kept_columns_and_the_place_of_every_row_stand_beside_the_fetches(bound: tuple[Path, pa.Table]) -> None:
    output, table = bound
    fetched = [f"{name}_out" for name in FEEDS]
    assert table.column_names == ["id", "notes", "image.path", *fetched, "_file", "_row"]
    assert table["notes"].to_pylist() == COLUMNS["notes"].take(pa.array(GOOD)).to_pylist()
    assert table["notes"].type == COLUMNS["notes"].type
    assert table["image.path"].to_pylist() == [f"{row}.jpg" for row in GOOD]
    assert table["_file"].to_pylist() == ["country=de/x.parquet"] * 5 + ["country=f%20r/x.parquet"] * 6
    assert table["_row"].to_pylist() == [*range(5), 0, 1, 2, 4, 5, 6]
    parts = sorted(path.relative_to(output).as_posix() for path in output.rglob("part-*"))
    assert parts == ["country=de/part-00000-of-00002.parquet", "country=f%20r/part-00001-of-00002.parquet"]


def test_a_bad_row_comes_to_quarantine_as_it_was_read(bound: tuple[Path, pa.Table]) -> None:
    aside = pq.ParquetFile(bound[0] / "_icefloe" / "quarantine" / "bad-00001-of-00002.parquet").read()
    (row,) = aside.to_pylist()
    assert (row["_file"], row["_row"], row["_error"]) == ("country=f%20r/x.parquet", 3, "Null")
    assert row["country"] == "f r"
    read_as = {"viewed": pa.large_string(), "blob_view": pa.large_binary()}  # pyarrow 26 selects no rows of views
    for name, column in COLUMNS.items():
        assert aside.schema.field(name).type == read_as.get(name, column.type), name
        assert row[name] == column.slice(BAD_ROW, 1).to_pylist()[0]


def test_a_partition_column_is_read_back_from_the_folders(bound: tuple[Path, pa.Table]) -> None:
    countries = pq.read_table(bound[0], columns=["id", "country"]).to_pylist()
    assert {row["country"]: row["id"] for row in countries} == {"de": 4, "f r": 11}


def test_outputs_have_the_types_of_their_tensors(bound: tuple[Path, pa.Table]) -> None:
    types = {name: bound[1].schema.field(f"{name}_out").type for name in FEEDS}
    assert types["one"] == pa.int64()
    assert types["by_list"] == pa.list_(pa.float32(), 2)
    assert types["half"] == pa.float16()
    assert types["turned"] == pa.fixed_shape_tensor(pa.float32(), [3, 2])
    assert types["nothing"] == pa.list_(pa.float32())
    assert types["folder"] == pa.binary()


def test_lists_of_any_length_fill_an_open_extent(tmp_path: Path) -> None:
    made = graphs.graph(
        graphs.placeholder("lists", "float32", [None, None]),
        graphs.placeholder("tables", "int32", [None, None, 2]),
        graphs.constant("last", np.array([1], np.int32)),
        graphs.node("lists_out", "Identity", "lists", T="float32"),
        graphs.node("sum", "Sum", "lists", "last", T="float32", Tidx="int32"),
        graphs.node("tables_out", "Identity", "tables", T="int32"),
    )
    lists = [[float(row + i) for i in range(row % 4)] for row in range(30)]
    tables = [[[row, i] for i in range(row % 3)] for row in range(30)]
    tables[7] = [[1, 2], [3]]
    (tmp_path / "in").mkdir()
    table = pa.table({"id": range(30), "lists": lists, "tables": pa.array(tables, pa.list_(pa.list_(pa.int64())))})
    pq.write_table(table, tmp_path / "in" / "x.parquet", row_group_size=10)
    ports = {"lists": "lists", "tables": "tables"}
    summary = run(
        graphs.write(tmp_path / "m.pb", made), tmp_path / "in", tmp_path / "out",
        feed=ports, fetch={"lists_out": "lists_out", "sum": "sum", "tables_out": "tables_out"},
        batch_size=4, max_bad_rows=1,
    )  # fmt: skip
    assert (summary.rows_out, summary.rows_quarantined) == (29, 1)
    scored = read_parts(tmp_path / "out")
    good = [row for row in range(30) if row != 7]
    assert scored["id"].to_pylist() == good  # in order, although rows of one shape were scored together
    assert scored["lists_out"].to_pylist() == [lists[row] for row in good]
    assert scored["sum"].to_pylist() == [sum(lists[row]) for row in good]
    assert scored["tables_out"].to_pylist() == [tables[row] for row in good]
    assert scored.schema.field("tables_out").type == pa.list_(pa.list_(pa.int32()))


def test_a_fixed_batch_axis_with_bad_rows(tmp_path: Path) -> None:
    made = graphs.graph(
        graphs.placeholder("inputs", "string", [4]),
        graphs.node("prediction", "StringToNumber", "inputs", out_type="int64"),
    )
    words: list[str | None] = [str(row) for row in range(15)]
    words[2], words[5], words[13], words[14] = "two", None, "thirteen", "fourteen"
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": range(15), "inputs": words}), tmp_path / "in" / "x.parquet")
    model = graphs.write(tmp_path / "m.pb", made)
    summary = run(model, tmp_path / "in", tmp_path / "out", batch_size=100, max_bad_rows=4)
    assert (summary.batch_size, summary.rows_out, summary.rows_quarantined) == (4, 11, 4)
    good = [row for row in range(15) if row not in (2, 5, 13, 14)]
    scored = read_parts(tmp_path / "out")
    assert scored["id"].to_pylist() == good
    assert scored["prediction"].to_pylist() == good
    aside = pq.read_table(tmp_path / "out" / "_icefloe" / "quarantine" / "bad-00000-of-00001.parquet")
    assert aside["_row"].to_pylist() == [2, 5, 13, 14]


def damage_row_group(path: Path, index: int) -> None:
    """Overwrite the pages of a row group, so that whoever reads it fails."""
    times, group = path.stat(), pq.read_metadata(path).row_group(index)
    data = bytearray(path.read_bytes())
    for i in range(group.num_columns):
        chunk = group.column(i)
        start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    assert path.stat().st_size == times.st_size


def test_conditions_leave_files_row_groups_and_rows_out_after_the_limit(tmp_path: Path) -> None:
    starts = {"2026-01-01": (0, 10), "2026-01-02": (10, 50), "2026-01-03": (50, 60)}
    for day, (start, stop) in starts.items():
        (tmp_path / "in" / f"dt={day}").mkdir(parents=True)
        values = pa.array([float(row) for row in range(start, stop)], pa.float32())
        kinds = pa.array([None if row % 7 == 0 else "abc"[row % 3] for row in range(start, stop)])
        table = pa.table({"id": range(start, stop), "kind": kinds, "inputs": values})
        pq.write_table(table, tmp_path / "in" / f"dt={day}" / "x.parquet", row_group_size=10)
    damage_row_group(tmp_path / "in" / "dt=2026-01-02" / "x.parquet", 0)  # ids 10 to 19
    (tmp_path / "in" / "dt=2026-01-04").mkdir()
    (tmp_path / "in" / "dt=2026-01-04" / "junk.parquet").write_bytes(b"no Parquet at all")
    summary = run(
        graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None])), tmp_path / "in", tmp_path / "out",
        where=("dt > 2026-01-01", "dt != 2026-01-04", "id >= 23", "kind in a, c"), limit=45, keep="id",
    )  # fmt: skip
    expected = [row for row in range(23, 45) if row % 7 and row % 3 != 1]
    scored = read_parts(tmp_path / "out")
    assert scored.column_names == ["id", "prediction"]
    assert scored["id"].to_pylist() == expected
    assert scored["prediction"].to_pylist() == expected
    # The limit counts the 10 rows of the first folder, and the pruned row group's; neither was read.
    assert (summary.rows_in, summary.rows_out) == (35, len(expected))
    assert (summary.rows_filtered, summary.rows_quarantined) == (35 - len(expected), 0)
    assert summary.files_pruned == 2
    assert summary.parts == 1


def test_files_that_differ_harmlessly_are_read_as_the_first(tmp_path: Path) -> None:
    lists = pa.list_(pa.float32(), 2)
    tables = [
        pa.table(
            {
                "id": pa.array([0, 1], pa.int64()),
                "word": pa.array(["a", "b"], pa.string()),
                "pixels": pa.array([[0, 1], [2, 3]], lists),
                "info": pa.array([{"a": 1, "b": "x"}, None], pa.struct([("a", pa.int64()), ("b", pa.string())])),
            }
        ),
        pa.table(
            {
                "extra": pa.array([True, False]),
                "pixels": pa.array([[4, 5], [6, 7]], pa.list_(pa.float16(), 2)),
                "word": pa.array(["c", "d"], pa.large_string()),
                "info": pa.array([{"b": "y", "a": 2}] * 2, pa.struct([("b", pa.large_string()), ("a", pa.int8())])),
                "id": pa.array([2, 3], pa.int32()),
            }
        ),
    ]
    tables.append(tables[0].slice(0, 0))
    tables.append(tables[1].set_column(2, "word", pa.array(["e", "f"]).dictionary_encode()))
    for number, table in enumerate(tables):
        folder = tmp_path / "in" / f"n={number}"  # a folder each, for a part each
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "x.parquet")
    nodes = []
    for name, dtype, shape in (("id", "int64", [None]), ("word", "string", [None]), ("pixels", "float32", [None, 2])):
        nodes += [
            graphs.placeholder(f"{name}_in", dtype, shape),
            graphs.node(f"{name}_out", "Identity", f"{name}_in", T=dtype),
        ]
    names = ("id", "word", "pixels")
    summary = run(
        graphs.write(tmp_path / "m.pb", graphs.graph(*nodes)), tmp_path / "in", tmp_path / "out",
        feed={f"{name}_in": name for name in names}, fetch={f"{name}_out": f"{name}_out" for name in names}, keep="all",
    )  # fmt: skip
    assert (summary.parts, summary.rows_in, summary.rows_out) == (4, 6, 6)
    parts = [pq.ParquetFile(path) for path in sorted((tmp_path / "out").rglob("part-*"))]
    assert [part.metadata.num_rows for part in parts] == [2, 2, 0, 2]
    schema = pa.schema([*tables[0].schema, ("id_out", pa.int64()), ("word_out", pa.binary()), ("pixels_out", lists)])
    for part in parts:
        assert part.schema_arrow.remove_metadata().equals(schema)
    scored = pa.concat_tables(part.read() for part in parts)
    assert scored["id"].to_pylist() == scored["id_out"].to_pylist() == [0, 1, 2, 3, 2, 3]
    assert scored["word"].to_pylist() == list("abcdef")
    assert scored["word_out"].to_pylist() == [word.encode() for word in "abcdef"]
    assert scored["pixels"].to_pylist() == scored["pixels_out"].to_pylist()
    assert scored["pixels"].to_pylist() == [[0, 1], [2, 3], [4, 5], [6, 7], [4, 5], [6, 7]]
    assert scored["info"].to_pylist() == [{"a": 1, "b": "x"}, None, *[{"a": 2, "b": "y"}] * 4]


def test_a_file_with_other_values_is_refused_by_name_and_field(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = pa.array([1.0, 2.0], pa.float32())
    for name, codes in (("a", pa.array([1, 2])), ("b", pa.array(["1", "2"]))):
        info = pa.StructArray.from_arrays([codes], names=["code"])
        pq.write_table(pa.table({"inputs": values, "info": info}), tmp_path / "in" / f"{name}.parquet")
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None]))
    message = r"in/b\.parquet: column 'info\.code' is string where the first input file has int64"
    with pytest.raises(DataError, match=message):
        run(model, tmp_path / "in", tmp_path / "out", max_bad_rows="100%")
    assert not (tmp_path / "out" / "_SUCCESS").exists()
