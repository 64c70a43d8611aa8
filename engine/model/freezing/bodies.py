"""The bodies of a GraphDef, its own nodes and those of its functions, and where in them a tensor arrives. Pure.

A variable travels as a handle through identities, loops, branches and calls of functions to what reads it or changes
it; all that is found here, and nothing is changed. Start at `follow`.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.model.closure import called_functions, split_tensor

# What passes a tensor on as it is, and by how many outputs.
REFERENCES = {
    "RefIdentity": "Identity",
    "RefEnter": "Enter",
    "RefExit": "Exit",
    "RefNextIteration": "NextIteration",
    "RefMerge": "Merge",
    "RefSwitch": "Switch",
}
PASSING = (*REFERENCES, *REFERENCES.values())
SWITCHES = ("Switch", "RefSwitch")
LOOPS = ("While", "StatelessWhile")
# Calls of functions: which input is the function's first, and the attributes that list types of inputs and outputs.
CALLS = {
    **dict.fromkeys(("PartitionedCall", "StatefulPartitionedCall"), (0, "Tin", "Tout")),
    **dict.fromkeys(("If", "StatelessIf", "Case", "StatelessCase"), (1, "Tin", "Tout")),
    **dict.fromkeys(LOOPS, (0, "T", "T")),
}
BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
# Inside a function an edge is NODE:ARGUMENT:INDEX; these arguments are the second of their operation.
SECOND_ARGUMENTS = ("output_true", "value_index")
LONG_EDGE = 2
MAX_STEPS = 16


@dataclass(slots=True, eq=False)
class Body:
    """The nodes of a graph or of a function, and who reads which of their outputs."""

    nodes: Any
    """NodeDefs."""
    function: Any = None
    """FunctionDef; None for the graph itself."""
    by_name: dict[str, Any] = field(default_factory=dict)
    """NodeDef by name."""
    readers: dict[tuple[str, int], list[tuple[Any, int]]] = field(default_factory=dict)
    """Nodes, and which of their inputs it is, by node (or argument of the function) and output."""

    def __post_init__(self) -> None:
        for node in self.nodes:
            self.by_name[node.name] = node
            for i, edge in enumerate(node.input):
                if not edge.startswith("^"):
                    self.readers.setdefault(self.source(edge), []).append((node, i))

    def source(self, edge: str) -> tuple[str, int]:
        """Return node and output of an edge; an argument of the function counts as a node."""
        if self.function is None or edge.count(":") < LONG_EDGE:
            return split_tensor(edge)
        name, argument, index = edge.split(":", LONG_EDGE)
        return name, split_tensor(f"{name}:{index}")[1] + (argument in SECOND_ARGUMENTS)

    def node_of(self, edge: str) -> Any:
        """Return the node that an edge comes from; None if it is missing, or an argument of the function."""
        return self.by_name.get(split_tensor(edge)[0])

    def trace(self, edge: str, through: Collection[str]) -> Any:
        """Return the node that an edge comes from, past operations that pass a value on; None where it is lost."""
        for _ in range(MAX_STEPS):
            node = self.node_of(edge)
            if node is None or node.op not in through or not node.input:
                return node
            edge = node.input[0]
        return None

    def edge(self, name: str, argument: str) -> str:
        """Return how the first output of a node is read, which its operation calls `argument`."""
        return name if self.function is None else f"{name}:{argument}:0"

    def rename_output(self, name: str, argument: str) -> None:
        """Let the readers of a node's first output read it by another argument."""
        for node, i in self.readers.get((name, 0), ()):
            node.input[i] = self.edge(name, argument)
        if self.function is not None:
            for key, edge in self.function.ret.items():
                if self.source(edge) == (name, 0):
                    self.function.ret[key] = self.edge(name, argument)

    def add(self, name: str, op: str, *inputs: str) -> Any:
        """Add a node under a name that is still free."""
        while name in self.by_name:
            name += "_"
        self.by_name[name] = self.nodes.add(name=name, op=op, input=inputs)
        return self.by_name[name]

    def returned(self, name: str, index: int) -> list[int]:
        """Return which outputs of the function are the output `index` of a node or argument."""
        if self.function is None:
            return []
        outputs = enumerate(self.function.signature.output_arg)
        return [i for i, output in outputs if self.source(self.function.ret[output.name]) == (name, index)]


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A tensor that arrives at the input of a node."""

    origin: str
    """Node of the graph that it comes from."""
    body: Body
    """Where it arrives."""
    node: Any
    """NodeDef that it arrives at."""
    index: int
    """Input of that node."""
    goes_on: bool
    """Whether the node passes it on as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Crossing:
    """A tensor that enters a function as an argument, or leaves it as an output."""

    origin: str
    """Node of the graph that it comes from."""
    function: Any
    """FunctionDef."""
    argument: Any
    """ArgDef of the function's signature."""
    index: int
    """Which argument or output it is."""
    callers: tuple[Any, ...]
    """NodeDefs that get the output; none for an argument."""


def follow(graph_def: Any, origins: Iterable[str]) -> tuple[list[Arrival], list[Crossing]]:
    """Follow the first output of nodes of the graph to all that it arrives at, through whatever passes it on.

    Where several meet on the way, the first one is told.
    """
    following = _Following(Body(graph_def.node))
    for function in graph_def.library.function:
        following.functions[function.signature.name] = Body(function.node_def, function)
    for body in [following.graph, *following.functions.values()]:
        for node in body.nodes:
            for name in called_functions(node):
                if name in following.functions:
                    following.callers.setdefault(name, []).append((body, node))
    for origin in origins:
        following.todo.append((origin, following.graph, origin, 0))
        while following.todo:
            following.step(*following.todo.pop())
    return following.arrivals, following.crossings


@dataclass(slots=True)
class _Following:
    graph: Body
    functions: dict[str, Body] = field(default_factory=dict)
    callers: dict[str, list[tuple[Body, Any]]] = field(default_factory=dict)
    todo: list[tuple[str, Body, str, int]] = field(default_factory=list)
    seen: set[tuple[int, str, int]] = field(default_factory=set)
    arrivals: list[Arrival] = field(default_factory=list)
    crossings: list[Crossing] = field(default_factory=list)

    def step(self, origin: str, body: Body, name: str, index: int) -> None:
        """Look at who reads one tensor, and go on with what the reader makes of it."""
        if (id(body), name, index) in self.seen:
            return
        self.seen.add((id(body), name, index))
        for node, i in body.readers.get((name, index), ()):
            places = list(self.beyond(origin, body, node, i))
            self.arrivals.append(Arrival(origin, body, node, i, bool(places)))
            self.todo += [(origin, *place) for place in places]
        for i in body.returned(name, index):
            callers = self.callers.get(body.function.signature.name, [])
            argument = body.function.signature.output_arg[i]
            self.crossings.append(Crossing(origin, body.function, argument, i, tuple(node for _, node in callers)))
            self.todo += [(origin, caller, node.name, i) for caller, node in callers]

    def beyond(self, origin: str, body: Body, node: Any, i: int) -> Iterator[tuple[Body, str, int]]:
        """Yield where the input `i` of a node goes on as it is."""
        if node.op in SWITCHES and i > 0:  # what it is switched by
            return
        if node.op in PASSING:
            yield from ((body, node.name, output) for output in range(2 if node.op in SWITCHES else 1))
        elif node.op == "IdentityN" or node.op in LOOPS:  # whatever goes into a loop comes out of it
            yield body, node.name, i
        if node.op not in CALLS and node.op not in self.functions:
            return
        index = i - (CALLS[node.op][0] if node.op in CALLS else 0)
        for name in called_functions(node):
            function = self.functions[name].function if name in self.functions else None
            if function is not None and 0 <= index < len(function.signature.input_arg):
                argument = function.signature.input_arg[index]
                self.crossings.append(Crossing(origin, function, argument, index, ()))
                yield self.functions[name], argument.name, 0
