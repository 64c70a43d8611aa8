"""What `--precision` and `--xla` gain and cost on this machine: rows per second of a session, and drift.

One session thread, the sessions of a model take turns, medians of the rounds; float32 without XLA is what drift is
measured against. `python bench/precision.py [ROUNDS] [MODEL...]`.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.errors import ConfigError
from engine.model.session import ModelSession, SessionOptions, import_tensorflow, load_session
from engine.options import PRECISIONS
from engine.run.numeric_drift import measure_drift

SECONDS = 0.4
Layer = Callable[[Any, Any, np.random.Generator], Any]


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def mlp(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    """Return an MLP 64-128-64-10."""
    for rows, columns in ((64, 128), (128, 64)):
        x = tf.nn.relu(tf.nn.bias_add(tf.matmul(x, _weights(rng, rows, columns)), _weights(rng, 1, columns)[0]))
    return tf.matmul(x, _weights(rng, 64, 10))


def wide_mlp(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    """Return an MLP 256-1024-1024-10."""
    for rows, columns in ((256, 1024), (1024, 1024)):
        x = tf.nn.relu(tf.matmul(x, _weights(rng, rows, columns)))
    return tf.matmul(x, _weights(rng, 1024, 10))


def elementwise(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    """Return six layers 64-64 between normalisations and an activation of many operations."""
    for _ in range(6):
        centred = x - tf.reduce_mean(x, axis=1, keepdims=True)
        normal = centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=1, keepdims=True) + 1e-3)
        h = tf.matmul(normal, _weights(rng, 64, 64))
        x = x + 0.5 * h * (1.0 + tf.tanh(0.8 * (h + 0.045 * h * tf.square(h))))
    return x


def _normalised(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    ones, zeros = np.ones(x.shape[-1], np.float32), _weights(rng, 1, x.shape[-1])[0]
    return tf.compat.v1.nn.fused_batch_norm(x, ones, zeros, zeros, ones + zeros**2, is_training=False)[0]


def small_cnn(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    """Return two convolutions of 16 channels on 28x28x1."""
    x = tf.nn.relu(tf.nn.conv2d(x, _weights(rng, 3, 3, 1, 16), 2, "SAME"))
    x = tf.nn.relu(_normalised(tf, tf.nn.conv2d(x, _weights(rng, 3, 3, 16, 16), 1, "SAME"), rng))
    return tf.matmul(tf.reduce_mean(x, axis=[1, 2]), _weights(rng, 16, 10))


def residual(tf: Any, x: Any, rng: np.random.Generator) -> Any:
    """Return three residual blocks of 64 channels on 16x16."""
    x = tf.nn.relu(tf.nn.conv2d(x, _weights(rng, 3, 3, 3, 64), 2, "SAME"))
    for _ in range(3):
        x = tf.nn.relu(x + _normalised(tf, tf.nn.conv2d(x, _weights(rng, 3, 3, 64, 64), 1, "SAME"), rng))
    return tf.matmul(tf.reduce_mean(x, axis=[1, 2]), _weights(rng, 64, 10))


MODELS: dict[str, tuple[Layer, int, tuple[int, ...]]] = {
    "mlp": (mlp, 4096, (64,)),
    "wide_mlp": (wide_mlp, 1024, (256,)),
    "elementwise": (elementwise, 4096, (64,)),
    "small_cnn": (small_cnn, 256, (28, 28, 1)),
    "residual": (residual, 32, (32, 32, 3)),
}


def open_sessions(layers: Layer, shape: tuple[int, ...]) -> dict[str, ModelSession]:
    """Open a session for each way to compute that this machine has."""
    tf = import_tensorflow(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, *shape], name="inputs")
        tf.nn.softmax(layers(tf, x, np.random.default_rng(0)), name="prediction")
    data, found = bytes(graph.as_graph_def().SerializeToString()), dict[str, ModelSession]()
    for precision in PRECISIONS:
        for xla in (False, True):
            options = SessionOptions(precision=precision, xla=xla)
            try:
                session = load_session(data, ["inputs:0"], ["prediction:0"], {}, options=options)
            except ConfigError as error:
                print(error)
                break
            found[precision + " XLA" * xla] = session
    return found


def measure(name: str, rounds: int) -> None:
    """Print a model's rows per second and drift, a line for each way to compute."""
    layers, batch_rows, shape = MODELS[name]
    sessions, rng = open_sessions(layers, shape), np.random.default_rng(1)
    batch = {"inputs:0": rng.standard_normal((batch_rows, *shape)).astype(np.float32)}
    rates: dict[str, list[float]] = {way: [] for way in sessions}
    values = {way: [session.run(batch) for _ in range(2)][0][0] for way, session in sessions.items()}
    for _ in range(rounds):
        for way, session in sessions.items():
            started, num_batches = time.perf_counter(), 0
            while time.perf_counter() < started + SECONDS:
                session.run(batch)
                num_batches += 1
            rates[way].append(batch_rows * num_batches / (time.perf_counter() - started))
    plain = statistics.median(rates["float32"])
    for way, each in rates.items():
        rate, drift = statistics.median(each), measure_drift(values["float32"], values[way])
        told = f"max {drift.max_absolute:.1e}, 99.9% {drift.p999_absolute:.1e}, argmax {drift.argmax_changed:.2%}"
        print(f"{name:12} {way:14} {rate:12,.0f} rows/s  x {rate / plain:.2f}  drift {told}", flush=True)


if __name__ == "__main__":
    chosen = sys.argv[2:] or list(MODELS)
    for model in chosen:
        measure(model, int(sys.argv[1]) if len(sys.argv) > 1 else 5)
