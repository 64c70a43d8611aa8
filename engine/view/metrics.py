"""What a job tells Prometheus, through the metrics that Ray collects on every node.

Ray 2.60 puts `ray_` before a name and `_total` behind that of a counter. A record costs 1.2 to 1.6 us and adds up in
the process, from which Ray sends it every 10 s, and when the process ends in order. Whatever fails here is logged and
fails nothing else. Start at `ActorMetrics`, of which each actor has one, and `DriverMetrics`.
"""

import functools
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

from engine.data.faults import Array
from engine.data.status import RunStatus
from engine.data.storage.places import place_of

if TYPE_CHECKING:
    from engine.run.attempt import Attempt
    from engine.run.batches import Call
    from engine.run.plan import Shard
    from engine.run.spec import ShardResult

LOG = logging.getLogger(__name__)
MAX_TAG = 48
LATENCIES = [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
"""Upper ends of the buckets of a batch's latency, in seconds."""
# A slice has some 64 batches and more. At 25 slices a second, as many as a small graph gets of one core, these are 200
# records, and with the others of a slice 500: 0.7 ms of a second.
SAMPLED_BATCHES = 8
ACTOR_COUNTERS = {
    "icefloe_rows_total": "Rows scored, those of attempts that fail later too",
    "icefloe_quarantined_rows_total": "Rows set aside because they are bad",
    "icefloe_filtered_rows_total": "Rows left out by a condition",
    "icefloe_read_seconds_total": "Seconds of shards spent reading and decoding",
    "icefloe_wait_seconds_total": "Seconds of shards spent waiting for a turn at the CPU",
    "icefloe_convert_seconds_total": "Seconds of shards spent converting columns to tensors",
    "icefloe_session_seconds_total": "Seconds of shards spent in the session",
    "icefloe_write_seconds_total": "Seconds of shards spent encoding and writing",
    "icefloe_batches_total": "Calls of the graph",
    "icefloe_batches_split_total": "Batches that the graph refused as a whole",
    "icefloe_batches_halved_total": "Batches halved because the device ran out of memory",
    "icefloe_shards_total": "Shards done",
    "icefloe_input_bytes_total": "Bytes of input files, of shards that are done",
}
DRIVER_COUNTERS = {
    "icefloe_actors_lost_total": "Actors lost",
    "icefloe_retries_total": "Shards handed out again after a failure or a loss",
}


def model_tag(uri: str) -> str:
    """Return what stands for a model in a tag: the last name of its path, cut, odd characters replaced."""
    name = place_of(uri).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:MAX_TAG] or "model"


def make_actor_metrics(model: str) -> "Callable[[], ActorMetrics]":
    """Return what makes an actor's metrics inside it, for the model at `model`; it can be sent there."""
    return functools.partial(ActorMetrics, model_tag(model))


def _make_counters(names: dict[str, str], tags: dict[str, str]) -> dict[str, Counter]:
    return {name: Counter(name, text, tuple(tags)).set_default_tags(tags) for name, text in names.items()}


def _add(counter: Counter, value: float) -> None:
    """Add what there is; Ray raises for nothing, and for numpy's numbers."""
    if value > 0:
        counter.inc(float(value))


class _Telling:
    """Whoever tells Ray something."""

    _has_failed = False

    def _note_failure(self) -> None:
        """Log the error that is being handled, if it is the first: one that comes once a slice would come for ever."""
        if not self._has_failed:
            self._has_failed = True
            LOG.warning("metrics could not be told, and may be incomplete from here on", exc_info=True)


Teller = TypeVar("Teller", bound=_Telling)
P = ParamSpec("P")


def _never_raises(tell: Callable[Concatenate[Teller, P], None]) -> Callable[Concatenate[Teller, P], None]:
    """Let a failure to tell something fail nothing else: no shard is lost for a number that nobody may look at."""

    @functools.wraps(tell)
    def told(self: Teller, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            tell(self, *args, **kwargs)
        except Exception:
            self._note_failure()

    return told


class ActorMetrics(_Telling):
    """What one actor does, told slice by slice and shard by shard: the `Meter` that tells Ray."""

    def __init__(self, model: str) -> None:
        """Make the metrics of this process, tagged with the `model_tag` of its model."""
        tags = {"model": model}
        self._counters = _make_counters(ACTOR_COUNTERS, tags)
        self._latency = Histogram(
            "icefloe_batch_latency_seconds",
            "Seconds of a call of the graph, of a sample of them",
            LATENCIES,
            ("model",),
        ).set_default_tags(tags)
        self._load_seconds = Gauge("icefloe_model_load_seconds", "Seconds that an actor took to load", ("model",))
        self._model_bytes = Gauge("icefloe_model_bytes", "Bytes of the graph", ("model",))
        for gauge in (self._load_seconds, self._model_bytes):
            gauge.set_default_tags(tags)
        self._loaded: tuple[float, int] | None = None
        self._calls: deque[float] = deque()
        self._lock = threading.Lock()
        self._num_halved = 0

    @_never_raises
    def loaded(self, seconds: float, model_bytes: int) -> None:
        """Tell how long loading took, and how large the graph is."""
        self._loaded = seconds, model_bytes
        self.refresh()

    @_never_raises
    def refresh(self) -> None:
        """Tell again what does not change: Ray forgets a gauge that was not set for 20 s."""
        if self._loaded is not None:
            self._load_seconds.set(self._loaded[0])
            self._model_bytes.set(self._loaded[1])

    def timed(self, call: "Call") -> "Call":
        """Return what scores a batch as `call` does; how long that took is told with the next slice."""

        def timed_call(arrays: Sequence[Array]) -> list[Array]:
            started = time.perf_counter()
            try:
                return call(arrays)
            finally:
                self._calls.append(time.perf_counter() - started)

        return timed_call

    @_never_raises
    def slice(self, attempt: "Attempt", num_bad: int) -> None:
        """Tell what a shard has done since its last slice."""
        done = {
            "icefloe_rows_total": attempt.rows,
            "icefloe_quarantined_rows_total": num_bad,
            "icefloe_filtered_rows_total": attempt.rows_filtered,
            "icefloe_batches_split_total": attempt.batches_split,
            "icefloe_read_seconds_total": attempt.seconds["read"],
            "icefloe_wait_seconds_total": attempt.seconds["wait"],
            "icefloe_convert_seconds_total": attempt.seconds["bind"],
            "icefloe_session_seconds_total": attempt.seconds["session"],
            "icefloe_write_seconds_total": attempt.seconds["write"],
        }
        before, attempt.metered = attempt.metered, done
        for name, value in done.items():
            _add(self._counters[name], value - before.get(name, 0))
        self._tell_calls()

    @_never_raises
    def shard(self, shard: "Shard", attempt: "Attempt", result: "ShardResult") -> None:
        """Tell the rest of a shard, which is done."""
        self.slice(attempt, result.facts.counts.rows_quarantined)
        _add(self._counters["icefloe_shards_total"], 1)
        _add(self._counters["icefloe_input_bytes_total"], shard.num_bytes)
        with self._lock:
            _add(self._counters["icefloe_batches_halved_total"], result.batches_halved - self._num_halved)
            self._num_halved = max(self._num_halved, result.batches_halved)

    def _tell_calls(self) -> None:
        with self._lock:  # shards tell side by side
            seconds = [self._calls.popleft() for _ in range(len(self._calls))]
        _add(self._counters["icefloe_batches_total"], len(seconds))
        for each in seconds[:: max(1, -(-len(seconds) // SAMPLED_BATCHES))]:
            self._latency.observe(each)


class DriverMetrics(_Telling):
    """How far a run is, as its driver knows it."""

    def __init__(self, model: str) -> None:
        """Make the metrics of a run, for the model at the path or URI `model`."""
        tags = {"model": model_tag(model)}
        self._counters = _make_counters(DRIVER_COUNTERS, tags)
        self._told = dict.fromkeys(DRIVER_COUNTERS, 0)
        self._actors = Gauge("icefloe_actors", "Actors by state", ("model", "state")).set_default_tags(tags)
        self._shards_left = Gauge("icefloe_shards_left", "Shards not done yet", ("model",)).set_default_tags(tags)

    @_never_raises
    def update(self, status: RunStatus) -> None:
        """Tell how far the run is; to be called again within 20 s, or Ray forgets the gauges."""
        for state in ("asked", "loading", "working", "idle"):
            self._actors.set(getattr(status, f"actors_{state}"), {"state": state})
        self._shards_left.set(status.shards - status.shards_done)
        done = {"icefloe_actors_lost_total": status.actors_lost, "icefloe_retries_total": status.retries}
        for name, value in done.items():
            _add(self._counters[name], value - self._told[name])
        self._told = done
