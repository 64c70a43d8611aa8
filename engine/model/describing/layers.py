"""Counts a graph's weights by the type of layer that reads them.

A weight is a constant or a variable; what reads it is found through casts, reads and copies, and through the
arguments of functions. Nothing looks at the weights' bytes. Pure. Start at `count_layers`.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.model.closure import called_functions
from engine.model.describing.training import BATCH_NORM, DROPOUT, training_kind
from engine.model.graphdef import INITIALISERS, MAX_RANK, VARIABLES, dtype_name

EMBEDDINGS, ARITHMETIC, OTHER, TRAINING = "Gather (embeddings)", "arithmetic", "other", ""
# Layer types by the beginning of an operation's name; a weight that two of them read counts for the first.
LAYERS = (
    *((name, EMBEDDINGS) for name in ("Gather", "ResourceGather", "SparseSegment")),
    *((name, name) for name in ("DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv3DBackpropInput", "Dilation2D")),
    *((name, name) for name in ("Conv2D", "Conv3D", "BatchMatMul", "SparseTensorDenseMatMul", "SparseMatMul")),
    *((name, name) for name in ("MatMul", "Einsum", "BlockLSTM", "LSTMBlockCell", "GRUBlockCell", "CudnnRNN")),
    *((name, name) for name in ("FusedBatchNorm", "BatchNormWithGlobalNormalization", "BiasAdd")),
)
ARITHMETICS = {
    *("Add", "AddN", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Maximum", "Minimum", "SquaredDifference", "Pow"),
    *("Rsqrt", "Sqrt", "Neg", "Square", "Exp"),
}
# Prefixes of the forms that optimisers and converters put in an operation's place.
TWINS = re.compile(r"^_?(Mkl)?(Native)?(Uniform)?(Quantized)?(Fused(?!BatchNorm))?")
# Operations that hand a weight on as it is: to what reads them.
PASSING = {
    *("Identity", "ReadVariableOp", "Cast", "Enter", "RefEnter", "Switch", "RefSwitch", "RefIdentity", "Dequantize"),
    *("StopGradient", "Reshape", "Transpose", "ExpandDims", "Squeeze", "FakeQuantWithMinMaxVars", "CheckNumerics"),
    *("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVarsPerChannel", "QuantizeAndDequantizeV2", "Bitcast", "Split"),
    *("QuantizeV2", "QuantizeAndDequantizeV3", "PreventGradient", "Unpack", "ConcatV2", "Pack", "IdentityN", "SplitV"),
}
# Operations that call functions with their inputs as arguments, and how many inputs come before these.
CALLS = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile"), 0),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), 1),
}
WIDTHS = {
    **dict.fromkeys(("qint8", "quint8", "int8", "uint8", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16", "qint16", "quint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32", "qint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64", "complex64"), 8),
    "complex128": 16,
}
# Whole numbers of these dtypes are shapes, axes and paddings while they are few.
INDICES = ("int32", "int64", "uint32", "uint64")
FEW = 64
MAX_ELEMENTS = 2**63 - 1  # TensorFlow's own limit


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one type of layer."""

    operation: str
    """Type of the operations that read them: `MatMul`, `Gather (embeddings)`, ..., `other`."""
    num_tensors: int
    """Constants and variables."""
    parameters: int
    """Numbers in them."""
    num_bytes: int
    """Bytes that these take in memory."""


Place = tuple[str, str]
"""A node or an argument: the function that it is in, empty for the graph itself, and its name."""


def count_layers(bodies: Mapping[str, Sequence[Any]], library: Any) -> tuple[Layer, ...]:
    """Count weights by the type of layer that reads them, the largest first.

    Scalars, texts, truth values and a few whole numbers (shapes, axes) are no weights.

    Args:
        bodies: nodes to look at, by the function that they are in; the graph's own have an empty name.
        library: the FunctionDefLibrary, whose arguments lead from callers into bodies.
    """
    readers = _find_readers(bodies, library)
    totals: dict[str, list[int]] = {}
    for function, nodes in bodies.items():
        for node in nodes:
            elements, num_bytes = weight_size(node)
            if elements:
                total = totals.setdefault(readers.get((function, node.name)) or OTHER, [0, 0, 0])
                for i, amount in enumerate((1, elements, num_bytes)):
                    total[i] += amount
    layers = [Layer(name, *total) for name, total in totals.items()]
    return tuple(sorted(layers, key=lambda layer: (-layer.num_bytes, layer.operation)))


def weight_size(node: Any) -> tuple[int, int]:
    """Return the numbers in a weight and their bytes; zeros for any other node."""
    dtype, elements = _weight(node)
    return (elements, elements * WIDTHS[dtype]) if elements else (0, 0)


def _weight(node: Any) -> tuple[str, int]:
    """Return dtype and number of elements of a weight; 0 elements for any other node."""
    if node.op == "Const":
        is_there = "value" in node.attr and node.attr["value"].HasField("tensor")
        shape = node.attr["value"].tensor.tensor_shape if is_there else None
    elif node.op in VARIABLES:
        shape = node.attr["shape"].shape if "shape" in node.attr else None
    else:
        return "", 0
    dtype = dtype_name(node.attr["dtype"].type) if "dtype" in node.attr else ""
    elements = 0 if shape is None or dtype not in WIDTHS else count_elements(shape)
    return dtype, 0 if dtype in INDICES and elements < FEW else elements


def count_elements(shape: Any) -> int:
    """Return the number of elements of a TensorShapeProto of one axis or more; 0 where it is unknown or impossible."""
    if shape.unknown_rank or not 0 < len(shape.dim) <= MAX_RANK or any(dim.size < 0 for dim in shape.dim):
        return 0
    elements = math.prod(dim.size for dim in shape.dim)
    return elements if elements <= MAX_ELEMENTS else 0


def _find_readers(bodies: Mapping[str, Sequence[Any]], library: Any) -> dict[Place, str]:
    """Return the layer type that reads each node and argument, by walking against the edges from the layers.

    Each place is visited once, for the types come in their order.
    """
    nodes = {function: {node.name: node for node in body} for function, body in bodies.items()}
    arguments = {
        each.signature.name: {argument.name: i for i, argument in enumerate(each.signature.input_arg)}
        for each in library.function
    }
    starts: dict[str, list[tuple[str, Any]]] = {}
    callers: dict[str, list[tuple[str, Any, int]]] = {}
    for function, body in bodies.items():
        for node in body:
            if node.op in CALLS or node.op in arguments:
                for called in called_functions(node):
                    callers.setdefault(called, []).append((function, node, CALLS.get(node.op, 0)))
            elif node.op not in PASSING:
                starts.setdefault(layer_type(node), []).append((function, node))
    found: dict[Place, str] = {}
    for name in (*dict.fromkeys(label for _, label in LAYERS), "Conv", ARITHMETIC, OTHER, TRAINING):
        todo = [(function, edge) for function, node in starts.pop(name, ()) for edge in _sources(node.input)]
        while todo:
            place = todo.pop()
            if place in found:
                continue
            found[place] = name
            function, own = place
            node = nodes.get(function, {}).get(own)
            if node is None and own in arguments.get(function, ()):
                index = arguments[function][own]
                todo.extend(
                    (caller, source)
                    for caller, call, skipped in callers.get(function, ())
                    for source in _sources(call.input[index + skipped : index + skipped + 1])
                )
            elif node is not None and node.op in PASSING:
                todo.extend((function, source) for source in _sources(node.input))
    return found


def _sources(edges: Sequence[str]) -> Iterator[str]:
    """Yield the nodes or arguments that edges come from; `name`, `name:1`, in functions `name:out:1`."""
    return (edge.partition(":")[0] for edge in edges if not edge.startswith("^"))


def layer_type(node: Any) -> str:
    """Return the layer type of a node: `_FusedConv2D` is a `Conv2D`; TRAINING for what does not predict."""
    if training_kind(node) not in ("", BATCH_NORM, DROPOUT) or node.op.startswith(INITIALISERS):
        return TRAINING
    plain = plain_operation(node.op)
    if plain in ("Conv", "Convolution", "ConvolutionHybrid"):
        return "Conv"
    found = next((label for beginning, label in LAYERS if plain.startswith(beginning)), OTHER)
    return ARITHMETIC if found == OTHER and plain in ARITHMETICS else found


def plain_operation(operation: str) -> str:
    """Return an operation's own name without the prefixes of its twins: `MatMul` for `_MklNativeFusedMatMul`."""
    return TWINS.sub("", operation)
