"""Who may compute: as many shards of an actor at once as it has CPUs, while the others wait for storage.

More threads than CPUs decode, score and encode no faster, but push each other out of the caches, wait for each other's
GIL, and hold the buffers of a reader and a writer each. A turn is a courtesy, no lock: where those that have one get
nowhere, because a disk is slow or a graph hangs, the others go on without. Start at `Turns`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from engine.run.attempt import Attempt

# Batches of 256 KiB of input take a tenth of a second even where ResNet50 scores them on one core.
PATIENCE_SECONDS = 2.0


class Turns:
    """Turns at an actor's CPUs; a shard has one from its first slice to its last, but while it waits for storage."""

    def __init__(self, num_turns: int | None) -> None:
        """Give so many turns at once; None for no bound, where the work is a GPU's."""
        self._free = None if num_turns is None else threading.Semaphore(num_turns)
        self._holders: dict[int, Attempt] = {}

    @contextlib.contextmanager
    def taken(self, attempt: Attempt, meanwhile: Callable[[], None]) -> Iterator[None]:
        """Have a turn inside; where it has to be waited for, do `meanwhile` first."""
        self._take(attempt, meanwhile)
        try:
            yield
        finally:
            self._give(attempt)

    @contextlib.contextmanager
    def given_up(self, attempt: Attempt, phase: str) -> Iterator[None]:
        """Let another have the turn that was taken, while this one is in `phase`, which needs none."""
        self._give(attempt)
        try:
            yield
        finally:
            attempt.charge(phase)
            self._take(attempt, lambda: None)

    def _take(self, attempt: Attempt, meanwhile: Callable[[], None]) -> None:
        if self._free is None:
            return
        if not self._free.acquire(blocking=False):
            meanwhile()
            with attempt.waiting():
                if not self._wait(self._free):
                    return
        self._holders[id(attempt)] = attempt

    def _wait(self, free: threading.Semaphore) -> bool:
        """Wait for a turn, as long as those that have one get somewhere; return whether there was one."""
        while True:
            before = self._progress()
            if free.acquire(timeout=PATIENCE_SECONDS):
                return True
            if self._progress() == before:
                return False

    def _progress(self) -> list[tuple[int, int]]:
        return [(key, each.progress.marks) for key, each in list(self._holders.items())]

    def _give(self, attempt: Attempt) -> None:
        if self._free is not None and self._holders.pop(id(attempt), None) is not None:
            self._free.release()
