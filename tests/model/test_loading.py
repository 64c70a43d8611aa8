"""Graphs of every kind of construction, loaded between feeds and fetches and compared with what made them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine.errors import GraphError
from engine.model.session import import_tensorflow, load_session

pytestmark = pytest.mark.tf

ROWS = np.array([[1.0, -2.0, 3.0], [-4.0, 5.0, 0.5]], np.float32)
Build = Callable[[Any, Any], Any]


def loop(tf: Any, x: Any) -> Any:
    """Doubles until the sum of squares passes 1,000."""
    return tf.compat.v1.while_loop(lambda y: tf.reduce_sum(y * y) < 1000.0, lambda y: y * 2.0, [x])


def loop_in_a_condition(tf: Any, x: Any) -> Any:
    def body(y: Any) -> Any:
        return tf.cond(tf.reduce_sum(y) > 0.0, lambda: y * 2.0, lambda: y * 3.0)

    return tf.compat.v1.while_loop(lambda y: tf.reduce_max(tf.abs(y)) < 100.0, body, [x])


def switch_case(tf: Any, x: Any) -> Any:
    branches = [lambda: x + 1.0, lambda: x * 2.0, lambda: tf.reverse(x, [1])]
    return tf.switch_case(tf.cast(tf.shape(x)[0], tf.int32) - 1, branches)


def tensor_array(tf: Any, x: Any) -> Any:
    """Sums of rows so far, collected one by one."""
    collected = tf.TensorArray(tf.float32, size=tf.shape(x)[0], element_shape=[3])

    def step(i: Any, total: Any, array: Any) -> tuple[Any, Any, Any]:
        total = total + x[i]
        return i + 1, total, array.write(i, total)

    start = (tf.constant(0), tf.zeros([3]), collected)
    return tf.compat.v1.while_loop(lambda i, *_: i < tf.shape(x)[0], step, start)[2].stack()


def functions(tf: Any, x: Any) -> Any:
    inner = tf.function(lambda y: tf.nn.relu(y) + 1.0)
    outer = tf.function(lambda y: inner(y) * inner(-y))
    unused = tf.function(tf.exp)
    tf.identity(unused(x), name="elsewhere")
    return outer(x)


def mapped(tf: Any, x: Any) -> Any:
    return tf.map_fn(tf.cumsum, x)


def quantised(tf: Any, x: Any) -> Any:
    low, high = tf.constant(-8.0), tf.constant(8.0)
    weights = tf.constant(np.arange(6, dtype=np.float32).reshape(3, 2) - 2)
    left, a, b = tf.quantization.quantize(x, low, high, tf.quint8)
    right, c, d = tf.quantization.quantize(weights, low, high, tf.quint8)
    product = tf.raw_ops.QuantizedMatMul(a=left, b=right, min_a=a, max_a=b, min_b=c, max_b=d, Toutput=tf.qint32)
    return tf.quantization.dequantize(product.out, product.min_out, product.max_out)


def fake_quantised(tf: Any, x: Any) -> Any:
    return tf.quantization.fake_quant_with_min_max_args(x, -6.0, 6.0)


@pytest.fixture(params=["v1", "v2"])
def control_flow(request: pytest.FixtureRequest) -> Iterator[str]:
    v1 = import_tensorflow(gpu_share=0).compat.v1
    was_new = v1.control_flow_v2_enabled()
    (v1.enable_control_flow_v2 if request.param == "v2" else v1.disable_control_flow_v2)()
    yield request.param
    (v1.enable_control_flow_v2 if was_new else v1.disable_control_flow_v2)()


def check(build: Build) -> Any:
    """Compare what the graph gives with what it gives once loaded, for two sizes of batch; return the GraphDef."""
    tf = import_tensorflow(gpu_share=0)
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        tf.identity(v1.placeholder(tf.float32, name="spare") * x, name="dead")
        tf.identity(build(tf, x), name="prediction")
        graph_def = graph.as_graph_def()
        expected = [session.run("prediction:0", {x: rows}) for rows in (ROWS, ROWS[:1])]
    model = load_session(graph_def.SerializeToString(), ["inputs:0"], ["prediction:0"], {})
    for rows, values in zip((ROWS, ROWS[:1]), expected, strict=True):
        np.testing.assert_allclose(model.run({"inputs:0": rows})[0], values, rtol=1e-6)
    names = {operation.name for operation in model._session.graph.get_operations()}
    assert not names & {"spare", "dead", "elsewhere"}
    return graph_def


@pytest.mark.parametrize("build", [loop, loop_in_a_condition, switch_case, tensor_array, mapped])
def test_control_flow_of_both_kinds(build: Build, control_flow: str) -> None:
    operations = {node.op for node in check(build).node}
    kinds = {"v1": {"Enter", "Switch", "Merge"}, "v2": {"While", "StatelessWhile", "Case", "StatelessCase", "If"}}
    if not (build is switch_case and control_flow == "v1"):  # which is a v2 operation from the start
        assert operations & kinds[control_flow]


@pytest.mark.parametrize("build", [functions, quantised, fake_quantised])
def test_other_constructions(build: Build) -> None:
    check(build)


def test_an_operation_without_a_kernel_is_the_model_s_mistake_and_no_row_s() -> None:
    tf = import_tensorflow(gpu_share=0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.quint8, [None, 3], name="inputs")
        weights = tf.quantization.quantize(tf.ones([3, 2]), 0.0, 1.0, tf.qint8)
        ends = {"min_a": 0.0, "max_a": 1.0, "min_b": 0.0, "max_b": 1.0}
        product = tf.raw_ops.QuantizedMatMul(a=x, b=weights.output, Toutput=tf.qint32, **ends)
        tf.identity(product.out, name="prediction")
    with pytest.raises(GraphError, match="has no kernel of the operation QuantizedMatMul for these types"):
        load_session(graph.as_graph_def().SerializeToString(), ["inputs:0"], ["prediction:0"], {})


def test_functions_that_nothing_calls_are_not_imported() -> None:
    graph_def = check(functions)
    assert len(graph_def.library.function) > 2
    model = load_session(graph_def.SerializeToString(), ["inputs:0"], ["prediction:0"], {})
    kept = model._session.graph.as_graph_def().library.function
    assert 0 < len(kept) < len(graph_def.library.function)
