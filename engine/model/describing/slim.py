"""A graph without its weights: small to keep, to show and to infer shapes in. Pure. Start at `without_weights`."""

from collections.abc import Collection, Iterable
from typing import Any

from engine.model.describing.layers import count_elements

# Constants that shapes and axes are computed from are smaller, so shapes stay known without the larger ones.
MAX_ELEMENTS = 1024
MAX_TEXT_BYTES = 4096


def without_weights(graph_def: Any, names: Collection[str] | None = None, is_for_import: bool = False) -> Any:
    """Return a copy of a GraphDef in which large constants have a dtype and a shape, and no values.

    Args:
        graph_def: the GraphDef, which stays as it is; its weights are not copied on the way.
        names: nodes to take; None for all, and for the functions as well.
        is_for_import: whether TensorFlow is to import the copy, so that placeholders stand for the large constants.
    """
    slim = type(graph_def)(versions=graph_def.versions)
    _copy((node for node in graph_def.node if names is None or node.name in names), slim.node, is_for_import)
    for function in graph_def.library.function:
        copy = slim.library.function.add(signature=function.signature)
        for name in ("ret", "control_ret", "resource_arg_unique_id"):
            getattr(copy, name).update(getattr(function, name))
        for name in ("attr", "arg_attr"):
            for key, value in getattr(function, name).items():
                getattr(copy, name)[key].CopyFrom(value)
        # No placeholder can stand in a function; a constant without values is refused only when it is run.
        _copy(function.node_def, copy.node_def, is_for_import=False)
    slim.library.gradient.extend(graph_def.library.gradient)
    return slim


def _copy(nodes: Iterable[Any], room: Any, is_for_import: bool) -> None:
    for node in nodes:
        if not _is_large(node):
            room.add().CopyFrom(node)
            continue
        tensor = node.attr["value"].tensor
        copy = room.add(name=node.name, op=node.op, input=node.input, device=node.device)
        copy.attr["dtype"].CopyFrom(node.attr["dtype"])
        if is_for_import:
            copy.op = "Placeholder"
            copy.attr["shape"].shape.CopyFrom(tensor.tensor_shape)
        else:
            copy.attr["value"].tensor.dtype = tensor.dtype
            copy.attr["value"].tensor.tensor_shape.CopyFrom(tensor.tensor_shape)


def _is_large(node: Any) -> bool:
    if node.op != "Const" or "value" not in node.attr or "dtype" not in node.attr:
        return False
    tensor = node.attr["value"].tensor
    # The size of numbers is told by their shape: asking the message for its size would serialise it.
    return count_elements(tensor.tensor_shape) > MAX_ELEMENTS or sum(map(len, tensor.string_val)) > MAX_TEXT_BYTES
