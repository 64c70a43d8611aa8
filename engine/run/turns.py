"""Who may compute: as many shards of an actor at once as it has CPUs, while the others wait for storage.

More threads than CPUs decode, score and encode no faster, but push each other out of the caches, wait for each other's
GIL, and hold the buffers of a reader and a writer each. Start at `Turns`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

from engine.run.attempt import Attempt


class Turns:
    """Turns at an actor's CPUs; a shard has one from its first slice to its last, but while it waits for storage."""

    def __init__(self, num_turns: int | None) -> None:
        """Give so many turns at once; None for no bound, where the work is a GPU's."""
        self._free = None if num_turns is None else threading.Semaphore(num_turns)

    @contextlib.contextmanager
    def taken(self, attempt: Attempt, meanwhile: Callable[[], None]) -> Iterator[None]:
        """Have a turn inside; where it has to be waited for, do `meanwhile` first."""
        if self._free is not None and not self._free.acquire(blocking=False):
            meanwhile()
            with attempt.waiting():
                self._free.acquire()
        try:
            yield
        finally:
            self._give()

    @contextlib.contextmanager
    def given_up(self, attempt: Attempt, phase: str) -> Iterator[None]:
        """Let another have the turn that was taken, while this one is in `phase`, which needs none."""
        self._give()
        try:
            yield
        finally:
            attempt.charge(phase)
            if self._free is not None and not self._free.acquire(blocking=False):
                with attempt.waiting():
                    self._free.acquire()

    def _give(self) -> None:
        if self._free is not None:
            self._free.release()
