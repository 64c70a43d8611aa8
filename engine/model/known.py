"""The model of a job as the driver can know it, without TensorFlow: its graph, its ports, and whether it will do.

A frozen graph is known whole. A checkpoint and a SavedModel are known by their protos, and a worker freezes them; a
Keras file is known once it was loaded there. Start at `read_model`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import GraphError, system_text
from engine.model.audit import audit_graph, check_audit
from engine.model.closure import split_tensor
from engine.model.filetype import ModelKind, ModelPath, checkpoint_files, locate_model
from engine.model.freezing.plan import FreezeOptions, FreezePlan, plan_freeze
from engine.model.graphdef import Graph, check_ports, describe_feed, find_random_operations, graph_of, read_graph
from engine.model.keras_file import read_keras_file
from engine.model.metagraph import MetaGraph, read_meta_graph
from engine.model.ports import default_columns
from engine.model.sidecar import Ports, read_sidecar
from engine.model.tensor import TensorSpec

CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks of its model."""

    feed: Mapping[str, str] | None
    """Column by tensor; None for the model's own ports."""
    fetch: Mapping[str, str] | None
    """Column by tensor; None for the model's own ports."""
    constants: Mapping[str, Any]
    """Values fed with every batch, by tensor."""
    init_ops: tuple[str, ...] = ()
    """Operations run once after loading; empty for the model's own."""
    allow_ops: tuple[str, ...] = ()
    """Operations that the audit lets through."""
    op_libraries: tuple[str, ...] = ()
    """Libraries of custom operations."""
    is_unbatched: bool = False
    """Whether inputs without any axis take rows, one a call."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model and all that its files tell."""

    found: ModelPath
    """What it is and where."""
    sha256: str
    """Hash of the graph, or of all files that it will be frozen from."""
    graph: Graph | None = None
    """The frozen graph; None where one has to be made."""
    meta: MetaGraph | None = None
    """What to freeze; None for a frozen graph, and for a Keras file."""
    ports: Ports | None = None
    """Ports that were kept beside the frozen graph."""
    remark: str = ""
    """Why the ports beside it are not used, if they are not."""


@dataclass(frozen=True, slots=True)
class BoundModel:
    """A model that can do what a job asks, as far as its files tell."""

    known: KnownModel
    """The model."""
    feed: Mapping[str, str]
    """Column by tensor."""
    fetch: Mapping[str, str]
    """Column by tensor."""
    init_ops: tuple[str, ...]
    """Operations run once after loading."""
    specs: Mapping[str, TensorSpec]
    """Fed and fetched tensors as far as they are known."""
    random_operations: tuple[str, ...]
    """Random operations on the way; with one, a rerun gives other values."""
    freeze_options: FreezeOptions | None
    """How a worker is to freeze it; None for a graph that is frozen."""


def read_model(path: str) -> KnownModel:
    """Read the model at `path` as far as that goes without TensorFlow.

    Raises:
        GraphError: if there is no model, or a part of it is missing.
    """
    found = locate_model(path)
    if found.is_source:
        meta = None if found.kind is ModelKind.KERAS else read_meta_graph(found)
        return KnownModel(found, _digest(found), meta=meta)
    graph = read_graph(path)
    ports, remark = read_sidecar(path, graph.data)
    return KnownModel(found, hashlib.sha256(graph.data).hexdigest(), graph, ports=ports, remark=remark)


def model_files(found: ModelPath) -> list[Path]:
    """Return every file that a model is made of."""
    place = Path(found.path)
    if found.kind is ModelKind.CHECKPOINT:
        return [Path(found.path + ".meta"), *map(Path, checkpoint_files(found.path))]
    if found.kind is ModelKind.SAVED_MODEL:
        inside = [path for name in ("variables", "assets") for path in (place.parent / name).rglob("*")]
        return [place, *sorted(path for path in inside if path.is_file())]
    return [place]


def _digest(found: ModelPath) -> str:
    """Hash every file of a model that is to be frozen, with its name below the model."""
    place = Path(found.path)
    digest = hashlib.sha256()
    for file in model_files(found):
        digest.update(f"{file.relative_to(place.parent).as_posix()}\0".encode())
        try:
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise GraphError(f"{found.given}: {file} cannot be read ({system_text(error)})") from error
    return digest.hexdigest()


def bind_model(known: KnownModel, request: Request) -> BoundModel:
    """Settle which tensors a job feeds and fetches, and check all that the model's files tell.

    Raises:
        GraphError: for a tensor that is not there, a placeholder left unfed, variables without values, or operations
            that reach outside.
    """
    if known.graph is not None:
        return _bind_graph(known, known.graph, request)
    if known.meta is not None:
        return _bind_source(known, known.meta, request)
    return _bind_keras(known, request)


def _bind_keras(known: KnownModel, request: Request) -> BoundModel:
    layers = {f"{spec.name}:0": replace(spec, name=f"{spec.name}:0") for spec in read_keras_file(known.found).inputs}
    usual = default_columns(list(layers)) if len(layers) > 1 else {"inputs:0": "inputs"}
    if len(layers) == 1:  # a lone input has its layer's name, and is called inputs
        layers["inputs:0"] = replace(next(iter(layers.values())), name="inputs:0")
    feed, fetch = request.feed or usual, request.fetch or {"prediction:0": "prediction"}
    specs = {name: layers.get(name, TensorSpec(name, None, None)) for name in (*feed, *fetch)}
    options = _freeze_options(request, tuple(fetch), _kept_names([name for name in feed if name != "inputs:0"]))
    return BoundModel(known, feed, fetch, request.init_ops, specs, (), options)


def _bind_graph(known: KnownModel, graph: Graph, request: Request) -> BoundModel:
    ports = known.ports or Ports((), ())
    feed = request.feed or _rows(ports.inputs, request) or {"inputs:0": "inputs"}
    fetch = request.fetch or default_columns([spec.name for spec in ports.outputs]) or {"prediction:0": "prediction"}
    init_ops = request.init_ops or ports.init_ops
    fed = [*feed, *request.constants]
    check_ports(graph, fed, list(fetch), init_ops)
    findings = audit_graph(graph.graph_def, fed, [*fetch, *init_ops])
    check_audit(graph.path, findings, request.allow_ops, bool(request.op_libraries))
    specs = {name: ports.spec(name) or describe_feed(graph, name) for name in fed}
    specs |= {name: spec for name in fetch if (spec := ports.spec(name)) is not None}
    random = tuple(find_random_operations(graph, fed, list(fetch)))
    return BoundModel(known, feed, fetch, init_ops, specs, random, None)


def _rows(inputs: tuple[TensorSpec, ...], request: Request) -> dict[str, str]:
    """Name a column for each input that takes rows; one without any axis takes a constant, unless rows have none."""
    left = [spec for spec in inputs if spec.name not in request.constants]
    return default_columns([spec.name for spec in left if spec.shape != () or request.is_unbatched])


def _bind_source(known: KnownModel, meta: MetaGraph, request: Request) -> BoundModel:
    nodes = {node.name for node in meta.graph_def.node}
    usual = () if meta.signature(None).outputs else ("prediction",)
    fetched = usual if request.fetch is None else tuple(request.fetch)
    # What is fed under a name of the source's own, a tensor's or the signature's, keeps it.
    own = nodes | set(meta.signature(None).inputs)
    names = _kept_names([name for name in request.feed or () if split_tensor(name)[0] in own])
    options = _freeze_options(request, fetched, names)
    plan = plan_freeze(meta, options)
    specs = {spec.name: spec for spec in plan.input_specs()}
    feed = request.feed or _rows(tuple(specs.values()), request)
    _check_fed(plan, feed, specs)
    outputs = [f"{port.name}:0" for port in plan.outputs]
    specs |= {f"{port.name}:0": port.spec for port in plan.outputs if port.spec is not None}
    fetch = request.fetch or default_columns(outputs)
    graph = graph_of(meta.given, plan.graph_def)
    random = tuple(find_random_operations(graph, plan.feeds, [port.tensor for port in plan.outputs]))
    return BoundModel(known, feed, fetch, request.init_ops, specs, random, options)


def _kept_names(feeds: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{split_tensor(name)[0]}={name}" for name in feeds if name.endswith(":0"))


def _check_fed(plan: FreezePlan, feed: Mapping[str, str], specs: Mapping[str, TensorSpec]) -> None:
    given = plan.meta.given
    known = ", ".join(map(str, specs.values())) or "none"
    for name in feed:
        if name not in specs:
            raise GraphError(f"{given} has no input {name}; its inputs are {known}")
    for name, spec in specs.items():
        if name not in feed:
            raise GraphError(
                f"{given} needs {spec}, which nothing feeds; "
                f"type --feed {name}=COLUMN, or --set {name}=VALUE for a constant"
            )


def _freeze_options(request: Request, outputs: tuple[str, ...], inputs: tuple[str, ...] = ()) -> FreezeOptions:
    return FreezeOptions(
        outputs=tuple(name.removesuffix(":0") for name in outputs),
        inputs=inputs,
        init_ops=request.init_ops,
        constants=request.constants,
        allow_ops=request.allow_ops,
        op_libraries=request.op_libraries,
    )
