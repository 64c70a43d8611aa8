"""How far a job is: the values of `_icefloe/status.json`, which a view draws and another shell follows.

Pure but for `read_status` and `write_status`. Start at `RunStatus`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from engine.data.storage.folder import JOB_FOLDER, OutputFolder

STATUS = f"{JOB_FOLDER}/status.json"
STARTING, LOADING, SCORING, DONE, FAILED, INTERRUPTED = (
    "starting",
    "loading",
    "scoring",
    "done",
    "failed",
    "interrupted",
)
# A run tells of itself every 2 s, every 30 s where its store is slow, and one write may fail.
SILENCE_SECONDS = 90.0
ENDS = (DONE, FAILED, INTERRUPTED)
"""States in which a run is over."""


@dataclass(frozen=True, slots=True)
class ActorStatus:
    """One actor as the driver knows it."""

    worker_id: int
    """Its number in this run, from 0; one that replaces another has a number of its own."""
    node: str
    """Host name, or the node's id before it has loaded; empty where it has no place yet."""
    state: str
    """asked (waits for a place), loading, working, idle or lost."""
    shards: tuple[int, ...] = ()
    """Shards that it has in hand."""
    phase: str = ""
    """What the first of them was at when the actor last said so: read, wait, bind, session, write."""
    shards_done: int = 0
    """Shards that it committed."""
    rows: int = 0
    """Rows that it has scored so far."""
    seconds: float = 0.0
    """Seconds since it was asked for, until it was lost."""
    reason: str = ""
    """Why it was lost, if it was."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run at one moment; "this run" leaves out what an earlier run had done."""

    plan_id: str = ""
    """Plan that is being run; empty until that is known."""
    state: str = STARTING
    """starting, loading, scoring, done, failed or interrupted."""
    stage: str = ""
    """What it is at, in words."""
    host: str = ""
    """Host name of the driver."""
    pid: int = 0
    """Process id of the driver."""
    machine: str = ""
    """The boot of the driver's machine, and its name space of process ids."""
    process_start: str = ""
    """When the driver's process began, as its system counts."""
    started: float = 0.0
    """When this run began, in seconds since 1970."""
    updated: float = 0.0
    """When this was written, in seconds since 1970."""
    seconds: float = 0.0
    """Seconds since the run began."""
    scoring_seconds: float = 0.0
    """Seconds since a loaded actor was first given a shard."""
    shards: int = 0
    """Shards of the plan."""
    shards_done: int = 0
    """Shards that are done, by whichever run."""
    shards_earlier: int = 0
    """Those of them that an earlier run had done."""
    bytes: int = 0
    """Input bytes of the shards that this run is to score."""
    bytes_done: int = 0
    """Those of them that are scored, shards in hand estimated by their rows."""
    rows: int = 0
    """Rows that this run has scored, those of shards in hand among them."""
    rows_quarantined: int = 0
    """Rows that this run has set aside, of shards that are done."""
    rows_per_second: float = 0.0
    """Rows scored per second in the last 30 s, or since the first shard was given out where that is less."""
    seconds_left: float | None = None
    """Seconds until all is scored at the rate so far; None where that cannot be told."""
    actors_asked: int = 0
    """Actors that wait for a place."""
    actors_loading: int = 0
    """Actors that are loading the model."""
    actors_working: int = 0
    """Actors with a shard in hand."""
    actors_idle: int = 0
    """Loaded actors without one."""
    actors_lost: int = 0
    """Actors lost so far."""
    attempts: int = 0
    """Attempts handed out."""
    retries: int = 0
    """Attempts handed out again after a failure or a loss."""
    second_attempts: int = 0
    """Attempts that a straggler was given beside its first."""
    notice: str = ""
    """The last notice of the run."""
    error: str = ""
    """Why it failed or was interrupted; empty otherwise."""
    actors: tuple[ActorStatus, ...] = ()
    """The actors that are held, and the last few that were lost."""

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.state in ENDS

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


def parse_status(document: Mapping[str, Any]) -> RunStatus:
    """Return the status that a document says; keys that are not known are left out, for a newer engine may write more.

    Raises:
        TypeError: if it is no status.
    """
    known = {field.name for field in fields(RunStatus)}
    found = {name: value for name, value in document.items() if name in known}
    known_of_actor = {field.name for field in fields(ActorStatus)}
    actors = [{name: each[name] for name in each if name in known_of_actor} for each in found.pop("actors", ())]
    return RunStatus(
        **found, actors=tuple(ActorStatus(**{**each, "shards": tuple(each.get("shards", ()))}) for each in actors)
    )


def read_status(folder: OutputFolder) -> RunStatus | None:
    """Return how far the last run of an output folder is; None where none has told, or what is there is no status.

    Raises:
        DataError, StorageError: if the folder cannot be read.
    """
    data = folder.read(STATUS)
    try:
        return None if data is None else parse_status(json.loads(data))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def write_status(folder: OutputFolder, status: RunStatus) -> None:
    """Replace the status of an output folder.

    Raises:
        StorageError: if it cannot be written.
    """
    folder.write(STATUS, json.dumps(status.to_json()).encode())
