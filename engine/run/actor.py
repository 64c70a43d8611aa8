"""What runs inside one actor: load the model once, then score shards. Knows nothing of Ray's API.

`engine.run.cluster` wraps `ScoringActor` for Ray. Its methods return errors instead of raising them, so that a
failure crosses as a value of ours with its cause. Start at `ScoringActor`.
"""

import gc
import os
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import engine
from engine.data.ledger import read_plan_id
from engine.data.storage.connecting import forget_clients
from engine.data.storage.opening import open_folder
from engine.errors import (
    ClusterError,
    ConfigError,
    DataError,
    EngineError,
    JobFailedError,
    StorageError,
    WorkerLostError,
)
from engine.model.devices import Device
from engine.model.session import ModelSession, SessionOptions, load_session
from engine.run.attempt import Attempt
from engine.run.memory import peak_bytes
from engine.run.meter import Meter, Unmetered
from engine.run.plan import Shard
from engine.run.shard import Scorer
from engine.run.spec import ScoringSpec, ShardResult
from engine.run.stalls import WAITING, Progress
from engine.run.versions import installed_versions

LOADING = -1
SHARED = "use a path that all nodes share, or a store (s3://...) that all may reach"


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What an actor says once it has loaded the model."""

    node: str
    """Host name."""
    pid: int
    """Process id."""
    devices: tuple[Device, ...]
    """What the session computes on: its GPUs, or the CPU."""
    visible_gpus: str
    """CUDA_VISIBLE_DEVICES as Ray assigned it; empty where all GPUs are hidden."""
    threads: int
    """Threads of the session."""
    schema: pa.Schema
    """Schema of the parts that it would write."""
    seconds: float
    """Seconds to import TensorFlow, load the graph and bind."""
    peak_bytes: int
    """Peak memory of the process after loading."""

    def device_facts(self) -> dict[str, Any]:
        """Return what the summary tells of this actor."""
        facts = {name: getattr(self, name) for name in ("node", "pid", "visible_gpus", "threads")}
        first = self.devices[0]
        return {**facts, "device": first.kind, "device_name": first.name, "device_memory_bytes": first.memory_bytes}


class ScoringActor:
    """Loads one model into its own Graph and Session, and scores shards with it, several at once."""

    def __init__(self, make_meter: Callable[[], Meter] = Unmetered) -> None:
        """Make an actor without a model; `load` comes next. Its meter is made here, in the actor's process."""
        self._meter = make_meter()
        self._scorer: Scorer | None = None
        self._session: ModelSession | None = None
        self._attempts: dict[int, Attempt] = {}
        self._loading = Progress(0, "start")

    def progress(self) -> dict[int, Progress]:
        """Return how far it is, by shard; `LOADING` stands for the loading of the model."""
        self._meter.refresh()
        attempts = list(self._attempts.items())
        turns = Progress(sum(each.progress.marks for _, each in attempts), WAITING)
        found = {
            shard_id: replace(turns, rows=each.rows_tried) if each.is_waiting else each.progress
            for shard_id, each in attempts
        }
        return {LOADING: self._loading} | found

    def cancel(self, shard_id: int) -> None:
        """Give up a shard at the end of its batch, for another actor has done it."""
        attempt = self._attempts.get(shard_id)
        if attempt is not None:
            attempt.is_cancelled = True

    def load(
        self, spec: ScoringSpec, model: npt.NDArray[np.uint8], options: SessionOptions
    ) -> LoadReport | EngineError:
        """Check what only this node can see, load the model and bind it.

        Args:
            spec: the job.
            model: bytes of the GraphDef, shared by the actors of a node.
            options: threads and GPU share.

        Returns:
            A report, or the reason why this actor cannot score.
        """
        started = time.perf_counter()
        try:
            check_node(spec)
            self._loading = Progress(1, "looking at the node")
            pa.set_cpu_count(options.threads)
            # Ray has set the variable where the actor has a share; hiding the rest is the session's.
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if options.gpu_share else ""
            tensors, columns = [name for name, _ in spec.feeds], [name for name, _ in spec.fetches]

            def load(options: SessionOptions) -> ModelSession:
                return load_session(
                    model.data, tensors, columns, spec.constants, spec.init_ops, options, spec.op_libraries
                )

            self._session = load(options)
            self._loading = Progress(2, "loading the graph")
            plain = replace(options, precision="float32", xla=False)
            self._scorer = Scorer(spec, self._session, lambda: load(plain), self._meter)
            self._loading = Progress(3, "scoring the first rows")
            gc.freeze()  # what TensorFlow and Ray have made stays; looking it over again costs 0.1 s of CPU a second
            seconds = time.perf_counter() - started
            self._meter.loaded(seconds, model.nbytes)
            return LoadReport(
                node=socket.gethostname(),
                pid=os.getpid(),
                devices=self._session.devices,
                visible_gpus=visible,
                threads=options.threads,
                schema=self._scorer.schema,
                seconds=seconds,
                peak_bytes=peak_bytes(),
            )
        except ConfigError as error:
            return ConfigError(f"node {socket.gethostname()}: {error}")
        except EngineError as error:
            return error
        except Exception as error:  # the boundary: what nobody foresaw becomes a failure with its traceback
            return _unforeseen("loading the model", error)

    def score(self, shard: Shard) -> ShardResult | EngineError:
        """Score one shard; returns its result, or the reason why it failed."""
        attempt = self._attempts[shard.shard_id] = Attempt()
        try:
            if self._scorer is None:
                return JobFailedError("an actor was given a shard before it had loaded the model")
            return self._scorer.score(shard, attempt)
        except DataError as error:
            return type(error)(f"shard {shard.shard_id}: {error.message}")
        except StorageError as error:
            forget_clients()  # those of stores give up for good one day; the next attempt makes others
            return StorageError(f"shard {shard.shard_id}: {error}")
        except EngineError as error:
            return type(error)(f"shard {shard.shard_id}: {error}")
        except MemoryError as error:  # other shards that are on this actor now may be what takes it
            return WorkerLostError(
                f"shard {shard.shard_id}: no memory is left on node {socket.gethostname()} ({error}); fewer actors a "
                "node, or smaller batches, take less"
            )
        except Exception as error:  # the shard boundary
            return _unforeseen(f"shard {shard.shard_id}", error)
        finally:
            del self._attempts[shard.shard_id]


def check_node(spec: ScoringSpec) -> None:
    """Check what only this node can see: the code, the output folder and the first input.

    Raises:
        ClusterError: naming the node, what it lacks and what to do.
    """
    node = socket.gethostname()
    mine = installed_versions()
    odd = [
        f"{name} {mine.get(name)} where the driver has {want}"
        for name, want in spec.versions.items()
        if mine.get(name) != want
    ]
    if odd:
        raise ClusterError(f"node {node} runs {', '.join(odd)} ({Path(engine.__file__).parent}); install the same lock")
    try:
        folder = open_folder(spec.output)
        found = read_plan_id(folder, spec.generation)
    except (ConfigError, DataError) as error:
        raise ClusterError(f"node {node} does not reach the output folder: {error}") from error
    if found is None:
        raise ClusterError(f"node {node} does not see the output folder {folder.place}; {SHARED}")
    if found != spec.plan_id:
        raise ClusterError(f"{folder.place} was taken over by another job while this one started")
    path = spec.samples[0].path
    try:
        with spec.selection.storage.open(path):
            pass
    except (ConfigError, DataError) as error:
        raise ClusterError(f"node {node} does not see {path} ({error}); {SHARED}") from error


def _unforeseen(where: str, error: Exception) -> EngineError:
    trace = "".join(traceback.format_exception(error))
    return JobFailedError(f"{where}: {type(error).__name__}: {error}\n{trace}")
