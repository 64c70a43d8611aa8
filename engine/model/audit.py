"""What a graph does beside computing: files, other machines, Python, and what cannot be told.

Reads protos only, TensorFlow's and tensorboard's alike, runs nothing and needs no TensorFlow. It looks into the
function library and into graphs kept in constants, for that is where such operations hide. No sandbox: a graph
that it finds nothing in can still break the process that runs it. Start at `audit_graph`, then `check_audit`.
"""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from engine.errors import GraphError
from engine.model.closure import needed_nodes, reachable_functions
from engine.model.operations import PURE, UNKNOWN, effect_of, hint_for, is_known, tensorflow_version

# Graphs inside graphs: each level costs another pass over the same bytes, so the depth bounds the work.
MAX_DEPTH = 8
MAX_IDENTITIES = 16
MAX_SHOWN = 6
MAX_NAME = 200
# MLIR's bytecode keeps the names of its operations as they are; its text could write them with escapes.
BYTECODE = b"ML\xefR"
PHRASES = {"Python": "calls Python", "network": "reaches other machines"}


@dataclass(frozen=True, slots=True)
class Finding:
    """A node that does more than compute, or may do so."""

    node: str
    """Name of the node, as the file has it."""
    operation: str
    """Its operation."""
    effect: str
    """What the operation does, as `operations.toml` has it; `unknown` if that cannot be told."""
    place: str
    """Where the node is: empty for the graph itself, else such as `function NAME` or `graph inside NODE`."""

    @property
    def is_foreign(self) -> bool:
        """Whether TensorFlow lacks the operation, so that a library of operations must hold it."""
        return self.effect == UNKNOWN and not is_known(self.operation)

    def __str__(self) -> str:
        """Give it as messages show it: `secret (ReadFile) reads files, in function NAME`."""
        what = PHRASES.get(self.effect, self.effect)
        if self.effect == UNKNOWN:
            what = f"is unknown to TensorFlow {_version()}" if self.is_foreign else "runs what cannot be read"
        place = f", in {self.place}" if self.place else ""
        return f"{_shown(self.node)} ({_shown(self.operation)}) {what}{place}"


def audit_graph(graph_def: Any, feeds: Collection[str], targets: Iterable[str]) -> tuple[Finding, ...]:
    """Return what a GraphDef does beside computing when `targets` are computed from `feeds`, in the file's order.

    Args:
        graph_def: the GraphDef; what is neither between feeds and targets nor in a function reached is left out.
        feeds: tensors that values will be given for.
        targets: tensors and operations to compute, operations that initialise tables among them.

    Raises:
        GraphError: if an edge of it is no tensor name.
    """
    try:
        needed = needed_nodes({node.name: node for node in graph_def.node}, feeds, targets)
    except ValueError as error:  # Python reads no number of more than 4,300 digits
        raise GraphError("the graph has an edge whose output index is no number that fits") from error
    nodes = [node for node in graph_def.node if node.name in needed]
    return tuple(_audit(type(graph_def), nodes, reachable_functions(graph_def.library, nodes)))


def audit_everything(graph_def: Any) -> tuple[Finding, ...]:
    """Return what any node or function of a GraphDef does beside computing, in the file's order."""
    return tuple(_audit(type(graph_def), graph_def.node, graph_def.library.function))


def check_audit(path: str, findings: Sequence[Finding], allow_ops: Collection[str], has_library: bool) -> None:
    """Refuse a graph that does more than compute.

    Args:
        path: the model's file.
        findings: what the audit found.
        allow_ops: operations to let through, by name.
        has_library: whether a library of operations will be loaded; those that TensorFlow lacks are taken to be its.

    Raises:
        GraphError: naming the nodes and what to type to let them through.
    """
    refused = [finding for finding in findings if finding.operation not in allow_ops]
    foreign = [finding for finding in refused if finding.is_foreign and not has_library]
    acting = [finding for finding in refused if not finding.is_foreign]
    parts = []
    if acting:
        parts.append(f"does more than compute: {_listed(acting)}; if you trust this model, type {_flags(acting)}")
    if foreign:
        hints = "".join(f"; {_shown(name)}: {hint}" for name in _operations(foreign) if (hint := hint_for(name)))
        parts.append(
            f"holds foreign operations: {_listed(foreign)}{hints}; "
            f"type --op-library PATH for the library that has them, or {_flags(foreign)} to go on without"
        )
    if parts:
        raise GraphError(f"{path} {'; it '.join(parts)}")


def _audit(
    graph_type: Any, nodes: Iterable[Any], functions: Sequence[Any], place: str = "", depth: int = 0
) -> Iterator[Finding]:
    """Yield the findings of `nodes` and `functions`, and of graphs in their constants, each constant once."""
    defined = {function.signature.name for function in functions}
    bodies = [(place, nodes)]
    bodies += [(_inside(f"function {_shown(each.signature.name)}", place), each.node_def) for each in functions]
    for where, body in bodies:
        by_name = {node.name: node for node in body}
        readable: dict[str, bool] = {}
        for node in body:
            effect = effect_of(node.op)
            if not is_known(node.op) and node.op in defined:
                effect = PURE  # a call, and what it calls is looked at by itself
            elif node.op == "XlaCallModule" and _calls_by_name(node):
                effect = UNKNOWN
            elif node.op == "DatasetFromGraph":
                source = _find_constant(by_name, node)
                if source is not None and source.name not in readable:
                    inner = _read_graph(graph_type, source) if depth < MAX_DEPTH else None
                    readable[source.name] = inner is not None
                    if inner is not None:
                        inside = _inside(f"graph inside {_shown(node.name)}", where)
                        yield from _audit(graph_type, inner.node, inner.library.function, inside, depth + 1)
                effect = PURE if source is not None and readable[source.name] else UNKNOWN
            if effect != PURE:
                yield Finding(node.name, node.op, effect, where)


def _find_constant(nodes: Mapping[str, Any], node: Any) -> Any:
    """Return the Const that a node's first input is, perhaps through Identity; None if it is anything else."""
    for _ in range(MAX_IDENTITIES):
        # Control edges come last, or TensorFlow refuses the node; a name that starts with ^ is in no graph.
        node = nodes.get(node.input[0].partition(":")[0]) if node.input else None
        if node is None or node.op == "Const":
            return node
        if node.op != "Identity":
            return None
    return None


def _read_graph(graph_type: Any, constant: Any) -> Any:
    """Return the GraphDef that a string constant holds; None if there is none to be read."""
    if "value" not in constant.attr:
        return None
    tensor = constant.attr["value"].tensor
    if tensor.tensor_content or not tensor.string_val:  # what TensorFlow reads first, and nobody writes strings there
        return None
    try:
        return graph_type.FromString(tensor.string_val[0])
    except DecodeError:
        return None


def _calls_by_name(node: Any) -> bool:
    """Say whether an XlaCallModule may call code of the process by name, which the name alone does not explain."""
    module = node.attr["module"].s if "module" in node.attr else b""
    return not module.startswith(BYTECODE) or b"custom_call" in module


def _operations(findings: Iterable[Finding]) -> list[str]:
    """Return the first few operations found."""
    return list(dict.fromkeys(finding.operation for finding in findings))[:MAX_SHOWN]


def _flags(findings: Iterable[Finding]) -> str:
    return " ".join(f"--allow-op {shlex.quote(_shown(name))}" for name in _operations(findings))


def _listed(findings: Sequence[Finding]) -> str:
    """Name the first finding of each of the first few operations, and say how many more there are."""
    firsts = {finding.operation: finding for finding in reversed(findings)}
    shown = [str(firsts[name]) for name in _operations(findings)]
    more = len(findings) - len(shown)
    return "; ".join(shown) + (f"; and {more:,} more" if more else "")


def _inside(inner: str, outer: str) -> str:
    return f"{inner} of {outer}" if outer else inner


def _shown(name: str) -> str:
    """Return a name as a message can hold it: short, and without what would steer a terminal."""
    name = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
    return name if name.isprintable() else ascii(name)


def _version() -> str:
    return ".".join(tensorflow_version().split(".")[:2])
