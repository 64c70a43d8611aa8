"""Keras files: loaded in safe mode, where nothing is unpickled and no code runs, and traced to a graph.

Takes the imported TensorFlow as an argument, so that nothing here imports it. Start at `read_keras`.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.filetype import ModelPath
from engine.model.freezing.compare import Reference
from engine.model.freezing.plan import check_size
from engine.model.freezing.tables import sorted_contents
from engine.model.freezing.variables import settle_values
from engine.model.keras_file import KerasFile, read_keras_file
from engine.model.loading import one_line
from engine.model.metagraph import DEFAULT_SIGNATURE, MetaGraph
from engine.model.ports import NODE_NAME, rename_nodes
from engine.model.protos import MetaGraphDef

Array = npt.NDArray[Any]

EXPORT = "export a SavedModel where the model is built (model.export)"
# Classes of layers that hold code of other libraries, or name another file.
FOREIGN = ("TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")


def read_keras(tf: Any, model: ModelPath) -> tuple[MetaGraph, Reference]:
    """Load a Keras file and trace it to a graph whose variables are constants already.

    Returns:
        The graph, with the model's inputs and outputs as its signature; and what the model itself answers.

    Raises:
        GraphError: if the file holds code (Lambda layers), custom classes, weights alone, or cannot be loaded.
    """
    _check(model, read_keras_file(model))
    if not tf.executing_eagerly():
        raise GraphError(f"{model.given}: a Keras file cannot be read inside of a graph (tf.Graph().as_default())")
    try:
        loaded = tf.keras.models.load_model(model.path, compile=False, safe_mode=True)
        call = _call(tf, model, loaded)
        specs = [tf.TensorSpec(each.shape, each.dtype, f"input_{i}") for i, each in enumerate(loaded.inputs)]
        function = tf.function(call, autograph=False).get_concrete_function(*specs)
    except GraphError:
        raise
    except Exception as error:  # Keras raises whatever its layers raise
        raise GraphError(f"{model.given}: {_reason(tf, str(error))}") from error
    graph_def = function.graph.as_graph_def()
    _hold_captures(tf, model, graph_def, function.graph)
    settle_values(graph_def)
    _name_functions(graph_def)
    meta = MetaGraphDef()
    meta.graph_def.ParseFromString(graph_def.SerializeToString())
    ends = function.inputs[: len(specs)], function.outputs
    signature = meta.signature_def[DEFAULT_SIGNATURE]
    for infos, keys, tensors in (
        (signature.inputs, [each.name for each in loaded.inputs], ends[0]),
        (signature.outputs, _output_names(loaded, len(ends[1])), ends[1]),
    ):
        for key, tensor in zip(keys, tensors, strict=True):
            infos[key].name, infos[key].dtype = tensor.name, tensor.dtype.as_datatype_enum
            infos[key].tensor_shape.ParseFromString(tensor.shape.as_proto().SerializeToString())

    def answer(arrays: Sequence[Array]) -> list[Array]:
        return [np.asarray(value) for value in call(*map(tf.constant, arrays))]

    names = [tuple(tensor.name for tensor in tensors) for tensors in ends]
    return MetaGraph(model.given, model.kind, meta, ""), Reference(names[0], names[1], answer)


def _check(model: ModelPath, file: KerasFile) -> None:
    """Refuse what would run code or cannot be loaded, before Keras sees the file."""
    if not file.class_name:
        raise GraphError(f"{model.given}: holds weights alone; save the whole model (model.save), or {EXPORT}")
    others = [name for name, _ in file.layers if name in FOREIGN]
    if file.code or others:
        raise GraphError(
            f"{model.given}: its layer {(*file.code, *others)[0]} is Python code (Lambda) or another file, and neither "
            f"is run from a file; {EXPORT}, which needs none"
        )
    if file.custom_classes:
        raise GraphError(f"{model.given}: holds {file.custom_classes[0]}, a class that Keras does not have; {EXPORT}")


def _reason(tf: Any, message: str) -> str:
    """Say in plain words why Keras does not load a file."""
    line = one_line(message)[:300]
    if re.search(r"safe_mode|[Ll]ambda|unsafe", message):
        return f"holds Python code or names another file, and neither is run from a file ({line}); {EXPORT}"
    if re.search(r"Could not locate|Unknown (layer|object)|custom_objects|register_keras_serializable", message):
        return f"holds a class that Keras {tf.keras.__version__} does not have ({line}); {EXPORT}"
    return f"Keras {tf.keras.__version__} cannot load this file ({line}); {EXPORT} with the Keras that wrote it"


def _call(tf: Any, model: ModelPath, loaded: Any) -> Callable[..., list[Any]]:
    """Return how to call a Keras model: from a tensor for each of its inputs to a list of its outputs."""
    inputs = list(getattr(loaded, "inputs", None) or [])
    if not inputs:
        raise GraphError(f"{model.given}: this model was saved before it knew the shape of its input; {EXPORT}")
    if any(getattr(each, "sparse", False) or getattr(each, "ragged", False) for each in inputs):
        raise GraphError(f"{model.given}: takes a sparse or ragged tensor, which no column can become")

    def call(*tensors: Any) -> list[Any]:
        # Several inputs may be a list or a dict; one is a tensor.
        given = tf.nest.pack_sequence_as(loaded.input, tensors) if len(tensors) > 1 else tensors[0]
        return list(tf.nest.flatten(loaded(given, training=False)))

    return call


def _output_names(loaded: Any, count: int) -> list[str]:
    """Return the names of a model's outputs: the keys of a dict, else those of the layers that they come from."""
    if count == 1:
        return ["output_0"]
    names = sorted(loaded.output) if isinstance(loaded.output, Mapping) else loaded.output_names
    return list(map(str, names)) if len(set(names)) == count else [f"output_{i}" for i in range(count)]


def _hold_captures(tf: Any, model: ModelPath, graph_def: Any, graph: Any) -> None:
    """Put into a traced graph what it holds on to: the values of variables, the contents of tables, tensors."""
    variables = {id(each.handle): each for each in graph.variables}
    check_size(model.given, sum(each.dtype.size * each.shape.num_elements() for each in graph.variables))
    nodes = {node.name: node for node in graph_def.node}
    same: dict[str, list[str]] = defaultdict(list)
    for held, tensor in graph.captures:
        node, variable = nodes[tensor.op.name], variables.get(id(held))
        if variable is None and held.dtype == tf.resource:
            _hold_table(tf, model, graph_def, node, held)
            continue
        value = held if variable is None else variable
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = value.dtype.base_dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy(), value.dtype))
        own = "" if variable is None else variable.name.partition(":")[0]
        if NODE_NAME.fullmatch(own):
            same[own].append(node.name)
    # Layers of models within a model may be called alike.
    names = [(node, f"{own}_{i}" if i else own) for own, twins in same.items() for i, node in enumerate(twins)]
    if len({name for _, name in names}) == len(names):
        rename_nodes(graph_def, dict(names))


def _hold_table(tf: Any, model: ModelPath, graph_def: Any, node: Any, handle: Any) -> None:
    """Make a table of the placeholder `node` that stands for one, and its contents an initialiser."""
    finds = [each for each in graph_def.node if each.op.startswith("LookupTableFind") and each.input[0] == node.name]
    if not finds:
        raise GraphError(f"{model.given}: holds on to a resource that is no variable and no lookup table ({node.name})")
    dtypes = finds[0].attr["Tin"].type, finds[0].attr["Tout"].type
    contents = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=dtypes[0], Tvalues=dtypes[1])
    node.op = "HashTableV2"
    node.attr.clear()
    node.attr["key_dtype"].type, node.attr["value_dtype"].type = dtypes
    node.attr["shared_name"].s = node.name.encode()
    fill = graph_def.node.add(name=f"{node.name}/fill", op="LookupTableImportV2", input=[node.name])
    for part, attribute, dtype, array in zip(
        ("keys", "values"), ("Tin", "Tout"), dtypes, sorted_contents(*(each.numpy() for each in contents)), strict=True
    ):
        constant = graph_def.node.add(name=f"{node.name}/{part}", op="Const")
        constant.attr["dtype"].type = fill.attr[attribute].type = dtype
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array, dtype))
        fill.input.append(constant.name)


def _name_functions(graph_def: Any) -> None:
    """Number the functions of a traced graph in its own order; TensorFlow counts all that the process ever made."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    names: dict[str, str] = {}
    todo = list(graph_def.node)
    for node in todo:
        # A map keeps no order of its own.
        called = [each for key in sorted(node.attr) for each in _functions(node.attr[key])]
        for name in [node.op, *(each.name for each in called)]:
            if name in functions and name not in names:
                names[name] = f"{re.sub(r'_[0-9]+$', '', name)}_{len(names)}"
                todo += functions[name].node_def
    for node in todo:
        for value in node.attr.values():
            for each in _functions(value):
                each.name = names.get(each.name, each.name)
    for name, function in functions.items():
        function.signature.name = names.get(name, name)
        for argument in function.signature.input_arg:
            # TensorFlow 2.21 calls arguments that a loop's condition ignores after the condition.
            argument.name = argument.name.replace(name, function.signature.name)
    graph_def.library.function.sort(key=lambda function: function.signature.name)


def _functions(value: Any) -> list[Any]:
    """Return the functions that an attribute names."""
    return [value.func] if value.WhichOneof("value") == "func" else list(value.list.func)
