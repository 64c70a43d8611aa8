"""Turns a graph that was saved for training into one that predicts: pure rewriting of a GraphDef, in place.

What normalises by its own batch takes the moving averages instead, dropout of a fixed rate is left out, and what
changes variables no longer does. What cannot be mended is refused by name. Start at `repair_graph`.
"""

from collections.abc import Collection, Sequence
from typing import Any

from engine.errors import GraphError
from engine.model.closure import reachable_functions
from engine.model.freezing.batch_norm import AVERAGES, REFUSAL, mend_batch_norms
from engine.model.freezing.bodies import REFERENCES, Arrival, follow
from engine.model.freezing.dropout import become_identity, drop_dropouts
from engine.model.freezing.rewriting import HOLDERS, Rewriting
from engine.model.freezing.variables import READS, settle_values, takes_more

# Updates of variables that are known by a reference, and what computes their result.
UPDATES = {"AssignSub": "Sub", "AssignAdd": "Add", "Assign": "Identity"}
RESOURCE_UPDATES = ("AssignSubVariableOp", "AssignAddVariableOp", "AssignVariableOp")
# What else takes a reference to change what it refers to, or to ask about it.
MUTATORS = (
    *(f"Scatter{kind}" for kind in ("Update", "Add", "Sub", "Mul", "Div", "Min", "Max")),
    *(f"ScatterNd{kind}" for kind in ("Update", "Add", "Sub")),
    *("CountUpTo", "IsVariableInitialized", "StridedSliceAssign"),
)


def repair_graph(
    given: str, graph_def: Any, feeds: Sequence[str], targets: Sequence[str], switches: Collection[str] = ()
) -> tuple[str, ...]:
    """Rewrite what the `targets` of a graph with variables need, so that it can be frozen and then predicts.

    Args:
        given: the model's path, for messages.
        graph_def: the whole graph, changed in place.
        feeds: tensors that values will be given for.
        targets: outputs and initialisers to keep.
        switches: those of the feeds that are 0 or 1 for good.

    Returns:
        What was changed in what the graph computes, a sentence each; empty for a graph made for prediction.

    Raises:
        GraphError: for what belongs to training and cannot be mended, by name.
    """
    graph = Rewriting(given, graph_def, feeds, targets, switches)
    for step in (mend_batch_norms, drop_dropouts, _stop_updates, _settle_constants):
        step(graph)
        graph.look()
    return tuple(graph.notes)


def _stop_updates(graph: Rewriting) -> None:
    """Let references be values, and updates of moving averages be nothing.

    Raises:
        GraphError: for what changes any other variable, or does it in a function where that means training.
    """
    straight = {function.signature.name for function in graph.straight_functions()}
    names = {node.name for node in graph.needed}
    functions = {each.signature.name for each in reachable_functions(graph.graph_def.library, graph.needed)}
    arrivals, _ = follow(graph.graph_def, [node.name for node in graph.needed if node.op in HOLDERS])
    stopped = 0
    for arrival in arrivals:
        function = arrival.body.function
        if arrival.node.name in names if function is None else function.signature.name in functions:
            stopped += _stop(graph, arrival, function is not None and function.signature.name in straight)
    for node in graph.needed:
        node.op = REFERENCES.get(node.op, node.op)
    if stopped:
        graph.notes.append(f"{stopped} updates of moving averages no longer change anything")


def _stop(graph: Rewriting, arrival: Arrival, is_straight: bool) -> bool:
    """Let a node that gets a variable not change it, and say whether it did."""
    node, origin = arrival.node, arrival.origin
    if arrival.index == 0 and (node.op in UPDATES or node.op in RESOURCE_UPDATES):
        if not _is_average(origin, node.name):
            raise GraphError(
                f"{graph.given}: {node.name} ({node.op}) changes the variable {origin} whenever the graph runs, and "
                "a frozen graph has constants; save the graph that was built with training=False, or name outputs "
                "that do not depend on it (--outputs)"
            )
        if is_straight:
            reason = f"in function {arrival.body.function.signature.name}, where it is not mended"
            raise GraphError(f"{graph.given}: what {node.name} updates {REFUSAL.format(reason=reason)}")
        _become_nothing(arrival)
        return True
    is_handle = graph.body.by_name[origin].op == "VarHandleOp"
    if is_handle and not arrival.goes_on and node.op not in READS or arrival.index == 0 and node.op in MUTATORS:
        raise GraphError(f"{graph.given}: {takes_more(node, origin)}")
    return False


def _is_average(variable: str, update: str) -> bool:
    """Whether a variable is an average that moves along in training."""
    is_named = variable.rpartition("/")[2].startswith(AVERAGES) or "ExponentialMovingAverage" in variable
    return is_named or "AssignMovingAvg" in update


def _become_nothing(arrival: Arrival) -> None:
    """Let an update compute its result alone; or nothing at all, where nobody reads it."""
    node = arrival.node
    if not arrival.body.readers.get((node.name, 0)):
        controls = [edge for edge in node.input if edge.startswith("^")]
        node.op = "NoOp"
        del node.input[:]
        node.input.extend(controls)
        node.attr.clear()
    elif node.op == "Assign":
        become_identity(node, node.input[1])
    else:
        node.op = UPDATES[node.op]
        node.attr.pop("use_locking", None)


def _settle_constants(graph: Rewriting) -> None:
    """Mend what was frozen badly: reads of variables that are constants already."""
    settled = settle_values(graph.graph_def)
    if settled:
        graph.notes.append(f"{settled} operations that took a constant for a variable take its value now")
