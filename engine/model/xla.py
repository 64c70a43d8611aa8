"""Which operations of a graph are compiled with XLA: those of which compiled code does what the operation does.

Pure; works on protos. Compiled code refuses nothing: it takes the nearest row for an index that is out of range, drops
assertions, and gives some number for a division of integers by zero. So what may refuse a value is left to TensorFlow,
and rows at fault are found as ever. Nor is anything compiled whose shape follows from values: XLA compiles a shape at a
time, and TensorFlow computes a new one without it at first, so that bytes would depend on what came before. Start at
`mark_compiled`.
"""

from collections.abc import Sequence
from typing import Any

from engine.errors import ConfigError
from engine.model.closure import split_tensor

# TensorFlow takes neighbours that are marked together into clusters, whatever the level of its global switch, which for
# CPUs only an environment variable turns on (2.21).
MARK = "_XlaCompile"
MAX_SHOWN = 6


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPILED = _names(
    """
    Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BatchMatMul BatchMatMulV2
    BatchMatMulV3 BiasAdd BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Cos Cosh DivNoNan Einsum Elu Equal Erf Erfc
    Exp ExpandDims Expm1 Fill Floor FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 Greater GreaterEqual Identity
    IdentityN IsFinite IsInf IsNan LeakyRelu Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul
    Max Maximum Mean Min Minimum Mul MulNoNan Neg NotEqual OneHot OnesLike Pack Pad PadV2 Prod Rank RealDiv Reciprocal
    Relu Relu6 Reshape Rint Round Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
    Softsign Split SplitV Sqrt Square SquaredDifference Squeeze StopGradient StridedSlice Sub Sum Tan Tanh Tile
    Transpose Unpack Xdivy Xlogy ZerosLike
    """
)
# XLA has no fast convolution for CPUs, with which a small CNN takes 2.3 times as long as with oneDNN's, and no fast
# product of bfloat16, with which a wide MLP takes 1.9 times as long.
COMPILED_ON_GPUS = _names("AvgPool Conv2D Conv3D DepthwiseConv2dNative MaxPool")
PRODUCTS = _names("BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum MatMul")
# Left to TensorFlow, for they may refuse a value, but their shapes follow from those of what goes in.
SHAPED = COMPILED_ON_GPUS | _names(
    """
    Assert CheckNumerics Const Div EnsureShape FloorDiv FloorMod Gather GatherV2 LookupTableFind LookupTableFindV2 Mod
    NoOp Placeholder PlaceholderV2 PlaceholderWithDefault Pow TruncateDiv TruncateMod
    """
)
# Which inputs say how, where or how large, if not all but the first; these have to follow from constants and shapes.
PARAMETERS = {
    "Concat": slice(0, 1), "ConcatV2": slice(-1, None), "Fill": slice(0, 1), "Split": slice(0, 1),
    **dict.fromkeys(
        ("All", "Any", "ArgMax", "ArgMin", "BroadcastTo", "ExpandDims", "Max", "Mean", "Min", "OneHot", "Pad",
         "PadV2", "Prod", "Reshape", "Slice", "SplitV", "StridedSlice", "Sum", "Tile", "Transpose"),
        slice(1, None),
    ),
    "GatherV2": slice(2, None),
}  # fmt: skip
SHAPES = frozenset(("Shape", "Rank", "Size"))


def compiled_operations(kind: str, precision: str) -> frozenset[str]:
    """Return the operations that are compiled on that kind of device (CPU or GPU), in that precision."""
    if kind == "GPU":
        return COMPILED | COMPILED_ON_GPUS
    return COMPILED if precision == "float32" else COMPILED - PRODUCTS


def mark_compiled(graph_def: Any, kind: str, precision: str = "float32") -> int:
    """Mark the operations that XLA compiles, and return how many they are.

    Args:
        graph_def: the graph, of which nothing that is not needed is left; it is changed.
        kind: what it is computed on: CPU or GPU.
        precision: what it is computed in.

    Raises:
        ConfigError: if there is none.
    """
    nodes = {node.name: node for node in graph_def.node}
    candidates = compiled_operations(kind, precision)
    is_shaped, is_settled, num_marked = dict[str, bool](), dict[str, bool](), 0
    for name in _in_order(nodes):
        node = nodes[name]
        inputs = [split_tensor(edge)[0] for edge in node.input if not edge.startswith("^")]
        arguments = inputs[PARAMETERS.get(node.op, slice(0, 0))]
        is_shaped[name] = (
            (node.op in COMPILED or node.op in SHAPED)
            and all(is_shaped.get(each, each not in nodes) for each in inputs)  # a fed tensor is no node
            and all(is_settled.get(each, False) for each in arguments)
        )
        is_settled[name] = (
            node.op == "Const"
            or (node.op in SHAPES and is_shaped[name])
            or (node.op in COMPILED and is_shaped[name] and all(is_settled.get(each, False) for each in inputs))
        )
        if is_shaped[name] and node.op in candidates and not is_settled[name]:
            node.attr[MARK].b = True
            num_marked += 1
    if not num_marked:
        raise ConfigError(f"--xla: XLA compiles nothing of this graph ({_some(graph_def.node)}); leave --xla out")
    return num_marked


def _in_order(nodes: dict[str, Any]) -> list[str]:
    """Return the nodes, each after those that it takes; where there is a loop, none of its nodes."""
    order, waiting = list[str](), dict[str, int]()
    readers: dict[str, list[str]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        sources = {split_tensor(edge)[0] for edge in node.input} & nodes.keys()
        waiting[name] = len(sources)
        for source in sources:
            readers[source].append(name)
    ready = [name for name, count in waiting.items() if not count]
    while ready:
        name = ready.pop()
        order.append(name)
        for reader in readers[name]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    return order


def _some(nodes: Sequence[Any]) -> str:
    operations = sorted({node.op for node in nodes} - {"Const", "Placeholder"})
    return ", ".join(operations[:MAX_SHOWN]) + ", ..." * (len(operations) > MAX_SHOWN)
