"""The workers of a run: where each is in its life, and what it has in flight.

Pure, without a clock of its own; no step is worse than O(log n). Start at `Fleet`.
"""

import heapq
import math
from collections import OrderedDict
from dataclasses import dataclass, field

# Three let one shard be read while another is scored and a third written.
SHARDS_PER_WORKER = 3
FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 60.0
# One failure says something of the shard, three in a row of the worker.
FAILURES_BEFORE_REST = 3


def backoff_seconds(times: int) -> float:
    """Return how long to wait after something has failed so many times: a second, doubled each time, up to a minute."""
    return min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(times - 1, 10))


@dataclass(slots=True)
class Worker:
    """One actor: asked for, then placed on a node and loading, then ready."""

    worker_id: int
    losses: int
    """Workers in a row that were lost in its place before it, and no shard done in between."""
    losses_loading: int
    """Those of them, the last ones in a row, that were lost before they had loaded the model."""
    avoid_nodes: tuple[str, ...] = ()
    """Nodes that it was told to keep away from."""
    node_id: str = ""
    """Its node; empty until it has one."""
    is_ready: bool = False
    """Whether it has loaded the model."""
    failures: int = 0
    """Attempts in a row that failed on it."""
    rests_until: float = 0.0
    """When it may be given shards again; 0 where it does not rest."""
    is_alone: bool = False
    """Whether it has a shard that must have no company."""
    load: set[int] = field(default_factory=set)
    """Shards in flight on it; those that were cancelled too, until it is heard of them."""


class Fleet:
    """The workers that are held."""

    def __init__(self) -> None:
        """Start with none."""
        self._workers: dict[int, Worker] = {}
        self._newcomers: set[int] = set()
        # Not plain dicts: to look for the first of one steps over all that were taken from before it.
        self._open: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(SHARDS_PER_WORKER)]
        self._resting: list[tuple[float, int]] = []
        self._num_resting = 0
        self._next_worker_id = 0
        self._draining: int | None = None
        self.asked: OrderedDict[int, None] = OrderedDict()
        """Workers asked for that have no place yet, in that order."""
        self.loading: OrderedDict[int, None] = OrderedDict()
        """Workers that have a place and load the model, in that order."""
        self.num_ready = 0
        """Workers that have loaded the model."""

    def __len__(self) -> int:
        """Return how many are asked for, loading and ready."""
        return len(self._workers)

    def __contains__(self, worker_id: int) -> bool:
        """Return whether a worker is held."""
        return worker_id in self._workers

    @property
    def idle(self) -> dict[int, None]:
        """Ready workers that have nothing to do and need no rest."""
        return self._open[0]

    @property
    def is_hopeful(self) -> bool:
        """Whether a worker is ready, or one is loading in whose place none was lost before."""
        return bool(self.num_ready or self._newcomers)

    def is_ready(self, worker_id: int) -> bool:
        """Whether a worker is held and has loaded the model."""
        return worker_id in self._workers and self._workers[worker_id].is_ready

    def avoid_nodes(self, worker_id: int) -> tuple[str, ...]:
        """Return the nodes that a worker was told to keep away from."""
        return self._workers[worker_id].avoid_nodes

    def ask(self, losses: int, losses_loading: int, avoid_nodes: tuple[str, ...]) -> Worker:
        """Add a worker that is asked for now, in whose place so many were lost before."""
        worker = Worker(self._next_worker_id, losses, losses_loading, avoid_nodes)
        self._next_worker_id += 1
        self._workers[worker.worker_id] = worker
        self.asked[worker.worker_id] = None
        return worker

    def place(self, worker_id: int, node_id: str) -> None:
        """Note where a worker is that was asked for."""
        if worker_id not in self.asked:
            return
        del self.asked[worker_id]
        self.loading[worker_id] = None
        worker = self._workers[worker_id]
        worker.node_id = node_id
        if not worker.losses:
            self._newcomers.add(worker_id)

    def make_ready(self, worker_id: int) -> bool:
        """Open a worker that has loaded the model; returns whether there is such a one."""
        worker = self._workers.get(worker_id)
        if worker is None or worker.is_ready:
            return False
        self._leave_loading(worker_id)
        worker.is_ready = True
        worker.losses_loading = 0
        self.num_ready += 1
        self._open_up(worker)
        return True

    def remove(self, worker_id: int) -> Worker | None:
        """Take a worker out, for good; returns it if it was there."""
        worker = self._workers.pop(worker_id, None)
        if worker is None:
            return None
        self._leave_loading(worker_id)
        if worker.is_ready:
            self.num_ready -= 1
            self._num_resting -= bool(worker.rests_until)
            self._close(worker)
        return worker

    def fair_share(self, num_left: int) -> int:
        """Return how many shards to give a worker at most: no more than leaves the others theirs, where few are left.

        Those that load count: they have a place, and want shards soon.
        """
        return min(SHARDS_PER_WORKER, max(1, math.ceil(num_left / max(1, self.num_ready + len(self.loading)))))

    def choose(self, avoid: set[int], most: int) -> int | None:
        """Return the open worker with the least to do.

        Args:
            avoid: workers to pass over as long as there are other ready ones.
            most: shards that it may have with this one; 1 for one with nothing to do.
        """
        levels = self._open[:most]
        found = next((each for level in levels for each in level if each not in avoid), None)
        if found is None and avoid:
            num_avoided = sum(1 for each in avoid if each in self._workers)
            if num_avoided == self.num_ready:
                found = next((each for level in levels for each in level), None)
        return found

    def drain(self, is_wanted: bool) -> None:
        """Let a worker run empty for a shard that must have no company, where none is idle and none loads."""
        if is_wanted and self._draining not in self._workers and not self.idle and not self.loading:
            self._draining = next((each for level in self._open for each in level), None)
            if self._draining is not None:
                self._close(self._workers[self._draining])
        elif not is_wanted and self._draining is not None:
            worker, self._draining = self._workers.get(self._draining), None
            if worker is not None and worker.is_ready:
                self._close(worker)
                self._open_up(worker)

    def give(self, worker_id: int, shard_id: int, is_alone: bool) -> None:
        """Note that a worker has a shard now."""
        worker = self._workers[worker_id]
        self._close(worker)
        worker.load.add(shard_id)
        worker.is_alone = is_alone
        self._open_up(worker)

    def take_back(self, worker_id: int, shard_id: int) -> Worker | None:
        """Note that a worker's attempt has ended; returns the worker if it really had the shard."""
        worker = self._workers.get(worker_id)
        if worker is None or shard_id not in worker.load:
            return None
        self._close(worker)
        worker.load.remove(shard_id)
        worker.is_alone = False
        self._open_up(worker)
        return worker

    def blame(self, worker: Worker, now: float) -> None:
        """Note that an attempt failed on a worker; after several in a row it rests for a while.

        One always stays awake: where all fail alike, the run is to end, and soon.
        """
        worker.failures += 1
        is_resting = bool(worker.rests_until)
        if worker.failures >= FAILURES_BEFORE_REST and (is_resting or self.num_ready - self._num_resting > 1):
            self._num_resting += not is_resting
            self._close(worker)
            worker.rests_until = now + backoff_seconds(worker.failures - FAILURES_BEFORE_REST + 1)
            heapq.heappush(self._resting, (worker.rests_until, worker.worker_id))

    def wake(self, now: float) -> None:
        """Open the workers whose rest is over."""
        while self._resting and self._resting[0][0] <= now:
            worker = self._workers.get(heapq.heappop(self._resting)[1])
            if worker is not None and worker.rests_until <= now:
                worker.rests_until = 0.0
                self._num_resting -= 1
                self._close(worker)
                self._open_up(worker)

    def _open_up(self, worker: Worker) -> None:
        is_draining = worker.worker_id == self._draining and bool(worker.load)
        if not worker.is_alone and not worker.rests_until and not is_draining and len(worker.load) < SHARDS_PER_WORKER:
            self._open[len(worker.load)][worker.worker_id] = None

    def _close(self, worker: Worker) -> None:
        for level in self._open:
            level.pop(worker.worker_id, None)

    def _leave_loading(self, worker_id: int) -> None:
        self.asked.pop(worker_id, None)
        self.loading.pop(worker_id, None)
        self._newcomers.discard(worker_id)
