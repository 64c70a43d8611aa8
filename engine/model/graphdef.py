"""Reads and describes a frozen graph (.pb) without TensorFlow.

The protos come from `tensorboard.compat.proto`, which holds the same messages under another package name, so
this costs 25 ms where TensorFlow costs 3 s. What only TensorFlow can tell (the shape of an inner tensor) is
None here and is checked when an actor loads the graph. Start at `read_graph`, then `check_ports`.
"""

import difflib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.types_pb2 import DataType

from engine.errors import GraphError
from engine.model.filetype import explain_file
from engine.model.tensor import Shape, TensorSpec

CONTROL = -1
PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")
# Producers before 24 write a shape of [] where they mean "unknown" (seen on 164 graphs of others).
FIRST_PRODUCER_WITH_SCALAR_SHAPES = 24
RANDOM_PREFIXES = ("Random", "StatefulUniform", "StatefulStandardNormal", "StatefulTruncatedNormal", "StatefulRandom")
RANDOM_OPERATIONS = ("Multinomial", "TruncatedNormal", "ParameterizedTruncatedNormal", "RngSkip", "RngReadAndSkip")


@dataclass(frozen=True, slots=True)
class Graph:
    """A parsed frozen graph and where it came from."""

    path: str
    """File that it was read from."""
    data: bytes
    """The file's bytes, a serialised GraphDef."""
    graph_def: Any
    """GraphDef of `tensorboard.compat.proto`."""
    nodes: Mapping[str, Any]
    """NodeDef by name."""


def split_tensor(name: str) -> tuple[str, int]:
    """Return the node and output index of a tensor or an edge: `x`, `x:1` (a control edge `^x` has index CONTROL)."""
    if name.startswith("^"):
        return name[1:], CONTROL
    node, _, index = name.partition(":")
    # Inside the function library an edge reads node:arg:index; at the top level it is node:index.
    return node, int(index) if index.isdigit() else 0


def read_graph(path: str) -> Graph:
    """Read the frozen graph at `path`.

    Raises:
        GraphError: if the file is missing or is no frozen graph, saying what it is instead.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise GraphError(f"--model {path}: {explain_file(path, b'')}") from error
    graph_def = GraphDef()
    try:
        graph_def.ParseFromString(data)
    except DecodeError as error:
        raise GraphError(f"--model {path}: {explain_file(path, data)}") from error
    if not graph_def.node or not all(node.name and node.op for node in graph_def.node):
        raise GraphError(f"--model {path}: {explain_file(path, data)}")
    return Graph(path, data, graph_def, {node.name: node for node in graph_def.node})


def describe_tensor(graph: Graph, name: str) -> TensorSpec:
    """Return what the file says of tensor `name`.

    Raises:
        GraphError: if the graph has no such node; the nearest names are shown.
    """
    node_name, index = split_tensor(name)
    if node_name not in graph.nodes or index == CONTROL:
        raise GraphError(f"{graph.path} has no tensor {name}; {_nearest(graph, node_name)}")
    node = graph.nodes[node_name]
    if node.op not in (*PLACEHOLDERS, "Const") or index > 0:
        return TensorSpec(name, None, None)
    dtype = dtype_name(node.attr["dtype"].type)
    proto = node.attr["value"].tensor.tensor_shape if node.op == "Const" else node.attr["shape"].shape
    return TensorSpec(name, dtype, _read_shape(graph, node, proto))


def _read_shape(graph: Graph, node: Any, proto: Any) -> Shape:
    if node.op != "Const":
        is_hint = graph.graph_def.versions.producer < FIRST_PRODUCER_WITH_SCALAR_SHAPES
        if "shape" not in node.attr or proto.unknown_rank or (not proto.dim and is_hint):
            return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)


def dtype_name(number: int) -> str:
    """Return TensorFlow's name of a dtype number: 1 is `float32`."""
    name = str(DataType.Name(number)).removeprefix("DT_").removesuffix("_REF").lower()
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)


def needed_nodes(nodes: Mapping[str, Any], feeds: Collection[str], targets: Iterable[str]) -> set[str]:
    """Return the names of the nodes between `feeds` and `targets`, the targets' own and missing ones among them.

    A walk from the targets against the edges; it stops at fed tensors, whose nodes are left out unless another
    of their outputs is needed. Works on the protos of TensorFlow and of tensorboard alike.
    """
    fed = {split_tensor(name) for name in feeds}
    fed |= {(node, CONTROL) for node, _ in fed}
    seen: set[str] = set()
    todo = [split_tensor(name) for name in targets]
    while todo:
        edge = todo.pop()
        if edge in fed or edge[0] in seen:
            continue
        seen.add(edge[0])
        if edge[0] in nodes:
            todo.extend(split_tensor(name) for name in nodes[edge[0]].input)
    return seen


def check_ports(graph: Graph, feeds: Sequence[str], fetches: Sequence[str], init_ops: Sequence[str]) -> None:
    """Check that `fetches` can be computed from `feeds` and constants alone.

    Raises:
        GraphError: for a name that the graph lacks, a variable on the way, or a placeholder left unfed.
    """
    for name in (*feeds, *fetches, *init_ops):
        describe_tensor(graph, name)
    for name in sorted(needed_nodes(graph.nodes, feeds, [*fetches, *init_ops])):
        if name not in graph.nodes:
            raise GraphError(f"{graph.path} was cut short: its operations read {name}, which is not there")
        node = graph.nodes[name]
        if node.op in VARIABLES:
            raise GraphError(
                f"{graph.path} still has variables ({name}, {node.op}) where a frozen graph has constants; "
                "freeze it from its checkpoint first (convert_variables_to_constants)"
            )
        if node.op in ("Placeholder", "PlaceholderV2"):
            spec = describe_tensor(graph, f"{name}:0")
            raise GraphError(
                f"{graph.path} needs {spec}, which nothing feeds; "
                f"type --feed {name}:0=COLUMN, or --set {name}:0=VALUE for a constant"
            )


def find_random_operations(graph: Graph, feeds: Sequence[str], fetches: Sequence[str]) -> list[str]:
    """Return the random operations between feeds and fetches, and any in the function library."""
    needed = (graph.nodes[name] for name in needed_nodes(graph.nodes, feeds, fetches))
    library = (node for function in graph.graph_def.library.function for node in function.node_def)
    return sorted(
        f"{node.name} ({node.op})"
        for node in (*needed, *library)
        if node.op in RANDOM_OPERATIONS or node.op.startswith(RANDOM_PREFIXES)
    )


def _nearest(graph: Graph, name: str) -> str:
    inner = [node for node in graph.nodes if node.endswith("/" + name.rpartition("/")[2])]
    close = inner[:3] or difflib.get_close_matches(name, list(graph.nodes), n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"{node}:0" for node in close) + "?"
    description = describe_graph(graph)
    names = [spec.name for spec in (*description.inputs, *description.outputs)]
    return f"its inputs and likely outputs are {', '.join(names[:8]) or 'none'}"


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """What a frozen graph holds, as `icefloe describe` shows it."""

    inputs: tuple[TensorSpec, ...]
    """Placeholders, in file order."""
    outputs: tuple[TensorSpec, ...]
    """Tensors that no other node reads, constants and no-ops left out."""
    parameters: int
    """Numbers held in floating-point constants of one axis or more."""
    size_bytes: int
    """Size of the file."""
    operations: tuple[tuple[str, int], ...]
    """Operation types with their counts, most frequent first."""
    producer: int
    """GraphDef version of the TensorFlow that wrote the file."""
    variables: tuple[str, ...]
    """Variables left in the file; a frozen graph has none."""


def describe_graph(graph: Graph) -> GraphDescription:
    """Describe the graph from its file alone."""
    nodes = graph.graph_def.node
    read = {split_tensor(edge)[0] for node in nodes for edge in node.input}
    inputs = [describe_tensor(graph, f"{node.name}:0") for node in nodes if node.op in PLACEHOLDERS]
    outputs = [
        describe_tensor(graph, f"{node.name}:0")
        for node in nodes
        if node.name not in read and node.op not in (*PLACEHOLDERS, *VARIABLES, "Const", "NoOp", "Assert", "SaveV2")
    ]
    weights = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    parameters = sum(
        math.prod(dim.size for dim in weight.tensor_shape.dim)
        for weight in weights
        if weight.tensor_shape.dim and "float" in dtype_name(weight.dtype)
    )
    return GraphDescription(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        parameters=parameters,
        size_bytes=len(graph.data),
        operations=tuple(Counter(node.op for node in nodes).most_common()),
        producer=graph.graph_def.versions.producer,
        variables=tuple(node.name for node in nodes if node.op in VARIABLES),
    )
