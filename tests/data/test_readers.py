"""Parts read back as they were written, by the readers that people have: pyarrow, pandas, polars and DuckDB."""

import datetime
import glob
import math
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from engine.data.output import bind_output, to_column
from engine.data.sink import EncodingRules, PartWriter, choose_encoding
from engine.data.storage.local_folder import LocalFolder
from engine.model.tensor import TensorSpec

Rows = list[Any]
ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 5
FLOATS = np.array([1.5, np.nan, np.inf, -np.inf, -0.0], np.float32)
HALVES = np.array([1.5, np.nan, -np.inf, 65504, 2**-24], np.float16)
TEXTS = ["a", "é", "", "日本", "x\0y"]
STRINGS = np.array([text.encode() for text in TEXTS], object)
TENSOR = np.arange(NUM_ROWS * 6, dtype=np.float32).reshape(NUM_ROWS, 2, 3)


def fetched(array: np.ndarray, shape: tuple[int | None, ...], dtype: str | None = None) -> tuple[pa.Array, Rows]:
    """The column that `array` becomes, and its rows as every reader should give them; a tensor's rows are flat."""
    column = to_column(
        bind_output(TensorSpec("prediction:0", dtype or array.dtype.name, (None, *shape)), "score"), array
    )
    if isinstance(column.type, pa.FixedShapeTensorType):
        array = array.reshape(len(array), -1)
    return column, array.tolist()


def kept(values: Rows, arrow_type: pa.DataType) -> tuple[pa.Array, Rows]:
    return pa.array(values, arrow_type), values


def limits(dtype: str) -> np.ndarray:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.array([low, high, 1, high // 2 + 1, high - 1], dtype)


KEPT = {
    "id": kept([10, 11, 12, 13, 2**63 - 1], pa.int64()),
    "name": kept(["a", None, "", "é", "x\0y"], pa.string()),
    "box": kept(
        [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}, {"a": 2, "b": None}, {"a": -3, "b": ""}],
        pa.struct([("a", pa.int32()), ("b", pa.string())]),
    ),
    "tags": kept([["a"], [], None, ["b", None], ["c", "é"]], pa.list_(pa.string())),
    "label": kept(["cat", "dog", None, "cat", "é"], pa.dictionary(pa.int32(), pa.string())),
    "taken": kept(
        [datetime.datetime(1970, 1, 1), None, *(datetime.datetime(y, 2, 3, 4, 5, 6, 789) for y in (1969, 2026, 9999))],
        pa.timestamp("us"),
    ),
    "image": kept([b"\0\xff", b"", None, b"abc", b"z"], pa.binary()),
}
FETCHED = {
    "float32": fetched(FLOATS, ()),
    "float64": fetched(FLOATS.astype(np.float64) / 3, ()),
    "bool": fetched(np.arange(NUM_ROWS) % 3 == 0, ()),
    **{name: fetched(limits(name), ()) for name in ("int8", "int16", "int32", "int64")},
    **{name: fetched(limits(name), ()) for name in ("uint8", "uint16", "uint32", "uint64")},
    "uint64_list": fetched(limits("uint64").reshape(NUM_ROWS, 1), (1,)),
    "bfloat16": fetched(FLOATS.astype(ml_dtypes.bfloat16), (), "bfloat16"),
    "float16": fetched(HALVES, ()),
    "float16_list": fetched(np.tile(HALVES, 3).reshape(NUM_ROWS, 3), (3,)),
    "float16_tensor": fetched(np.tile(HALVES, 4).reshape(NUM_ROWS, 2, 2), (2, 2)),
    "list": fetched(np.tile(FLOATS, 4).reshape(NUM_ROWS, 4), (4,)),
    "tensor": fetched(TENSOR, (2, 3)),
    "int64_tensor": fetched(np.arange(NUM_ROWS * 12).reshape(NUM_ROWS, 2, 3, 2) - 2**62, (2, 3, 2)),
    "bool_nested": fetched(np.arange(NUM_ROWS * 4).reshape(NUM_ROWS, 2, 2) % 3 == 0, (2, 2)),
    "open": fetched(TENSOR, (None, 3)),
    "empty": fetched(np.zeros((NUM_ROWS, 0), np.float32), (0,)),
    "empty_nested": fetched(np.zeros((NUM_ROWS, 2, 0), np.float32), (2, 0)),
    "bytes": fetched(STRINGS, (), "string"),
    "bytes_list": fetched(np.tile(STRINGS, 2).reshape(NUM_ROWS, 2), (2,), "string"),
    "text": kept(TEXTS, pa.string()),
    "text_list": kept([[text, "é"] for text in TEXTS], pa.list_(pa.string(), 2)),
}
COLUMNS = KEPT | FETCHED
EXPECTED = {name: rows for name, (_, rows) in COLUMNS.items()}
TABLE = pa.table({name: column for name, (column, _) in COLUMNS.items()})


def write_part(path: Path, table: pa.Table, row_group_size: int = 3) -> Path:
    fetched_names = [name for name in table.column_names if name not in KEPT]
    encoding = choose_encoding(table.schema, fetched_names, EncodingRules(group_rows=row_group_size))
    path.parent.mkdir(parents=True, exist_ok=True)
    with PartWriter(LocalFolder(str(path.parent)), path.name, table.schema, encoding) as part:
        for start in range(0, len(table), row_group_size):
            part.write(table.slice(start, row_group_size))
        part.publish({"icefloe": "{}"}, lambda: None, lambda: True)
    return path


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_part(tmp_path_factory.mktemp("out") / "part-00000-of-00001.parquet", TABLE)


def read_pyarrow(path: Path) -> dict[str, Rows]:
    return pq.read_table(path).to_pydict()


def read_dataset(path: Path) -> dict[str, Rows]:
    return ds.dataset(path.parent, partitioning="hive").to_table().to_pydict()


def read_pandas(path: Path) -> dict[str, Rows]:
    import pandas as pd

    frame = pd.read_parquet(path)
    return {name: [_pandas_value(value) for value in frame[name].tolist()] for name in frame.columns}


def read_pandas_arrow(path: Path) -> dict[str, Rows]:
    import pandas as pd

    frame = pd.read_parquet(path, dtype_backend="pyarrow")
    return {name: [_pandas_value(value) for value in frame[name].tolist()] for name in frame.columns}


def _pandas_value(value: Any) -> Any:
    import pandas as pd

    if isinstance(value, np.ndarray):
        return [_pandas_value(each) for each in value.tolist()]
    if value is pd.NA or value is pd.NaT:
        return None
    return value.to_pydatetime() if isinstance(value, pd.Timestamp) else value


def read_polars(path: Path) -> dict[str, Rows]:
    import polars as pl

    return pl.read_parquet(path).to_dict(as_series=False)


def scan_polars(path: Path) -> dict[str, Rows]:
    import polars as pl

    return pl.scan_parquet(path).collect().to_dict(as_series=False)


def read_duckdb(path: Path) -> dict[str, Rows]:
    import duckdb

    found = duckdb.sql(f"select * from read_parquet('{path}')")
    rows = found.fetchall()
    return {name: [row[index] for row in rows] for index, name in enumerate(found.columns)}


READERS = [read_pyarrow, read_dataset, read_pandas, read_pandas_arrow, read_polars, scan_polars, read_duckdb]
every_reader = pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)


def is_same(found: Any, expected: Any) -> bool:
    """Whether two rows are equal to the last bit, NaN to NaN and -0.0 to -0.0."""
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(is_same, found, expected))
    if isinstance(expected, dict):
        # pandas makes the integers of a struct float64 where one of them is null; int32 survives that.
        return isinstance(found, dict) and found == expected
    if isinstance(expected, float) and isinstance(found, float):
        both_nan = math.isnan(found) and math.isnan(expected)
        return both_nan or struct.pack("d", found) == struct.pack("d", expected)
    if expected is None:  # pandas has NaN for a null string
        return found is None or (isinstance(found, float) and math.isnan(found))
    return type(found) is type(expected) and found == expected


@every_reader
def test_every_value_of_every_column_in_order(part: Path, read: Callable[[Path], dict[str, Rows]]) -> None:
    found = read(part)
    assert list(found) == list(EXPECTED)
    assert {name: rows for name, rows in found.items() if not is_same(rows, EXPECTED[name])} == {}


@every_reader
def test_a_part_without_rows(tmp_path: Path, read: Callable[[Path], dict[str, Rows]]) -> None:
    path = write_part(tmp_path / "part-00000-of-00001.parquet", TABLE.slice(0, 0))
    assert pq.read_metadata(path).num_row_groups == 0
    assert read(path) == {name: [] for name in EXPECTED}


def test_the_types_that_readers_see(part: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    assert pq.read_schema(part).equals(TABLE.schema)
    numbers = ["float32", "float64", "float16", "int8", "int64", "uint8", "uint64", "bool"]
    frame = pd.read_parquet(part)
    assert [str(frame[name].dtype) for name in numbers] == numbers
    assert str(frame["label"].dtype) == "category"
    in_polars = pl.read_parquet_schema(part)
    assert [str(in_polars[name]).lower().replace("boolean", "bool") for name in numbers] == numbers
    assert in_polars["list"] == pl.Array(pl.Float32, 4)
    assert in_polars["bool_nested"] == pl.Array(pl.Boolean, (2, 2))
    assert in_polars["open"] == pl.List(pl.List(pl.Float32))
    assert in_polars["label"] == pl.Categorical
    relation = duckdb.sql(f"select * from read_parquet('{part}')")
    in_duckdb = dict(zip(relation.columns, map(str, relation.types), strict=True))
    # DuckDB has no half float, and no list of a fixed size that a Parquet file could tell it of.
    assert [in_duckdb[name] for name in ("float16", "float16_list", "list", "tensor", "bool_nested", "uint64")] == [
        "FLOAT",
        "FLOAT[]",
        "FLOAT[]",
        "FLOAT[]",
        "BOOLEAN[][]",
        "UBIGINT",
    ]


def test_tensors_get_their_axes_back(part: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    column = pq.read_table(part)["tensor"].combine_chunks()
    np.testing.assert_array_equal(column.to_numpy_ndarray(), TENSOR)
    shape = tuple(column.type.shape)
    np.testing.assert_array_equal(np.stack(pd.read_parquet(part)["tensor"]).reshape(-1, *shape), TENSOR)
    # polars 1.35 opens no file with a tensor in it, 1.36 to 1.40 give flat rows without a shape, 2.0 an extension type.
    series = pl.read_parquet(part)["tensor"]
    assert (series.dtype.ext_name(), series.dtype.ext_metadata()) == ("arrow.fixed_shape_tensor", '{"shape":[2,3]}')
    np.testing.assert_array_equal(series.to_numpy().reshape(-1, *shape), TENSOR)
    storage = series.ext.storage()  # what polars calculates with
    assert storage.dtype == pl.Array(pl.Float32, 6)
    assert storage.reshape((-1, *shape)).dtype == pl.Array(pl.Float32, shape)
    rows = duckdb.sql(f"select tensor::FLOAT[6] from read_parquet('{part}')").fetchall()
    np.testing.assert_array_equal(np.array(rows, np.float32).reshape(-1, *shape), TENSOR)


def test_polars_gives_tensors_to_pyarrow_as_tensors(part: Path, tmp_path: Path) -> None:
    import polars as pl

    frame = pl.read_parquet(part, columns=["tensor"])
    np.testing.assert_array_equal(frame["tensor"].to_arrow().to_numpy_ndarray(), TENSOR)
    frame.write_parquet(tmp_path / "again.parquet")
    np.testing.assert_array_equal(
        pq.read_table(tmp_path / "again.parquet")["tensor"].combine_chunks().to_numpy_ndarray(), TENSOR
    )


def duckdb_ids(part: Path, where: str, options: str = "") -> list[int]:
    import duckdb

    return [row[0] for row in duckdb.sql(f"select id from read_parquet('{part}'{options}) where {where}").fetchall()]


def polars_ids(part: Path, where: Any) -> list[int]:
    import polars as pl

    return pl.scan_parquet(part).filter(where).collect()["id"].to_list()


# A filter reads the least and greatest value of each row group, of which Parquet leaves NaN out.
@pytest.fixture
def with_nan(tmp_path: Path) -> Path:
    """Two row groups; of the first all numbers are one, of the second they differ."""
    scores = np.array([0.5, np.nan, 0.5, 0.25, np.nan, 0.75], np.float32)
    table = pa.table({"id": np.arange(6), "score": fetched(scores, ())[0]})
    return write_part(tmp_path / "part-00000-of-00001.parquet", table)


def test_polars_finds_rows_that_are_nan(with_nan: Path) -> None:
    import polars as pl

    assert polars_ids(with_nan, pl.col("score").is_nan()) == [1, 4]
    assert polars_ids(with_nan, pl.col("score") > 0.8) == [1, 4]
    assert polars_ids(with_nan, pl.col("score") != 0.5) == [1, 3, 4, 5]


def test_duckdb_finds_rows_that_are_nan_when_told_that_there_may_be(with_nan: Path) -> None:
    assert duckdb_ids(with_nan, "isnan(score)", ", can_have_nan=true") == [1, 4]
    assert duckdb_ids(with_nan, "not isnan(score)", ", can_have_nan=true") == [0, 2, 3, 5]
    assert duckdb_ids(with_nan, "score != 0.5", ", can_have_nan=true") == [1, 3, 4, 5]


@pytest.mark.parametrize(
    ("where", "expected"),
    [("isnan(score)", [1, 4]), ("not isnan(score)", [0, 2, 3, 5]), ("score != 0.5", [1, 3, 4, 5])],
)
def test_duckdb_finds_rows_that_are_nan(with_nan: Path, where: str, expected: list[int]) -> None:
    assert duckdb_ids(with_nan, where) == expected


@pytest.mark.parametrize(
    ("where", "expected"), [(ds.field("score").is_nan(), [1, 4]), (ds.field("score") != 0.5, [1, 3, 4, 5])], ids=str
)
def test_pyarrow_finds_rows_that_are_nan(with_nan: Path, where: pc.Expression, expected: list[int]) -> None:
    assert ds.dataset(with_nan).to_table(filter=where)["id"].to_pylist() == expected


def test_filters_on_what_has_no_nan(part: Path) -> None:
    import polars as pl

    large = [EXPECTED["id"][i] for i in range(NUM_ROWS) if EXPECTED["uint64"][i] >= 2**63]
    assert len(large) == 3
    in_pyarrow = ds.dataset(part).to_table(filter=ds.field("uint64") >= pa.scalar(2**63, pa.uint64()))
    assert in_pyarrow["id"].to_pylist() == large
    assert polars_ids(part, pl.col("uint64") >= 2**63) == large
    assert duckdb_ids(part, f"uint64 >= {2**63}") == large
    assert duckdb_ids(part, "float16 < -1") == polars_ids(part, pl.col("float16") < -1) == [EXPECTED["id"][2]]


def score_table(start: int, stop: int) -> pa.Table:
    ids = np.arange(start, stop)
    return pa.table({"id": ids, "score": fetched(np.stack([ids, -ids], axis=1).astype(np.float32), (2,))[0]})


def write_folder(out: Path, folders: Sequence[str]) -> str:
    """Write one part to each of `folders`, and beside them what an output folder holds of other Parquet files."""
    for index, folder in enumerate(folders):
        name = f"part-{index:05d}-of-{len(folders):05d}.parquet"
        write_part(out / folder / name, score_table(index * 10, index * 10 + 4))
        (out / folder / f".icefloe-{name}-0f").write_bytes(b"PAR1")  # what a killed actor leaves
    (out / "_icefloe/quarantine").mkdir(parents=True)
    for name in ("manifest", "inputs", "quarantine/bad-00000-of-00002"):
        pq.write_table(score_table(1000, 1004), out / f"_icefloe/{name}.parquet")
    return f"{out}/**/part-*.parquet"


FOLDERS = {"hive": ["dt=2026-01-02", "dt=2026-01-01"], "flat": ["", ""], "deep": ["a/b", "a"]}


@pytest.mark.parametrize("folders", FOLDERS.values(), ids=FOLDERS)
def test_the_glob_finds_parts_only(tmp_path: Path, folders: list[str]) -> None:
    import duckdb
    import polars as pl

    pattern = write_folder(tmp_path / "out", folders)
    paths = sorted(glob.glob(pattern, recursive=True))
    assert paths == sorted(
        f"{tmp_path / 'out' / folder}/part-0000{i}-of-00002.parquet" for i, folder in enumerate(folders)
    )
    expected = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths]).to_pydict()
    assert len(expected["id"]) == 8
    assert pl.scan_parquet(pattern).collect().to_dict(as_series=False) == expected
    assert pl.read_parquet(pattern).to_dict(as_series=False) == expected
    rows = list(zip(*expected.values(), strict=True))
    assert duckdb.sql(f"select id, score from read_parquet('{pattern}')").fetchall() == rows


@pytest.mark.parametrize("folders", FOLDERS.values(), ids=FOLDERS)
def test_pyarrow_and_pandas_take_the_folder_itself(tmp_path: Path, folders: list[str]) -> None:
    import pandas as pd

    out = tmp_path / "out"
    write_folder(out, folders)
    expected = [0, 1, 2, 3, 10, 11, 12, 13]
    assert sorted(ds.dataset(out, partitioning="hive").to_table()["id"].to_pylist()) == expected
    assert sorted(pq.read_table(out)["id"].to_pylist()) == expected
    assert sorted(pd.read_parquet(out)["id"].tolist()) == expected


def test_hive_partitions_come_back_as_a_column(tmp_path: Path) -> None:
    import duckdb
    import pandas as pd
    import polars as pl

    out = tmp_path / "out"
    pattern = write_folder(out, FOLDERS["hive"])
    days = {number: f"2026-01-0{2 if number < 10 else 1}" for number in (0, 1, 2, 3, 10, 11, 12, 13)}
    dates = {number: datetime.date.fromisoformat(day) for number, day in days.items()}
    found = pl.scan_parquet(pattern, hive_partitioning=True).collect()
    assert dict(found.select("id", "dt").rows()) == dates
    assert dict(duckdb.sql(f"select id, dt from read_parquet('{pattern}')").fetchall()) == dates  # it sees by itself
    assert (
        dict(
            duckdb.sql(
                f"select id, dt from read_parquet('{pattern}', hive_partitioning=true, hive_types_autocast=false)"
            ).fetchall()
        )
        == days
    )
    for table in (ds.dataset(out, partitioning="hive").to_table(), pq.read_table(out)):
        assert dict(zip(table["id"].to_pylist(), table["dt"].to_pylist(), strict=True)) == days
    frame = pd.read_parquet(out)
    assert dict(zip(frame["id"].tolist(), frame["dt"].tolist(), strict=True)) == days


def test_scoring_needs_none_of_these_readers() -> None:
    imports = re.compile(r"^\s*(?:import|from)\s+(?:pandas|polars|duckdb)\b", re.MULTILINE)
    modules = [path for room in ("engine", "jobs") for path in (ROOT / room).rglob("*.py")]
    assert modules
    assert [path for path in modules if imports.search(path.read_text())] == []
