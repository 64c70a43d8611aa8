"""Reads and describes a frozen graph (.pb) without TensorFlow.

The protos come from `tensorboard.compat.proto`, which holds the same messages under another package name, so
this costs 25 ms where TensorFlow costs 3 s. What only TensorFlow can tell (the shape of an inner tensor) is
None here and is checked when an actor loads the graph. Start at `read_graph`, then `check_ports`.
"""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorboard.compat.proto.types_pb2 import DataType

from engine.errors import GraphError
from engine.model.closure import needed_nodes, reachable_functions, split_tensor
from engine.model.filetype import FREEZE, ModelKind, explain_bytes, locate_model
from engine.model.protos import GraphDef, parse_message, read_bytes
from engine.model.tensor import Shape, TensorSpec

PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")
TABLES = ("HashTable", "HashTableV2", "MutableHashTable", "MutableHashTableV2", "MutableDenseHashTable")
INITIALISERS = ("LookupTableImport", "InitializeTable")
# Where rows of a training job come from; a frozen graph waits there for ever, or has nothing to read.
PIPELINES = ("IteratorGetNext", "QueueDequeue", "ReaderRead")
NO_OUTPUTS = (*PLACEHOLDERS, *VARIABLES, "Const", "NoOp", "Assert", "SaveV2")
# Producers before 24 write a shape of [] where they mean "unknown" (seen on 164 graphs of others).
FIRST_PRODUCER_WITH_SCALAR_SHAPES = 24
RANDOM_PREFIXES = ("Random", "StatefulUniform", "StatefulStandardNormal", "StatefulTruncatedNormal", "StatefulRandom")
RANDOM_OPERATIONS = ("Multinomial", "TruncatedNormal", "ParameterizedTruncatedNormal", "RngSkip", "RngReadAndSkip")
MAX_RANK = 254  # TensorFlow's own limit


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


def graph_of(path: str, graph_def: Any, data: bytes = b"") -> Graph:
    """Return a parsed GraphDef with its nodes by name."""
    return Graph(path, data, graph_def, {node.name: node for node in graph_def.node})


def read_graph(path: str) -> Graph:
    """Read the frozen graph at `path`.

    Raises:
        GraphError: if the file is missing or is no frozen graph, saying what it is instead.
    """
    found = locate_model(path)
    if found.kind not in (ModelKind.GRAPH, ModelKind.TEXT):
        raise GraphError(f"{path}: expected a graph, found a {found.kind}; {FREEZE}")
    data = read_bytes(found.path)
    graph_def = parse_message(GraphDef(), path, data)
    if not graph_def.node or not all(node.name and node.op for node in graph_def.node):
        is_text = found.kind is ModelKind.TEXT
        what = "text of a graph whose nodes lack a name or an operation" if is_text else explain_bytes(data)
        raise GraphError(f"{path}: expected a graph, found {what}")
    if found.kind is ModelKind.TEXT:
        data = graph_def.SerializeToString(deterministic=True)
    return graph_of(path, graph_def, data)


def describe_tensor(graph: Graph, name: str) -> TensorSpec:
    """Return what the file says of tensor `name`.

    Raises:
        GraphError: if the graph has no such node; the nearest names are shown.
    """
    node_name, sign, output = name.partition(":")
    output = output if sign else "0"
    if node_name not in graph.nodes:
        cut = "" if graph.graph_def.HasField("versions") else "; the file carries no version: was it cut short?"
        raise GraphError(f"{graph.path} has no tensor {name}; {_nearest(graph, node_name)}{cut}")
    if not output.isdigit():
        raise GraphError(f"{name} is no tensor name; expected NODE:OUTPUT, as in {node_name}:0")
    node = graph.nodes[node_name]
    if node.op not in (*PLACEHOLDERS, "Const"):
        return TensorSpec(name, None, None)
    if int(output):
        raise GraphError(f"{graph.path} has no tensor {name}: {node_name} ({node.op}) has one output, {node_name}:0")
    # Looking an attribute up adds it to the proto, so whether it is there comes first.
    dtype = dtype_name(node.attr["dtype"].type) if "dtype" in node.attr else None
    if node.op == "Const":
        is_there = "value" in node.attr and node.attr["value"].HasField("tensor")
        return TensorSpec(name, dtype, read_shape(node.attr["value"].tensor.tensor_shape) if is_there else None)
    is_hint = graph.graph_def.versions.producer < FIRST_PRODUCER_WITH_SCALAR_SHAPES
    is_unknown = "shape" not in node.attr or (not node.attr["shape"].shape.dim and is_hint)
    return TensorSpec(name, dtype, None if is_unknown else read_shape(node.attr["shape"].shape))


def read_shape(proto: Any) -> Shape:
    """Return the extents of a TensorShapeProto; None where it has more axes than any tensor can have."""
    if proto.unknown_rank or len(proto.dim) > MAX_RANK:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)


def describe_feed(graph: Graph, name: str) -> TensorSpec:
    """Return what the file says of a tensor that is to be fed; only a placeholder bounds the shape that it takes."""
    spec = describe_tensor(graph, name)
    is_placeholder = graph.nodes[split_tensor(name)[0]].op in PLACEHOLDERS
    return spec if is_placeholder else TensorSpec(name, spec.dtype, None)


def dtype_name(number: int) -> str:
    """Return TensorFlow's name of a dtype number: 1 is `float32`; one that does not exist is `dtype 99`."""
    try:
        name = str(DataType.Name(number)).removeprefix("DT_").removesuffix("_REF").lower()
    except ValueError:
        return f"dtype {number}"
    return {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)


def check_ports(graph: Graph, feeds: Sequence[str], fetches: Sequence[str], init_ops: Sequence[str]) -> None:
    """Check that `fetches` can be computed from `feeds` and constants alone.

    Raises:
        GraphError: for a name that the graph lacks, a variable on the way, or a placeholder left unfed.
    """
    for name in (*feeds, *fetches):
        describe_tensor(graph, name)
    for name in init_ops:
        if split_tensor(name)[0] not in graph.nodes:
            raise GraphError(f"{graph.path} has no operation {name} (--init-op); {_nearest_operation(graph, name)}")
    needed = needed_nodes(graph.nodes, feeds, [*fetches, *init_ops])
    _check_tables(graph, needed, init_ops)
    for name in sorted(needed):
        if name not in graph.nodes:
            raise GraphError(f"{graph.path} was cut short: its operations read {name}, which is not there")
        node = graph.nodes[name]
        if node.op in VARIABLES:
            raise GraphError(
                f"{graph.path} still has variables ({name}, {node.op}) where a frozen graph has constants; "
                "freeze it from its checkpoint first: icefloe freeze PREFIX DEST.pb"
            )
        if node.op.startswith(PIPELINES):
            raise GraphError(
                f"{graph.path} takes its rows from an input pipeline of its own ({name}, {node.op}), which nothing "
                f"fills here; feed what that gives: --feed {name}:0=COLUMN"
            )
        if node.op in ("Placeholder", "PlaceholderV2"):
            spec = describe_tensor(graph, f"{name}:0")
            raise GraphError(
                f"{graph.path} needs {spec}, which nothing feeds; "
                f"type --feed {name}:0=COLUMN, or --set {name}:0=VALUE for a constant"
            )


def _check_tables(graph: Graph, needed: Collection[str], init_ops: Sequence[str]) -> None:
    """Check that every lookup table on the way is filled by an initialiser."""
    filled = needed_nodes(graph.nodes, [], init_ops)
    touched = {split_tensor(edge)[0] for name in filled if name in graph.nodes for edge in graph.nodes[name].input}
    for name in sorted(needed):
        if name in graph.nodes and graph.nodes[name].op in ("HashTable", "HashTableV2") and name not in touched:
            known = [
                node.name for node in graph.graph_def.node if node.op.startswith(INITIALISERS) and name in node.input
            ]
            raise GraphError(
                f"{graph.path} looks up in a table that nothing fills ({name}, {graph.nodes[name].op}); "
                + (f"type --init-op {known[0]}" if known else "freezing lost its initialiser: icefloe freeze keeps it")
            )


def find_random_operations(graph: Graph, feeds: Sequence[str], fetches: Sequence[str]) -> list[str]:
    """Return the random operations between feeds and fetches, and in the functions that can be called there."""
    names = needed_nodes(graph.nodes, feeds, fetches)
    needed = [graph.nodes[name] for name in names if name in graph.nodes]
    functions = reachable_functions(graph.graph_def.library, needed)
    inner = (node for function in functions for node in function.node_def)
    return sorted(f"{node.name} ({node.op})" for node in (*needed, *inner) if is_random(node.op))


def is_random(operation: str) -> bool:
    """Say whether an operation draws numbers that no seed among its inputs decides."""
    return operation in RANDOM_OPERATIONS or operation.startswith(RANDOM_PREFIXES)


def _nearest(graph: Graph, name: str) -> str:
    # People lose or add a prefix (import/), or mistype: the same last word first, then what looks alike.
    last = name.rpartition("/")[2]
    same_last = [node for node in graph.nodes if node.rpartition("/")[2] == last]
    alike = difflib.get_close_matches(name, same_last or list(graph.nodes), n=3, cutoff=0.0 if same_last else 0.6)
    hint = "did you mean " + " or ".join(f"{node}:0" for node in alike) + "?" if alike else ""
    names = [*find_inputs(graph.graph_def), *find_outputs(graph.graph_def)]
    ports = f"its inputs and likely outputs are {', '.join(names[:8]) or 'none'}"
    return hint if same_last else f"{hint} {ports}".strip()


def _nearest_operation(graph: Graph, name: str) -> str:
    others = difflib.get_close_matches(name, list(graph.nodes), n=3, cutoff=0.5)
    initialisers = [node.name for node in graph.graph_def.node if node.op.startswith(INITIALISERS)]
    found = (initialisers or others)[:8]
    return f"did you mean {' or '.join(found)}?" if found else "nothing in it initialises a table"


def find_inputs(graph_def: Any) -> list[str]:
    """Return the placeholders, in file order."""
    return [f"{node.name}:0" for node in graph_def.node if node.op in PLACEHOLDERS]


def find_outputs(graph_def: Any) -> list[str]:
    """Return the tensors that no other node reads, constants and no-ops left out: the likely outputs."""
    nodes = graph_def.node
    read = {split_tensor(edge)[0] for node in nodes for edge in node.input if not edge.startswith("^")}
    return [f"{node.name}:0" for node in nodes if node.name not in read and node.op not in NO_OUTPUTS]
