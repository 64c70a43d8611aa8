"""What only TensorFlow can tell of a graph: true dtypes and shapes, and the multiply-adds that a row costs.

The graph is audited, then imported without its weights, and nothing of it is run. Start at `load_graph`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import GraphError
from engine.model.audit import audit_graph, check_audit
from engine.model.closure import needed_nodes, reachable_functions, split_tensor
from engine.model.describing.description import Description, LoadedGraph
from engine.model.describing.layers import plain_operation
from engine.model.describing.slim import without_weights
from engine.model.graphdef import Graph
from engine.model.loading import import_between, one_line, refused_at_load, tensor_spec, translated
from engine.model.session import import_tensorflow
from engine.model.tensor import Shape, TensorSpec

CONVOLUTIONS = ("Conv2D", "Conv3D", "Conv", "DepthwiseConv2dNative")
TRANSPOSED = ("Conv2DBackpropInput", "Conv2DBackpropInputV2", "Conv3DBackpropInput", "Conv3DBackpropInputV2")
PRODUCTS = ("MatMul", "SparseMatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
# They multiply as well, by formulas of their own that nobody wrote down here.
UNCOUNTED = ("BlockLSTM", "LSTMBlockCell", "GRUBlockCell", "CudnnRNN", "SparseTensorDenseMatMul", "Dilation2D")
LOOPS = ("Enter", "RefEnter", "While", "StatelessWhile")
NUM_FACTORS = 2


def load_graph(graph: Graph | None, description: Description) -> LoadedGraph:
    """Import what lies between a model's inputs and outputs, as far as the audit lets it, and count what it costs.

    Args:
        graph: the graph, frozen or not; its variables need no values. None for a Keras file.
        description: what its file tells of it.
    """
    feeds = [spec.name for spec in description.inputs if spec.name not in description.optional_inputs]
    fetches = [spec.name for spec in description.outputs]
    if graph is None or not fetches:
        why = "only Keras itself loads a Keras file" if graph is None else "none of its tensors is known as an output"
        return LoadedGraph("", refusal=f"{why}; freeze it first (icefloe freeze), then describe the frozen graph")
    try:
        check_audit(graph.path, audit_graph(graph.graph_def, feeds, fetches), (), has_library=False)
    except GraphError as error:
        return LoadedGraph("", refusal=str(error))
    tf = import_tensorflow(gpu_share=0)
    needed = needed_nodes(graph.nodes, feeds, fetches)
    slim = without_weights(graph.graph_def, needed | {split_tensor(name)[0] for name in feeds}, is_for_import=True)
    try:
        inputs, outputs, operations = _import(tf, graph.path, slim, feeds, fetches)
    except (GraphError, tf.errors.OpError, RuntimeError) as error:
        return LoadedGraph(str(tf.__version__), refusal=one_line(str(error)))
    rows, refused = _fix_batch(slim, feeds), ""
    try:
        _, _, operations = _import(tf, graph.path, slim, feeds, fetches)
    except (GraphError, tf.errors.OpError, RuntimeError):
        rows, refused = 1, "a batch of one row is refused"
    functions = reachable_functions(graph.graph_def.library, [graph.nodes[n] for n in needed if n in graph.nodes])
    inner = [node.op for function in functions for node in function.node_def]
    total, reasons = count_multiply_adds(map(_measured, operations), inner)
    at_least = "; ".join(reason for reason in (refused, reasons) if reason)
    return LoadedGraph(str(tf.__version__), inputs, outputs, total // rows, at_least)


def _import(
    tf: Any, path: str, graph_def: Any, feeds: Sequence[str], fetches: Sequence[str]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Sequence[Any]]:
    """Import a GraphDef into a graph of its own; return its fed and fetched tensors, and its operations."""
    graph = tf.Graph()
    with refused_at_load(), translated(tf, path), graph.as_default():
        tensors = import_between(tf, graph_def.SerializeToString(), feeds, fetches, ())
        ends = [tuple(tensor_spec(name, tensors[name]) for name in names) for names in (feeds, fetches)]
    return ends[0], ends[1], graph.get_operations()


def _fix_batch(graph_def: Any, feeds: Sequence[str]) -> int:
    """Fix the unknown batch extents of fed placeholders to 1; return the rows of a batch, fixed ones included."""
    fed = {split_tensor(name)[0] for name in feeds}
    extents = set()
    for node in graph_def.node:
        if node.name in fed and "shape" in node.attr and node.attr["shape"].shape.dim:
            batch = node.attr["shape"].shape.dim[0]
            batch.size = 1 if batch.size < 0 else batch.size
            extents.add(batch.size)
    return max(1, extents.pop()) if len(extents) == 1 else 1


@dataclass(frozen=True, slots=True)
class Measured:
    """An operation with the shapes that it works on."""

    operation: str
    """Its type."""
    inputs: tuple[Shape, ...]
    """Shapes of its inputs."""
    output: Shape
    """Shape of its first output."""
    attributes: Mapping[str, Any]
    """Those that decide what is multiplied: `transpose_a`, `adj_x`, `equation`."""


def _measured(operation: Any) -> Measured:
    shapes = [
        None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        for tensor in (*operation.inputs, *operation.outputs[:1])
    ]
    known = set(operation.node_def.attr)
    attributes = {name: operation.get_attr(name) for name in ("transpose_a", "adj_x", "equation") if name in known}
    num_inputs = len(operation.inputs)
    return Measured(operation.type, tuple(shapes[:num_inputs]), (*shapes[num_inputs:], None)[0], attributes)


def count_multiply_adds(operations: Iterable[Measured], inner: Iterable[str]) -> tuple[int, str]:
    """Sum the multiply-adds of operations.

    Args:
        operations: those of the graph itself.
        inner: types of those in functions, whose shapes are not known.

    Returns:
        The sum, and why there are more: an empty string where there are not.
    """
    total, unknown, loops = 0, 0, 0
    others: Counter[str] = Counter()
    for each in operations:
        loops += each.operation in LOOPS
        if plain_operation(each.operation).startswith(UNCOUNTED):
            others[each.operation] += 1
        elif _multiplies(each.operation):
            cost = multiply_adds(each)
            unknown += cost is None
            total += cost or 0
    inside = [name for name in inner if _multiplies(name) or plain_operation(name).startswith(UNCOUNTED)]
    reasons = [
        (unknown, f"products whose shapes depend on the input: {unknown}"),
        (len(inside), f"products in functions: {len(inside)}"),
        (loops, "loops may run more than once"),
        (len(others), f"not counted: {', '.join(sorted(others))}"),
    ]
    return total, "; ".join(reason for count, reason in reasons if count)


def _multiplies(operation: str) -> bool:
    return _family(operation) in (*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS, "Einsum")


def _family(operation: str) -> str:
    """Return which product an operation is: `QuantizedConv2DWithBiasAndRelu` is a `Conv2D`."""
    plain = plain_operation(operation)
    if operation == plain:
        return plain
    return next(
        (
            name
            for name in sorted((*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS), key=len, reverse=True)
            if plain.startswith(name)
        ),
        plain,
    )


def multiply_adds(measured: Measured) -> int | None:
    """Return the multiply-adds of one product or convolution; None where its shapes are not known."""
    family, inputs = _family(measured.operation), measured.inputs
    if family == "Einsum":
        return _einsum(str(measured.attributes.get("equation", "")), inputs)
    if len(inputs) < NUM_FACTORS or (family in TRANSPOSED and len(inputs) == NUM_FACTORS):
        return None
    if family in PRODUCTS:
        is_turned = measured.attributes.get("transpose_a") or measured.attributes.get("adj_x")
        first = inputs[0]
        if first is None or len(first) < NUM_FACTORS:
            return None
        return _product(measured.output, (first[-2] if is_turned else first[-1],))
    kernel = inputs[1]
    if kernel is None or len(kernel) < NUM_FACTORS:
        return None
    if family in TRANSPOSED:  # each number that comes in is multiplied by the kernel of each channel that goes out
        return _product(inputs[2], kernel[:-1])
    return _product(measured.output, kernel[:-2] if family == "DepthwiseConv2dNative" else kernel[:-1])


def _product(*shapes: Shape) -> int | None:
    extents = [extent for shape in shapes for extent in (shape if shape is not None else (None,))]
    return None if any(extent is None for extent in extents) else math.prod(n for n in extents if n is not None)


def _einsum(equation: str, inputs: Sequence[Shape]) -> int | None:
    """Return the product of all extents that an equation such as `abc,cd->abd` names; None for one with `...`."""
    terms = equation.partition("->")[0].replace(" ", "").split(",")
    if "." in equation or len(terms) != NUM_FACTORS or len(inputs) != NUM_FACTORS:
        return None
    extents = dict(_labelled(terms, inputs))
    return _product(tuple(extents.get(label) for label in set("".join(terms))))


def _labelled(terms: Sequence[str], inputs: Sequence[Shape]) -> Iterator[tuple[str, int | None]]:
    for term, shape in zip(terms, inputs, strict=True):
        if shape is not None and len(shape) == len(term):
            yield from zip(term, shape, strict=True)
