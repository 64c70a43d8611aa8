"""What is measured: models with random weights, and rows for them as Parquet. Start at `WORKLOADS` and `prepare`.

Files are what a writer makes who sets nothing: pyarrow's defaults (snappy, dictionaries where they hold, row groups of
up to a million rows). Every model takes `inputs:0` and gives `prediction:0`; every file has an `id` that is kept.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.model.session import import_tensorflow

Column = Callable[[np.random.Generator, int], dict[str, pa.Array]]


@dataclass(frozen=True)
class Workload:
    """A model and rows for it."""

    name: str
    """What tables call it."""
    num_rows: int
    """Rows in all."""
    num_files: int
    """Files that they lie in, as many in each."""
    make_graph: Callable[[], bytes]
    """Makes the frozen graph."""
    make_columns: Column
    """Makes the columns of some rows."""
    feed: str = "inputs"
    """Columns that fill `inputs:0`."""
    batches: tuple[int, ...] = (256, 1024, 4096)
    """Rows a call at which `Session.run` is timed; the best one counts for the limit."""
    target: float = 0.0
    """Efficiency that is aimed at on two cores."""

    @property
    def kind(self) -> str:
        """The name's first word, which tells the model."""
        return self.name.replace(",", "").split()[0]


def chain(widths: tuple[int, ...]) -> bytes:
    """Return an MLP with softmax."""
    tf, rng, graph = import_tensorflow(0), np.random.default_rng(0), None
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, widths[0]], name="inputs")
        for i, (rows, columns) in enumerate(zip(widths, widths[1:], strict=False)):
            weights = rng.standard_normal((rows, columns)).astype(np.float32) / 8
            x = tf.nn.bias_add(tf.matmul(x, tf.constant(weights)), tf.zeros([columns]))
            x = tf.nn.relu(x) if i < len(widths) - 2 else tf.nn.softmax(x, name="prediction")
    return bytes(graph.as_graph_def().SerializeToString())


def convolve(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    """Return the prediction of three convolutions and a dense layer for images [n, h, w, 3] of 0 to 1."""
    for channels in (32, 64, 64):
        kernel = rng.standard_normal((3, 3, x.shape[-1], channels)).astype(np.float32) / 16
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), tf.zeros([channels])))
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")
    x = tf.reduce_mean(x, [1, 2])
    return tf.nn.softmax(tf.matmul(x, rng.standard_normal((64, 10)).astype(np.float32)), name="prediction")


def small_images() -> bytes:
    """Return a graph of three convolutions for uint8 images of 32x32x3."""
    tf, graph = import_tensorflow(0), None
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.uint8, [None, 32, 32, 3], name="inputs")
        convolve(tf, tf.cast(x, tf.float32) / 255.0, np.random.default_rng(0))
    return bytes(graph.as_graph_def().SerializeToString())


def large_images() -> bytes:
    """Return ResNet50 for uint8 images of 224x224x3, with the weights that Keras draws."""
    tf = import_tensorflow(0)
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf.keras.utils.set_random_seed(0)
    model = tf.keras.applications.ResNet50(weights=None, classes=1000)

    @tf.function(input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.uint8, name="inputs")])
    def predict(inputs: Any) -> Any:
        return model(tf.cast(inputs, tf.float32) / 255.0, training=False)

    frozen = convert_variables_to_constants_v2(predict.get_concrete_function())
    graph_def = frozen.graph.as_graph_def()
    for node in graph_def.node:  # its output is called Identity, whatever the function calls it
        if node.name == frozen.outputs[0].op.name:
            node.name = "prediction"
    return bytes(graph_def.SerializeToString())


def jpegs_in_graph() -> bytes:
    """Return a graph that decodes JPEG bytes, shrinks each image to 32x32 and convolves it."""
    tf, graph = import_tensorflow(0), None
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.string, [None], name="inputs")

        def decode(each: Any) -> Any:
            image = tf.cast(tf.io.decode_jpeg(each, channels=3), tf.float32)
            return tf.compat.v1.image.resize_bilinear(image[None], [32, 32])[0] / 255.0

        images = tf.map_fn(decode, x, fn_output_signature=tf.TensorSpec([32, 32, 3], tf.float32))
        convolve(tf, images, np.random.default_rng(0))
    return bytes(graph.as_graph_def().SerializeToString())


def vectors(rng: np.random.Generator, num_rows: int) -> dict[str, pa.Array]:
    """Return lists of 64 float32."""
    values = rng.standard_normal(num_rows * 64, np.float32)
    return {"inputs": pa.FixedSizeListArray.from_arrays(pa.array(values), 64)}


def scalars(rng: np.random.Generator, num_rows: int) -> dict[str, pa.Array]:
    """Return 40 columns of float64."""
    return {f"f_{i:02}": pa.array(rng.standard_normal(num_rows)) for i in range(40)}


def pixels(rng: np.random.Generator, num_rows: int) -> dict[str, pa.Array]:
    """Return 32x32x3 images as lists of uint8."""
    values = rng.integers(0, 256, num_rows * 3072, np.uint8)
    return {"inputs": pa.FixedSizeListArray.from_arrays(pa.array(values), 3072)}


def raw_bytes(num_bytes: int, rng: np.random.Generator, num_rows: int) -> dict[str, pa.Array]:
    """Return images as so many bytes each."""
    data = pa.py_buffer(rng.integers(0, 256, num_rows * num_bytes, np.uint8))
    offsets = pa.py_buffer(np.arange(num_rows + 1, dtype=np.int32) * num_bytes)
    return {"inputs": pa.Array.from_buffers(pa.binary(), num_rows, [None, offsets, data])}


def jpegs(rng: np.random.Generator, num_rows: int) -> dict[str, pa.Array]:
    """Return JPEG files of 96x96, of 64 kinds, each with bytes of its own behind the image, as files have."""
    tf = import_tensorflow(0)
    smooth = rng.integers(0, 256, (64, 12, 12, 3)).astype(np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    kinds = [tf.io.encode_jpeg(image).numpy() for image in smooth]
    return {"inputs": pa.array([kinds[i % 64] + rng.bytes(16) for i in range(num_rows)])}


MLP = functools.partial(chain, (64, 128, 64, 10))
WORKLOADS = {
    each.name: each
    for each in (
        Workload("tabular", 2_000_000, 8, MLP, vectors, batches=(1024, 2048, 4096, 8192), target=0.80),
        Workload("tabular 10M", 10_000_000, 40, MLP, vectors, batches=(1024, 2048, 4096, 8192), target=0.80),
        Workload("wide", 2_000_000, 8, functools.partial(chain, (40, 128, 64, 10)), scalars, "f_*",
                 (1024, 2048, 4096, 8192), 0.75),
        Workload("wide 10M", 10_000_000, 40, functools.partial(chain, (40, 128, 64, 10)), scalars, "f_*",
                 (1024, 2048, 4096, 8192), 0.75),
        Workload("small images", 60_000, 6, small_images, pixels, batches=(16, 64, 256, 1024), target=0.85),
        Workload("small images, raw", 60_000, 6, small_images, functools.partial(raw_bytes, 3072),
                 batches=(16, 64, 256, 1024), target=0.85),
        Workload("large images", 384, 4, large_images, functools.partial(raw_bytes, 224 * 224 * 3),
                 batches=(4, 8, 16, 32), target=0.95),
        Workload("jpeg", 24_000, 6, jpegs_in_graph, jpegs, batches=(64, 256, 1024, 4096), target=0.85),
    )
}  # fmt: skip


def prepare(workload: Workload, folder: Path, scale: float = 1.0) -> tuple[Path, Path, int]:
    """Write model and rows, unless they are there; return both paths and the number of rows.

    Rows of another scale than 1 lie in a folder of their own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, done = folder / "model.pb", folder / f"made-{scale:g}.json"
    rows = folder / ("in" if scale == 1 else f"in-{scale:g}")
    per_file = max(1, int(workload.num_rows * scale) // workload.num_files)
    if not done.exists():
        model.write_bytes(workload.make_graph())
        rows.mkdir(exist_ok=True)
        for index, table in enumerate(make_tables(workload, per_file)):
            pq.write_table(table, rows / f"rows-{index:03}.parquet")
        done.write_text(json.dumps({"rows": per_file * workload.num_files}))
    return model, rows, per_file * workload.num_files


def make_tables(workload: Workload, per_file: int) -> Iterator[pa.Table]:
    """Make the table of each file; the same ones every time."""
    rng = np.random.default_rng(1)
    for index in range(workload.num_files):
        ids = pa.array(np.arange(index * per_file, (index + 1) * per_file))
        yield pa.table({"id": ids, **workload.make_columns(rng, per_file)})


if __name__ == "__main__":
    for name in sys.argv[2:] or WORKLOADS:
        sys.stdout.write(f"{name}: {prepare(WORKLOADS[name], Path(sys.argv[1]) / name.replace(' ', '-'))}\n")
