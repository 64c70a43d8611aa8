"""What actors wait for, put into words: pure, without a clock of its own. Start at `PlaceWatch.check`."""

from collections.abc import Sequence

from engine.errors import ClusterError
from engine.run.pool import NodeSize, PoolSize, describe_demand

NOTICE_SECONDS = 15.0
# Ray's own processes end a minute after their head has gone.
SILENCE_SECONDS = 15.0
# A cluster's autoscaler takes minutes to add a GPU node; ten without one actor that has a place is a failure.
PLACE_SECONDS = 600.0


class PlaceWatch:
    """Says what was asked for, what the cluster has and how long is waited, and when there is no use in waiting."""

    def __init__(self, size: PoolSize, now: float) -> None:
        """Begin to wait for a pool of this size."""
        self._size = size
        self._nodes: Sequence[NodeSize] = ()
        self._free = "nothing that is known"
        self._seen = self._placeless_since = now
        self._waiting_since: float | None = None
        self._next_notice, self._next_silence = NOTICE_SECONDS, SILENCE_SECONDS

    def see(self, nodes: Sequence[NodeSize], free: str, now: float) -> None:
        """Note what the cluster has, and what of it is free."""
        self._nodes, self._free, self._seen = nodes, free, now
        self._next_silence = SILENCE_SECONDS

    def check(self, now: float, num_asked: int, num_held: int, num_ready: int, last_loss: str) -> str:
        """Return what a person would want to know now; mostly nothing.

        Args:
            now: seconds of the clock.
            num_asked: actors that have no place yet.
            num_held: these, and those that load or are ready.
            num_ready: actors that have loaded the model.
            last_loss: why the last actor was lost; empty where none was.

        Raises:
            ClusterError: if no actor had a place for so long that none is to be expected.
        """
        if num_held > num_asked:  # one that loads has a deadline of its own
            self._placeless_since = now
        elif now - self._placeless_since > PLACE_SECONDS:
            lost = f"; before that, actors were lost: {last_loss}" if last_loss else ""
            raise ClusterError(f"no actor got a place within {PLACE_SECONDS:.0f} s: {self._demand()}{lost}")
        if now - self._seen >= self._next_silence:
            self._next_silence *= 4
            return f"the cluster's head has not answered for {now - self._seen:.0f} s; without it, the job will end"
        if not num_asked:
            self._waiting_since, self._next_notice = None, NOTICE_SECONDS
            return ""
        if self._waiting_since is None:
            self._waiting_since = now
        waited = now - self._waiting_since
        if waited < self._next_notice:
            return ""
        self._next_notice *= 4
        then = "the others go on meanwhile" if num_ready else f"given up after {PLACE_SECONDS:.0f} s"
        return f"{num_asked} of {num_held} actors wait for a place for {waited:.0f} s: {self._demand()}; {then}"

    def _demand(self) -> str:
        return describe_demand(self._size, self._nodes, self._free)
