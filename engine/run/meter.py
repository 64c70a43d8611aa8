"""What an actor tells whoever counts what it does; here it is told to nobody.

`engine.view.metrics` has the one that tells Ray. It is made inside the actor, and told per slice or per shard,
never per row. Start at `Meter`.
"""

from typing import Protocol

from engine.run.attempt import Attempt
from engine.run.batches import Call
from engine.run.plan import Shard
from engine.run.spec import ShardResult


class Meter(Protocol):
    """Counts what one actor does; shards call it from several threads, and it never raises."""

    def loaded(self, seconds: float, model_bytes: int) -> None:
        """The model is loaded: how long that took, and how large its graph is."""

    def refresh(self) -> None:
        """Some time has passed: what does not change may have to be said again."""

    def timed(self, call: Call) -> Call:
        """Return what scores a batch as `call` does, and is counted."""

    def slice(self, attempt: Attempt, num_bad: int) -> None:
        """A slice is scored; `attempt` and the number of bad rows are those of its shard so far."""

    def shard(self, shard: Shard, attempt: Attempt, result: ShardResult) -> None:
        """A shard is done."""


class Unmetered:
    """Counts nothing."""

    def loaded(self, seconds: float, model_bytes: int) -> None:
        """Tell nobody."""

    def refresh(self) -> None:
        """Tell nobody."""

    def timed(self, call: Call) -> Call:
        """Return `call` itself."""
        return call

    def slice(self, attempt: Attempt, num_bad: int) -> None:
        """Tell nobody."""

    def shard(self, shard: Shard, attempt: Attempt, result: ShardResult) -> None:
        """Tell nobody."""


UNMETERED = Unmetered()
