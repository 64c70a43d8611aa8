"""Checks a finished output against its manifest, its plans and its inputs; writes nothing and needs no Ray.

What is wrong is told in a list, one sentence each, so that one damage does not hide another. Start at `verify_output`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.data.ledger import SUCCESS, SUMMARY, Ledger, last_generation, plan_name
from engine.data.listing import list_inputs
from engine.data.manifest import ManifestRow, RowCounts
from engine.data.parts import part_generation, part_total
from engine.data.pieces import InputFile
from engine.errors import DataError, EngineError, PlanError
from engine.run.part_checks import check_parts, check_strays
from engine.run.plan import inputs_digest, pair_files, touched_files


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check of an output has found."""

    output: str
    """Output folder."""
    parts: int
    """Parts that the manifest lists."""
    inputs: int
    """Input files that they were made of."""
    counts: RowCounts
    """What became of the input rows."""
    problems: tuple[str, ...]
    """What is wrong, a sentence each."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, or is nobody's fault."""
    rows_sampled: int = 0
    """Rows that were scored again."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


class Findings:
    """What is found while an output is being checked."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.problems: list[str] = []
        """What is wrong."""
        self.notes: list[str] = []
        """What is worth knowing."""


def verify_output(ledger: Ledger) -> Verification:
    """Check parts, quarantine, manifest, plans and inputs of an output folder against each other.

    Raises:
        PlanError: if no job of ours wrote the folder.
        StorageError: if it cannot be read for now.
    """
    found, files = Findings(), ledger.find_files()
    plans = _read_plans(ledger, files, found)
    if SUCCESS not in files:
        found.problems.append(f"{SUCCESS} is not there: the job did not end, or goes on now; rerun it to finish")
    try:
        manifest = ledger.read_manifest()
    except DataError as error:
        found.problems.append(f"the manifest cannot be read: {error}")
        return Verification(ledger.folder.place, 0, 0, RowCounts(), tuple(found.problems), tuple(found.notes))
    listings = _read_inputs(ledger, plans, found)
    for number, plan in plans.items():
        rows = [row for row in manifest if part_generation(row.part) == number]
        found.problems += _check_shards(number, plan, rows)
        found.problems += _check_sources(listings.get(number, ()), rows, plan["settings"].get("limit") is not None)
    found.problems += check_parts(ledger, plans, manifest, files)
    problems, notes = check_strays(ledger, plans, manifest, files)
    found.problems += problems
    found.notes += notes
    counts = sum((row.counts for row in manifest), RowCounts())
    _check_summary(ledger, counts, found)
    _check_inputs(plans, [file for listing in listings.values() for file in listing], found)
    num_inputs = sum(map(len, listings.values()))
    wrong = tuple(dict.fromkeys(found.problems))
    return Verification(ledger.folder.place, len(manifest), num_inputs, counts, wrong, tuple(found.notes))


def _read_plans(ledger: Ledger, files: Mapping[str, int], found: Findings) -> dict[int, dict[str, Any]]:
    """Return the plan of each generation."""
    plans: dict[int, dict[str, Any]] = {}
    for number in range(last_generation(files) + 1):
        plan = ledger.read_plan(number)
        if plan is not None and not plan.get("discarding"):
            plans[number] = plan
        elif number:
            found.problems.append(f"{plan_name(number)} is gone")
        elif plan is None:
            raise PlanError(f"{ledger.folder.place} holds no job of icefloe")
        else:
            raise PlanError(f"{ledger.folder.place}: its job was discarded, and no other has begun; rerun the command")
    return plans


def _read_inputs(
    ledger: Ledger, plans: Mapping[int, Mapping[str, Any]], found: Findings
) -> dict[int, tuple[InputFile, ...]]:
    """Return the listing of each generation, checked against its plan."""
    try:
        listings = dict(enumerate(ledger.read_inputs()))
    except DataError as error:
        found.problems.append(f"the list of inputs cannot be read: {error}")
        return {}
    for number, plan in plans.items():
        if inputs_digest(listings.get(number, ())) != plan["settings"].get("inputs_sha256"):
            found.problems.append(f"the list of inputs is not the one that {plan_name(number)} was made for")
    return listings


def _check_shards(number: int, plan: Mapping[str, Any], rows: Sequence[ManifestRow]) -> Iterator[str]:
    """Check that each shard of a plan is in the manifest once."""
    seen, of = Counter(row.shard_id for row in rows), f" of generation {number}" if number else ""
    for shard_id in range(plan["num_shards"]):
        if seen[shard_id] != 1:
            yield f"shard {shard_id}{of} is in the manifest {seen[shard_id]} times"
    for row in rows:
        if row.shard_id >= plan["num_shards"] or part_total(row.part) != plan["num_shards"]:
            yield f"{row.part} is in the manifest, but in no plan"
        if not row.counts.is_complete:
            yield f"{row.part}: not every input row is in the part, in quarantine or filtered ({row.counts})"


def _check_sources(files: Sequence[InputFile], rows: Sequence[ManifestRow], is_limited: bool) -> Iterator[str]:
    """Check that each byte of each input file is in one part, in order; with a limit, later files are in none."""
    pieces = [piece for row in sorted(rows, key=lambda row: row.shard_id) for piece in json.loads(row.sources)]
    index = 0
    for file in files:
        stop, has_any = 0, False
        while index < len(pieces) and pieces[index][0] == file.relative_path and (not has_any or pieces[index][1]):
            _, start, end = pieces[index]
            if start != stop:
                gap = f"bytes {min(start, stop)} to {max(start, stop)}"
                yield f"input {file.relative_path}: {gap} are in {'no part' if start > stop else 'two parts'}"
            stop, has_any, index = end, True, index + 1
        if stop != file.size_bytes if has_any else not is_limited:
            yield f"input {file.relative_path}: bytes {stop} to {file.size_bytes} are in no part"
    for name, start, end in pieces[index:]:
        yield f"input {name}: bytes {start} to {end} are in a part, but not in the list of inputs at that place"


def _check_summary(ledger: Ledger, counts: RowCounts, found: Findings) -> None:
    """Check the summary's counts against the manifest's."""
    try:
        summary = json.loads(ledger.folder.read(SUMMARY) or b"null")
        told = RowCounts(*(summary[name] for name in ("rows_in", "rows_out", "rows_quarantined", "rows_filtered")))
    except (ValueError, KeyError, TypeError, EngineError) as error:
        found.problems.append(f"{SUMMARY} cannot be read ({type(error).__name__})")
        return
    if told != counts:
        found.problems.append(f"{SUMMARY} tells of {told}, the manifest of {counts}")


def _check_inputs(plans: Mapping[int, Mapping[str, Any]], old: Sequence[InputFile], found: Findings) -> None:
    """Compare the inputs with what they were when they were planned."""
    uris: Iterable[str] = dict.fromkeys(uri for plan in plans.values() for uri in plan["config"]["input"])
    now: list[InputFile] = []
    for uri in uris:
        try:
            now += list_inputs([uri])
        except EngineError as error:
            found.notes.append(f"inputs were not compared: {error}")
    pairs, _ = pair_files(old, now)
    found.problems += [f"input {change} since it was scored" for change in touched_files(pairs)]
    if now and len(pairs) < len(old):
        there = {file.path for file, _ in pairs}
        gone = [file.relative_path for file in old if file.path not in there]
        found.notes.append(f"{len(gone)} input files are gone since they were scored, first: {gone[0]}")
