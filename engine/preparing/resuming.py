"""What an output folder holds of a job already, and how the folder is made the job's own.

Start at `find_done`, which only looks, and `claim_output`, which writes.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engine.data.ledger import Ledger, last_generation, plan_name
from engine.data.manifest import ManifestRow
from engine.data.parts import describe_parts, is_part, keep_parts, part_generation, part_total
from engine.data.storage.places import place_of, without_secrets
from engine.errors import DataError, PlanError
from engine.preparing.generations import (
    ADD_ADVICE,
    ADVICE,
    choose_generation,
    expected_parts,
    keep_schema,
    read_history,
    refusal,
    shared_settings,
)
from engine.preparing.model_card import model_card
from engine.preparing.prepare import Job, find_changes
from engine.run.plan import explain_settings
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
        PlanError: if the folder belongs to something else, or to a job that differs, naming the differences; or if
            what is missing cannot be scored, for its input is gone.
    """
    generation, target = job.plan.generation, job.target
    earlier = ledger.read_plan(generation)
    if job.config.overwrite or (earlier is None and target.first_plan is None) or (earlier or {}).get("discarding"):
        return None
    files = ledger.find_files()
    # Of a later generation without a part nothing is lost by planning it anew, as long as it agrees with the first.
    is_new = bool(generation) and not any(part_generation(name) == generation for name in files)
    # With nothing to score, versions and shard size matter no more than they would to files that are new.
    is_settled = job.config.add and target.is_settled
    changes = find_changes(job, ledger, None if is_new or is_settled else earlier)
    if changes:
        if not generation and not any(is_part(name) for name in files):
            return None  # a first try that ended in a mistake; nothing is lost by planning anew
        advice = ADD_ADVICE if _may_be_added(job, ledger, earlier or {}) else ADVICE
        raise PlanError(refusal(ledger.folder.place, changes, advice))
    if is_settled:
        return Done(frozenset(name for name in files if part_generation(name) == generation), files, True)
    parts = frozenset() if earlier is None else frozenset(files.keys() & job.part_names.keys())
    _check_inputs_there(job, ledger, parts)
    if earlier is None or is_new:
        return None
    return Done(parts, files, len(parts) == len(job.part_names) and ledger.is_finished(files))


def _may_be_added(job: Job, ledger: Ledger, earlier: Mapping[str, Any]) -> bool:
    """Whether `--add` would take the call that was refused: nothing differs but files that came or went."""
    if job.config.add or job.config.limit is not None or job.plan.generation:
        return False
    if earlier["settings"]["inputs_sha256"] == job.plan.settings["inputs_sha256"]:
        return False
    history = read_history(ledger)
    try:
        choose_generation(history, job.plan.files, may_add=True)
    except PlanError:
        return False
    before, after = shared_settings(earlier["settings"]), shared_settings(job.plan.settings)
    if job.config.batch_size == "auto":  # comes from the first file, which may be another one now
        before["batch_size"] = after["batch_size"]
    return history is not None and not explain_settings(before, after)


def _check_inputs_there(job: Job, ledger: Ledger, parts: Collection[str]) -> None:
    """Refuse to score parts whose inputs are gone, before Ray is started for it."""
    if not job.target.gone:
        return
    for name, shard_id in job.part_names.items():
        lost = [piece.path for piece in job.plan.shards[shard_id].pieces if piece.path in job.target.gone]
        if lost and name not in parts:
            raise PlanError(
                f"--output {ledger.folder.place}: {name} is missing, and {lost[0]}, which it is made of, is gone, too; "
                f"bring this file back as it was, {ADVICE}"
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
        discarded = _discard(job, ledger, earlier)
        ledger.unfinish()
        ledger.start(_document(job, model_sha256, discarded), job.plan.files, generation)
    elif not done and earlier is not None and earlier.get("scored_sha256") != model_sha256:
        ledger.start(_document(job, model_sha256, earlier.get("discarded", [])), job.plan.files, generation)
    ledger.unfinish()
    ledger.write_inputs(job.plan.files, generation)
    _drop_begun(ledger, generation)
    ledger.clear_temporaries()
    return keep_parts(ledger.folder, done or (), job.plan.plan_id)


def _discard(job: Job, ledger: Ledger, earlier: Mapping[str, Any] | None) -> list[str]:
    """Make room for a plan, and return the ids of those that it replaces; late actors may still write parts of them."""
    if earlier is None:
        return []
    if not job.plan.generation:
        return ledger.discard(earlier)
    replaced = [earlier["plan_id"], *earlier.get("discarded", ())]  # of which no part is there
    return [plan_id for plan_id in dict.fromkeys(replaced) if plan_id != job.plan.plan_id]


def _drop_begun(ledger: Ledger, generation: int) -> None:
    """Remove later plans that were cut off before they had a part; what they were for is new once more."""
    names = ledger.find_files()
    last = last_generation(names)
    while last > generation and not any(part_generation(name) == last for name in names):
        ledger.folder.remove(plan_name(last))
        last -= 1


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
        "model": model_card(job.model, place_of(job.config.model), job.config.set, job.config.allow_op),
    }


def describe_earlier(job: Job, ledger: Ledger, scored: Collection[str]) -> list[ManifestRow]:
    """Return the manifest's rows of the parts that this run has not scored, those of other generations too.

    The latter keep their rows where they still have the size; all else is hashed.

    Args:
        job: the job.
        ledger: the output folder.
        scored: names of this run's parts.
    """
    files, generation = ledger.find_files(), job.plan.generation
    kept = [
        row
        for row in _last_manifest(ledger)
        if part_generation(row.part) != generation and files.get(row.part) == row.bytes
    ]
    num_kept, known = Counter(part_generation(row.part) for row in kept), {row.part for row in kept}
    totals = {part_generation(row.part): part_total(row.part) for row in kept}
    unknown = set(job.part_names) - set(scored)
    for number, listing in enumerate(ledger.read_inputs()):
        if number != generation and (not num_kept[number] or num_kept[number] != totals[number]):
            unknown |= files.keys() & set(expected_parts(ledger.read_plan(number), listing, number)) - known
    return [*kept, *describe_parts(ledger.folder, sorted(unknown))]


def _last_manifest(ledger: Ledger) -> list[ManifestRow]:
    try:
        return ledger.read_manifest()
    except DataError:
        return []


def scored_sha256(job: Job, ledger: Ledger) -> str:
    """Return the hash of the graph that the job's parts were scored with; empty where none were."""
    return str((ledger.read_plan(job.plan.generation) or {}).get("scored_sha256", ""))
