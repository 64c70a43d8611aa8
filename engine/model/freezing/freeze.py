"""Freezes a model: its graph pruned to its outputs, its variables turned into constants, the result compared.

Every source comes here as the same thing, a graph with variables and where their values lie. Start at
`freeze_model`, or `freeze_session` for a live session.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.audit import audit_graph, check_audit
from engine.model.closure import prune_graph, split_tensor
from engine.model.filetype import ModelKind, locate_model
from engine.model.freezing.compare import Reference, Run, compare
from engine.model.freezing.keras import read_keras
from engine.model.freezing.live import bring_to_life
from engine.model.freezing.plan import FreezeOptions, FreezePlan, check_size, plan_freeze
from engine.model.freezing.tables import take_tables
from engine.model.freezing.variables import freeze_variables
from engine.model.graphdef import VARIABLES
from engine.model.loading import import_between, load_libraries, one_line, refused_at_load, tensor_spec, translated
from engine.model.metagraph import MetaGraph, read_meta_graph
from engine.model.ports import rename_nodes
from engine.model.protos import MetaGraphDef
from engine.model.restoring import variable_values
from engine.model.session import import_tensorflow
from engine.model.tensor import TensorSpec

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
def open_source(path: str) -> Iterator[tuple[MetaGraph, Reference | None]]:
    """Read what the model at `path` is to be frozen from.

    Yields:
        The graph and where its variables lie, and what to compare with if not with that graph itself.

    Raises:
        GraphError: if it is no model, saying what it is.
    """
    found = locate_model(path)
    if found.kind is ModelKind.KERAS:
        yield read_keras(import_tensorflow(gpu_share=0), found)
    else:
        yield read_meta_graph(found), None


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
        return freeze(plan_freeze(meta, options), rows, reference)


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
    source = MetaGraph("this session", ModelKind.META_GRAPH, meta, "", session=session)
    chosen = replace(options or FreezeOptions(), outputs=tuple(outputs))
    return freeze(plan_freeze(source, chosen), rows)


def freeze(
    plan: FreezePlan, rows: Mapping[str, Array] | None = None, reference: Reference | None = None
) -> FrozenModel:
    """Load the graph of `plan`, fill its variables, turn them into constants and compare.

    Args:
        plan: the graph, checked and repaired.
        rows: arrays by input name to compare on; None for random numbers.
        reference: what to compare with; None for the graph before it was frozen.

    Raises:
        GraphError: for whatever stands in the way, with the reason.
    """
    tf = import_tensorflow(gpu_share=0)
    load_libraries(tf, plan.options.op_libraries)
    graphs = tf.Graph(), tf.Graph()
    config = tf.compat.v1.ConfigProto(device_count={"GPU": 0}, allow_soft_placement=True)
    with (
        _told_of(tf, plan.meta.given),
        refused_at_load(),
        translated(tf),
        # A session as a context would make its graph the current one, where no reference runs.
        contextlib.closing(tf.compat.v1.Session(graph=graphs[0], config=config)) as session,
        contextlib.closing(tf.compat.v1.Session(graph=graphs[1], config=config)) as again,
    ):
        with graphs[0].as_default():
            inputs, outputs = bring_to_life(tf, session, plan)
            filled = take_tables(tf, session, plan.meta.session or session, plan.meta.given, plan.tables)
            if plan.meta.session is not None:  # its tables are filled, and the copies are not
                session.run(filled)
            frozen, init_ops = _to_constants(tf, session, plan, inputs | outputs, [*plan.init_ops, *filled])
        _check(plan, frozen, list(inputs), [*outputs, *init_ops])
        data = bytes(frozen.SerializeToString(deterministic=True))
        operations = [node.op for nodes in _bodies(frozen) for node in nodes]
        del frozen
        with graphs[1].as_default():
            tensors = import_between(tf, data, list(inputs), list(outputs), init_ops)
            again.run([graphs[1].get_operation_by_name(split_tensor(name)[0]) for name in init_ops])
        ports = [tuple(tensor_spec(name, tensors[name]) for name in names) for names in (inputs, outputs)]
        source = _reference_run(tf, plan, reference) or _session_run(tf, session, inputs, outputs)
        found = _session_run(tf, again, {name: name for name in inputs}, {name: name for name in outputs})
        comparison = compare(source, found, ports[0], operations, rows)
    return FrozenModel(data, ports[0], ports[1], tuple(init_ops), plan.notes, comparison)


@contextlib.contextmanager
def _told_of(tf: Any, given: str) -> Iterator[None]:
    """Let every mistake name the model that it was found in."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise GraphError(f"{given}: this machine has no room to freeze it: {one_line(error.message)}") from error
    except GraphError as error:
        if given in str(error):
            raise
        raise GraphError(f"{given}: {error}") from error


def _to_constants(
    tf: Any, session: Any, plan: FreezePlan, ends: Mapping[str, str], init_ops: Sequence[str]
) -> tuple[Any, list[str]]:
    """Return the graph with constants in the place of variables and its ports under their names, and its initialisers.

    Args:
        tf: TensorFlow.
        session: where graph and values are.
        plan: what is frozen.
        ends: tensors of the session that are inputs and outputs, by their names in the frozen graph.
        init_ops: operations to keep beside the outputs.
    """
    given = plan.meta.given
    targets = [*ends.values(), *init_ops]
    frozen = prune_graph(session.graph.as_graph_def(), [], targets)
    variables = [node for node in frozen.node if node.op in VARIABLES]
    values = variable_values(tf, session, [node.name for node in variables])
    check_size(given, sum(value.nbytes for value in values.values()))
    protos = {node.name: tf.make_tensor_proto(values.pop(node.name), node.attr["dtype"].type) for node in variables}
    freeze_variables(frozen, protos)
    del protos
    for node in (node for nodes in _bodies(frozen) for node in nodes):
        node.device = ""
        node.attr.pop("_class", None)  # colocation
    frozen.library.function.sort(key=lambda function: function.signature.name)  # TensorFlow keeps no order
    renamed = rename_nodes(frozen, {split_tensor(actual)[0]: split_tensor(name)[0] for name, actual in ends.items()})
    return frozen, [renamed.get(name, name) for name in init_ops]


def _check(plan: FreezePlan, frozen: Any, inputs: Sequence[str], targets: Sequence[str]) -> None:
    """Check what is left to be told once a graph is frozen: that no variable is left, that it is small and tame."""
    given, options = plan.meta.given, plan.options
    left = [node for nodes in _bodies(frozen) for node in nodes if node.op in VARIABLES]
    if left:
        raise GraphError(
            f"{given}: {left[0].name} ({left[0].op}) is a variable of a kind that cannot become a constant; "
            "name outputs that do not depend on it (--outputs)"
        )
    check_audit(given, audit_graph(frozen, inputs, targets), options.allow_ops, bool(options.op_libraries))
    check_size(given, frozen.ByteSize())


def _bodies(graph_def: Any) -> list[Any]:
    """Return the nodes of the graph, and of each function."""
    return [graph_def.node, *(function.node_def for function in graph_def.library.function)]


def _reference_run(tf: Any, plan: FreezePlan, reference: Reference | None) -> Run | None:
    """Return how to ask the reference; None where its ports are not those of the plan."""
    names = {port.tensor: f"{port.name}:0" for port in plan.inputs}
    outputs = [port.tensor for port in plan.outputs]
    if reference is None or set(names) != set(reference.inputs) or not set(outputs) <= set(reference.outputs):
        return None

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        with translated(tf):
            answers = reference.answer([feeds[names[tensor]] for tensor in reference.inputs])
        return [answers[reference.outputs.index(tensor)] for tensor in outputs]

    return run


def _session_run(tf: Any, session: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Run:
    def run(feeds: Mapping[str, Array]) -> list[Array]:
        values = {inputs[name]: array for name, array in feeds.items()}
        try:
            with translated(tf):
                return [np.asarray(value) for value in session.run(list(outputs.values()), values)]
        except tf.errors.ResourceExhaustedError as error:
            raise GraphError("this machine has no room for rows to compare on") from error

    return run
