"""Small models with variables, as training leaves them: live sessions, checkpoints and meta graphs for tests."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from engine.model.session import import_tensorflow

ROWS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
LABELS = (ROWS @ np.array([[2.0], [-1.0]], np.float32) + 0.5).astype(np.float32)


def tensorflow() -> Any:
    return import_tensorflow(gpu_share=0)


@contextlib.contextmanager
def session() -> Iterator[tuple[Any, Any, Any]]:
    """TensorFlow, its first API, and a session with a graph of its own, which is the current one."""
    tf = tensorflow()
    config = tf.compat.v1.ConfigProto(allow_soft_placement=True)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph, config=config) as opened:
        yield tf, tf.compat.v1, opened


@contextlib.contextmanager
def control_flow(version: str) -> Iterator[None]:
    """tf.cond and tf.while_loop as functions (`v2`), or of Switch and Merge as before TensorFlow 2 (`v1`)."""
    v1 = tensorflow().compat.v1
    if version == "v1":
        v1.disable_control_flow_v2()
    try:
        yield
    finally:
        v1.enable_control_flow_v2()


def regression(use_resource: bool = True, name: str = "inputs") -> Any:
    """Build y = x @ w + b with its training in the current graph: `inputs`, `labels`, `prediction`, `loss`, `train`."""
    tf = tensorflow()
    v1 = tf.compat.v1
    x = v1.placeholder(tf.float32, [None, 2], name=name)
    y = v1.placeholder(tf.float32, [None, 1], name="labels")
    zeros = v1.zeros_initializer()
    w = v1.get_variable("w", [2, 1], initializer=zeros, use_resource=use_resource)
    b = v1.get_variable("b", [1], initializer=zeros, use_resource=use_resource)
    prediction = tf.add(tf.matmul(x, w), b, name="prediction")
    loss = tf.reduce_mean(tf.square(prediction - y), name="loss")
    v1.train.MomentumOptimizer(0.05, 0.5).minimize(loss, name="train")
    return prediction


def train(opened: Any, steps: int) -> float:
    """Train the regression of a session; return its loss before the last step."""
    losses = [opened.run(["loss:0", "train"], {"inputs:0": ROWS, "labels:0": LABELS})[0] for _ in range(steps)]
    return float(losses[-1])


def save(opened: Any, prefix: Path, **options: Any) -> str:
    """Save a session as a plain Saver does, its meta graph without any signature."""
    saver = tensorflow().compat.v1.train.Saver(**options)
    saver.save(opened, str(prefix))
    return str(prefix)


def score(frozen: Any, feeds: Mapping[str, Any]) -> list[Any]:
    """Run a frozen model in plain TensorFlow, by names of its ports."""
    with session() as (tf, v1, opened):
        tf.graph_util.import_graph_def(v1.GraphDef.FromString(frozen.data), name="")
        for name in frozen.init_ops:
            opened.run(name)
        return opened.run([spec.name for spec in frozen.outputs], {f"{name}:0": each for name, each in feeds.items()})


def edit_meta(prefix: str, edit: Callable[[Any], None]) -> str:
    """Change the meta graph of a checkpoint."""
    path = Path(f"{prefix}.meta")
    meta = MetaGraphDef.FromString(path.read_bytes())
    edit(meta)
    path.write_bytes(meta.SerializeToString())
    return prefix


def moving_averages(scope: str, width: int, use_resource: bool) -> list[Any]:
    """Make gamma, beta, moving_mean and moving_variance as layers did, with values of their own."""
    v1 = tensorflow().compat.v1
    made = []
    for number, name in enumerate(("gamma", "beta", "moving_mean", "moving_variance")):
        value = np.linspace(0.5, 2.0, width, dtype=np.float32) + number
        start = v1.constant_initializer(value)
        made.append(v1.get_variable(f"{scope}/{name}", [width], initializer=start, use_resource=use_resource))
    return made


def update_averages(averages: list[Any], batch: list[Any], decay: float = 0.9) -> list[Any]:
    """Let moving averages move, as tf.train.assign_moving_average did."""
    tf = tensorflow()
    updates = []
    for average, value in zip(averages, batch, strict=True):
        with tf.name_scope("AssignMovingAvg"):
            step = tf.multiply(tf.subtract(average.read_value(), value), 1 - decay)
            updates.append(tf.compat.v1.assign_sub(average, step).op)
    return updates


def normalised(rows: np.ndarray, averages: list[np.ndarray], epsilon: float) -> np.ndarray:
    """Batch norm in its inference form; averages are gamma, beta, moving mean and moving variance."""
    gamma, beta, mean, variance = averages
    return (rows - mean) / np.sqrt(variance + epsilon) * gamma + beta
