"""Settles how a graph with variables becomes a frozen one: ports, tables, repairs, and whether it may be touched.

Pure: from protos to a plan, before TensorFlow sees anything. Start at `plan_freeze`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from engine.errors import GraphError
from engine.model.audit import Finding, audit_graph, check_audit
from engine.model.closure import needed_nodes, split_tensor
from engine.model.filetype import MAX_GRAPH_BYTES, ModelKind
from engine.model.graphdef import INITIALISERS, TABLES, VARIABLES, dtype_name, graph_of, read_shape
from engine.model.infer import infer_tensor
from engine.model.metagraph import MetaGraph
from engine.model.ports import Port, choose_inputs, choose_outputs
from engine.model.repair import repair_graph
from engine.model.tensor import TensorSpec

# What savers are made of: restoring a checkpoint reads its files, and no others.
SAVER_OPERATIONS = (
    *("Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints", "Restore", "RestoreSlice", "RestoreV2"),
    *("ShardedFilename", "ShardedFilespec"),
)


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
    """Values that replace tensors for good, by tensor name."""
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
    init_ops: tuple[str, ...]
    """Initialisers that go into the frozen graph as they are."""
    tables: tuple[str, ...]
    """Lookup tables whose contents are taken from the source, for their own initialisers need files or functions."""
    notes: tuple[str, ...]
    """What was repaired."""
    options: FreezeOptions
    """What was asked for."""

    @property
    def feeds(self) -> list[str]:
        """Tensors of the source that get values from outside: the inputs and the constants."""
        return [*(port.tensor for port in self.inputs), *self.options.constants]

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Return what signature and file say of the inputs, under their names in the frozen graph."""
        graph = graph_of(self.meta.given, self.graph_def)
        known = [port.spec or infer_tensor(graph, port.tensor) for port in self.inputs]
        return tuple(replace(spec, name=f"{port.name}:0") for port, spec in zip(self.inputs, known, strict=True))

    @property
    def restore_op(self) -> str:
        """The operation that fills the variables; empty where there is none."""
        return str(self.meta.meta.saver_def.restore_op_name) if self.meta.prefix else ""

    @property
    def source_init_op(self) -> str:
        """The source's own initialisation, which tables whose contents are taken over need."""
        return self.meta.init_op if self.tables else ""


def plan_freeze(meta: MetaGraph, options: FreezeOptions) -> FreezePlan:
    """Choose ports and tables, repair the graph, and audit all that would be loaded.

    Raises:
        GraphError: for what is missing, reaches outside, belongs to training, or would pass 2 GiB.
    """
    signature = meta.signature(options.signature)
    outputs = choose_outputs(meta.given, meta.graph_def, signature, options.outputs)
    graph_def = type(meta.graph_def)()
    graph_def.CopyFrom(meta.graph_def)
    named = choose_inputs(meta.given, signature, options.inputs)
    feeds = [*(port.tensor for port in named), *options.constants]
    _check_there(meta, graph_def, [*feeds, *options.init_ops])
    targets = [*(port.tensor for port in outputs), *options.init_ops]
    notes = repair_graph(meta.given, graph_def, feeds, targets)
    nodes = {node.name: node for node in graph_def.node}
    needed = needed_nodes(nodes, feeds, targets)
    _check_whole(meta, nodes, needed)
    init_ops, tables = _settle_tables(meta, graph_def, feeds, needed)
    inputs = _all_inputs(nodes, needed, named)
    plan = FreezePlan(
        meta, graph_def, inputs, outputs, tuple(dict.fromkeys([*options.init_ops, *init_ops])), tables, notes, options
    )
    _audit(plan)
    return plan


def _check_there(meta: MetaGraph, graph_def: Any, names: Sequence[str]) -> None:
    nodes = {node.name for node in graph_def.node}
    for name in names:
        if split_tensor(name)[0] not in nodes:
            raise GraphError(f"{meta.given} has no {name}")


def _check_whole(meta: MetaGraph, nodes: Mapping[str, Any], needed: set[str]) -> None:
    missing = sorted(name for name in needed if name not in nodes)
    if missing:
        raise GraphError(f"{meta.given} was cut short: its operations read {missing[0]}, which is not there")
    variables = [nodes[name] for name in needed if nodes[name].op in VARIABLES]
    if variables and not meta.prefix and meta.kind in (ModelKind.GRAPH, ModelKind.TEXT, ModelKind.META_GRAPH):
        raise GraphError(
            f"{meta.given} holds variables without values ({variables[0].name}, {variables[0].op}); "
            "freeze the checkpoint that it was saved with: icefloe freeze PREFIX DEST.pb"
        )
    total = 0
    for node in variables:
        shape = read_shape(node.attr["shape"].shape) or ()
        dtype = dtype_name(node.attr["dtype"].type)
        width = np.dtype(dtype).itemsize if dtype in np.sctypeDict else 2 if dtype == "bfloat16" else 8
        total += width * math.prod(extent or 1 for extent in shape)
    check_size(meta.given, total)


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


def _all_inputs(nodes: Mapping[str, Any], needed: set[str], named: Sequence[Port]) -> tuple[Port, ...]:
    """Return the ports: named ones that the outputs need, then every other placeholder on the way."""
    read = {split_tensor(edge) for name in needed if name in nodes for edge in nodes[name].input}
    used = [port for port in named if split_tensor(port.tensor) in read or split_tensor(port.tensor)[0] in needed]
    rest = [
        Port(name, f"{name}:0")
        for name, node in nodes.items()
        if name in needed and node.op in ("Placeholder", "PlaceholderV2")
    ]
    return (*used, *rest)


def _settle_tables(
    meta: MetaGraph, graph_def: Any, feeds: Sequence[str], needed: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the initialisers to keep; or, where these would not do in a graph on its own, the tables to take over."""
    nodes = {node.name: node for node in graph_def.node}
    tables = [name for name in nodes if name in needed and nodes[name].op in TABLES]
    if not tables:
        return (), ()
    found: dict[str, str] = {}
    for node in graph_def.node:
        table = split_tensor(node.input[0])[0] if node.input and node.op.startswith(INITIALISERS) else ""
        if table in tables and table not in found and not audit_graph(graph_def, feeds, [node.name]):
            found[table] = node.name
    if set(found) == set(tables) and not any(nodes[table].op.startswith("Mutable") for table in tables):
        return tuple(found[table] for table in tables), ()
    if not (meta.init_op or meta.prefix):
        missing = next(table for table in tables if table not in found)
        raise GraphError(f"{meta.given}: nothing in it initialises the lookup table {missing} ({nodes[missing].op})")
    return (), tuple(tables)


def _audit(plan: FreezePlan) -> None:
    options, given = plan.options, plan.meta.given
    has_library = bool(options.op_libraries)
    targets = [*(port.tensor for port in plan.outputs), *plan.init_ops]
    check_audit(given, audit_graph(plan.graph_def, plan.feeds, targets), options.allow_ops, has_library)
    if plan.restore_op:
        findings = audit_graph(plan.graph_def, [], [plan.restore_op])
        check_audit(given, findings, (*SAVER_OPERATIONS, *options.allow_ops), has_library)
    if plan.source_init_op:
        findings = audit_graph(plan.graph_def, plan.feeds, [plan.source_init_op])
        outside = [each for each in findings if not _reads_own_asset(plan, each)]
        check_audit(given, outside, options.allow_ops, has_library)


def _reads_own_asset(plan: FreezePlan, finding: Finding) -> bool:
    """Whether a table is initialised from a file that is the model's own, whose path is fed when it is run."""
    if not finding.operation.startswith("InitializeTableFromTextFile"):
        return False
    nodes = {node.name: node for node in plan.graph_def.node}
    assets = {split_tensor(name)[0] for name in plan.meta.asset_files}
    if not finding.place and finding.node in nodes:
        return split_tensor(nodes[finding.node].input[1])[0] in assets
    for function in plan.graph_def.library.function:
        if finding.place != f"function {function.signature.name}":
            continue
        arguments = [each.name for each in function.signature.input_arg]
        body = {node.name: node for node in function.node_def}
        file = body[finding.node].input[1] if finding.node in body and len(body[finding.node].input) > 1 else ""
        callers = [n for n in plan.graph_def.node if n.attr["f"].func.name == function.signature.name and "f" in n.attr]
        index = arguments.index(file) if file in arguments else -1
        return bool(callers) and index >= 0 and all(split_tensor(n.input[index])[0] in assets for n in callers)
    return False
