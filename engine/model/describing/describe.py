"""Describes a model from its files alone, as a doctor would: what it is, what ails it, and what to do.

Needs no TensorFlow, and looks at no weight. Start at `open_model`, then `describe_model`; what only TensorFlow can
tell is `engine.model.describing.cost`'s.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import GraphError, system_text
from engine.model.audit import audit_everything, audit_graph
from engine.model.closure import needed_nodes, reachable_functions, split_tensor
from engine.model.describing.advice import Ailments, notes_on
from engine.model.describing.description import Description, Kind, UnknownOperation
from engine.model.describing.ends import describe_signatures, find_ends, optional_inputs, unused_inputs
from engine.model.describing.layers import count_layers, weight_size
from engine.model.describing.training import find_leftovers
from engine.model.filetype import HEAD_BYTES, ModelKind, ModelPath, checkpoint_files, locate_model, text_field
from engine.model.graphdef import INITIALISERS, TABLES, VARIABLES, Graph, graph_of, is_random, read_graph
from engine.model.keras_file import read_keras_file
from engine.model.metagraph import MetaGraph, read_meta_graph
from engine.model.operations import hint_for, is_known
from engine.model.sidecar import Ports, read_sidecar

SOURCES = {
    ModelKind.SAVED_MODEL: Kind.SAVED_MODEL,
    ModelKind.META_GRAPH: Kind.META_GRAPH,
    ModelKind.CHECKPOINT: Kind.CHECKPOINT,
}


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model with its graph parsed."""

    found: ModelPath
    """What it is and where."""
    graph: Graph | None
    """Its graph; None for a Keras file."""
    meta: MetaGraph | None = None
    """What its graph and its signatures came in; None for a graph on its own."""
    ports: Ports | None = None
    """Ports kept beside a frozen graph."""
    remark: str = ""
    """Why ports that lie beside it are not used."""


def open_model(path: str) -> OpenedModel:
    """Find out what the model at `path` is, and read its graph.

    Raises:
        GraphError: if it is no model, or one that is damaged or cut short, saying what it is.
    """
    found = locate_model(path)
    if found.kind is ModelKind.KERAS:
        return OpenedModel(found, None)
    if found.kind in (ModelKind.GRAPH, ModelKind.TEXT):
        graph = read_graph(path)
        ports, remark = read_sidecar(path, graph.data)
        return OpenedModel(found, graph, ports=ports, remark=remark)
    meta = read_meta_graph(found)
    return OpenedModel(found, graph_of(meta.given, meta.graph_def), meta)


def describe_model(model: OpenedModel) -> Description:
    """Describe a model.

    Raises:
        GraphError: if it is a Keras file that is damaged, or its files cannot be read.
    """
    size_bytes, given = _size(model.found), model.found.given
    if model.graph is not None:
        description, ailments = _describe_graph(model, model.graph)
        return replace(description, size_bytes=size_bytes, notes=notes_on(description, ailments))
    keras = read_keras_file(model.found)
    description = Description(Kind.KERAS, given, size_bytes, inputs=keras.inputs, ports_from="layers", keras=keras)
    return replace(description, notes=notes_on(description, Ailments()))


def _size(found: ModelPath) -> int:
    """Return the bytes of all files of a model."""
    place = Path(found.path)
    files = [place]
    if found.kind is ModelKind.CHECKPOINT:
        files = [Path(found.path + ".meta"), *map(Path, checkpoint_files(found.path))]
    elif found.kind is ModelKind.SAVED_MODEL:
        files += [each for name in ("variables", "assets") for each in (place.parent / name).rglob("*")]
    try:
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError as error:
        raise GraphError(f"{found.given}: cannot be read ({system_text(error)})") from error


def _is_text(found: ModelPath) -> bool:
    path = f"{found.path}.meta" if found.kind is ModelKind.CHECKPOINT else found.path
    try:
        with open(path, "rb") as file:
            return text_field(file.read(HEAD_BYTES)) != ""
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Split:
    """A graph's nodes, those in functions included, by whether its outputs need them."""

    bodies: dict[str, Sequence[Any]]
    """What they need, by function; the graph's own nodes have an empty name."""
    inside: list[Any]
    """The same, in one list."""
    outside: list[Any]
    """The rest."""


def _split(graph: Graph, needed: Collection[str]) -> _Split:
    """Tell the nodes that `needed` names and the functions that they reach from the rest."""
    own = [node for node in graph.graph_def.node if node.name in needed]
    outside = [node for node in graph.graph_def.node if node.name not in needed]
    library = graph.graph_def.library
    found = reachable_functions(library, own) if library.function else []
    reached = {each.signature.name: each.node_def for each in found}
    for function in library.function:
        outside += () if function.signature.name in reached else function.node_def
    return _Split({"": own, **reached}, [*own, *(node for body in reached.values() for node in body)], outside)


def _describe_graph(model: OpenedModel, graph: Graph) -> tuple[Description, Ailments]:
    graph_def, meta = graph.graph_def, model.meta
    signatures = describe_signatures(meta)
    ends = find_ends(graph, model.ports, signatures)
    feeds, fetches = ends.feeds(graph), [spec.name for spec in ends.outputs]
    # Without an output nothing can be told apart, and everything counts as inside.
    needed = needed_nodes(graph.nodes, feeds, fetches) if fetches else set(graph.nodes)
    tables = [node.name for node in graph_def.node if node.op in TABLES and node.name in needed]
    fillers = find_initialisers(graph, tables)
    init_ops = ends.init_ops or tuple(fillers.values())
    targets = [*fetches, *init_ops] if fetches else list(graph.nodes)
    needed = needed_nodes(graph.nodes, feeds, targets)
    split = _split(graph, needed)
    inner = [node for function in graph_def.library.function for node in function.node_def]
    variables = tuple(node.name for node in split.inside if node.op in VARIABLES)
    findings = audit_graph(graph_def, feeds, targets)
    layers = count_layers(split.bodies, graph_def.library)
    spare = [weight_size(node) for node in split.outside]
    kind = SOURCES.get(model.found.kind, Kind.UNFROZEN_GRAPH if variables else Kind.FROZEN_GRAPH)
    description = Description(
        kind=kind,
        path=model.found.given,
        size_bytes=0,
        is_text=_is_text(model.found),
        producer=graph_def.versions.producer,
        tensorflow_version="" if meta is None else str(meta.meta.meta_info_def.tensorflow_version),
        inputs=ends.inputs,
        optional_inputs=optional_inputs(graph, ends.inputs),
        unused_inputs=unused_inputs(graph, ends.inputs, signatures),
        outputs=ends.outputs,
        other_outputs=ends.other_outputs,
        ports_from=ends.told_by,
        signature=ends.signature,
        signatures=signatures,
        init_ops=init_ops,
        parameters=sum(layer.parameters for layer in layers),
        parameter_bytes=sum(layer.num_bytes for layer in layers),
        layers=layers,
        outside_parameters=sum(elements for elements, _ in spare),
        outside_bytes=sum(num_bytes for _, num_bytes in spare),
        operations=tuple(Counter(node.op for node in (*graph_def.node, *inner)).most_common()),
        num_nodes=len(graph_def.node) + len(inner),
        num_function_nodes=len(inner),
        num_functions=len(graph_def.library.function),
        variables=variables,
        leftovers=find_leftovers(split.inside, split.outside),
        random_operations=tuple(sorted(f"{node.name} ({node.op})" for node in split.inside if is_random(node.op))),
        unknown_operations=tuple(_unknown(graph_def, split)),
        findings=findings,
        num_findings_outside=max(0, len(audit_everything(graph_def)) - len(findings)),
    )
    names = Counter(node.name for node in graph_def.node)
    ailments = Ailments(
        remark=model.remark,
        missing=tuple(sorted(name for name in needed if name not in graph.nodes)),
        twice=tuple(name for name, count in names.items() if count > 1),
        unfilled_tables=tuple(name for name in tables if name not in fillers and not ends.init_ops),
        channels_first=next((node.name for node in split.inside if _is_channels_first(node)), ""),
        has_values=meta is not None and bool(meta.prefix),
    )
    return description, ailments


def find_initialisers(graph: Graph, tables: Sequence[str]) -> Mapping[str, str]:
    """Return the first operation that fills each of the lookup tables `tables`, by table."""
    found: dict[str, str] = {}
    for node in graph.graph_def.node:
        if node.op.startswith(INITIALISERS) and node.input:
            found.setdefault(split_tensor(node.input[0])[0], node.name)
    return {table: found[table] for table in tables if table in found}


def _unknown(graph_def: Any, split: _Split) -> Iterator[UnknownOperation]:
    functions = {function.signature.name for function in graph_def.library.function}
    firsts: dict[str, tuple[str, bool]] = {}
    counts: Counter[str] = Counter()
    for nodes, is_inside in ((split.inside, True), (split.outside, False)):
        for node in _foreign(nodes, functions):
            firsts.setdefault(node.op, (node.name, is_inside))
            counts[node.op] += 1
    for operation, (example, is_inside) in firsts.items():
        yield UnknownOperation(operation, counts[operation], example, is_inside, hint_for(operation))


def _foreign(nodes: Iterable[Any], functions: Collection[str]) -> Iterator[Any]:
    return (node for node in nodes if not is_known(node.op) and node.op not in functions)


def _is_channels_first(node: Any) -> bool:
    return "data_format" in node.attr and node.attr["data_format"].s == b"NCHW"
