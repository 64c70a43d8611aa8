from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import GraphError
from engine.model.checkpoint import freeze_checkpoint, save_checkpoint
from engine.model.graphdef import VARIABLES
from engine.model.session import import_tensorflow, load_session

pytestmark = pytest.mark.tf

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
ROWS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
LABELS = (ROWS @ np.array([[2.0], [-1.0]], np.float32) + 0.5).astype(np.float32)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def train(tmp_path: Path) -> Callable[[bool], tuple[str, np.ndarray]]:
    """A function that trains y = x @ w + b, saves it, and returns the prefix and the predictions."""

    def run(use_resource: bool) -> tuple[str, np.ndarray]:
        tf = import_tensorflow(gpu_share=0)
        v1 = tf.compat.v1
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None, 2], name="inputs")
            y = v1.placeholder(tf.float32, [None, 1], name="labels")
            zeros = v1.zeros_initializer()
            w = v1.get_variable("w", [2, 1], initializer=zeros, use_resource=use_resource)
            b = v1.get_variable("b", [1], initializer=zeros, use_resource=use_resource)
            prediction = tf.add(tf.matmul(x, w), b, name="prediction")
            loss = tf.reduce_mean(tf.square(prediction - y))
            step = v1.train.GradientDescentOptimizer(0.1).minimize(loss)
            session.run(v1.global_variables_initializer())
            for _ in range(20):
                session.run(step, {x: ROWS, y: LABELS})
            assert session.run(loss, {x: ROWS, y: LABELS}) < 0.5
            prefix = save_checkpoint(session, str(tmp_path / "made" / "model"))
            return prefix, session.run(prediction, {x: ROWS})

    return run


Train = Callable[[bool], tuple[str, np.ndarray]]


@pytest.mark.parametrize("use_resource", [False, True], ids=["VariableV2", "resource"])
def test_a_frozen_graph_predicts_as_the_session_did(train: Train, use_resource: bool) -> None:
    prefix, expected = train(use_resource)
    data = freeze_checkpoint(prefix, ["prediction:0"])
    operations = {node.op for node in GraphDef.FromString(data).node}
    assert not operations & set(VARIABLES)
    model = load_session(data, ["inputs:0"], ["prediction:0"], {})
    np.testing.assert_array_equal(model.run({"inputs:0": ROWS})[0], expected)


def test_a_checkpoint_is_there_as_files(train: Train, tmp_path: Path) -> None:
    prefix, _ = train(True)
    assert prefix == str(tmp_path / "made" / "model")
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert {"model.meta", "model.index", "model.data-00000-of-00001"} <= names


def test_only_what_the_outputs_need_is_kept(train: Train) -> None:
    prefix, _ = train(True)
    names = {node.name for node in GraphDef.FromString(freeze_checkpoint(prefix, ["prediction"])).node}
    assert {"inputs", "prediction"} <= names
    assert "labels" not in names


def test_a_missing_output_is_named(train: Train) -> None:
    prefix, _ = train(True)
    with pytest.raises(GraphError, match=rf"^{prefix} has no tensor predicton:0 to freeze to"):
        freeze_checkpoint(prefix, ["prediction:0", "predicton:0"])


@pytest.mark.parametrize("part", ["model.meta", "model.index", "model.data-00000-of-00001"])
def test_a_checkpoint_with_a_part_missing(train: Train, part: str, tmp_path: Path) -> None:
    prefix, _ = train(True)
    (tmp_path / "made" / part).unlink()
    with pytest.raises(GraphError, match=rf"^{prefix}: cannot restore this checkpoint"):
        freeze_checkpoint(prefix, ["prediction:0"])


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=rf"^{tmp_path}/nowhere: cannot restore this checkpoint"):
        freeze_checkpoint(str(tmp_path / "nowhere"), ["prediction:0"])


def test_a_meta_graph_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "model.meta").write_bytes(b"\xff\xff not a meta graph")
    with pytest.raises(GraphError, match="cannot restore this checkpoint"):
        freeze_checkpoint(str(tmp_path / "model"), ["prediction:0"])


def test_a_meta_graph_without_variables(tmp_path: Path) -> None:
    tf = import_tensorflow(gpu_share=0)
    with tf.Graph().as_default():
        tf.identity(tf.compat.v1.placeholder(tf.float32, name="x"), name="y")
        tf.compat.v1.train.export_meta_graph(str(tmp_path / "model.meta"))
    with pytest.raises(GraphError, match="this checkpoint holds no variables"):
        freeze_checkpoint(str(tmp_path / "model"), ["y:0"])


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside this checkout")
def test_a_checkpoint_of_others_freezes() -> None:
    prefix = str(CASES / "tf2onnx_ckpt_v2_regression" / "model")
    data = freeze_checkpoint(prefix, ["pred:0"])
    graph: Any = GraphDef.FromString(data)
    assert not {node.op for node in graph.node} & set(VARIABLES)
