"""Turns variables into constants, and what takes variables into what takes values. Pure rewriting of a GraphDef.

Once a variable is a constant, its value travels where its handle travelled, and the types along the way change.
Graphs that were frozen without that step, whose ReadVariableOp reads a Const, are mended by it. Start at
`freeze_variables`.
"""

from collections.abc import Callable, Mapping, Set
from typing import Any

from tensorboard.compat.proto.types_pb2 import DataType

from engine.errors import GraphError
from engine.model.freezing.bodies import CALLS, PASSING, Arrival, Body, Crossing, follow

INT32 = DataType.Value("DT_INT32")


def freeze_variables(graph_def: Any, values: Mapping[str, Any]) -> None:
    """Make the variables of a GraphDef constants, in place.

    Args:
        graph_def: the graph, with the functions that it reaches.
        values: TensorProto by name of variable.

    Raises:
        GraphError: if an operation takes a variable for something else than to read it.
    """
    handles = {node.name for node in graph_def.node if node.name in values and node.op == "VarHandleOp"}
    for node in graph_def.node:
        if node.name in values:
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = values[node.name].dtype
            node.attr["value"].tensor.CopyFrom(values[node.name])
    settle_values(graph_def, handles)


def settle_values(graph_def: Any, handles: Set[str] = frozenset()) -> int:
    """Let what takes a constant as if it were a variable take a value instead, in place.

    Args:
        graph_def: the graph.
        handles: names of constants that were handles of variables, which nothing but a known operation takes.

    Returns:
        How many operations were changed.

    Raises:
        GraphError: if an operation takes a handle for something else than to read it.
    """
    dtypes = {node.name: node.attr["dtype"].type for node in graph_def.node if node.op == "Const"}
    arrivals, crossings = follow(graph_def, dtypes)
    changed = sum(_take(each, dtypes[each.origin], each.origin in handles) for each in arrivals)
    for each in crossings:
        _cross(each, dtypes[each.origin])
    return changed


def _take(arrival: Arrival, dtype: int, was_handle: bool) -> bool:
    """Let a node take a value, and say whether that changed it."""
    body, node, i = arrival.body, arrival.node, arrival.index
    if node.op in READS:
        READS[node.op](body, node, dtype)
        return True
    if node.op in PASSING or node.op == "IdentityN":
        return arrival.goes_on and _retype(node, "T", i, dtype)
    if node.op in CALLS:
        first, types, _ = CALLS[node.op]
        return i >= first and _retype(node, types, i - first, dtype)
    if was_handle and not arrival.goes_on:
        raise GraphError(takes_more(node, arrival.origin))
    return False


def takes_more(node: Any, variable: str) -> str:
    """Say that a node does more with a variable than to read it."""
    return (
        f"{node.name} ({node.op}) takes the variable {variable} for more than its value, and a frozen graph has "
        "constants; name outputs that do not depend on it (--outputs)"
    )


def _cross(crossing: Crossing, dtype: int) -> None:
    """Let a value enter a function, or leave it."""
    if crossing.argument.type == dtype:
        return
    crossing.argument.type = dtype
    for node in crossing.callers:
        if node.op in CALLS:
            _retype(node, CALLS[node.op][2], crossing.index, dtype)
    if not crossing.callers:
        # What was noted of the handle does not hold for the value: its shape, and what it stands for.
        crossing.argument.ClearField("handle_data")
        crossing.function.attr.pop("_input_shapes", None)
        if crossing.index in crossing.function.arg_attr:
            crossing.function.arg_attr[crossing.index].attr.pop("_output_shapes", None)


def _retype(node: Any, attribute: str, i: int, dtype: int) -> bool:
    """Change the type that a node has noted for its input or output `i`, and say whether that was another one."""
    held = node.attr[attribute]
    is_list = held.WhichOneof("value") == "list"
    if (held.list.type[i] if is_list else held.type) == dtype:
        return False
    if is_list:
        held.list.type[i] = dtype
    else:
        held.type = dtype
    node.attr.pop("_output_shapes", None)
    if attribute != "Tin" and "output_shapes" in node.attr and node.attr["output_shapes"].list.shape:
        node.attr["output_shapes"].list.shape[i].Clear()
        node.attr["output_shapes"].list.shape[i].unknown_rank = True
    return True


def _read(body: Body, node: Any, dtype: int) -> None:
    node.op = "Identity"
    node.attr.clear()
    node.attr["T"].type = dtype
    body.rename_output(node.name, "output")


def _read_shape(_: Body, node: Any, dtype: int) -> None:
    node.op = "Shape"
    node.attr["T"].type = dtype


def _gather(body: Body, node: Any, dtype: int) -> None:
    indices, batch_dims = node.attr["Tindices"].type, node.attr["batch_dims"].i
    axis = body.add(f"{node.name}/axis", "Const")
    axis.attr["dtype"].type = axis.attr["value"].tensor.dtype = INT32
    axis.attr["value"].tensor.tensor_shape.SetInParent()
    axis.attr["value"].tensor.int_val.append(batch_dims)
    node.op = "GatherV2"
    node.input.insert(2, body.edge(axis.name, "output"))
    node.attr.clear()
    node.attr["Tparams"].type, node.attr["Tindices"].type, node.attr["Taxis"].type = dtype, indices, INT32
    node.attr["batch_dims"].i = batch_dims


def _gather_nd(_: Body, node: Any, dtype: int) -> None:
    indices = node.attr["Tindices"].type
    node.op = "GatherNd"
    node.attr.clear()
    node.attr["Tparams"].type, node.attr["Tindices"].type = dtype, indices


# What reads a variable, and what makes it read a value.
READS: Mapping[str, Callable[[Body, Any, int], None]] = {
    "ReadVariableOp": _read,
    "VariableShape": _read_shape,
    "ResourceGather": _gather,
    "ResourceGatherNd": _gather_nd,
}
