"""Guesses dtype and shape of an inner tensor from the file alone, where that is simple.

TensorFlow's own shape functions are the truth and speak when an actor loads the graph; this covers what ends most
classifiers and regressors, so that people see `prediction:0 (float32 [?, 10])` without waiting 3 s for TensorFlow.
What is not covered stays None. Start at `infer_tensor`.
"""

from collections.abc import Mapping
from typing import Any

from engine.model.closure import split_tensor
from engine.model.graphdef import VARIABLES, Graph, describe_tensor, dtype_name, read_shape
from engine.model.tensor import Shape, TensorSpec

# Attributes that name the dtype of output 0, by operation; most others have it in T.
DTYPE_ATTRIBUTES = {
    "ArgMax": "output_type",
    "ArgMin": "output_type",
    "Cast": "DstT",
    "Shape": "out_type",
    "Size": "out_type",
    "LookupTableFindV2": "Tout",
    "DecodeRaw": "out_type",
    "RandomUniform": "dtype",
    "RandomStandardNormal": "dtype",
}
COMPARISONS = {"Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual", "IsNan", "IsInf", "IsFinite"}
FIXED_DTYPES = {**dict.fromkeys(COMPARISONS, "bool"), "AsString": "string", "StringJoin": "string"}
SAME_SHAPE = {
    *(
        "Identity",
        "ReadVariableOp",
        "Softmax",
        "LogSoftmax",
        "Sigmoid",
        "Relu",
        "Relu6",
        "Elu",
        "Selu",
        "Tanh",
        "Softplus",
        "Exp",
        "Log",
    ),
    *("BiasAdd", "Cast", "StopGradient", "CheckNumerics", "Neg", "Abs", "Square", "Sqrt", "AsString", "Floor", "Round"),
}
BROADCASTS = {"Add", "AddV2", "Sub", "Mul", "RealDiv", "Maximum", "Minimum"}
MAX_DEPTH = 100
MATRIX_RANK = 2


def infer_tensor(graph: Graph, name: str) -> TensorSpec:
    """Return tensor `name` with as much of its dtype and shape as the file shows.

    Raises:
        GraphError: if the graph has no such node.
    """
    known = describe_tensor(graph, name)
    node_name, index = split_tensor(name)
    if known.dtype is not None or index > 0:
        return known
    return TensorSpec(name, _dtype(graph.nodes[node_name]), _shape(graph, name, MAX_DEPTH, {}))


def _dtype(node: Any) -> str | None:
    if node.op in FIXED_DTYPES:
        return FIXED_DTYPES[node.op]
    attribute = DTYPE_ATTRIBUTES.get(node.op, "T")
    if attribute not in node.attr or not node.attr[attribute].type:
        return None
    return dtype_name(node.attr[attribute].type)


def _shape(graph: Graph, name: str, depth: int, known: dict[str, Shape]) -> Shape:
    """Follow the inputs of a node for as far as `depth`; `known` holds what was found, for nodes read many times."""
    if name not in known:
        known[name] = _find_shape(graph, name, depth, known)
    return known[name]


def _find_shape(graph: Graph, name: str, depth: int, known: dict[str, Shape]) -> Shape:
    node_name, index = split_tensor(name)
    node = graph.nodes.get(node_name)
    if node is None or index != 0 or depth == 0:
        return None
    if "_output_shapes" in node.attr and node.attr["_output_shapes"].list.shape:
        return read_shape(node.attr["_output_shapes"].list.shape[0])
    if node.op in VARIABLES and "shape" in node.attr:  # of the value, which ReadVariableOp reads
        return read_shape(node.attr["shape"].shape) or None
    if node.op in SAME_SHAPE and node.input:
        return _shape(graph, node.input[0], depth - 1, known)
    if node.op == "MatMul" and len(node.input) > 1:
        left, right = (_shape(graph, edge, depth - 1, known) for edge in node.input[:2])
        return _multiplied(left, right, node.attr)
    if node.op in BROADCASTS and len(node.input) > 1:
        return _broadcast(*(_shape(graph, edge, depth - 1, known) for edge in node.input[:2]))
    return describe_tensor(graph, f"{node_name}:0").shape


def _multiplied(left: Shape, right: Shape, attributes: Mapping[str, Any]) -> Shape:
    # Looking an attribute up adds it to the proto, so whether it is there comes first.
    is_turned = [name in attributes and attributes[name].b for name in ("transpose_a", "transpose_b")]
    rows = left[1 if is_turned[0] else 0] if left is not None and len(left) == MATRIX_RANK else None
    columns = right[0 if is_turned[1] else 1] if right is not None and len(right) == MATRIX_RANK else None
    return (rows, columns)


def _broadcast(left: Shape, right: Shape) -> Shape:
    """Return the shape of an elementwise operation: an extent of 1, or one that lacks, takes the other's."""
    if left is None or right is None:
        return None
    rank = max(len(left), len(right))
    pairs = zip((1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right, strict=True)
    # Beside an unknown extent a larger one is the result's, or the graph is refused.
    return tuple(b if a == 1 else a if b == 1 or b is None else b for a, b in pairs)
