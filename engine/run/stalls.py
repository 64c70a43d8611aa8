"""Finds calls to actors that get nowhere: pure, without a clock of its own.

A call that has shown no sign of life for a quarter of the timeout has its actor asked how far it is; a mark that is
another than the last time is a sign. An actor has stalled where none of its calls showed one for the timeout; and where
one of them alone did not for as many timeouts as there are calls, which take turns at one session.

Start at `StallWatch`.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

CHECKS_PER_TIMEOUT = 4
WAITING = "waiting for its turn"
"""The phase of a call that waits for others of its actor, which makes them, not it, the ones that got nowhere."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call to an actor is."""

    marks: int
    """Batches finished and phases ended so far."""
    phase: str
    """The phase that ended last."""
    rows: int = 0
    """Rows that it has given to the graph so far."""


@dataclass(slots=True)
class _Watched:
    """A call that has not returned."""

    since: float
    """When it last showed a sign of life."""
    progress: Progress | None = None
    """How far it was when it was last asked."""


class StallWatch:
    """Watches the calls of one run; no step is worse than O(log n) for each call that is due."""

    def __init__(self, timeout_seconds: float) -> None:
        """Watch for calls without a sign of life for so long."""
        self._timeout = timeout_seconds
        self._every = timeout_seconds / CHECKS_PER_TIMEOUT
        self._calls: dict[int, dict[int, _Watched]] = {}
        self._due: list[tuple[float, int, int]] = []

    def begin(self, worker_id: int, key: int, now: float) -> None:
        """Watch a call: `key` is a shard, or what stands for the loading of the model."""
        self._calls.setdefault(worker_id, {})[key] = _Watched(now)
        heapq.heappush(self._due, (now + self._every, worker_id, key))

    def end(self, worker_id: int, key: int) -> None:
        """Forget a call that has returned."""
        self._calls.get(worker_id, {}).pop(key, None)

    def drop(self, worker_id: int) -> None:
        """Forget a worker."""
        self._calls.pop(worker_id, None)

    def hear(self, worker_id: int, found: Mapping[int, Progress], now: float) -> None:
        """Note how far a worker's calls are."""
        for key, call in self._calls.get(worker_id, {}).items():
            progress = found.get(key)
            if progress is not None and progress != call.progress:
                call.since, call.progress = now, progress

    def check(self, now: float) -> tuple[list[int], list[tuple[int, str]]]:
        """Return the workers to ask how far they are, and those that have stalled with what is to be said of them."""
        to_ask: dict[int, None] = {}
        stalled: dict[int, str] = {}
        while self._due and self._due[0][0] <= now:
            _, worker_id, key = heapq.heappop(self._due)
            call = self._calls.get(worker_id, {}).get(key)
            if call is None:
                continue
            calls = self._calls[worker_id].values()
            is_idle = now - max(each.since for each in calls) >= self._timeout
            if is_idle or now - call.since >= self._timeout * len(calls):
                key, call = self._find_stuck(worker_id, key)
                stalled[worker_id] = self._describe(key, call, now - call.since)
                continue
            to_ask[worker_id] = None
            heapq.heappush(self._due, (now + self._every, worker_id, key))
        return [each for each in to_ask if each not in stalled], list(stalled.items())

    def _find_stuck(self, worker_id: int, key: int) -> tuple[int, _Watched]:
        """Return the call that others wait for: the longest without a sign among those that do not wait; else `key`."""
        calls = self._calls[worker_id]
        stuck = [each for each, call in calls.items() if call.progress is None or call.progress.phase != WAITING]
        found = min(stuck, key=lambda each: calls[each].since, default=key)
        return found, calls[found]

    def _describe(self, key: int, call: _Watched, seconds: float) -> str:
        what = "loading the model" if key < 0 else f"shard {key}"
        last = f"the last was {call.progress.phase!r}" if call.progress else "it does not even answer"
        return f"stalled: {what} finished no batch and changed no phase for {seconds:.0f} s; {last}"
