"""How many workers to hold, when to replace those that were lost, and where not: pure, without a clock of its own.

Start at `Staffing.adjust`.
"""

import heapq
import math
from dataclasses import dataclass

from engine.run.scheduling.events import Action, Notice, StartWorker, StopWorker
from engine.run.scheduling.fleet import SHARDS_PER_WORKER, Fleet, Worker, backoff_seconds
from engine.run.scheduling.nodes import NodeRecords

# Idle workers that are kept at the end for stragglers and losses, for each shard that is left.
SPARE_SHARE = 0.25
# When many nodes go bad within a few seconds, those that wait for a place are asked for anew once, not for each.
MOVE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """How many workers a run may hold."""

    min_workers: int
    """Workers that are asked for as long as there is a shard for each, and some spare ones."""
    max_workers: int
    """Workers that are asked for where each of them has several shards to do."""

    def wanted(self, num_left: int) -> int:
        """Return how many workers to hold while so many shards are left."""
        return min(self.kept(num_left), max(self.min_workers, math.ceil(num_left / SHARDS_PER_WORKER)))

    def kept(self, num_left: int) -> int:
        """Return how many workers to keep at most while so many shards are left, spare ones included."""
        return min(self.max_workers, num_left + math.ceil(num_left * SPARE_SHARE))


class Staffing:
    """Starts and stops the workers of a fleet; a worker that is lost has its place taken by another, after a while."""

    def __init__(self, fleet: Fleet, limits: PoolLimits) -> None:
        """Take the fleet, which is filled and emptied here."""
        self._fleet = fleet
        self._limits = limits
        self._nodes = NodeRecords()
        self._avoided: tuple[str, ...] = ()
        self._moved_to: tuple[str, ...] | None = ()
        self._last_move = -math.inf
        self._restarts: list[tuple[float, int, int]] = []

    def see_nodes(self, node_ids: frozenset[str]) -> None:
        """Note which nodes there are."""
        self._nodes.see(node_ids)

    @property
    def has_other_nodes(self) -> bool:
        """Whether there are nodes on which no worker has failed to load."""
        return self._nodes.has_others

    def praise(self, worker: Worker) -> None:
        """Note that a worker has done a shard: nothing is held against it and its node any more."""
        worker.failures = worker.losses = 0
        self._nodes.praise(worker.node_id)

    def lose(self, worker: Worker, now: float) -> list[Action]:
        """Note that a worker was lost; the first is replaced at once, more in its place later each time."""
        losses = worker.losses + 1
        losses_loading = 0 if worker.is_ready else worker.losses_loading + 1
        delay = 0.0 if losses == 1 else backoff_seconds(losses - 1)
        heapq.heappush(self._restarts, (now + delay, losses, losses_loading))
        if self._nodes.blame(worker.node_id, now):
            return [Notice(f"node {worker.node_id} keeps losing actors: others are used for a while, if there are any")]
        return []

    def bar(self, worker: Worker, now: float) -> None:
        """Keep away from the node of a worker that could not load there; another is asked for elsewhere."""
        self._nodes.bar(worker.node_id)
        losses = worker.losses + 1
        heapq.heappush(self._restarts, (now + backoff_seconds(losses), losses, worker.losses_loading))

    def adjust(self, num_left: int, has_waiting: bool, now: float) -> list[Action]:
        """Start and stop workers as fits the work.

        Args:
            num_left: shards that are neither done nor set aside.
            has_waiting: whether some of them wait for a worker.
            now: seconds of the clock.
        """
        return [*self._move(now), *self._start(num_left, now), *self._stop(num_left, has_waiting)]

    def _move(self, now: float) -> list[Action]:
        """Ask anew for workers without a place where the nodes to keep away from are others by now."""
        self._avoided = avoided = self._nodes.avoided(now)
        if avoided == self._moved_to or now < self._last_move + MOVE_SECONDS:
            return []
        self._moved_to, self._last_move = avoided, now
        stale = [each for each in self._fleet.asked if self._fleet.avoid_nodes(each) != avoided]
        for worker_id in stale:
            worker = self._fleet.remove(worker_id)
            if worker is not None:
                heapq.heappush(self._restarts, (now, worker.losses, worker.losses_loading))
        return [StopWorker(worker_id) for worker_id in stale]

    def _start(self, num_left: int, now: float) -> list[Action]:
        actions: list[Action] = []
        if self._avoided != self._moved_to:
            self._moved_to = None  # some may be asked for by the new rule, others by the old: all are looked at later
        wanted = self._limits.wanted(num_left)
        while len(self._fleet) < wanted:
            losses = losses_loading = 0
            if self._restarts and (self._restarts[0][0] <= now or len(self._fleet) + len(self._restarts) >= wanted):
                if self._restarts[0][0] > now:
                    break
                _, losses, losses_loading = heapq.heappop(self._restarts)
            worker = self._fleet.ask(losses, losses_loading, self._avoided)
            actions.append(StartWorker(worker.worker_id, self._avoided))
        return actions

    def _stop(self, num_left: int, has_waiting: bool) -> list[Action]:
        """Give back what finds no work any more: what has no place yet first, then what loads, then what is idle."""
        actions: list[Action] = []
        kept = self._limits.kept(num_left)
        while self._restarts and len(self._restarts) + len(self._fleet) > kept:
            self._restarts.pop()  # the last of a heap: the others stay one
        while len(self._fleet) > kept:
            others = self._fleet.loading or ({} if has_waiting else self._fleet.idle)
            chosen = next(reversed(self._fleet.asked or others), None)
            if chosen is None:
                break
            self._fleet.remove(chosen)
            actions.append(StopWorker(chosen))
        return actions
