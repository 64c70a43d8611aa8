"""What an output folder holds of a job already, and how the folder is made the job's own.

Start at `find_done`, which only looks, and `claim_output`, which writes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.data.ledger import Ledger
from engine.data.manifest import ManifestRow
from engine.data.parts import describe_parts, is_part, part_generation, part_total
from engine.data.storage.places import place_of, without_secrets
from engine.errors import DataError, PlanError
from engine.generations import keep_schema
from engine.prepare import Job, find_changes
from engine.run.versions import installed_versions


@dataclass(frozen=True, slots=True)
class Done:
    """What is done of a job."""

    parts: frozenset[str]
    """Its parts that are there."""
    files: Mapping[str, int]
    """Every file of the output folder, with its size."""
    is_finished: bool
    """Whether all of it is, down to the mark of success."""


def find_done(job: Job, ledger: Ledger) -> Done | None:
    """Return what the output folder holds of the job already; None where it has to start anew. Writes nothing.

    Raises:
        PlanError: if the folder belongs to something else, or to a job that differs, naming the differences.
    """
    earlier, first_plan = ledger.read_plan(job.plan.generation), job.target.first_plan
    if job.config.overwrite or (earlier is None and first_plan is None) or (earlier or {}).get("discarding"):
        return None
    changes = find_changes(job, ledger, earlier)
    files = ledger.find_files()
    if not changes:
        parts = frozenset(files.keys() & job.part_names.keys()) if earlier else frozenset()
        is_finished = len(parts) == len(job.part_names) and ledger.is_finished(files)
        return Done(parts, files, is_finished) if earlier else None
    if job.plan.generation == 0 and not any(is_part(name) for name in files):
        return None  # a first try that ended in a mistake; nothing is lost by planning anew
    raise PlanError(
        f"--output {ledger.folder.place} holds a job that differs: {'; '.join(changes)}; "
        "name another folder, or type --overwrite to discard it"
    )


def claim_output(job: Job, ledger: Ledger, done: Collection[str] | None, model_sha256: str) -> set[str]:
    """Make the output folder this job's own, and return the parts that are its already.

    Raises:
        PlanError: if the model, frozen anew, is not the graph that those parts were scored with.
    """
    generation, output = job.plan.generation, ledger.folder.place
    earlier = ledger.read_plan(generation)
    scored = earlier if done else job.target.first_plan if generation else None
    if scored is not None and scored.get("scored_sha256") != model_sha256:
        raise PlanError(
            f"--output {output}: {place_of(job.config.model)}, frozen again, gives another graph than the one that "
            "the parts there were scored with; freeze it to a .pb with icefloe freeze, and type --overwrite"
        )
    if done is None:
        discarded = ledger.discard(earlier) if earlier is not None and not generation else []
        ledger.unfinish()
        ledger.start(_document(job, model_sha256, discarded), job.plan.files, generation)
    ledger.unfinish()
    ledger.write_inputs(job.plan.files, generation)
    ledger.clear_temporaries()
    return ledger.keep_parts(done or (), job.plan.plan_id)


def _document(job: Job, model_sha256: str, discarded: list[str]) -> dict[str, Any]:
    config = job.config.model_dump(mode="json")
    places = {"model": job.config.model, "output": job.config.output}
    return {
        "plan_id": job.plan.plan_id,
        "settings": job.plan.settings,
        "config": {
            **config,
            **{name: without_secrets(uri) for name, uri in places.items()},
            "input": [without_secrets(uri) for uri in job.config.input],
        },
        "scored_sha256": model_sha256,
        "num_shards": len(job.plan.shards),
        "num_inputs": len(job.plan.files),
        "columns": keep_schema(job.inputs.first),
        "discarded": discarded,
        "versions": installed_versions(),
    }


def describe_earlier(job: Job, ledger: Ledger, scored: Collection[str]) -> list[ManifestRow]:
    """Return the manifest's rows of the parts that this run has not scored, those of other generations too.

    The latter keep their rows where they still have the size; all else is hashed.

    Args:
        job: the job.
        ledger: the output folder.
        scored: names of this run's parts.
    """
    files, own = ledger.find_files(), job.part_names.keys()
    others = {name for name in files if is_part(name)} - own
    others = {name for name in others if part_generation(name) != job.plan.generation}
    kept = [row for row in _last_manifest(ledger) if row.part in others and files[row.part] == row.bytes]
    unknown = others - {row.part for row in kept}
    plans = {number: ledger.read_plan(number) for number in {part_generation(name) or 0 for name in unknown}}
    num_shards = {number: plan["num_shards"] for number, plan in plans.items() if plan is not None}
    unknown = {name for name in unknown if part_total(name) == num_shards.get(part_generation(name) or 0)}
    return [*kept, *describe_parts(ledger.folder, sorted((own - set(scored)) | unknown))]


def _last_manifest(ledger: Ledger) -> list[ManifestRow]:
    try:
        return ledger.read_manifest()
    except DataError:
        return []
