"""What an output folder tells of its job: plans, summary, status, timeline, manifest, parts.

All of it may be missing but a plan or a status: a job may go on, or have failed early. What is damaged becomes a note,
for a report is wanted most where something went wrong. Start at `read_job`.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from engine.data.arrow_errors import reading
from engine.data.ledger import MANIFEST, SCHEMA, SUCCESS, SUMMARY, last_generation, plan_name
from engine.data.manifest import MANIFEST_SCHEMA, read_small
from engine.data.parts import is_part, part_generation
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.data.status import DONE, FAILED, STATUS, RunStatus, read_status
from engine.data.storage.folder import OutputFolder
from engine.data.timeline import TIMELINE, Span, read_timeline
from engine.errors import DataError, EngineError, PlanError

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class FoundJob:
    """A job as its output folder tells it."""

    place: str
    """The output folder."""
    plans: tuple[Mapping[str, Any], ...]
    """The plan of each generation; none where the job ended before it wrote one."""
    status: RunStatus | None
    """How far its last run is or was."""
    summary: Mapping[str, Any] | None
    """Figures of its last run that came to its end; None where there is none, or a later run goes on."""
    spans: tuple[Span, ...]
    """What happened when."""
    manifest: pa.Table | None
    """A row a part; None before all are there."""
    schema: pa.Schema | None
    """Schema of the output; None before an actor has loaded the model."""
    parts: tuple[str, ...]
    """Parts that are there, by generation and shard."""
    asides: Mapping[str, int]
    """Files of the quarantine, with their sizes."""
    is_finished: bool
    """Whether the mark of success is there."""
    notes: tuple[str, ...]
    """What could not be read, a sentence each."""

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan of the last generation."""
        return self.plans[-1] if self.plans else {}

    @property
    def state(self) -> str:
        """How the last run is: starting, loading, scoring, done, failed, interrupted, or unfinished if none told."""
        if self.status is not None and not (self.is_finished and not self.status.is_over):
            return self.status.state
        return DONE if self.is_finished else FAILED if self.summary is not None else "unfinished"


def read_job(folder: OutputFolder) -> FoundJob:
    """Return what an output folder tells of its job.

    Raises:
        PlanError: if no job of ours wrote the folder.
        DataError, StorageError: if it cannot be read at all.
    """
    try:
        files = dict(folder.files())
    except DataError:
        folder.read(plan_name(0))  # says so where the folder is a file
        raise
    if not files.keys() & {plan_name(0), STATUS}:
        what = f"no {plan_name(0)} is in it" if folder.children() else "it is empty, or not there"
        raise PlanError(f"{folder.place} is no output of icefloe: {what}; name the folder that icefloe score wrote to")
    notes: list[str] = []

    def attempt(name: str, read: Callable[[], Read | None]) -> Read | None:
        try:
            return read()
        except (EngineError, ValueError, KeyError, TypeError) as error:
            text = str(error).removeprefix(f"{folder.place_of(name)}: ")
            notes.append(f"{name} cannot be read: {text}")
            return None

    numbers = range(last_generation(files) + 1)
    plans = [attempt(plan_name(number), functools.partial(_read_plan, folder, number)) for number in numbers]
    found = tuple(plan for plan in plans if plan is not None)
    status = attempt(STATUS, lambda: read_status(folder))
    plan_ids = {str(plan["plan_id"]) for plan in found} | ({status.plan_id} if status else set())
    summary = attempt(SUMMARY, lambda: _read_json(folder, SUMMARY))
    spans = attempt(TIMELINE, lambda: [span for span in read_timeline(folder) if span.plan_id in plan_ids]) or []
    is_told = summary is not None and summary.get("plan_id") in plan_ids and _is_of_last_run(summary, status)
    manifest = attempt(MANIFEST, lambda: _read_manifest(folder)) if MANIFEST in files and is_told else None
    parts = sorted((part_generation(name) or 0, name.rpartition("/")[2], name) for name in files if is_part(name))
    return FoundJob(
        place=folder.place,
        plans=found,
        status=status,
        summary=summary if is_told else None,
        spans=tuple(spans),
        manifest=manifest,
        schema=attempt(SCHEMA, lambda: _read_schema(folder)),
        parts=tuple(name for _, _, name in parts),
        asides={name: size for name, size in sorted(files.items()) if name.startswith(f"{QUARANTINE_FOLDER}/bad-")},
        is_finished=SUCCESS in files,
        notes=tuple(notes),
    )


def _is_of_last_run(summary: Mapping[str, Any], status: RunStatus | None) -> bool:
    """Whether a summary tells of the run that the status tells of, or of the job as that run has left it."""
    if status is None or status.plan_id in ("", summary.get("plan_id")) and status.state == DONE:
        return True
    # A run that scored all and then failed, for too many rows were bad, has written its summary before.
    return status.state == FAILED and bool(status.shards) and status.shards_done == status.shards


def _read_plan(folder: OutputFolder, number: int) -> Mapping[str, Any] | None:
    document = _read_json(folder, plan_name(number))
    if document is None:
        return None
    if not isinstance(document.get("plan_id"), str) or not isinstance(document.get("settings"), dict):
        raise DataError("it is no plan of icefloe")
    return document


def _read_json(folder: OutputFolder, name: str) -> Mapping[str, Any] | None:
    data = folder.read(name)
    if data is None:
        return None
    document = json.loads(data)
    if not isinstance(document, dict):
        raise DataError("expected a table of JSON")
    return document


def _read_manifest(folder: OutputFolder) -> pa.Table:
    place = folder.place_of(MANIFEST)
    with reading(place), folder.open(MANIFEST) as file:
        table = read_small(file)
    if not table.schema.equals(MANIFEST_SCHEMA):
        raise DataError("it is no manifest")
    return table


def _read_schema(folder: OutputFolder) -> pa.Schema | None:
    data = folder.read(SCHEMA)
    if data is None:
        return None
    with reading(folder.place_of(SCHEMA)):
        return pa.ipc.read_schema(pa.py_buffer(data))
