"""What is compiled of a graph: by its nodes alone, and what that leaves of a graph that refuses values."""

import numpy as np
import pytest
from graphs import constant, graph, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

from engine.errors import ConfigError, DataError, GraphError
from engine.model.operations import is_known
from engine.model.session import ModelSession, SessionOptions, load_session
from engine.model.xla import COMPILED, MARK, PARAMETERS, SHAPED, compiled_operations, mark_compiled

tf = pytest.mark.tf


def marked(graph_def: GraphDef, kind: str = "CPU") -> set[str]:
    mark_compiled(graph_def, kind)
    return {each.name for each in graph_def.node if each.attr[MARK].b}


def vector(*nodes: NodeDef) -> GraphDef:
    return graph(placeholder("x", "float32", [None]), *nodes)


def doubled(name: str, source: str) -> NodeDef:
    return node(name, "AddV2", source, source, T="float32")


def test_the_lists_name_operations_that_there_are() -> None:
    assert all(is_known(each) for each in (COMPILED | SHAPED | PARAMETERS.keys()))
    assert not COMPILED & SHAPED


def test_what_computes_is_compiled_and_weights_are_not() -> None:
    assert marked(linear()) == {"logits", "prediction"}


def test_convolutions_are_compiled_on_gpus() -> None:
    convolved = node("y", "Conv2D", "x", "k", T="float32")
    made = graph(
        placeholder("x", "float32", [None, 4, 4, 1]), constant("k", np.ones((2, 2, 1, 1), np.float32)), convolved
    )
    assert marked(made, "GPU") == {"y"}
    with pytest.raises(ConfigError, match=r"--xla: XLA compiles nothing of this graph \(Conv2D\); leave --xla out"):
        mark_compiled(made, "CPU")


def test_products_of_bfloat16_are_left_on_cpus() -> None:
    assert "MatMul" not in compiled_operations("CPU", "bfloat16")
    assert "MatMul" in compiled_operations("CPU", "float32") & compiled_operations("GPU", "float16")
    made = linear()
    mark_compiled(made, "CPU", "bfloat16")
    assert [each.name for each in made.node if each.attr[MARK].b] == ["prediction"]


@pytest.mark.parametrize("operation", ["CheckNumerics", "Pow", "FloorDiv"])
def test_what_may_refuse_a_value_is_left_and_what_follows_is_compiled(operation: str) -> None:
    odd = node("odd", operation, *["x"] * (1 if operation == "CheckNumerics" else 2), T="float32")
    assert marked(vector(odd, doubled("y", "odd"))) == {"y"}


@pytest.mark.parametrize("operation", ["Where", "Unique", "DecodeJpeg", "PartitionedCall", "Merge", "NoSuchThing"])
def test_nothing_is_compiled_after_what_may_have_any_shape(operation: str) -> None:
    made = vector(
        doubled("a", "x"), node("odd", operation, "a"), doubled("b", "odd"), doubled("c", "b"), doubled("d", "a")
    )
    assert marked(made) == {"a", "d"}


def test_shapes_come_from_constants_and_shapes_or_are_not_compiled() -> None:
    made = vector(
        node("shape", "Shape", "x", T="float32"),
        node("by_shape", "Reshape", "x", "shape", T="float32"),
        node("count", "Cast", "x", SrcT="float32", DstT="int32"),
        node("by_value", "Reshape", "x", "count", T="float32"),
        doubled("after", "by_value"),
    )
    assert marked(made) == {"by_shape", "count"}


def test_a_tensor_that_is_fed_within_the_graph_is_as_good_as_a_placeholder() -> None:
    assert marked(graph(doubled("y", "fed"))) == {"y"}


def test_loops_are_left() -> None:
    merged = node("merged", "Merge", "x", "next", T="float32")
    made = vector(
        merged, node("next", "NextIteration", "merged", T="float32"), doubled("y", "merged"), doubled("z", "x")
    )
    assert marked(made) == {"z"}


def compiled(graph_def: GraphDef, feed: str = "x:0") -> ModelSession:
    return load_session(graph_def.SerializeToString(), [feed], ["y:0"], {}, options=SessionOptions(xla=True))


@tf
def test_an_index_out_of_range_is_refused_as_ever() -> None:
    """Compiled by XLA, the gathering would take the nearest row."""
    gathered = node("row", "GatherV2", "table", "x", "axis", Tparams="float32", Tindices="int32", Taxis="int32")
    table = constant("table", np.arange(8, dtype=np.float32).reshape(4, 2))
    model = compiled(
        graph(placeholder("x", "int32", [None]), table, constant("axis", np.int32(0)), gathered, doubled("y", "row"))
    )
    np.testing.assert_array_equal(model.run({"x:0": np.array([3, 0], np.int32)})[0], [[12, 14], [0, 2]])
    with pytest.raises(DataError, match=r"indices\[1\] = 7 is not in \[0, 4\)"):
        model.run({"x:0": np.array([3, 7], np.int32)})
    model.close()


@tf
def test_it_is_compiled_indeed_and_gives_what_the_graph_gives() -> None:
    rows = np.random.default_rng(1).normal(size=(64, 4)).astype(np.float32)
    made, options = linear(4, 3), SessionOptions(xla=True)
    model = load_session(made.SerializeToString(), ["inputs:0"], ["prediction:0"], {}, options=options)
    plain = load_session(made.SerializeToString(), ["inputs:0"], ["prediction:0"], {})
    expected = plain.run({"inputs:0": rows})[0]
    found = [model.run({"inputs:0": rows})[0] for _ in range(3)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    np.testing.assert_array_equal(found[1:], [found[0]] * 2)
    metadata = model._tf.compat.v1.RunMetadata()
    traced = model._tf.compat.v1.RunOptions(output_partition_graphs=True)
    model._session.run("prediction:0", {"inputs:0": rows}, options=traced, run_metadata=metadata)
    operations = [each.op for part in metadata.partition_graphs for each in part.node]
    assert "_XlaRun" in operations
    model.close()


@tf
def test_a_graph_of_strings_alone_is_told_to_leave_it_out() -> None:
    made = graph(placeholder("x", "string", [None]), node("y", "StringLower", "x"))
    with pytest.raises((ConfigError, GraphError), match="XLA compiles nothing of this graph .StringLower."):
        compiled(made)
