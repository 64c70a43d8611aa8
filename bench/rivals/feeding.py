"""What the rivals share: a frozen graph as a callable, and columns of Parquet as the array that it takes."""

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


def load_graph(model: str, threads: int) -> tuple[Callable[[np.ndarray], np.ndarray], np.dtype, tuple[int, ...]]:
    """Return the graph as a callable, and dtype and shape of a row of `inputs:0`; 0 threads are TensorFlow's choice."""
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        graph_def = tf.compat.v1.GraphDef()
        graph_def.ParseFromString(Path(model).read_bytes())
        tf.import_graph_def(graph_def, name="")
    options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads)
    session = tf.compat.v1.Session(graph=graph, config=options)
    tensor = graph.get_tensor_by_name("inputs:0")
    run = session.make_callable("prediction:0", feed_list=["inputs:0"])
    return run, np.dtype(tensor.dtype.as_numpy_dtype), tuple(tensor.shape[1:])


def match_columns(names: list[str], feed: str) -> list[str]:
    """Return the columns that are fed: those that the name or glob fits."""
    return [name for name in names if fnmatch.fnmatch(name, feed)]


def to_array(table: pa.Table, feed: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Return the fed columns as one array, without a copy where the rows lie as the graph wants them."""
    names = match_columns(table.column_names, feed)
    if len(names) > 1:
        return np.stack([table[name].to_numpy() for name in names], axis=-1, dtype=dtype, casting="same_kind")
    column: Any = table[names[0]].combine_chunks()
    if dtype.hasobject:
        return column.to_numpy(zero_copy_only=False)
    if pa.types.is_binary(column.type):
        size = int(np.prod(shape)) * dtype.itemsize
        values = np.frombuffer(column.buffers()[2], np.uint8)[
            column.offset * size : (column.offset + len(table)) * size
        ]
        return values.view(dtype).reshape(len(table), *shape)
    return column.flatten().to_numpy().astype(dtype, copy=False).reshape(len(table), *shape)


def with_prediction(table: pa.Table, feed: str, prediction: np.ndarray) -> pa.Table:
    """Return the columns that are not fed, and the prediction as lists of its length."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(prediction.reshape(-1)), prediction.shape[1])
    kept = table.drop_columns(match_columns(table.column_names, feed))
    return kept.append_column("prediction", lists)
