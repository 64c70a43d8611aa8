"""Turns variables into constants, and what takes variables into what takes values. Pure rewriting of a GraphDef.

A variable travels as a handle through identities, loops, branches and function calls to what reads it. Once it is a
constant, its value travels the same way, so that the types along it change. Graphs that were frozen without that
step, whose ReadVariableOp reads a Const, are mended by it. Start at `freeze_variables`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorboard.compat.proto.types_pb2 import DT_INT32, DT_RESOURCE

from engine.errors import GraphError
from engine.model.closure import called_functions, reachable_functions, split_tensor

# What a value passes through: with it, the attribute that holds the type of what passes.
PASSING = ("Identity", "Enter", "Exit", "NextIteration", "Switch", "Merge", "StopGradient", "PreventGradient")
PASSING_MANY = ("IdentityN", "_SwitchN")
# Calls of functions: which input is the function's first, which attributes list the types, which name functions.
CALLS = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), (0, "Tin", "Tout")),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), (1, "Tin", "Tout")),
    **dict.fromkeys(("While", "StatelessWhile"), (0, "T", "T")),
}
# Inside a function an edge is NODE:ARGUMENT:INDEX; these arguments are not the first of their operation.
SECOND_ARGUMENTS = ("output_true", "value_index")


@dataclass(frozen=True, slots=True)
class _Value:
    """A tensor that is a value now where it may have been a variable."""

    node: str
    """Node, or argument of the function."""
    index: int
    """Output of the node."""
    dtype: int
    """Number of its dtype."""
    was_handle: bool
    """Whether it was the handle of a variable, which nothing but the known operations can take."""


@dataclass(slots=True)
class _Body:
    """The nodes of a graph or of a function, and who reads which tensor."""

    nodes: Any
    function: Any = None
    readers: dict[tuple[str, int], list[tuple[Any, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            for i, edge in enumerate(node.input):
                if not edge.startswith("^"):
                    self.readers.setdefault(self.source(edge), []).append((node, i))

    def source(self, edge: str) -> tuple[str, int]:
        """Return node and output of an edge."""
        if self.function is None or edge.count(":") < 2:  # noqa: PLR2004 - NODE:ARGUMENT:INDEX
            return split_tensor(edge)
        name, argument, index = edge.split(":")
        return name, int(index) + (argument in SECOND_ARGUMENTS)

    def edge(self, name: str, argument: str) -> str:
        """Return how the first output of a node, called `argument` there, is read."""
        return name if self.function is None else f"{name}:{argument}:0"

    def rename_output(self, name: str, argument: str) -> None:
        """Let all readers of a node, whose output has got another name, read it by that."""
        if self.function is None:
            return
        for node, i in self.readers.get((name, 0), ()):
            node.input[i] = self.edge(name, argument)
        for key, edge in self.function.ret.items():
            if self.source(edge) == (name, 0):
                self.function.ret[key] = self.edge(name, argument)


def freeze_variables(graph_def: Any, values: Mapping[str, Any]) -> None:
    """Make the variables of a GraphDef constants, in place.

    Args:
        graph_def: the graph, with the functions that it reaches.
        values: TensorProto by name of variable.

    Raises:
        GraphError: if an operation takes a variable for something else than to read it.
    """
    handles = set()
    for node in graph_def.node:
        if node.name in values:
            if node.op == "VarHandleOp":
                handles.add(node.name)
            node.op = "Const"
            del node.input[:]
            node.attr.clear()
            node.attr["dtype"].type = values[node.name].dtype
            node.attr["value"].tensor.CopyFrom(values[node.name])
    settle_values(graph_def, handles)


def settle_values(graph_def: Any, handles: set[str] | frozenset[str] = frozenset()) -> bool:
    """Let everything that takes a constant as if it were a variable take its value instead, in place.

    Args:
        graph_def: the graph.
        handles: constants that were handles of variables.

    Returns:
        Whether anything changed.

    Raises:
        GraphError: if an operation takes a variable for something else than to read it.
    """
    before = graph_def.SerializeToString(deterministic=True) if not handles else b""
    _Settling(graph_def).run(handles)
    return bool(handles) or graph_def.SerializeToString(deterministic=True) != before
