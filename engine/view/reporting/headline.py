"""The head of a report: what was scored, how it went, and its main figures. Start at `tell_headline`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.data.status import DONE, FAILED, INTERRUPTED, SILENCE_SECONDS
from engine.view.reporting.blocks import MAX_VALUE, Table, capped, duration, number, share, shown, told
from engine.view.reporting.occupancy import STATES, Occupancy, order_runs
from engine.view.reporting.over_time import WORDS
from engine.view.reporting.reading import FoundJob
from engine.view.tables import bytes_text, computed_text, device_texts, seconds_text

BADGES = {DONE: "good", FAILED: "bad", INTERRUPTED: "bad", "unfinished": "bad"}
MAX_ACTORS, MAX_IN_HAND = 50, 4


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure that stands out."""

    value: str
    """The figure."""
    label: str
    """What it is."""
    note: str = ""
    """What else to know of it."""


@dataclass(frozen=True, slots=True)
class Headline:
    """What a reader sees first."""

    title: str
    """What was scored with what."""
    place: str
    """The output folder."""
    state: str
    """How the job is."""
    badge: str
    """good, bad or busy."""
    texts: tuple[str, ...]
    """Sentences: what limits it, why it failed."""
    tiles: tuple[Tile, ...]
    """Its main figures."""
    tables: tuple[Table, ...]
    """All its figures, and its actors while it goes on."""


def tell_headline(job: FoundJob, occupancy: Occupancy, now: float) -> Headline:
    """Return what a reader of a job's report sees first.

    Args:
        job: the job.
        occupancy: what its actors did.
        now: the time, in seconds since 1970.
    """
    texts = list(_state_texts(job, now))
    if job.summary is not None:
        tiles, rows = _finished_tiles(job.summary), _finished_rows(job.summary)
        if job.summary.get("attempts"):
            texts.append(f"Bottleneck: {job.summary.get('bottleneck', '')}.")
    else:
        tiles, rows = _running_tiles(job), _running_rows(job)
        texts += _time_texts(occupancy)
    model = str(job.plan.get("config", {}).get("model", "")).rstrip("/").rpartition("/")[2]
    output = job.place.rstrip("/").rpartition("/")[2]
    return Headline(
        title=shown(f"{model} → {output}" if model else output, 80),
        place=shown(job.place, MAX_VALUE),
        state=job.state,
        badge=BADGES.get(job.state, "busy"),
        texts=tuple([*texts, *(told(note) for note in job.notes)]),
        tiles=tuple(tiles),
        tables=(Table("All figures", (), tuple((*_when(job), *rows)), is_folded=True), *_actors_now(job)),
    )


def date_text(seconds: float) -> str:
    """Write a moment for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else "–"


def _state_texts(job: FoundJob, now: float) -> list[str]:
    status = job.status
    if job.state == "unfinished":
        return ["The job has not ended, or goes on now; the same command finishes it."]
    if status is None:
        return ["The job ended with more bad rows than it puts up with, or was cut off at its very end."] * (
            job.state == FAILED
        )
    if status.error and job.state in (FAILED, INTERRUPTED):
        return [told(status.error), "Finished parts stay; the same command goes on from here."]
    if not status.is_over and job.state != DONE:
        silent = now - status.updated
        if silent > SILENCE_SECONDS:
            return [f"It has not said anything for {seconds_text(silent)}; if its process is gone, the same command "
                    "goes on from here."]  # fmt: skip
        stage = f": {shown(status.stage)}" if status.stage and status.stage != status.state else ""
        return [f"The job goes on{stage}; this is how it was at {date_text(status.updated)}."]
    return []


def _finished_tiles(summary: Mapping[str, Any]) -> list[Tile]:
    aside, filtered, earlier = (int(summary.get(name, 0)) for name in
                                ("rows_quarantined", "rows_filtered", "parts_earlier"))  # fmt: skip
    left = [f"{aside:,} set aside"] * bool(aside) + [f"{filtered:,} filtered"] * bool(filtered)
    rows_note = f"of {summary.get('rows_in', 0):,} read" + "".join(f", {text}" for text in left)
    parts = f"{earlier:,} by an earlier run" if earlier else "all by this run"
    tiles = [
        Tile(f"{summary.get('rows_out', 0):,}", "rows written", rows_note),
        Tile(f"{summary.get('parts', 0):,}", "parts", parts),
    ]
    if not summary.get("attempts"):
        return [*tiles, Tile("–", "this run", "nothing was left to score")]
    lost = int(summary.get("actors_lost", 0))
    return [
        *tiles,
        Tile(duration(summary["seconds_total"]), "in all", f"{duration(summary['scoring_seconds'])} of them scoring"),
        Tile(number(round(summary["rows_per_second"])), "rows per second", "while scoring"),
        Tile(f"{summary['session_share']:.0%}", "in the session", "of the actors' time"),
        Tile(f"{summary['actors']:,}", "actors", f"{lost:,} lost on the way" if lost else "none lost"),
    ]


def _finished_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("rows", f"{summary.get('rows_in', 0):,} in, {summary.get('rows_out', 0):,} out, "
         f"{summary.get('rows_quarantined', 0):,} quarantined, {summary.get('rows_filtered', 0):,} filtered"),
        ("plan", shown(str(summary.get("plan_id", "")))),
    ]  # fmt: skip
    if summary.get("attempts"):
        phases = {str(name): float(seconds) for name, seconds in summary.get("phase_seconds", {}).items()}
        names = {"wait": "waiting", "bind": "converting", "session": "the graph", "read": "reading", "write": "writing"}
        told_phases = sorted(phases.items(), key=lambda pair: -pair[1])
        rows += [
            ("time", f"{duration(summary['seconds_total'])} in all, {duration(summary['seconds_ray_start'])} for Ray "
             f"to start, {duration(summary['seconds_load'])} to load the model, "
             f"{duration(summary['scoring_seconds'])} of scoring"),
            ("rate", f"{number(summary['rows_per_second'])} rows/s, "
             f"{number(summary.get('rows_per_actor_second', 0.0))} an actor"),
            ("actor time", ", ".join(f"{names.get(name, name)} {share(seconds, sum(phases.values()))}"
                                     for name, seconds in told_phases)),
            ("attempts", f"{summary['attempts']:,}, {summary.get('second_attempts', 0):,} of them second ones"),
            ("batches", f"of {summary['batch_size']:,} rows; {summary.get('batches_split', 0):,} split, "
             f"{summary.get('batches_halved', 0):,} halved"),
            ("model in memory", f"{bytes_text(summary.get('model_load_bytes', 0))} peak of an actor that loaded it"),
            ("computed in", computed_text(str(summary["precision"]), bool(summary["xla"]))),
            *(("device", shown(text)) for text in device_texts(summary.get("devices", ()))),
        ]  # fmt: skip
    for column, drift in summary.get("drift", {}).items():
        rows.append((f"drift of {shown(column, 40)}", told(json.dumps(drift))))
    stable = "yes" if summary.get("bytes_stable") else f"no: {shown(str(summary.get('bytes_stable_reason', '')))}"
    return [*rows, ("same bytes again", stable)]


def _running_tiles(job: FoundJob) -> list[Tile]:
    status, runs = job.status, order_runs(job.spans)
    if status is None:
        if not runs:
            return [Tile(f"{len(job.parts):,}", "parts", f"of {job.plan.get('num_shards', 0):,}")]
        return [
            Tile(f"{len(job.parts):,}", "parts", f"of {job.plan.get('num_shards', 0):,}"),
            Tile(f"{runs[-1].rows:,}", "rows written", "by the last run"),
            Tile(duration(runs[-1].seconds), "in all", "the last run"),
        ]
    left = "" if status.seconds_left is None or status.is_over else f"about {seconds_text(status.seconds_left)} left"
    lost = f"{status.actors_lost:,} lost on the way" if status.actors_lost else "none lost"
    earlier = f", {status.shards_earlier:,} of them by an earlier run" if status.shards_earlier else ""
    held = status.actors_loading + status.actors_working + status.actors_idle
    rate = status.rows_per_second
    if status.is_over and status.scoring_seconds:
        rate = status.rows / status.scoring_seconds
    return [
        Tile(f"{status.rows:,}", "rows scored", f"{status.rows_quarantined:,} set aside"),
        Tile(f"{status.shards_done:,}", "shards done", f"of {status.shards:,}{earlier}"),
        Tile(duration(status.seconds), "in all" if status.is_over else "so far", left),
        Tile(number(round(rate)), "rows per second", "while scoring" if status.is_over else "of late"),
        Tile(f"{held:,}", "actors held", lost),
    ]


def _running_rows(job: FoundJob) -> list[tuple[str, str]]:
    status = job.status
    rows = [("plan", shown(str(job.plan.get("plan_id", "–"))))]
    if status is None:
        return rows
    return [
        *rows,
        ("attempts", f"{status.attempts:,}, {status.retries:,} retries, {status.second_attempts:,} second ones"),
        ("actors", f"{status.actors_asked:,} asked for, {status.actors_loading:,} loading, "
         f"{status.actors_working:,} working, {status.actors_idle:,} idle, {status.actors_lost:,} lost"),
        ("input", f"{bytes_text(status.bytes_done)} of {bytes_text(status.bytes)} scored"),
        *([("last notice", told(status.notice))] if status.notice else []),
        ("driver", f"{shown(status.host)}, process {status.pid}"),
    ]  # fmt: skip


def _actors_now(job: FoundJob) -> list[Table]:
    """Tell of each actor as the driver last knew it, while the job goes on."""
    status = job.status
    if job.summary is not None or status is None or not status.actors:
        return []
    rows = [
        (str(actor.worker_id), shown(actor.node, 40) or "–", shown(actor.state, 20), shown(actor.phase, 20),
         ", ".join(f"{shard:,}" for shard in actor.shards[:MAX_IN_HAND]), f"{actor.shards_done:,}", f"{actor.rows:,}",
         told(actor.reason))
        for actor in status.actors
    ]  # fmt: skip
    cut, more = capped(rows, MAX_ACTORS, "more actors")
    heads = ("actor", "node", "state", "phase", "in hand", "shards done", "rows", "note")
    return [Table("Actors when it was last heard of", heads, cut, (0, 4, 5, 6), is_folded=True, more=more)]


def _when(job: FoundJob) -> list[tuple[str, str]]:
    runs = order_runs(job.spans)
    started = runs[-1].started if runs else job.status.started if job.status else 0.0
    many = f" (run {len(runs):,})" if len(runs) > 1 else ""
    return [("started", date_text(started) + many)] if started else []


def _time_texts(occupancy: Occupancy) -> list[str]:
    """Say what most of the actors' time went to, where no summary says it."""
    totals = occupancy.total.sum(axis=1)
    if not totals.any():
        return []
    order = sorted(range(len(STATES)), key=lambda index: -totals[index])
    parts = [f"{WORDS[STATES[index]]} {share(totals[index], totals.sum())}" for index in order if totals[index]]
    return [f"Actor time so far: {', '.join(parts)}."]
