from pathlib import Path

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import JobConfig, score
from engine.run.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

ROWS = 10


def score_table(table: pa.Table, model: str, folder: Path, **settings: object) -> tuple[pa.Table, Summary]:
    """Score `table`, split into two files, and return the output in input order."""
    (folder / "in").mkdir(exist_ok=True)
    half = len(table) // 2
    pq.write_table(table.slice(0, half), folder / "in" / "a.parquet")
    pq.write_table(table.slice(half), folder / "in" / "b.parquet")
    config = {"model": model, "input": (str(folder / "in"),), "output": str(folder / "out"), "actors": 1}
    summary = score(JobConfig(**{**config, **settings}))
    parts = sorted((folder / "out").glob("part-*"))
    return pa.concat_tables(pq.read_table(part) for part in parts), summary


def test_every_kind_of_column_reaches_its_tensor_and_comes_back(tmp_path: Path) -> None:
    values = np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3)
    nested = [[list(map(float, row)) for row in block] for block in values]
    pixels = np.arange(ROWS * 12, dtype=np.uint8).reshape(ROWS, 2, 2, 3)
    columns = {
        "flat": (pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 6), "float32", [None, 2, 3], values),
        "nested": (pa.array(nested, pa.list_(pa.list_(pa.float32()))), "float32", [None, 2, 3], values),
        "open": (pa.array(nested, pa.list_(pa.list_(pa.float32()))), "float32", [None, None, None], values),
        "raw": (pa.array([row.tobytes() for row in pixels]), "uint8", [None, 2, 2, 3], pixels),
        "count": (pa.array(range(ROWS), pa.int64()), "int32", [None], np.arange(ROWS)),
        "wide": (pa.array(range(ROWS), pa.float64()), "float32", [None, 1], np.arange(ROWS)[:, None]),
        "flag": (pa.array([i % 2 == 0 for i in range(ROWS)]), "bool", [None], np.arange(ROWS) % 2 == 0),
        "text": (pa.array([f"é{i}" for i in range(ROWS)]), "string", [None], [f"é{i}".encode() for i in range(ROWS)]),
        "blob": (
            pa.array([bytes([i, 0]) for i in range(ROWS)]),
            "string",
            [None],
            [bytes([i, 0]) for i in range(ROWS)],
        ),
        "words": (pa.array([["a", str(i)] for i in range(ROWS)]), "string", [None, 2], None),
    }
    nodes = []
    for name, (_, dtype, shape, _) in columns.items():
        nodes += [
            graphs.placeholder(f"in/{name}", dtype, shape),
            graphs.node(f"out/{name}", "Identity", f"in/{name}", T=dtype),
        ]
    model = graphs.write(tmp_path / "m.pb", graphs.graph(*nodes))
    ports = {f"in/{name}": name for name in columns}
    table = pa.table({"id": range(ROWS), **{name: column for name, (column, *_) in columns.items()}})
    fetch = {f"out/{name}:0": f"{name}_out" for name in columns}
    output, _ = score_table(table, model, tmp_path, feed=ports, fetch=fetch, batch_size=4)
    assert output.column_names == ["id", *fetch.values()]
    assert output["id"].to_pylist() == list(range(ROWS))
    for name, (_, dtype, _, expected) in columns.items():
        found = output[f"{name}_out"]
        if dtype == "string":
            assert found.to_pylist() == (expected or [[b"a", str(i).encode()] for i in range(ROWS)]), name
        elif isinstance(found.type, pa.FixedShapeTensorType):
            np.testing.assert_array_equal(found.combine_chunks().to_numpy_ndarray(), expected, name)
        else:
            assert np.array(found.to_pylist()).tolist() == np.asarray(expected).tolist(), name
    assert output.schema.field("flat_out").type == pa.fixed_shape_tensor(pa.float32(), [2, 3])
    assert output.schema.field("open_out").type == pa.list_(pa.list_(pa.float32()))  # may vary from batch to batch
    assert output.schema.field("wide_out").type == pa.list_(pa.float32(), 1)


def test_constants_and_a_lookup_table(tmp_path: Path) -> None:
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        words = tf.compat.v1.placeholder(tf.string, [None], name="words")
        scale = tf.compat.v1.placeholder(tf.float32, [], name="scale")
        keys, values = tf.constant(["a", "b"]), tf.constant([1.0, 2.0])
        table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.float32)
        load = tf.raw_ops.LookupTableImportV2(table_handle=table, keys=keys, values=values)
        found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=words, default_value=tf.constant(-1.0))
        tf.multiply(found, scale, name="prediction")
    (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    rows = pa.table({"id": range(4), "word": ["a", "b", "?", "a"]})
    settings = {"feed": ["words=word"], "set": ["scale=10.0"], "init_op": [load.name]}
    output, summary = score_table(rows, str(tmp_path / "m.pb"), tmp_path, **settings)
    assert output["prediction"].to_pylist() == [10.0, 20.0, -10.0, 10.0]
    assert summary.bytes_stable


def test_a_fixed_batch_axis_is_padded_and_cut_off_again(tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [4, 3]))
    rows = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3)
    table = pa.table({"inputs": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 3)})
    output, summary = score_table(table, model, tmp_path, batch_size=100)
    assert summary.batch_size == 4
    np.testing.assert_array_equal(np.stack(output["prediction"].to_numpy()), rows)


def test_a_random_operation_ends_the_promise_of_equal_bytes(tmp_path: Path) -> None:
    made = graphs.graph(
        graphs.placeholder("inputs", "float32", [None]),
        graphs.node("shape", "Shape", "inputs", T="float32", out_type="int32"),
        graphs.node("noise", "RandomUniform", "shape", T="int32", dtype="float32"),
        graphs.node("prediction", "AddV2", "inputs", "noise", T="float32"),
    )
    table = pa.table({"inputs": pa.array(np.zeros(4, np.float32))})
    _, summary = score_table(table, graphs.write(tmp_path / "m.pb", made), tmp_path)
    assert not summary.bytes_stable
    assert "noise (RandomUniform)" in summary.bytes_stable_reason
