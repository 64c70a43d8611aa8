"""The shards that wait, and which of them is next: pure, without a clock of its own.

Shards that were in flight on a lost worker (suspects) come first and want a worker for themselves; then those to be
tried again; then those that were never tried, in the order of the plan. No step is worse than O(log n). Start at
`Backlog`.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# Shards to be tried again that no open worker may take are passed over, so many at a time.
LOOK_AHEAD = 8


@dataclass(slots=True)
class Trial:
    """What is known of one shard that has been tried and is not done."""

    shard_id: int
    attempts: int = 0
    """Attempts so far."""
    failures: int = 0
    """Attempts that failed on a living worker."""
    losses_alone: int = 0
    """Workers that were lost while they had this shard alone."""
    is_suspect: bool = False
    """Whether it was in flight on a lost worker, and so runs alone."""
    avoid: set[int] = field(default_factory=set)
    """Workers that it failed on."""
    runners: dict[int, float] = field(default_factory=dict)
    """Workers that have it now, and since when."""


class Backlog:
    """The shards that wait."""

    def __init__(self, shard_ids: Iterable[int]) -> None:
        """Take the shards in the order in which they are to be tried."""
        self._fresh = deque(shard_ids)
        self._again: deque[Trial] = deque()
        self._suspects: deque[Trial] = deque()
        self._later: list[tuple[float, int, Trial]] = []

    @property
    def num_fresh(self) -> int:
        """Shards that were never tried."""
        return len(self._fresh)

    @property
    def has_suspects(self) -> bool:
        """Whether shards wait that must have no company."""
        return bool(self._suspects)

    @property
    def is_empty(self) -> bool:
        """Whether no shard could be given out now."""
        return not (self._fresh or self._again or self._suspects)

    def put(self, trial: Trial, not_before: float) -> None:
        """Put back a shard, which is not to be tried again before a time."""
        heapq.heappush(self._later, (not_before, trial.shard_id, trial))

    def wake(self, now: float) -> None:
        """Let the shards wait no longer whose time has come."""
        while self._later and self._later[0][0] <= now:
            trial = heapq.heappop(self._later)[2]
            (self._suspects if trial.is_suspect else self._again).append(trial)

    def take(self, choose: Callable[[Trial], int | None]) -> tuple[Trial, int] | None:
        """Take the next shard that a worker can be found for.

        Args:
            choose: returns the worker for a shard, or None where none may take it now.

        Returns:
            The shard and the worker, or None where nothing can be given out now.
        """
        for queue in (self._suspects, self._again):
            for _ in range(min(len(queue), LOOK_AHEAD)):
                worker_id = choose(queue[0])
                if worker_id is not None:
                    return queue.popleft(), worker_id
                queue.rotate(-1)
        if self._fresh:
            trial = Trial(self._fresh[0])
            worker_id = choose(trial)
            if worker_id is not None:
                self._fresh.popleft()
                return trial, worker_id
        return None
