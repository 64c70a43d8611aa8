"""A GraphDef that is being rewritten, and what can be asked of it: where a tensor comes from, what is switched. Pure.

What the rewriting makes of it is in `batch_norm.py`, `dropout.py` and `repair.py`. Start at `Rewriting`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.model.closure import called_functions, needed_nodes, split_tensor
from engine.model.freezing.bodies import BRANCHES, MAX_STEPS, PASSING, SWITCHES, Body
from engine.model.graphdef import VARIABLES

# What holds a parameter: a variable, or the constant that freezing made of it.
HOLDERS = (*VARIABLES, "Const")
SAME = ("ReadVariableOp", "Cast", "Squeeze", "Reshape", "ExpandDims", "StopGradient")
THROUGH = (*(operation for operation in PASSING if operation not in SWITCHES and "Merge" not in operation), *SAME)


@dataclass(slots=True)
class Rewriting:
    """A GraphDef being rewritten in place, and what its targets need of it."""

    given: str
    """The model's path, for messages."""
    graph_def: Any
    """The whole graph."""
    feeds: Sequence[str]
    """Tensors that values will be given for."""
    targets: Sequence[str]
    """Outputs and initialisers to keep."""
    switches: Collection[str] = ()
    """Those of the feeds that are 0 or 1 for good: a rate at which nothing is dropped."""
    body: Body = field(init=False)
    """The nodes of the graph and their readers, as they were before the step that runs."""
    needed: list[Any] = field(init=False)
    """NodeDefs that the targets need, likewise."""
    notes: list[str] = field(default_factory=list)
    """What was changed in what the graph computes, a sentence each."""

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Look at the graph anew, after edges were changed."""
        self.body = Body(self.graph_def.node)
        names = needed_nodes(self.body.by_name, self.feeds, self.targets)
        self.needed = [node for node in self.graph_def.node if node.name in names]

    def trace(self, edge: str, through: Collection[str] = THROUGH) -> Any:
        """Return the node that an edge comes from, past operations that pass a value on; None where it is lost."""
        return self.body.trace(edge, through)

    def is_conditional(self, node: Any) -> bool:
        """Whether a node stands in a branch of a tf.cond that is, or may be, switched off."""
        return any(self.is_switched(edge) for edge in node.input if not edge.startswith("^"))

    def is_switched(self, edge: str) -> bool:
        """Whether an edge comes out of a switch that is, or may be, off."""
        source = self.trace(edge)
        return source is not None and source.op in SWITCHES and self.truth(source.input[1]) is not True

    def truth(self, edge: str) -> bool | None:
        """Return a predicate's value where it is fixed, or has a default that nothing overrides; else None."""
        fed = {split_tensor(name) for name in self.feeds}
        for _ in range(MAX_STEPS):
            node = None if split_tensor(edge) in fed else self.body.node_of(edge)
            if node is not None and node.op == "Const":
                value = node.attr["value"].tensor
                return bool(value.bool_val[0]) if value.bool_val else any(value.tensor_content)
            if node is None or node.op not in (*THROUGH, "PlaceholderWithDefault") or not node.input:
                return None
            edge = node.input[0]
        return None

    def straight_functions(self) -> list[Any]:
        """Return the functions that run whenever the graph runs: called, and in no branch that may be switched off."""
        functions = {each.signature.name: each for each in self.graph_def.library.function}
        found: dict[str, Any] = {}
        todo = [(node, True) for node in self.needed]
        while todo:
            node, is_top = todo.pop()
            for name in self._called(node, is_top):
                if name in functions and name not in found:
                    found[name] = functions[name]
                    todo += [(inner, False) for inner in functions[name].node_def]
        return list(found.values())

    def _called(self, node: Any, is_top: bool) -> Iterable[str]:
        if node.op not in BRANCHES:
            return called_functions(node)
        truth = self.truth(node.input[0]) if is_top and node.op.endswith("If") else None
        return [] if truth is None else [node.attr["then_branch" if truth else "else_branch"].func.name]

    def value(self, holder: Any) -> str:
        """Return an edge to what a variable or constant holds."""
        if holder.op != "VarHandleOp":
            return str(holder.name)
        read = self.body.add(f"{holder.name}/value", "ReadVariableOp", holder.name)
        read.attr["dtype"].type = holder.attr["dtype"].type
        return str(read.name)
