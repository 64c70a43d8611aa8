"""An actor that is held, as the logbook of a run knows it: where it is in its life, and what it has in hand.

Start at `HeldActor`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from engine.data.status import ActorStatus
from engine.run.stalls import WAITING, Progress

# What an attempt is at after the mark that it set last.
NEXT_PHASE = {"start": "read", "read": "bind", "bind": "session", "batch": "session", "session": "write",
              "write": "read", WAITING: "wait"}  # fmt: skip


@dataclass(slots=True)
class HeldAttempt:
    """An attempt at a shard that goes on."""

    shard_id: int
    """The shard."""
    started: float
    """When it was handed out."""
    number: int
    """How many attempts the shard has had with this one."""
    is_backup: bool
    """Whether another attempt at the shard went on when it was handed out."""
    phase: str = "read"
    """What it was at when its actor last said so."""
    rows: int = 0
    """Rows that it had scored by then."""

    def see(self, progress: Progress) -> None:
        """Note how far it is."""
        self.phase, self.rows = NEXT_PHASE.get(progress.phase, progress.phase), progress.rows

    def facts(self) -> dict[str, Any]:
        """Return what a timeline tells of it besides when it was and how it ended."""
        return {"shard_id": self.shard_id, "attempt": self.number, "is_backup": self.is_backup}


@dataclass(slots=True)
class HeldActor:
    """An actor from the moment that it is asked for."""

    worker_id: int
    """Its number in the run."""
    asked: float
    """When it was asked for."""
    node: str = ""
    """Its node's id, then its host name."""
    is_placed: bool = False
    """Whether it has a place."""
    ready: float | None = None
    """When it had loaded."""
    attempts: dict[int, HeldAttempt] = field(default_factory=dict)
    """What it has in hand, by shard."""
    shards_done: int = 0
    """Shards that it committed."""
    rows: int = 0
    """Rows of these."""

    @property
    def state(self) -> str:
        """What it is at: asked, loading, working or idle."""
        if self.ready is None:
            return "loading" if self.is_placed else "asked"
        return "working" if self.attempts else "idle"

    def status(self, now: float, is_lost: bool = False, reason: str = "") -> ActorStatus:
        """Return what people see of it; `reason` is why it is lost, if it is."""
        return ActorStatus(
            worker_id=self.worker_id,
            node=self.node,
            state="lost" if is_lost else self.state,
            shards=tuple(self.attempts),
            phase=next((attempt.phase for attempt in self.attempts.values()), ""),
            shards_done=self.shards_done,
            rows=self.rows + sum(attempt.rows for attempt in self.attempts.values()),
            seconds=now - self.asked,
            reason=reason,
        )


def rows_in_hand(actors: Iterator[HeldActor]) -> dict[int, int]:
    """Return the rows scored of each shard in hand; of two attempts at one the better counts."""
    rows: dict[int, int] = {}
    for actor in actors:
        for shard_id, attempt in actor.attempts.items():
            rows[shard_id] = max(rows.get(shard_id, 0), attempt.rows)
    return rows
