import numpy as np
import pytest
from descriptions import calling, variable
from graphs import constant, graph, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.model.describing.layers import Layer, count_layers, layer_type, plain_operation, weight_size


def layers(graph_def: GraphDef) -> dict[str, tuple[int, int, int]]:
    bodies = {"": graph_def.node, **{each.signature.name: each.node_def for each in graph_def.library.function}}
    found = count_layers(bodies, graph_def.library)
    return {layer.operation: (layer.num_tensors, layer.parameters, layer.num_bytes) for layer in found}


def reading(op: str, *passing: str, dtype: str = "float32") -> GraphDef:
    """A weight of 2 x 3 numbers that `op` reads through `passing`."""
    nodes, last = [placeholder("x", "float32", [None, 2]), constant("w", np.ones((2, 3), dtype))], "w"
    for i, each in enumerate(passing):
        nodes.append(node(f"p{i}", each, last))
        last = f"p{i}"
    return graph(*nodes, node("y", op, "x", last))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("MatMul", "MatMul"),
        ("_FusedMatMul", "MatMul"),
        ("_MklNativeFusedMatMul", "MatMul"),
        ("QuantizedMatMulWithBiasAndRelu", "MatMul"),
        ("BatchMatMulV2", "BatchMatMul"),
        ("Conv2D", "Conv2D"),
        ("_FusedConv2D", "Conv2D"),
        ("QuantizedConv2DPerChannel", "Conv2D"),
        ("UniformQuantizedConvolution", "Conv"),
        ("ConvertToCooTensor", "other"),
        ("Conv2DBackpropInput", "Conv2DBackpropInput"),
        ("DepthwiseConv2dNative", "DepthwiseConv2dNative"),
        ("FusedBatchNormV3", "FusedBatchNorm"),
        ("_FusedBatchNormEx", "FusedBatchNorm"),
        ("BiasAdd", "BiasAdd"),
        ("BiasAddV1", "BiasAdd"),
        ("GatherV2", "Gather (embeddings)"),
        ("ResourceGather", "Gather (embeddings)"),
        ("AddV2", "arithmetic"),
        ("Mul", "arithmetic"),
        ("Tile", "other"),
        ("NoSuchOperation", "other"),
    ],
)
def test_a_weight_counts_for_the_layer_that_reads_it(op: str, expected: str) -> None:
    assert layers(reading(op)) == {expected: (1, 6, 24)}


@pytest.mark.parametrize(
    "passing",
    [["Identity"], ["Cast", "Identity"], ["Enter"], ["Switch", "Identity", "Enter"], ["Dequantize"], ["Transpose"]],
)
def test_what_hands_a_weight_on_is_looked_through(passing: list[str]) -> None:
    assert layers(reading("MatMul", *passing)) == {"MatMul": (1, 6, 24)}


@pytest.mark.parametrize("op", ["VariableV2", "Variable", "VarHandleOp"])
def test_variables_count_by_their_shape(op: str) -> None:
    made = graph(variable("w", 4, 3, op=op), node("read", "ReadVariableOp", "w"), node("y", "MatMul", "x", "read"))
    assert layers(made) == {"MatMul": (1, 12, 48)}


@pytest.mark.parametrize(
    ("op", "skipped"), [("PartitionedCall", 0), ("StatefulPartitionedCall", 0), ("StatelessWhile", 0), ("If", 1)]
)
def test_weights_reach_functions_as_arguments(op: str, skipped: int) -> None:
    assert layers(calling(op, skipped)) == {"MatMul": (1, 12, 48)}


def test_a_function_called_by_its_name() -> None:
    made = calling()
    call = next(each for each in made.node if each.name == "call")
    call.op = "body"
    del call.attr["f"]
    assert layers(made) == {"MatMul": (1, 12, 48)}


def test_a_constant_inside_a_function() -> None:
    made = calling()
    made.library.function[0].node_def.extend([constant("b", np.ones(3, np.float32)), node("z", "BiasAdd", "q", "b")])
    assert layers(made) == {"MatMul": (1, 12, 48), "BiasAdd": (1, 3, 12)}


def test_functions_that_call_each_other_in_a_circle_end() -> None:
    made = calling()
    inner = made.library.function[0].node_def.add(name="again", op="PartitionedCall", input=["rows", "handle"])
    inner.attr["f"].func.name = "body"
    assert layers(made) == {"MatMul": (1, 12, 48)}


def test_a_weight_of_two_layers_counts_once() -> None:
    tied = graph(
        constant("w", np.ones((5, 2), np.float32)),
        node("logits", "MatMul", "x", "w"),
        node("rows", "GatherV2", "w", "ids"),
    )
    assert layers(tied) == {"Gather (embeddings)": (1, 10, 40)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ones(3, np.float32), (3, 12)),
        (np.ones(3, np.float64), (3, 24)),
        (np.ones(3, np.float16), (3, 6)),
        (np.ones(3, np.int8), (3, 3)),
        (np.ones(3, np.complex64), (3, 24)),
        (np.float32(1), (0, 0)),
        (np.ones(63, np.int32), (0, 0)),
        (np.ones(64, np.int64), (64, 512)),
        (np.ones(3, bool), (0, 0)),
        (np.ones((0, 3), np.float32), (0, 0)),
    ],
)
def test_what_counts_as_a_weight(value: np.ndarray, expected: tuple[int, int]) -> None:
    assert weight_size(constant("c", value)) == expected


@pytest.mark.parametrize("dtype", ["qint8", "bfloat16", "qint32"])
def test_dtypes_that_numpy_lacks(dtype: str) -> None:
    made = variable("w", 2, 3, dtype=dtype)
    assert weight_size(made) == (6, 6 * {"qint8": 1, "bfloat16": 2, "qint32": 4}[dtype])


@pytest.mark.parametrize("extents", [[2**62, 2], [-1, 3], [2] * 64, [1] * 255, [2**63 - 1] * 254])
def test_impossible_shapes_count_nothing(extents: list[int]) -> None:
    assert weight_size(variable("w", *extents)) == (0, 0)


def test_nodes_without_their_attributes_count_nothing() -> None:
    wrong = node("c", "Const", dtype="float32")
    wrong.attr["value"].s = b"no tensor"
    strange = variable("w", 3)
    strange.attr["dtype"].type = 99
    for each in (node("c", "Const"), node("v", "VarHandleOp"), wrong, strange, node("p", "Placeholder")):
        before = each.SerializeToString(deterministic=True)
        assert weight_size(each) == (0, 0)
        assert each.SerializeToString(deterministic=True) == before


def test_what_only_training_reads_is_no_layer() -> None:
    assert layer_type(node("a", "ApplyAdam")) == ""
    assert layer_type(node("a", "InitializeTableV2")) == ""
    assert layer_type(node("a", "FusedBatchNorm")) == "FusedBatchNorm"
    assert plain_operation("_MklFusedBatchMatMulV2") == "BatchMatMulV2"


def test_layers_come_by_size() -> None:
    made = graph(
        *linear(4, 3).node,
        constant("table", np.ones((10, 5), np.float32)),
        constant("b", np.ones(3, np.float32)),
        node("rows", "Gather", "table", "ids"),
        node("z", "BiasAdd", "logits", "b"),
    )
    assert count_layers({"": made.node}, made.library) == (
        Layer("Gather (embeddings)", 1, 50, 200),
        Layer("MatMul", 1, 12, 48),
        Layer("BiasAdd", 1, 3, 12),
    )
