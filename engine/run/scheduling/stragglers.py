"""Which attempts are stragglers: pure, without a clock of its own. Start at `Stragglers`."""

import bisect
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping

from engine.run.scheduling.backlog import LOOK_AHEAD, Trial

# Twice the usual time, and no mere blink.
FACTOR = 2.0
FLOOR_SECONDS = 5.0
MIN_KNOWN, MAX_KNOWN = 3, 101
# Attempts that may stay noted although they have ended, beside as many as go on.
MAX_ENDED = 1024


class Durations:
    """How long attempts that were done have taken of late."""

    def __init__(self) -> None:
        """Start without any."""
        self._window: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """Count an attempt; the oldest of many is forgotten."""
        if len(self._window) == MAX_KNOWN:
            del self._sorted[bisect.bisect_left(self._sorted, self._window.popleft())]
        self._window.append(seconds)
        bisect.insort(self._sorted, seconds)

    @property
    def straggler_seconds(self) -> float:
        """Seconds after which an attempt is a straggler: twice the median; infinity where too little is known."""
        if len(self._sorted) < MIN_KNOWN:
            return math.inf
        return max(FLOOR_SECONDS, FACTOR * self._sorted[len(self._sorted) // 2])


class Stragglers:
    """The attempts that go on alone at their shards, the oldest first."""

    def __init__(self, trials: Mapping[int, Trial]) -> None:
        """Take the shards that are being tried, which change all the time."""
        self._trials = trials
        self._single: list[tuple[float, int]] = []
        self.durations = Durations()
        """How long attempts have taken."""

    def watch(self, trial: Trial) -> None:
        """Note a shard that has one attempt, by when it began; forget those that are done once they are most."""
        for since in trial.runners.values():
            heapq.heappush(self._single, (since, trial.shard_id))
        if len(self._single) > 2 * len(self._trials) + MAX_ENDED:
            self._single = [each for each in self._single if each[1] in self._trials]
            heapq.heapify(self._single)

    def take(self, now: float, choose: Callable[[Trial], int | None]) -> Iterator[tuple[Trial, int]]:
        """Give shards whose only attempt is a straggler, and the worker for a second one.

        Args:
            now: seconds of the clock.
            choose: returns the worker for a shard, or None where none may take it now.
        """
        passed: list[tuple[float, int]] = []
        while self._single and len(passed) < LOOK_AHEAD:
            since, shard_id = self._single[0]
            trial = self._trials.get(shard_id)
            is_single = trial is not None and not trial.is_suspect and list(trial.runners.values()) == [since]
            if is_single and now - since < self.durations.straggler_seconds:
                break
            heapq.heappop(self._single)  # also where it is done, has a second attempt, or must be alone
            if trial is None or not is_single:
                continue
            worker_id = choose(trial)
            if worker_id is None:
                passed.append((since, shard_id))
            else:
                yield trial, worker_id
        for each in passed:
            heapq.heappush(self._single, each)
