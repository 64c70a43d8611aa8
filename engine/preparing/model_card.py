"""What a plan keeps of its model for whoever reads the output later: `model` in `plan.json`.

Pure, from the protos that the driver has read anyway; no weight is looked at, and nothing of it enters the plan id.
Start at `model_card`.
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from engine.data.storage.places import hide_secrets
from engine.errors import GraphError
from engine.model.audit import audit_graph
from engine.model.closure import needed_nodes, reachable_functions
from engine.model.describing.layers import weight_size
from engine.model.filetype import ModelKind
from engine.model.freezing.plan import plan_freeze
from engine.model.graphdef import Graph, graph_of
from engine.model.infer import infer_tensor
from engine.model.known import BoundModel, model_files
from engine.model.tensor import TensorSpec

MAX_OPERATIONS = 12
MAX_FINDINGS = 20


def model_card(model: BoundModel, place: str, constants: Collection[str], allow_ops: Collection[str]) -> dict[str, Any]:
    """Return what is known of a job's model before any actor has loaded it, as JSON takes it.

    Parameters, operations and findings are those between inputs and outputs; they are null where only TensorFlow can
    tell (a Keras file), and where they cannot be told for a reason that is in `unknown`.

    Args:
        model: the model.
        place: where it lies, without secrets.
        constants: tensors that get a constant.
        allow_ops: operations that the caller lets through.
    """
    known = model.known
    card: dict[str, Any] = {
        "place": place,
        "kind": str(known.found.kind),
        "bytes": None,
        "sha256": known.sha256,
        "tensorflow": "",
        "producer": None,
        "parameters": None,
        "parameter_bytes": None,
        "operations": None,
        "operation_types": [],
        "findings": None,
        "allowed": sorted(allow_ops),
        "random_operations": list(model.random_operations[:MAX_FINDINGS]),
        "init_ops": list(model.init_ops),
        "inputs": [_port(None, name, column) for name, column in model.feed.items()],
        "outputs": [_port(None, name, column) for name, column in model.fetch.items()],
        "constants": [_port(None, name, "") for name in constants],
    }
    try:
        return card | _facts(model, constants)
    except Exception as error:  # the boundary: by now the job has its actors, and this is but for its readers
        return card | {"unknown": hide_secrets(f"{type(error).__name__}: {error}")}


def _facts(model: BoundModel, constants: Collection[str]) -> dict[str, Any]:
    """Return what has to be looked for in the model."""
    known = model.known
    meta = known.meta
    facts: dict[str, Any] = {
        "bytes": _num_bytes(model),
        "tensorflow": "" if meta is None else str(meta.meta.meta_info_def.tensorflow_version),
    }
    specs = dict(model.specs)
    if known.graph is not None:
        for name in model.fetch:
            specs.setdefault(name, infer_tensor(known.graph, name))
        facts |= _graph_facts(known.graph, [*model.feed, *constants], [*model.fetch, *model.init_ops])
    elif meta is not None and model.freeze_options is not None:
        plan = plan_freeze(meta, model.freeze_options)
        graph = graph_of(meta.given, plan.graph_def)
        facts |= _graph_facts(graph, plan.feeds, [*(port.tensor for port in plan.outputs), *plan.init_ops])
        facts["init_ops"] = list(plan.init_ops)
    return {
        **facts,
        "inputs": [_port(specs.get(name), name, column) for name, column in model.feed.items()],
        "outputs": [_port(specs.get(name), name, column) for name, column in model.fetch.items()],
        "constants": [_port(specs.get(name), name, "") for name in constants],
    }


def _port(spec: TensorSpec | None, name: str, column: str) -> dict[str, Any]:
    shape = None if spec is None or spec.shape is None else list(spec.shape)
    return {"tensor": name, "column": column, "dtype": None if spec is None else spec.dtype, "shape": shape}


def _graph_facts(graph: Graph, feeds: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
    """Count what lies between feeds and targets, functions that are reached included."""
    needed = needed_nodes(graph.nodes, feeds, targets)
    own = [graph.nodes[name] for name in needed if name in graph.nodes]
    inner = (node for function in reachable_functions(graph.graph_def.library, own) for node in function.node_def)
    nodes = [*own, *inner]
    sizes = [weight_size(node) for node in nodes]
    findings: Iterable[Any] = ()
    with contextlib.suppress(GraphError):  # an edge that is no tensor name; loading tells of it
        findings = audit_graph(graph.graph_def, feeds, targets)
    counts = Counter(node.op for node in nodes)
    return {
        "producer": int(graph.graph_def.versions.producer),
        "parameters": sum(elements for elements, _ in sizes),
        "parameter_bytes": sum(num_bytes for _, num_bytes in sizes),
        "operations": len(nodes),
        "operation_types": [[name, count] for name, count in counts.most_common(MAX_OPERATIONS)],
        "findings": [str(finding) for finding in list(findings)[:MAX_FINDINGS]],
    }


def _num_bytes(model: BoundModel) -> int | None:
    """Return the size of the model's files; None where they were but a copy that is gone by now."""
    if model.known.graph is not None and model.known.found.kind is not ModelKind.TEXT:
        return len(model.known.graph.data)
    try:
        return sum(file.stat().st_size for file in model_files(model.known.found))
    except (OSError, GraphError):
        return None
