"""What lies between feeds and fetches: the nodes, and the functions that they can call.

Pure, and works on the protos of TensorFlow and of tensorboard alike. Start at `prune_graph`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

CONTROL = -1
MAX_DIGITS = 9  # of an output's index; what is longer is none


def split_tensor(name: str) -> tuple[str, int]:
    """Return the node and output index of a tensor or an edge: `x`, `x:1` (a control edge `^x` has index CONTROL)."""
    if name.startswith("^"):
        return name[1:], CONTROL
    node, _, index = name.partition(":")
    # Inside the function library an edge reads node:arg:index; at the top level it is node:index.
    is_index = index.isdecimal() and index.isascii() and len(index) <= MAX_DIGITS
    return node, int(index) if is_index else 0


def needed_nodes(nodes: Mapping[str, Any], feeds: Collection[str], targets: Iterable[str]) -> set[str]:
    """Return the names of the nodes between `feeds` and `targets`, the targets' own and missing ones among them.

    A walk from the targets against the edges; it stops at fed tensors, whose nodes are left out unless another
    of their outputs is needed.
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


def called_functions(node: Any) -> Iterator[str]:
    """Yield the names of functions that a node may call: its operation, and the functions among its attributes."""
    yield node.op
    yield from _named_functions(node.attr.values())


def _named_functions(values: Iterable[Any]) -> Iterator[str]:
    """Yield the functions that attributes name; a function may come with attributes of its own."""
    todo = list(values)
    while todo:
        value = todo.pop()
        kind = value.WhichOneof("value")
        named = [value.func] if kind == "func" else value.list.func if kind == "list" else ()
        for function in named:
            yield function.name
            todo.extend(function.attr.values())


def reachable_functions(library: Any, nodes: Iterable[Any]) -> list[Any]:
    """Return the FunctionDefs of `library` that `nodes` can reach, in the library's order.

    A gradient function belongs to its function; and functions that implement one interface (the attribute
    `api_implements`) belong together, for Grappler may put one in the place of another.
    """
    functions = {function.signature.name: function for function in library.function}
    if not functions:
        return []
    gradients = {gradient.function_name: gradient.gradient_func for gradient in library.gradient}
    twins: dict[bytes, list[str]] = {}
    for name, function in functions.items():
        if "api_implements" in function.attr:
            twins.setdefault(function.attr["api_implements"].s, []).append(name)
    reached: set[str] = set()
    todo = [name for node in nodes for name in called_functions(node)]
    while todo:
        name = todo.pop()
        if name in reached or name not in functions:
            continue
        reached.add(name)
        function = functions[name]
        todo.extend(called for node in function.node_def for called in called_functions(node))
        todo.extend(_named_functions(each.default_value for each in function.signature.attr))
        todo.extend([gradients[name]] if name in gradients else ())
        if "api_implements" in function.attr:
            todo.extend(twins.pop(function.attr["api_implements"].s, ()))
    return [function for name, function in functions.items() if name in reached]


def prune_graph(graph_def: Any, feeds: Collection[str], targets: Iterable[str], kept: Collection[str] = ()) -> Any:
    """Return a copy of a GraphDef that holds what lies between `feeds` and `targets`, and nothing else.

    Devices, colocation and control edges from nodes left out are dropped with them.

    Args:
        graph_def: the GraphDef, which stays as it is.
        feeds: tensors that values will be given for; their nodes are left out.
        targets: tensors and operations to compute.
        kept: names of nodes to keep all the same, such as placeholders that are fed.
    """
    nodes = {node.name: node for node in graph_def.node}
    needed = needed_nodes(nodes, feeds, targets) | set(kept)
    pruned = type(graph_def)(versions=graph_def.versions)
    for node in graph_def.node:
        if node.name in needed:
            _copy_node(node, pruned.node.add(), needed)
    functions = reachable_functions(graph_def.library, pruned.node)
    pruned.library.function.extend(functions)
    names = {function.signature.name for function in functions}
    pruned.library.gradient.extend(each for each in graph_def.library.gradient if each.function_name in names)
    return pruned


def _copy_node(node: Any, copy: Any, kept: Collection[str]) -> None:
    """Copy a node without what ties it to nodes left out or to machines of the past."""
    copy.CopyFrom(node)
    copy.device = ""
    copy.attr.pop("_class", None)  # colocation with another node
    del copy.input[:]
    copy.input.extend(edge for edge in node.input if not edge.startswith("^") or edge[1:] in kept)
