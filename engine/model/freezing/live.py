"""Brings the graph of a plan to life: imported into a session, its ports made, its variables and tables filled.

Takes the imported TensorFlow as an argument, so that nothing here imports it. Start at `bring_to_life`.
"""

from pathlib import Path
from typing import Any

from engine.errors import GraphError
from engine.model.closure import prune_graph, split_tensor
from engine.model.constants import read_constant
from engine.model.freezing.plan import FreezePlan
from engine.model.graphdef import VARIABLES, describe_feed, graph_of
from engine.model.loading import output_dtype
from engine.model.restoring import assign_variables, fill_variables, variable_values
from engine.model.tensor import TensorSpec


def bring_to_life(tf: Any, session: Any, plan: FreezePlan) -> tuple[dict[str, str], dict[str, str]]:
    """Import what the plan needs into the session's graph, which is the current one, and give its variables values.

    Returns:
        The tensors that inputs and outputs are there, by their names in the frozen graph.

    Raises:
        GraphError: if a value or a file is missing.
    """
    ends = _import(tf, plan)
    _fill(tf, session, plan)
    return ends


def _import(tf: Any, plan: FreezePlan) -> tuple[dict[str, str], dict[str, str]]:
    graph_def = tf.compat.v1.GraphDef.FromString(plan.graph_def.SerializeToString())
    nodes = {node.name: node for node in graph_def.node}
    steps = [name for name in (*plan.init_ops, plan.meta.restore_op, *plan.source_init_ops) if name]
    pruned = prune_graph(graph_def, plan.feeds, [*(port.tensor for port in plan.outputs), *steps])
    taken = {node.name for node in pruned.node}
    inputs, replaced = {}, {}
    for port in plan.inputs:
        dtype, shape = output_dtype(tf, nodes, port.tensor), _shape(plan, port.tensor, port.spec)
        replaced[port.tensor] = tf.compat.v1.placeholder(dtype, shape, _free(port.name, taken))
        inputs[f"{port.name}:0"] = replaced[port.tensor].name
    for name, value in plan.constants.items():
        spec = TensorSpec(name, tf.as_dtype(output_dtype(tf, nodes, name)).name, _shape(plan, name, None))
        replaced[name] = tf.constant(read_constant(value, spec), spec.dtype, name=_free(split_tensor(name)[0], taken))
    read = {split_tensor(edge) for node in pruned.node for edge in node.input}
    used = {name: tensor for name, tensor in replaced.items() if split_tensor(name) in read}
    tf.graph_util.import_graph_def(pruned, input_map=used, name="")
    graph = tf.compat.v1.get_default_graph()
    outputs = {}
    for port in plan.outputs:
        tensor = replaced[port.tensor] if port.tensor in replaced else graph.get_tensor_by_name(port.tensor)
        if port.tensor != f"{port.name}:0":
            tensor = tf.identity(tensor, _free(port.name, taken))
        outputs[f"{port.name}:0"] = tensor.name
    return inputs, outputs


def _free(name: str, taken: set[str]) -> str:
    """Return a name that no node has yet: `name` where that is free."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _shape(plan: FreezePlan, tensor: str, spec: TensorSpec | None) -> Any:
    """Return the shape that an input takes: its signature's, else its placeholder's, else any."""
    if spec is not None:
        return spec.shape
    return describe_feed(graph_of(plan.meta.given, plan.graph_def), tensor).shape


def _fill(tf: Any, session: Any, plan: FreezePlan) -> None:
    """Give the variables their values, and run what the source wants to be run first."""
    meta, graph = plan.meta, session.graph
    if meta.session is None:
        fill_variables(tf, session, meta)
    else:
        names = [node.name for node in graph.get_operations() if node.type in VARIABLES]
        assign_variables(tf, session, variable_values(tf, meta.session, names))
    steps = [*plan.init_ops, *(plan.source_init_ops if meta.session is None else ())]
    nodes = [graph.get_operation_by_name(split_tensor(name)[0]) for name in steps]
    there = {operation.name for operation in graph.get_operations()}
    files = {name: file for name, file in meta.asset_files.items() if split_tensor(name)[0] in there}
    missing = next((file for file in files.values() if not Path(file).is_file()), None)
    if missing and steps:
        raise GraphError(f"{meta.given}: {missing}, which fills one of its tables, is missing; copy the whole folder")
    session.run(nodes, files)
