"""What a page of docs/how-to takes as given: its models and rows, made in the working folder.

`python tests/pages.py several-inputs`, in a process of its own, for TensorFlow is imported.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

v1 = tf.compat.v1
RANDOM = np.random.default_rng(7)


def vectors(num_rows: int, width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(RANDOM.random(num_rows * width, dtype=np.float32)), width)


def write(path: str, columns: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def weights(*shape: int) -> Any:
    return tf.constant(RANDOM.normal(size=shape).astype(np.float32))


def write_graph(path: str) -> None:
    Path(path).write_bytes(v1.get_default_graph().as_graph_def().SerializeToString())


def write_linear() -> None:
    """softmax(inputs @ w), 4 features in, 3 classes out."""
    inputs = v1.placeholder(tf.float32, [None, 4], name="inputs")
    tf.nn.softmax(inputs @ weights(4, 3), name="prediction")
    write_graph("model.pb")


def save() -> None:
    with v1.Session() as session:
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.train.Saver().save(session, "run/model")


def several_inputs() -> None:
    profile = v1.placeholder(tf.float32, [None, 3], name="profile")
    clicks = v1.placeholder(tf.float32, [None, 8], name="clicks")
    country = v1.placeholder(tf.string, [None], name="country")
    embedding = tf.tanh(tf.concat([profile, clicks], 1) @ weights(11, 4), name="embedding")
    tf.sigmoid(tf.reduce_sum(embedding, 1) + tf.cast(tf.equal(country, "de"), tf.float32), name="score")
    write_graph("model.pb")
    rows = 1000
    write("data/users.parquet", {
        "user": np.arange(rows),
        "age": RANDOM.integers(18, 90, rows),
        "income": RANDOM.normal(3000, 500, rows),
        "visits": RANDOM.integers(0, 9, rows),
        "click_history": vectors(rows, 8),
        "address": [{"country": "de" if row % 3 else "fr", "city": "Ulm"} for row in range(rows)],
    })  # fmt: skip


def jpeg_bytes() -> None:
    Path("photos").mkdir()
    for number in range(40):
        height, width = RANDOM.integers(40, 90, 2)
        pixels = np.full((height, width, 3), RANDOM.integers(0, 255, 3), np.uint8)
        with tf.Graph().as_default(), v1.Session() as session:
            photo = session.run(tf.io.encode_jpeg(pixels))
        Path(f"photos/{number:03}.jpg").write_bytes(photo[:100] if number == 7 else photo)
    images = v1.placeholder(tf.float32, [None, 32, 32, 3], name="images")
    hidden = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(images, weights(3, 3, 3, 8), 1, "SAME")), [1, 2])
    tf.nn.softmax(hidden @ weights(8, 5), name="prediction")
    write_graph("classifier.pb")


def keep_prob() -> None:
    inputs = v1.placeholder(tf.float32, [None, 4], name="inputs")
    keep = v1.placeholder(tf.float32, [], name="keep_prob")
    is_training = v1.placeholder(tf.bool, [], name="is_training")
    temperature = v1.placeholder_with_default(tf.constant(1.0), [], name="temperature")
    hidden = tf.nn.dropout(tf.tanh(inputs @ v1.get_variable("w", [4, 8])), rate=1 - keep)
    hidden = tf.cond(is_training, lambda: hidden + tf.random.normal(tf.shape(hidden)), lambda: hidden)
    tf.nn.softmax(hidden @ v1.get_variable("v", [8, 3]) / temperature, name="prediction")
    save()
    write("data/rows.parquet", {"id": np.arange(100), "inputs": vectors(100, 4)})


def lookup_tables() -> None:
    Path("colours.txt").write_text("red\ngreen\nblue\n")
    inputs = v1.placeholder(tf.string, [None], name="inputs")
    index = tf.lookup.TextFileIndex
    lines = tf.lookup.TextFileInitializer(
        "colours.txt", tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
    )  # fmt: skip
    table = tf.lookup.StaticVocabularyTable(lines, num_oov_buckets=1)
    embedding = v1.get_variable("embedding", [4, 3])
    tf.nn.softmax(tf.gather(embedding, table.lookup(inputs)), name="prediction")
    save()
    with v1.Session() as session:
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        graph = v1.get_default_graph().as_graph_def()
        names = ["prediction", "init_all_tables"]
        frozen = v1.graph_util.convert_variables_to_constants(session, graph, names)
    Path("old.pb").write_bytes(frozen.SerializeToString())
    write("data/rows.parquet", {"id": np.arange(4), "inputs": ["red", "green", "blue", "pink"]})


def checkpoints() -> None:
    inputs = v1.placeholder(tf.float32, [None, 4], name="inputs")
    prediction = tf.nn.softmax(inputs @ v1.get_variable("w", [4, 3]), name="prediction")
    save()
    Path("run").rename("checkpoint")
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, "saved_model", {"pixels": inputs}, {"probabilities": prediction})


def s3() -> None:
    write_linear()
    for day in (1, 2, 3):
        write(f"in/day-{day}.parquet", {"id": np.arange(20_000), "inputs": vectors(20_000, 4)})


def ragged(rows: int, bad: Sequence[tuple[int, list[float] | None]]) -> list[list[float] | None]:
    found: list[list[float] | None] = RANDOM.random((rows, 4)).tolist()
    for row, value in bad:
        found[row] = value
    return found


def quarantine() -> None:
    write_linear()
    kind = pa.list_(pa.float32())
    short = [1.0, 2.0, 3.0]
    write("data/a.parquet", {"id": np.arange(100), "inputs": pa.array(ragged(100, [(7, None)]), kind)})
    write("data/b.parquet", {"id": np.arange(100), "inputs": pa.array(ragged(100, [(1, short), (9, short)]), kind)})


def daily_add() -> None:
    write_linear()
    for folder, day in (("events", 1), ("arrived", 2)):
        write(f"{folder}/2026-01-0{day}.parquet", {"id": np.arange(100), "inputs": vectors(100, 4)})


def keras_file() -> None:
    keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, "softmax")]).save("model.keras")


MAKERS = {
    "checkpoints": checkpoints,
    "daily-add": daily_add,
    "jpeg-bytes": jpeg_bytes,
    "keep-prob": keep_prob,
    "lookup-tables": lookup_tables,
    "quarantine": quarantine,
    "s3": s3,
    "several-inputs": several_inputs,
}

if __name__ == "__main__":
    with tf.Graph().as_default():
        MAKERS[sys.argv[1]]()
    if sys.argv[1] == "checkpoints":
        keras_file()  # needs eager mode
