"""Settles how a graph with variables becomes a frozen one: ports, tables, repairs, and whether it may be touched.

Pure: from protos to a plan, before TensorFlow sees anything. Start at `plan_freeze`.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.errors import GraphError
from engine.model.audit import audit_graph, check_audit
from engine.model.closure import needed_nodes, split_tensor
from engine.model.filetype import MAX_GRAPH_BYTES, ModelKind
from engine.model.freezing.repair import repair_graph
from engine.model.freezing.tables import reads_own_file, settle_tables
from engine.model.graphdef import VARIABLES, dtype_name, graph_of, read_shape
from engine.model.infer import infer_tensor
from engine.model.metagraph import MetaGraph
from engine.model.ports import Port, check_names, choose_inputs, choose_outputs, find_port
from engine.model.tensor import TensorSpec

# Restoring reads the files of a checkpoint, and no others.
RESTORE_OPERATIONS = ("Restore", "RestoreSlice", "RestoreV2")
UNFED = ("Placeholder", "PlaceholderV2")
# What rows of training come from; it has no place in a graph that rows are fed to.
PIPELINES = ("IteratorGetNext", "QueueDequeue", "ReaderRead")
NO_VALUES = {
    ModelKind.SAVED_MODEL: "its folder variables/ is missing; copy the whole folder",
    ModelKind.META_GRAPH: "a .meta is but the graph of a checkpoint; copy the checkpoint's other files beside it",
}
FREEZE_CHECKPOINT = "freeze the checkpoint that it was saved with: icefloe freeze PREFIX DEST.pb"


@dataclass(frozen=True, slots=True)
class FreezeOptions:
    """What a caller may say of a freezing."""

    outputs: tuple[str, ...] = ()
    """Tensors, names of the signature, or `NEW=EITHER`; empty for all of the signature."""
    inputs: tuple[str, ...] = ()
    """Other names for inputs, `NEW=TENSOR`."""
    signature: str | None = None
    """Signature of a SavedModel; None for the default one."""
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Values that replace tensors for good, by tensor name or name of the signature."""
    init_ops: tuple[str, ...] = ()
    """Operations to keep beside the outputs, run once after loading."""
    allow_ops: tuple[str, ...] = ()
    """Operations that the audit lets through."""
    op_libraries: tuple[str, ...] = ()
    """Libraries of custom operations."""


@dataclass(frozen=True, slots=True)
class FreezePlan:
    """A graph that was checked and rewritten, ready for TensorFlow."""

    meta: MetaGraph
    """Where it comes from, and where its variables lie."""
    graph_def: Any
    """The whole graph, repaired; a GraphDef of tensorboard's."""
    inputs: tuple[Port, ...]
    """Its inputs."""
    outputs: tuple[Port, ...]
    """Its outputs."""
    constants: Mapping[str, Any]
    """Values that replace tensors for good, by tensor."""
    init_ops: tuple[str, ...]
    """Initialisers that go into the frozen graph as they are."""
    tables: tuple[str, ...]
    """Lookup tables whose contents are taken from the source, for their own initialisers need files or functions."""
    source_init_ops: tuple[str, ...]
    """The source's own initialisers that fill these."""
    notes: tuple[str, ...]
    """What was repaired."""
    options: FreezeOptions
    """What was asked for."""

    @property
    def feeds(self) -> list[str]:
        """Tensors of the source that get values from outside: the inputs and the constants."""
        return [*(port.tensor for port in self.inputs), *self.constants]

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Return what signature and file say of the inputs, under their names in the frozen graph."""
        graph = graph_of(self.meta.given, self.graph_def)
        known = [port.spec or infer_tensor(graph, port.tensor) for port in self.inputs]
        return tuple(replace(spec, name=f"{port.name}:0") for port, spec in zip(self.inputs, known, strict=True))


def plan_freeze(meta: MetaGraph, options: FreezeOptions) -> FreezePlan:
    """Choose ports and tables, repair the graph, and audit all that would be loaded.

    Raises:
        GraphError: for what is missing, reaches outside, belongs to training, or would pass 2 GiB.
    """
    try:
        return _plan(meta, options)
    except IndexError as error:
        raise GraphError(
            f"{meta.given} is damaged: an operation in it lacks inputs or types that it must have; copy it again"
        ) from error


def _plan(meta: MetaGraph, options: FreezeOptions) -> FreezePlan:
    signature = meta.signature(options.signature)
    outputs = choose_outputs(meta.given, meta.graph_def, signature, options.outputs)
    graph_def = type(meta.graph_def)()
    graph_def.CopyFrom(meta.graph_def)
    constants = {find_port(meta.given, signature, name): value for name, value in options.constants.items()}
    ports = choose_inputs(meta.given, signature, options.inputs)
    named = [port for port in ports if port.tensor not in constants]
    feeds = [*(port.tensor for port in named), *constants]
    _check_there(meta, graph_def, [*feeds, *options.init_ops])
    targets = [*(port.tensor for port in outputs), *options.init_ops]
    # A rate of 0, or a share of 1 that is kept, drops nothing, and leaves the random numbers for nothing.
    switches = [name for name, value in constants.items() if isinstance(value, int | float) and value in (0, 1)]
    notes = repair_graph(meta.given, graph_def, feeds, targets, switches)
    nodes = {node.name: node for node in graph_def.node}
    needed = needed_nodes(nodes, feeds, targets)
    _check_whole(meta, nodes, needed)
    asked = [entry.partition("=")[0] for entry in options.inputs]
    inputs = _find_inputs(meta, nodes, needed, named, asked, outputs)
    if not options.outputs:  # a signature may call an input and an output alike, and a graph cannot
        taken = {port.name: port.tensor for port in inputs}
        outputs = tuple(
            replace(port, name=f"{port.name}_output") if taken.get(port.name, port.tensor) != port.tensor else port
            for port in outputs
        )
    check_names(meta.given, inputs, outputs)
    init_ops, tables = settle_tables(meta, graph_def, feeds, needed)
    kept = tuple(dict.fromkeys([*options.init_ops, *init_ops]))
    fillers = tuple(name for name in meta.init_ops if needed_nodes(nodes, [], [name]) & set(tables))
    plan = FreezePlan(meta, graph_def, inputs, outputs, constants, kept, tables, fillers, notes, options)
    _audit(plan)
    return plan


def _check_there(meta: MetaGraph, graph_def: Any, names: Sequence[str]) -> None:
    nodes = {node.name for node in graph_def.node}
    for name in names:
        if split_tensor(name)[0] not in nodes:
            raise GraphError(f"{meta.given} has no {name}; icefloe describe lists what it has")


def _check_whole(meta: MetaGraph, nodes: Mapping[str, Any], needed: Collection[str]) -> None:
    missing = sorted(name for name in needed if name not in nodes)
    if missing:
        raise GraphError(
            f"{meta.given} was cut short: its operations read {missing[0]}, which is not there; copy it again"
        )
    total = sum(_size(node) for name, node in nodes.items() if name in needed)
    variables = [nodes[name] for name in sorted(needed) if nodes[name].op in VARIABLES]
    if variables and not meta.prefix and meta.session is None:
        reason = NO_VALUES.get(meta.kind, FREEZE_CHECKPOINT)
        raise GraphError(
            f"{meta.given} holds variables without values ({variables[0].name}, {variables[0].op}): {reason}"
        )
    check_size(meta.given, total)


def _size(node: Any) -> int:
    """Return about how many bytes a node takes once it is frozen, as far as the graph tells."""
    if node.op not in VARIABLES:
        return int(node.ByteSize()) if node.op == "Const" else 0
    shape = read_shape(node.attr["shape"].shape) or ()
    dtype = dtype_name(node.attr["dtype"].type)
    width = np.dtype(dtype).itemsize if dtype in np.sctypeDict else {"bfloat16": 2}.get(dtype, 1)
    return int(width * math.prod(1 if extent is None else extent for extent in shape))


def check_size(given: str, num_bytes: int) -> None:
    """Check that a frozen graph fits into one protobuf message.

    Raises:
        GraphError: if not, with the reason.
    """
    if num_bytes > MAX_GRAPH_BYTES:
        raise GraphError(
            f"{given}: frozen, this would be {num_bytes:,} bytes, and a GraphDef ends at 2 GiB (a protobuf message can "
            "be no larger); freeze the model in parts (--outputs), or feed its largest table as a column"
        )


def _find_inputs(
    meta: MetaGraph,
    nodes: Mapping[str, Any],
    needed: Collection[str],
    named: Sequence[Port],
    asked: Collection[str],
    outputs: Sequence[Port],
) -> tuple[Port, ...]:
    """Return the inputs: named ones that the outputs need, then every other placeholder on the way."""
    read = {split_tensor(edge) for name in needed for edge in nodes[name].input}
    read |= {split_tensor(port.tensor) for port in outputs}
    used = [port for port in named if split_tensor(port.tensor) in read]
    for port in named:
        if port.name in asked and port not in used:
            raise GraphError(f"{meta.given}: the outputs do not depend on {port.tensor} (--inputs {port.name}=...)")
    rest = [Port(name, f"{name}:0") for name, node in nodes.items() if name in needed and node.op in UNFED]
    sources = [name for name in sorted(needed) if nodes[name].op.startswith(PIPELINES)]
    if sources and not used and not rest:
        raise GraphError(
            f"{meta.given}: nothing feeds this graph, for its rows come from {sources[0]} ({nodes[sources[0]].op}); "
            f"name the tensor to feed instead, --inputs inputs={sources[0]}:0"
        )
    return (*used, *rest)


def _audit(plan: FreezePlan) -> None:
    options, given = plan.options, plan.meta.given
    has_library = bool(options.op_libraries)
    targets = [*(port.tensor for port in plan.outputs), *plan.init_ops]
    check_audit(given, audit_graph(plan.graph_def, plan.feeds, targets), options.allow_ops, has_library)
    if plan.meta.restore_op:
        findings = audit_graph(plan.graph_def, [], [plan.meta.restore_op])
        check_audit(given, findings, (*RESTORE_OPERATIONS, *options.allow_ops), has_library)
    if plan.source_init_ops:
        findings = audit_graph(plan.graph_def, plan.feeds, plan.source_init_ops)
        outside = [each for each in findings if not reads_own_file(plan.meta, plan.graph_def, each)]
        check_audit(given, outside, options.allow_ops, has_library)
