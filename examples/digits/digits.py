"""The whole life of a model, on real data: build, train, save, freeze, score, look.

A small convolutional classifier, built the TensorFlow 1 way, learns the 1,797 handwritten digits of the UCI set
that scikit-learn carries. It is saved as a checkpoint and frozen to `digits.pb`; the held-out images become
Parquet, which `icefloe score` scores on two actors. Run it with `make demo`.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from engine.freezing import freeze_to_file
from engine.model.checkpoint import save_checkpoint
from engine.model.freezing.plan import FreezeOptions
from engine.model.session import import_tensorflow

SEED = 7
NUM_FILES = 6
EPOCHS = 20
BATCH_ROWS = 64
MIN_ACCURACY = 0.95
Array = npt.NDArray[Any]


@contextlib.contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """Send what TensorFlow's native code logs while it starts to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    before = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def build_graph(tf: Any) -> tuple[Any, Any, Any]:
    """Build the classifier in a graph of its own: images [N, 8, 8] in, probabilities [N, 10] out.

    Returns:
        The graph, the training operation and the placeholder of the labels.
    """
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default():
        v1.set_random_seed(SEED)
        images = v1.placeholder(tf.float32, [None, 8, 8], name="inputs")
        labels = v1.placeholder(tf.int64, [None], name="labels")
        pixels = tf.expand_dims(images / 16.0, -1)
        kernel = v1.get_variable("kernel", [3, 3, 1, 32], initializer=v1.glorot_uniform_initializer(SEED))
        hidden = tf.nn.relu(tf.nn.conv2d(pixels, kernel, strides=1, padding="SAME"))
        pooled = tf.reshape(tf.nn.max_pool2d(hidden, 2, 2, "SAME"), [-1, 4 * 4 * 32])
        weights = v1.get_variable("weights", [4 * 4 * 32, 10], initializer=v1.glorot_uniform_initializer(SEED))
        bias = v1.get_variable("bias", [10], initializer=v1.zeros_initializer())
        logits = pooled @ weights + bias
        tf.nn.softmax(logits, name="prediction")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        train = v1.train.AdamOptimizer(0.003).minimize(loss)
    return graph, train, labels


def train_and_freeze(folder: Path, images: Array, labels: Array) -> Path:
    """Train on `images` [N, 8, 8] and `labels` [N], save a checkpoint, and freeze it to `digits.pb`."""
    tf = import_tensorflow(gpu_share=0)
    graph, train, label_placeholder = build_graph(tf)
    order = np.random.default_rng(SEED)
    with tf.compat.v1.Session(graph=graph) as session:
        with graph.as_default():
            session.run(tf.compat.v1.global_variables_initializer())
        for _ in range(EPOCHS):
            rows = order.permutation(len(images))
            for start in range(0, len(rows), BATCH_ROWS):
                batch = rows[start : start + BATCH_ROWS]
                session.run(train, {"inputs:0": images[batch], label_placeholder: labels[batch]})
        prefix = save_checkpoint(session, str(folder / "checkpoint" / "digits"), ["inputs"], ["prediction"])
    model = folder / "digits.pb"
    freeze_to_file(prefix, str(model), FreezeOptions(outputs=("prediction",)))
    return model


def write_images(folder: Path, images: Array, labels: Array) -> Path:
    """Write the images as Parquet in several files: id, label, and the pixels as `inputs`."""
    target = folder / "images"
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.parquet"):
        old.unlink()
    for number, rows in enumerate(np.array_split(np.arange(len(images)), NUM_FILES)):
        pixels = pa.FixedSizeListArray.from_arrays(pa.array(images[rows].reshape(-1)), 64)
        table = pa.table({"id": pa.array(rows), "label": pa.array(labels[rows]), "inputs": pixels})
        pq.write_table(table, target / f"digits-{number}.parquet")
    return target


def score(folder: Path, model: Path, images: Path) -> dict[str, Any]:
    """Run `icefloe score` on two actors, as a user would, and return its summary."""
    words = ["--model", str(model), "--input", str(images), "--output", str(folder / "predictions")]
    command = [sys.executable, "-m", "jobs.score", *words, "--actors", "2", "--shard-size", "8KiB", "--overwrite"]
    sys.stdout.write(f"$ icefloe score {' '.join(command[3:])}\n")
    sys.stdout.flush()
    done = subprocess.run([*command, "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def show(folder: Path, summary: dict[str, Any]) -> float:
    """Print a few predictions beside the truth, and return the accuracy."""
    table = ds.dataset(folder / "predictions", format="parquet").to_table().sort_by("id")
    found = np.stack(table["prediction"].to_numpy()).argmax(axis=1)
    truth = table["label"].to_numpy()
    sys.stdout.write("\n  id  truth  predicted\n")
    for row in range(8):
        sys.stdout.write(f"{table['id'][row].as_py():4}  {truth[row]:5}  {found[row]:9}\n")
    accuracy = float((found == truth).mean())
    sys.stdout.write(f"\nheld-out accuracy {accuracy:.3f} ({len(truth)} images)\n")
    rate, parts = summary["rows_per_second"], summary["parts"]
    ready = f"{summary['actors']} of 2 actors were ready in time to score some"
    sys.stdout.write(f"{rate:,.0f} rows per second in {parts} parts ({ready})\n")
    for name, path in (("model", "digits.pb"), ("images", "images"), ("predictions", "predictions")):
        sys.stdout.write(f"{name:12} {folder / path}\n")
    return accuracy


def main() -> int:
    """Run the example; exit code 1 if the model learned too little."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/digits"), help="where its files go")
    folder = parser.parse_args().folder.resolve()
    digits = load_digits()
    images, labels = digits.images.astype(np.float32), digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.3, random_state=SEED, stratify=labels
    )
    started = time.monotonic()
    with stderr_to(folder / "tensorflow.log"):
        model = train_and_freeze(folder, train_images, train_labels)
    sys.stdout.write(f"trained on {len(train_images)} images and frozen in {time.monotonic() - started:.1f} s\n")
    summary = score(folder, model, write_images(folder, test_images, test_labels))
    return 0 if show(folder, summary) >= MIN_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
