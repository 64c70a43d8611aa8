"""Turns a graph that was saved for training into one that predicts: pure rewriting of a GraphDef, in place.

What normalises by its own batch takes the moving averages instead, dropout of a fixed rate is left out, and
operations on references to variables become operations on values. What cannot be mended is refused by name.
Start at `repair_graph`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import GraphError
from engine.model.closure import needed_nodes, split_tensor
from engine.model.graphdef import VARIABLES

REFERENCES = {
    "RefSwitch": "Switch",
    "RefMerge": "Merge",
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefNextIteration": "NextIteration",
    "RefIdentity": "Identity",
}
UPDATES = {"AssignSub": "Sub", "AssignAdd": "Add", "Assign": "Identity"}
RESOURCE_UPDATES = ("AssignSubVariableOp", "AssignAddVariableOp", "AssignVariableOp")
PASSING = ("Identity", "ReadVariableOp", "Cast", "Squeeze", "Reshape", "ExpandDims", "StopGradient", "Enter")
SWITCHES = ("Switch", "RefSwitch")
MOVING = ("moving_mean", "moving_variance")
RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")
ARITHMETIC = ("Mul", "Sub", "Add", "AddV2", "RealDiv", "SquaredDifference", "Rsqrt", "Sqrt", "Neg")
MAX_STEPS = 16


@dataclass(slots=True)
class _Graph:
    """A GraphDef being rewritten, and what its targets need."""

    given: str
    graph_def: Any
    targets: Sequence[str]
    feeds: Sequence[str]
    nodes: dict[str, Any] = field(init=False)
    needed: list[Any] = field(init=False)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Find anew what the targets need, after edges were changed."""
        self.nodes = {node.name: node for node in self.graph_def.node}
        names = needed_nodes(self.nodes, self.feeds, self.targets)
        self.needed = [node for node in self.graph_def.node if node.name in names]

    def trace(self, edge: str, through: Iterable[str] = PASSING) -> Any:
        """Return the node that `edge` comes from, past operations that only pass a value on; None where it is lost."""
        for _ in range(MAX_STEPS):
            node = self.nodes.get(split_tensor(edge)[0])
            if node is None or node.op not in through or not node.input:
                return node
            edge = node.input[0]
        return None

    def is_conditional(self, node: Any) -> bool:
        """Whether a node stands in a branch of a tf.cond, which something else switches on and off."""
        sources = (self.trace(edge) for edge in node.input if not edge.startswith("^"))
        return any(source is not None and source.op in SWITCHES for source in sources)

    def add(self, name: str, op: str, *inputs: str) -> Any:
        """Add a node under a name that is still free."""
        while name in self.nodes:
            name += "_"
        self.nodes[name] = self.graph_def.node.add(name=name, op=op, input=inputs)
        return self.nodes[name]


def repair_graph(given: str, graph_def: Any, feeds: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    """Rewrite what the `targets` of a graph with variables need, so that it can be frozen and then predicts.

    Args:
        given: the model's path, for messages.
        graph_def: the whole graph, changed in place.
        feeds: tensors that values will be given for.
        targets: outputs and initialisers to keep.

    Returns:
        What was changed in what the graph computes, a sentence each; empty for a graph made for prediction.

    Raises:
        GraphError: for what belongs to training and cannot be mended, by name.
    """
    graph = _Graph(given, graph_def, targets, feeds)
    for step in STEPS:
        step(graph)
        graph.look()
    return tuple(graph.notes)


def _mend_fused_batch_norm(graph: _Graph) -> None:
    mended = 0
    for node in graph.needed:
        if not _is_training_norm(node) or graph.is_conditional(node):
            continue
        scale = graph.trace(node.input[1])
        scope = (scale if scale is not None and scale.op in VARIABLES else node).name.rpartition("/")[0]
        averages = [graph.nodes.get(f"{scope}/{name}" if scope else name) for name in MOVING]
        if not all(each is not None and each.op in VARIABLES for each in averages):
            raise GraphError(
                f"{graph.given}: {node.name} ({node.op}) is a batch norm in training form, which normalises each row "
                "by the others of its batch, and its moving averages are not in the graph; save the graph built with "
                "training=False"
            )
        node.input[3], node.input[4] = (_read(graph, each) for each in averages)
        node.attr["is_training"].b = False
        mended += 1
    for function in _straight_functions(graph):
        for node in function.node_def:
            if _is_training_norm(node):
                raise GraphError(
                    f"{graph.given}: {node.name} ({node.op}, in function {function.signature.name}) is a batch norm in "
                    "training form, which normalises each row by the others of its batch; export with training=False"
                )
    if mended:
        graph.notes.append(f"{mended} batch norms in training form take their moving averages now")


def _is_training_norm(node: Any) -> bool:
    # The attribute's default is true, so an absent one means training.
    is_norm = node.op in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
    return is_norm and ("is_training" not in node.attr or node.attr["is_training"].b)


def _straight_functions(graph: _Graph) -> Iterator[Any]:
    """Yield the functions that run whenever the graph runs: called, and no branch of a condition."""
    functions = {each.signature.name: each for each in graph.graph_def.library.function}
    seen: set[str] = set()
    todo = list(graph.needed)
    while todo:
        node = todo.pop()
        name = node.attr["f"].func.name if "PartitionedCall" in node.op and "f" in node.attr else node.op
        if name in functions and name not in seen:
            seen.add(name)
            todo.extend(functions[name].node_def)
            yield functions[name]


def _read(graph: _Graph, variable: Any) -> str:
    """Return an edge to the variable's value."""
    if variable.op != "VarHandleOp":
        return str(variable.name)
    read = graph.add(f"{variable.name}/value", "ReadVariableOp", variable.name)
    read.attr["dtype"].type = variable.attr["dtype"].type
    return str(read.name)


def _mend_plain_batch_norm(graph: _Graph) -> None:
    """A batch norm of plain operations: `SCOPE/moments` of the batch stand where the moving averages belong."""
    mended = 0
    moments = {"Squeeze": MOVING[0], "Squeeze_1": MOVING[1], "mean": MOVING[0], "variance": MOVING[1]}
    for node in graph.needed:
        for i, edge in enumerate(node.input):
            scope, _, last = split_tensor(edge)[0].rpartition("/moments/")
            if not scope or last not in moments or f"{scope}/moments/" in node.name or edge.startswith("^"):
                continue
            average = graph.nodes.get(f"{scope}/{moments[last]}")
            mean = graph.nodes.get(f"{scope}/moments/mean")
            if average is None or average.op not in VARIABLES or mean is None or graph.is_conditional(mean):
                continue
            if node.op not in ARITHMETIC or "AssignMovingAvg" in node.name:
                continue  # a condition chooses between both, or the average itself is being updated
            node.input[i] = _read(graph, average)
            mended += 1
    if mended:
        graph.notes.append(f"{mended} inputs of batch norms in training form take their moving averages now")


def _drop_dropout(graph: _Graph) -> None:
    dropped = 0
    for node in graph.needed:
        if node.op in ("Mul", "SelectV2", "Select"):
            for scaled, mask in _operands(node):
                value = _undropped(graph, scaled, mask)
                if value is not None and not graph.is_conditional(node):
                    _become_identity(node, value)
                    dropped += 1
                    break
    if dropped:
        graph.notes.append(f"{dropped} dropouts of a fixed rate were left out")


def _operands(node: Any) -> list[tuple[str, str]]:
    first, second = node.input[0], node.input[1]
    return [(first, second), (second, first)] if node.op == "Mul" else [(second, first)]


def _undropped(graph: _Graph, scaled: str, mask: str) -> str | None:
    """Return what a dropout drops from, if `scaled` and `mask` are the two sides of one with a constant rate."""
    drawn = graph.trace(mask, ("Cast", "Identity", "Floor"))
    if drawn is None or drawn.op not in ("Add", "AddV2", "GreaterEqual", "Less", "Greater", "LessEqual"):
        return None
    sides = [graph.trace(edge, ("Identity", "Cast")) for edge in drawn.input[:2]]
    is_random = [side is not None and _is_uniform(graph, side, 0) for side in sides]
    is_fixed = [side is not None and _is_constant(graph, side, 0) for side in sides]
    if not (is_random[0] and is_fixed[1] or is_random[1] and is_fixed[0]):
        return None
    scale = graph.nodes.get(split_tensor(scaled)[0])
    if scale is None or scale.op not in ("RealDiv", "Div", "Mul"):
        return None
    factors = [(scale.input[0], scale.input[1]), (scale.input[1], scale.input[0])][: 1 + (scale.op == "Mul")]
    for value, factor in factors:
        source = graph.trace(factor, ("Identity", "Cast"))
        if source is not None and _is_constant(graph, source, 0):
            return str(value)
    return None


def _is_uniform(graph: _Graph, node: Any, depth: int) -> bool:
    """Whether a value is drawn evenly: a random operation, scaled and shifted by constants."""
    if node.op in RANDOM:
        return True
    if node.op not in ("Add", "AddV2", "Mul", "Identity", "Cast") or depth > MAX_STEPS:
        return False
    sources = [graph.nodes.get(split_tensor(edge)[0]) for edge in node.input[:2]]
    kinds = [each is not None and _is_uniform(graph, each, depth + 1) for each in sources]
    others = [each for each, random in zip(sources, kinds, strict=True) if not random]
    return any(kinds) and all(each is not None and _is_constant(graph, each, 0) for each in others)


def _is_constant(graph: _Graph, node: Any, depth: int) -> bool:
    if node.op == "Const":
        return True
    if node.op not in ("Sub", "Add", "AddV2", "RealDiv", "Div", "Mul", "Identity", "Cast") or depth > MAX_STEPS:
        return False
    sources = [graph.nodes.get(split_tensor(edge)[0]) for edge in node.input if not edge.startswith("^")]
    return bool(sources) and all(each is not None and _is_constant(graph, each, depth + 1) for each in sources)


def _become_identity(node: Any, edge: str) -> None:
    dtype = node.attr["T"].type
    node.op = "Identity"
    del node.input[:]
    node.input.append(edge)
    node.attr.clear()
    node.attr["T"].type = dtype


def _mend_references(graph: _Graph) -> None:
    """A frozen variable has no reference: what takes one takes the value, and what updates one computes the update."""
    changed = 0
    removed: set[str] = set()
    for node in graph.needed:
        if node.op in REFERENCES:
            node.op = REFERENCES[node.op]
        elif node.op in UPDATES or node.op in RESOURCE_UPDATES:
            variable = graph.trace(node.input[0], (*PASSING, *SWITCHES, *REFERENCES))
            name = node.input[0] if variable is None else variable.name
            if not (str(name).rpartition("/")[2].startswith(MOVING) or "AssignMovingAvg" in node.name):
                raise GraphError(
                    f"{graph.given}: {node.name} ({node.op}) changes the variable {name} whenever the graph runs, and "
                    "a frozen graph has constants; name outputs that do not depend on it (--outputs)"
                )
            changed += 1
            if node.op in RESOURCE_UPDATES:
                removed.add(node.name)
            elif node.op == "Assign":
                _become_identity(node, node.input[1])
            else:
                node.op = UPDATES[node.op]
                node.attr.pop("use_locking", None)
    for node in graph.graph_def.node:
        kept = [edge for edge in node.input if not (edge.startswith("^") and edge[1:] in removed)]
        if len(kept) < len(node.input):
            del node.input[:]
            node.input.extend(kept)
    if changed:
        graph.notes.append(f"{changed} updates of moving averages no longer change anything")


STEPS = (
    _mend_fused_batch_norm,
    _mend_plain_batch_norm,
    _drop_dropout,
    _mend_references,
)
