"""Which nodes to keep away from: pure, without a clock of its own. Start at `NodeRecords`."""

import math
from dataclasses import dataclass

LOSSES_BEFORE_AVOIDED = 3
AVOIDED_SECONDS = 600.0


@dataclass(slots=True)
class _Record:
    """What is known against a node."""

    losses: int = 0
    """Workers in a row that were lost there, and no shard done in between."""
    until: float = 0.0
    """When it may be used again."""
    is_barred: bool = False
    """Whether a worker could not load there, which time does not mend."""


class NodeRecords:
    """What is known against the nodes of a cluster; those without a record are as good as any."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._records: dict[str, _Record] = {}
        self._living: frozenset[str] = frozenset()
        self._num_barred = 0
        # Asked at every step, and other only when a node turns bad or good: so it is kept, and for how long it holds.
        self._avoided: tuple[str, ...] = ()
        self._holds_until = math.inf

    def see(self, node_ids: frozenset[str]) -> None:
        """Note which nodes there are; those that have gone do not come back."""
        self._living = node_ids
        self._records = {name: record for name, record in self._records.items() if name in node_ids}
        self._num_barred = sum(record.is_barred for record in self._records.values())
        self._holds_until = -math.inf

    def praise(self, node_id: str) -> None:
        """Note that a shard was done there."""
        record = self._records.get(node_id)
        if record is not None and not record.is_barred:
            del self._records[node_id]
            if record.until:
                self._holds_until = -math.inf

    def blame(self, node_id: str, now: float) -> bool:
        """Note that a worker was lost there; returns whether it is kept away from only now, for a while."""
        if not node_id:
            return False
        record = self._records.setdefault(node_id, _Record())
        record.losses += 1
        was_avoided = record.until > now
        if record.losses >= LOSSES_BEFORE_AVOIDED:
            record.until = now + AVOIDED_SECONDS
            self._holds_until = -math.inf if not was_avoided else self._holds_until
        return record.until > now and not was_avoided

    def bar(self, node_id: str) -> None:
        """Keep away from a node for good."""
        if node_id:
            record = self._records.setdefault(node_id, _Record())
            self._num_barred += not record.is_barred and node_id in self._living
            record.is_barred = True
            self._holds_until = -math.inf

    @property
    def has_others(self) -> bool:
        """Whether there are nodes that are not kept away from for good."""
        return self._num_barred < len(self._living)

    def avoided(self, now: float) -> tuple[str, ...]:
        """Return the nodes to keep away from now, sorted; none where there are no others."""
        if now >= self._holds_until:
            bad = {name: record for name, record in self._records.items() if record.is_barred or record.until > now}
            here = bad.keys() & self._living if self._living else bad.keys()
            self._avoided = tuple(sorted(here)) if not self._living or here != self._living else ()
            self._holds_until = min((each.until for each in bad.values() if each.until > now), default=math.inf)
        return self._avoided
