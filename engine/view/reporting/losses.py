"""The section of a report that tells of retries and losses. Start at `tell_events`."""

from collections.abc import Sequence

from engine.data.timeline import ATTEMPT
from engine.view.reporting.blocks import Side, Table, capped, clock, duration, shown, told
from engine.view.reporting.occupancy import Run
from engine.view.reporting.pace import Event, count_reasons

MAX_TABLE_ROWS = 50
MAX_REASON, MAX_NOTE = 240, 120
NOTHING = "There is no timeline of this job, or not yet."


def tell_events(events: Sequence[Event], runs: Sequence[Run]) -> Side:
    """Tell of attempts that came to nothing, and of actors that were lost."""
    if not runs:
        return Side(texts=(NOTHING,))
    if not events:
        return Side(texts=("No attempt failed, and no actor was lost.",))
    num_attempts = sum(event.span.kind == ATTEMPT for event in events)
    num_actors = len(events) - num_attempts
    attempts = f"{num_attempts:,} attempt{'s' * (num_attempts != 1)} came to nothing"
    actors = f"{num_actors:,} actor{'s were' if num_actors != 1 else ' was'} lost"
    reasons = [
        (what, outcome, f"{count:,}", duration(seconds) if seconds else "–", told(message, MAX_REASON))
        for what, outcome, message, count, seconds in count_reasons(events)
    ]
    cut, more = capped(reasons, MAX_TABLE_ROWS, "more reasons")
    by_reason = Table("By reason", ("what", "outcome", "times", "time spent", "why"), cut, numbers=(2, 3), more=more)
    listed, left = capped([_event_row(event, len(runs) > 1) for event in events], MAX_TABLE_ROWS, "more of them")
    heads = ("when", "what", "shard", "attempt", "actor", "node", "outcome", "after", "why")
    each = Table("One by one", heads, listed, numbers=(0, 2, 3, 4, 7), is_folded=True, more=left)
    return Side(
        texts=(f"{attempts}; {actors}. A shard that is tried again costs time, never rows.",), tables=(by_reason, each)
    )


def _event_row(event: Event, several: bool) -> tuple[str, ...]:
    span, is_attempt = event.span, event.span.kind == ATTEMPT
    return (
        clock(span.stop_seconds, event.run.seconds) + f" · run {event.run.number}" * several,
        event.what,
        f"{span.shard_id:,}" if is_attempt else "–",
        str(span.attempt) if is_attempt else "–",
        str(span.worker_id),
        shown(span.node, 40) or "–",
        span.outcome,
        duration(span.stop_seconds - span.start_seconds),
        told(span.message, MAX_NOTE),
    )
