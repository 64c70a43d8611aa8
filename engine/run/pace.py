"""How fast rows and bytes go by just now: pure, without a clock of its own. Start at `Pace`."""

from collections import deque

# As long as anybody waits for a figure to settle.
WINDOW_SECONDS, SAMPLE_SECONDS = 30.0, 1.0


class Pace:
    """Rates over a window of time that moves along."""

    def __init__(self) -> None:
        """Begin without a sample."""
        self._samples: deque[tuple[float, int, int]] = deque()

    def begin(self, now: float) -> None:
        """Count from `now` on, unless it was begun before."""
        if not self._samples:
            self._samples.append((now, 0, 0))

    def rates(self, now: float, rows: int, num_bytes: int) -> tuple[float, float]:
        """Return rows and bytes per second in the window that ends now, when there are so many; 0 before it began."""
        if not self._samples:
            return 0.0, 0.0
        if now - self._samples[-1][0] >= SAMPLE_SECONDS:
            self._samples.append((now, rows, num_bytes))
        while len(self._samples) > 1 and now - self._samples[1][0] >= WINDOW_SECONDS:
            self._samples.popleft()
        since, rows_then, bytes_then = self._samples[0]
        seconds = now - since
        if seconds <= 0:
            return 0.0, 0.0
        return max(0.0, (rows - rows_then) / seconds), max(0.0, (num_bytes - bytes_then) / seconds)
