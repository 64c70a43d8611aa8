"""Freezes a job's model in a worker process, and says which of its tensors are fed and fetched. Knows nothing of Ray.

Start at `freeze_here`, which returns errors instead of raising them, and at `scored_model`.
"""

import hashlib
import os
import socket
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.data.storage.copying import local_copy
from engine.data.storage.places import is_local
from engine.errors import ClusterError, EngineError, GraphError, JobFailedError, WorkerLostError
from engine.model.freezing.plan import FreezeOptions
from engine.model.known import BoundModel, read_model


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """The frozen graph that a job scores with."""

    data: bytes
    """The serialised GraphDef."""
    feeds: tuple[tuple[str, str], ...]
    """Pairs of fed tensor and column."""
    fetches: tuple[tuple[str, str], ...]
    """Pairs of fetched tensor and column."""
    constants: Mapping[str, Any]
    """Values fed with every batch, by tensor."""
    init_ops: tuple[str, ...]
    """Operations run once after loading."""
    notes: tuple[str, ...] = ()
    """What freezing repaired, and how the result was compared."""

    @property
    def sha256(self) -> str:
        """Hash of the graph."""
        return hashlib.sha256(self.data).hexdigest()


def scored_model(bound: BoundModel, constants: Mapping[str, Any]) -> ScoredModel | None:
    """Return the model of a job as it is; None where it has to be frozen first."""
    graph = bound.known.graph
    if graph is None:
        return None
    pairs = tuple(bound.feed.items()), tuple(bound.fetch.items())
    return ScoredModel(graph.data, *pairs, constants, bound.init_ops)


def freeze_on_worker(call: Callable[..., ScoredModel | EngineError], bound: BoundModel, uri: str) -> ScoredModel:
    """Freeze the model of a job in a worker process.

    Args:
        call: calls a function with one argument in a worker process of its own (`Cluster.call`).
        bound: the model.
        uri: where it lies, for every node.

    Raises:
        Mistake: if the model cannot be frozen, or the worker's node does not see it.
        JobFailedError: if the process dies, or no worker was free in time.
    """
    # The graph itself need not travel: the worker reads it where it lies.
    slim = replace(bound, known=replace(bound.known, meta=None))
    try:
        value = call(freeze_here, (slim, uri))
    except WorkerLostError as error:
        path = bound.known.found.given
        raise JobFailedError(
            f"{path} was not frozen: {error}; a process that died may have wanted more memory than its node has"
        ) from error
    if isinstance(value, EngineError):
        raise value
    return value


def freeze_here(given: tuple[BoundModel, str]) -> ScoredModel | EngineError:
    """Freeze the model of a job, which lies at a URI, in this process; returns the reason where that cannot be done."""
    (bound, uri), node = given, socket.gethostname()
    path = bound.known.found.given
    try:
        if is_local(uri) and not os.path.exists(path) and not list(Path(path).parent.glob(Path(path).name + "*")):
            return ClusterError(f"node {node} does not see the model {path}; use a path that all nodes share")
        with local_copy(uri) as copy:
            if read_model(copy).sha256 != bound.known.sha256:
                return ClusterError(
                    f"node {node} sees another model at {path} than the driver; use a path that all share"
                )
            return _freeze(bound, copy)
    except EngineError as error:
        return error
    except Exception as error:  # the boundary: what nobody foresaw becomes a failure with its traceback
        trace = "".join(traceback.format_exception(error))
        return JobFailedError(f"freezing {path}: {type(error).__name__}: {error}\n{trace}")


def _freeze(bound: BoundModel, path: str) -> ScoredModel:
    from engine.model.freezing.freeze import freeze_model

    frozen = freeze_model(path, bound.freeze_options or FreezeOptions())
    inputs = {spec.name for spec in frozen.inputs}
    for name in bound.feed:
        if name not in inputs:
            known = ", ".join(map(str, frozen.inputs)) or "none"
            raise GraphError(f"{path} has no input {name} once it is frozen; its inputs are {known} (--feed)")
    for spec in frozen.inputs:
        if spec.name not in bound.feed:
            raise GraphError(f"{path} needs {spec}, which nothing feeds; type --feed {spec.name}=COLUMN")
    # The outputs come in the order in which they were asked for.
    fetches = tuple(zip([spec.name for spec in frozen.outputs], bound.fetch.values(), strict=True))
    return ScoredModel(
        frozen.data, tuple(bound.feed.items()), fetches, {}, frozen.init_ops, (*frozen.notes, frozen.comparison)
    )
