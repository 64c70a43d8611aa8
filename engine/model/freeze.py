"""Freezes a model: its graph pruned to its outputs, its variables turned into constants, the result compared.

Every source comes here as the same thing, a graph with variables and where their values lie. Start at
`freeze_model`, or `freeze_session` for a live session.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.audit import audit_graph, check_audit
from engine.model.checkpoint import assign_variables, fill_variables, replace_variables, variable_values
from engine.model.closure import prune_graph, split_tensor
from engine.model.compare import Run, compare
from engine.model.filetype import ModelKind, locate_model
from engine.model.freeze_plan import FreezeOptions, FreezePlan, check_size, plan_freeze
from engine.model.graphdef import VARIABLES, describe_feed, graph_of
from engine.model.keras import export_keras
from engine.model.loading import load_libraries, output_dtype, translated
from engine.model.metagraph import MetaGraph, read_meta_graph
from engine.model.protos import MetaGraphDef
from engine.model.session import import_tensorflow, load_session
from engine.model.tensor import TensorSpec
from engine.model.variables import renew_variables

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class FrozenModel:
    """A frozen graph and its ports."""

    data: bytes
    """The serialised GraphDef."""
    inputs: tuple[TensorSpec, ...]
    """Placeholders that need a value, the model's own inputs first."""
    outputs: tuple[TensorSpec, ...]
    """Tensors that it was frozen to."""
    init_ops: tuple[str, ...]
    """Operations to run once after loading (`--init-op`)."""
    notes: tuple[str, ...]
    """What was repaired."""
    comparison: str
    """What it was compared with its source on, or why it was not."""

    @property
    def sha256(self) -> str:
        """Hash of the graph."""
        return hashlib.sha256(self.data).hexdigest()


@contextlib.contextmanager
def open_source(path: str) -> Iterator[tuple[MetaGraph, Run | None]]:
    """Read what the model at `path` is to be frozen from; a Keras file is exported to a folder that goes again.

    Yields:
        The graph and where its variables lie, and what to compare with if not with that graph itself.

    Raises:
        GraphError: if it is no model, saying what it is.
    """
    found = locate_model(path)
    if found.kind is not ModelKind.KERAS:
        yield read_meta_graph(found), None
        return
    with tempfile.TemporaryDirectory(prefix="icefloe-") as folder:
        exported, reference = export_keras(import_tensorflow(gpu_share=0), found, folder)
        yield read_meta_graph(exported), reference


def freeze_model(path: str, options: FreezeOptions, rows: Mapping[str, Array] | None = None) -> FrozenModel:
    """Freeze a checkpoint, a SavedModel, a Keras file, or a graph that was frozen badly.

    Args:
        path: the model.
        options: which ports, signature and constants.
        rows: arrays by input name to compare on; None for random numbers.

    Raises:
        GraphError: if it cannot be frozen, with the reason.
    """
    with open_source(path) as (meta, reference):
        return freeze(plan_freeze(meta, options), rows, reference=reference)


def freeze_session(
    session: Any,
    outputs: Sequence[str],
    options: FreezeOptions | None = None,
    rows: Mapping[str, Array] | None = None,
) -> FrozenModel:
    """Freeze the graph of a live `tf.compat.v1.Session`, with its variables as they are.

    Args:
        session: the session, which stays as it is.
        outputs: tensors to keep, `prediction` or `NEW=TENSOR`.
        options: further options; its `outputs` are not looked at.
        rows: arrays by input name to compare on; None for random numbers.

    Raises:
        GraphError: if the graph cannot be frozen, with the reason.
    """
    meta = MetaGraphDef()
    meta.graph_def.ParseFromString(session.graph.as_graph_def().SerializeToString())
    source = MetaGraph("this session", ModelKind.CHECKPOINT, meta, "")
    chosen = replace(options or FreezeOptions(), outputs=tuple(outputs))
    return freeze(plan_freeze(source, chosen), rows, live=session)


def freeze(
    plan: FreezePlan,
    rows: Mapping[str, Array] | None = None,
    live: Any = None,
    reference: Run | None = None,
) -> FrozenModel:
    """Load the graph of `plan`, fill its variables, turn them into constants and compare.

    Args:
        plan: the graph, checked and repaired.
        rows: arrays by input name to compare on; None for random numbers.
        live: a session that holds the variables; None to restore them from the plan's checkpoint.
        reference: what to compare with; None for the graph before it was frozen.

    Raises:
        GraphError: for whatever stands in the way, with the reason.
    """
    tf = import_tensorflow(gpu_share=0)
    load_libraries(tf, plan.options.op_libraries)
    given = plan.meta.given
    graph = tf.Graph()
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0}, allow_soft_placement=True)
    with translated(tf, given), graph.as_default(), tf.compat.v1.Session(graph=graph, config=config) as session:
        inputs, outputs = _import(tf, plan)
        _fill(tf, session, plan, live)
        init_ops = [*plan.init_ops, *_take_tables(tf, session, plan)]
        targets = [split_tensor(name)[0] for name in [*outputs, *init_ops]]
        unfrozen = prune_graph(graph.as_graph_def(), [], targets, [split_tensor(name)[0] for name in inputs])
        frozen = _to_constants(session, unfrozen, [*targets, *(split_tensor(name)[0] for name in inputs)], given)
        check_audit(
            given, audit_graph(frozen, inputs, targets), plan.options.allow_ops, bool(plan.options.op_libraries)
        )
        check_size(given, frozen.ByteSize())
        data = bytes(frozen.SerializeToString(deterministic=True))
        model = load_session(data, inputs, outputs, {}, init_ops, op_libraries=plan.options.op_libraries)
        run = reference or _session_run(tf, session, outputs)
        operations = [node.op for holder in (frozen, *frozen.library.function) for node in _nodes(holder)]
        comparison = compare(run, model.run, model.inputs, operations, rows)
        model.close()
    return FrozenModel(data, model.inputs, model.outputs, tuple(init_ops), plan.notes, comparison)


def _nodes(holder: Any) -> Any:
    return holder.node_def if hasattr(holder, "node_def") else holder.node


def _import(tf: Any, plan: FreezePlan) -> tuple[list[str], list[str]]:
    """Import what the plan needs into the current graph, and return the names of its inputs and outputs there."""
    graph_def = tf.compat.v1.GraphDef.FromString(plan.graph_def.SerializeToString())
    renew_variables(graph_def)
    nodes = {node.name: node for node in graph_def.node}
    ends = [port.tensor for port in plan.outputs]
    steps = [name for name in (*plan.init_ops, plan.restore_op, plan.source_init_op) if name]
    pruned = prune_graph(graph_def, plan.feeds, [*ends, *steps])
    reads = {f"{node.name}/Read/ReadVariableOp" for node in pruned.node if node.op == "VarHandleOp"}
    pruned = prune_graph(graph_def, plan.feeds, [*ends, *steps], [name for name in reads if name in nodes])
    taken = {node.name for node in pruned.node}
    names, replaced = [], {}
    for port in plan.inputs:
        own = split_tensor(port.tensor)[0]
        name = next(each for each in (port.name, own, f"{port.name}_input") if each not in taken)
        placeholder = tf.compat.v1.placeholder(
            output_dtype(tf, nodes, port.tensor), _shape(plan, port.tensor, port.spec), name
        )
        replaced[port.tensor] = placeholder
        names.append(placeholder.name)
    for name, value in plan.options.constants.items():
        replaced[name] = tf.constant(value, output_dtype(tf, nodes, name), name=f"{split_tensor(name)[0]}/constant")
    read = {split_tensor(edge) for node in pruned.node for edge in node.input}
    used = {name: tensor for name, tensor in replaced.items() if split_tensor(name) in read}
    tf.graph_util.import_graph_def(pruned, input_map=used, name="")
    graph = tf.compat.v1.get_default_graph()
    outputs = []
    for port in plan.outputs:
        tensor = replaced[port.tensor] if port.tensor in replaced else graph.get_tensor_by_name(port.tensor)
        is_named = tensor.name == f"{port.name}:0" or port.name in {node.name for node in graph.get_operations()}
        outputs.append(tensor.name if is_named else tf.identity(tensor, port.name).name)
    return names, outputs


def _shape(plan: FreezePlan, tensor: str, spec: TensorSpec | None) -> Any:
    """Return the shape that an input takes: its signature's, else its placeholder's, else any."""
    if spec is not None:
        return spec.shape
    return describe_feed(graph_of(plan.meta.given, plan.graph_def), tensor).shape


def _fill(tf: Any, session: Any, plan: FreezePlan, live: Any) -> None:
    """Give the variables their values, and run what the source wants to be run first."""
    if live is None:
        fill_variables(tf, session, plan.meta)
    else:
        variables = [node.name for node in session.graph.as_graph_def().node if node.op in VARIABLES]
        assign_variables(tf, session, variable_values(live, variables))
    steps = [session.graph.get_operation_by_name(split_tensor(name)[0]) for name in plan.init_ops]
    if plan.source_init_op:
        steps.append(session.graph.get_operation_by_name(split_tensor(plan.source_init_op)[0]))
    files = plan.meta.asset_files
    there = {name for name in files if _has(session.graph, name)}
    session.run(steps, {name: files[name] for name in there})


def _has(graph: Any, tensor: str) -> bool:
    try:
        graph.get_tensor_by_name(tensor)
    except (KeyError, ValueError):
        return False
    return True


def _take_tables(tf: Any, session: Any, plan: FreezePlan) -> list[str]:
    """Add initialisers that hold the contents of the plan's tables; return their names."""
    added = []
    for name in plan.tables:
        table = session.graph.get_operation_by_name(name)
        keys, values = table.get_attr("key_dtype"), table.get_attr("value_dtype")
        is_old = table.outputs[0].dtype.base_dtype == tf.string  # a reference to the table's name
        export = tf.raw_ops.LookupTableExport if is_old else tf.raw_ops.LookupTableExportV2
        load = tf.raw_ops.LookupTableImport if is_old else tf.raw_ops.LookupTableImportV2
        try:
            held = session.run(export(table_handle=table.outputs[0], Tkeys=keys, Tvalues=values))
        except tf.errors.FailedPreconditionError as error:
            raise GraphError(f"{plan.meta.given}: nothing in it initialises the lookup table {name}") from error
        contents = [tf.constant(value, dtype) for value, dtype in zip(held, (keys, values), strict=True)]
        added.append(
            load(table_handle=table.outputs[0], keys=contents[0], values=contents[1], name=f"{name}/fill").name
        )
    return added


def _to_constants(session: Any, graph_def: Any, targets: Sequence[str], given: str) -> Any:
    try:
        frozen = replace_variables(session, graph_def, targets)
    except GraphError as error:
        raise GraphError(f"{given}: {error}") from error
    pruned = prune_graph(frozen, [], targets)
    left = [node for holder in (pruned, *pruned.library.function) for node in _nodes(holder) if node.op in VARIABLES]
    if left:
        raise GraphError(
            f"{given}: {left[0].name} ({left[0].op}) is a variable of a kind that cannot become a constant"
        )
    return pruned


def _session_run(tf: Any, session: Any, outputs: Sequence[str]) -> Run:
    def run(feeds: Mapping[str, Array]) -> list[Array]:
        with translated(tf):
            return [np.asarray(value) for value in session.run(list(outputs), dict(feeds))]

    return run
