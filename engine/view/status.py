"""How far a job is, in words: for the lines that move, for logs, and for `icefloe status`.

Start at `state_text` and `print_status`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TextIO

from engine.data.status import LOADING, SCORING, ActorStatus, RunStatus
from engine.view.tables import bytes_text, print_table, seconds_text

PHASES = {"read": "reading", "wait": "waiting for its turn", "bind": "converting", "session": "in the graph",
          "write": "writing"}  # fmt: skip


def print_status(status: RunStatus, output: str, stream: TextIO, now: float, has_actors: bool = False) -> None:
    """Print how far a job is, or how it has ended, as told some time before `now`, in seconds since 1970."""
    began = datetime.fromtimestamp(status.started).astimezone()
    after, age = (seconds_text(round(max(0.0, each))) for each in (status.seconds, now - status.updated))
    rows = [
        ("state", status.state + f": {status.stage}" * (status.stage not in ("", status.state))),
        ("plan", f"{status.plan_id} in {output}"),
        ("shards", f"{status.shards_done:,} done of {shards_text(status)}"),
        ("this run", pace_text(status)),
        *[("", text) for text in [crew_text(status)] if text],
        ("begun", f"{began:%Y-%m-%d %H:%M:%S %Z} on {status.host}, process {status.pid}"),
        ("told", f"after {after}, {age} ago"),
        *[("notice", status.notice)] * bool(status.notice),
        *[("error", status.error)] * bool(status.error),
        *(("", text) for text in (actor_texts(status.actors, len(status.actors)) if has_actors else ())),
    ]  # fmt: skip
    print_table("Status", rows, stream)


def is_scoring(status: RunStatus) -> bool:
    """Whether rows are being scored; what comes before and after has a stage of its own."""
    return status.state == SCORING and status.stage in ("", SCORING)


def shards_text(status: RunStatus) -> str:
    """Say how much there is to do: `7 shards, 1 done by an earlier run`."""
    shards = f"{status.shards:,} shard" + "s" * (status.shards != 1)
    return f"{shards}, {status.shards_earlier:,} done by an earlier run" if status.shards_earlier else shards


def state_text(status: RunStatus) -> str:
    """Say in a line how far a run is."""
    if not is_scoring(status) and not status.is_over:
        text = f"{status.stage or status.state}, {seconds_text(round(status.seconds))} since the start"
        return "; ".join(filter(None, (text, crew_text(status)))) if status.state == LOADING else text
    shards = f"{status.shards_done:,} of {status.shards:,} shards"
    return "; ".join(filter(None, (f"{shards}, {pace_text(status)}", crew_text(status))))


def share_text(status: RunStatus) -> str:
    """Say how much is done: `62% of 2.0 GiB, 31 of 50 shards`."""
    share = status.bytes_done / status.bytes if status.bytes else 0.0
    return f"{share:.0%} of {bytes_text(status.bytes)}, {status.shards_done:,} of {status.shards:,} shards"


def pace_text(status: RunStatus) -> str:
    """Say what is done, how fast it goes, and how long it will take."""
    rate = status.rows_per_second
    if status.is_over and status.scoring_seconds:
        rate = status.rows / status.scoring_seconds
    texts = [
        f"{bytes_text(status.bytes_done)} of {bytes_text(status.bytes)}",
        f"{status.rows:,} rows",
        f"{rate:,.0f} rows/s",
    ]
    if status.seconds_left is not None and status.bytes_done < status.bytes:
        texts.append(f"about {seconds_text(round(status.seconds_left))} left")
    return ", ".join(texts)


def crew_text(status: RunStatus) -> str:
    """Say what the actors are at, and what went wrong; nothing of what there is none of."""
    counts = {
        "waiting for a place": status.actors_asked,
        "loading": status.actors_loading,
        "working": status.actors_working,
        "idle": status.actors_idle,
        "lost": status.actors_lost,
    }
    told = [f"{count:,} {name}" for name, count in counts.items() if count]
    texts = ["actors: " + ", ".join(told)] if told else []
    troubles = {
        "rows quarantined": status.rows_quarantined,
        "retries": status.retries,
        "second attempts": status.second_attempts,
    }
    texts += [f"{count:,} {name}" for name, count in troubles.items() if count]
    return "; ".join(texts)


def actor_texts(actors: Sequence[ActorStatus], most: int) -> list[str]:
    """Say what each actor is at, a line each, those first that have something to tell; the rest is counted."""
    urgency = {"lost": 0, "asked": 1, "loading": 2, "working": 3, "idle": 4}
    ordered = sorted(actors, key=lambda actor: (urgency.get(actor.state, 9), actor.worker_id))
    shown, others = ordered[:most], len(ordered) - most
    if others > 0:
        shown, others = ordered[: most - 1], others + 1
    texts = [_actor_text(actor) for actor in sorted(shown, key=lambda actor: actor.worker_id)]
    return texts + [f"and {others:,} more actors"] * (others > 0)


def _actor_text(actor: ActorStatus) -> str:
    where = f"actor {actor.worker_id}" + f" on {actor.node}" * bool(actor.node)
    match actor.state:
        case "lost":
            return f"{where}: lost after {seconds_text(round(actor.seconds))}: {actor.reason}"
        case "asked":
            return f"{where}: waits for a place, for {seconds_text(round(actor.seconds))} now"
        case "loading":
            return f"{where}: loads the model, asked for {seconds_text(round(actor.seconds))} ago"
    done = f"{actor.shards_done:,} shards done, {actor.rows:,} rows"
    if not actor.shards:
        return f"{where}: idle; {done}"
    shards = ", ".join(map(str, actor.shards))
    return f"{where}: shard{'s' * (len(actor.shards) > 1)} {shards} ({PHASES.get(actor.phase, actor.phase)}); {done}"
