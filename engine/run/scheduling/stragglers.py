"""From when on an attempt is a straggler: pure. Start at `Durations`."""

import bisect
import math
from collections import deque

# Twice the usual time, and no mere blink.
FACTOR = 2.0
FLOOR_SECONDS = 5.0
MIN_KNOWN, MAX_KNOWN = 3, 101


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
