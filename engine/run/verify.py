"""Checks a finished output against its manifest, its plans and its inputs; writes nothing and needs no Ray.

What is wrong is told in a list, one sentence each, so that one damage does not hide another. Start at `verify_output`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from posixpath import basename, dirname
from typing import Any

from engine.data.ledger import INPUTS, MANIFEST, SCHEMA, SUCCESS, SUMMARY, Ledger, last_generation, plan_name
from engine.data.listing import list_inputs
from engine.data.manifest import ManifestRow, RowCounts
from engine.data.parts import part_generation
from engine.data.pieces import InputFile
from engine.data.storage.places import is_inside, place_of
from engine.errors import DataError, EngineError, PlanError
from engine.run.part_checks import (
    ODD_BYTES,
    REWRITE,
    check_parts,
    check_strays,
    counts_text,
    read_manifest,
    sources_of,
)
from engine.run.plan import Shard, inputs_digest, pair_files, part_name, plan_id, touched_files
from engine.run.summary import add_odd_values

MAX_SHOWN = 20


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
    found, files = Findings(), _find_files(ledger)
    if SUCCESS not in files:
        found.problems.append(f"{SUCCESS} is not there: the job did not end, or goes on now; rerun it to finish")
    manifest: list[ManifestRow] | None = None
    try:
        manifest = read_manifest(ledger)
    except DataError as error:
        text = (
            f"{MANIFEST} is gone; rerun the job to write it again" if MANIFEST not in files else f"{error}; {REWRITE}"
        )
        found.problems.append(f"{text} (parts were not checked)")
    rows = manifest or []
    listings = _read_listings(ledger, files, found)
    made = {part_generation(row.part) or 0 for row in rows} | {number for number, listed in listings.items() if listed}
    plans = _read_plans(ledger, files, made, found)
    for number, plan in plans.items():
        mine, listed = [row for row in rows if part_generation(row.part) == number], listings.get(number, ())
        found.problems += _check_shards(number, plan, mine) if manifest is not None else ()
        if inputs_digest(listed) == plan["settings"].get("inputs_sha256"):
            is_limited = plan["settings"].get("limit") is not None
            found.problems += _check_sources(listed, mine, is_limited) if manifest is not None else ()
        elif INPUTS in files:
            found.problems.append(f"{INPUTS} is damaged: its files are not those that {plan_name(number)} was made for")
    if manifest is not None:
        found.problems += check_parts(ledger, plans, manifest, files)
        _check_summary(ledger, files, plans, manifest, found)
    problems, notes = check_strays(ledger, plans, manifest, files)
    found.problems += problems
    found.notes += notes
    _check_inputs(plans, [file for listed in listings.values() for file in listed], found)
    counts, num_inputs = sum((row.counts for row in rows), RowCounts()), sum(map(len, listings.values()))
    wrong = tuple(dict.fromkeys(found.problems))
    return Verification(ledger.folder.place, len(rows), num_inputs, counts, wrong, tuple(found.notes))


def _find_files(ledger: Ledger) -> dict[str, int]:
    """Return every file of the folder.

    Raises:
        PlanError: if no job of ours wrote it.
    """
    place = ledger.folder.place
    try:
        files = ledger.find_files()
    except DataError:
        ledger.folder.read(plan_name(0))  # says so where the folder is a file
        raise
    if not files.keys() & {plan_name(0), INPUTS, SCHEMA, MANIFEST, SUMMARY}:
        what = f"no {plan_name(0)} is in it" if ledger.folder.children() else "it is empty, or not there"
        raise PlanError(f"{place} is no output of icefloe: {what}; name the folder that icefloe score wrote to")
    return files


def _read_plans(
    ledger: Ledger, files: Mapping[str, int], made: Iterable[int], found: Findings
) -> dict[int, dict[str, Any]]:
    """Return the plan of each generation that can be relied on; `made` are those that parts or inputs tell of."""
    plans: dict[int, dict[str, Any]] = {}
    last = last_generation(files)
    for number in sorted({0, *made, *(number for number in range(last + 1) if plan_name(number) in files)}):
        name = plan_name(number)
        if name not in files:
            found.problems.append(f"{name} is gone: whose the parts are that it planned was not checked")
            continue
        try:
            plan = ledger.read_plan(number) or {}
        except PlanError as error:
            found.problems.append(f"{name} is damaged ({str(error).removeprefix('--output ')})")
            continue
        if plan.get("discarding"):
            raise PlanError(f"{ledger.folder.place}: its job was discarded, and no other has begun; rerun the command")
        config = plan.get("config")
        if not isinstance(config, dict) or not isinstance(config.get("input"), list):
            found.problems.append(f"{name} is damaged: it does not tell shards and inputs")
            continue
        if plan_id(plan["settings"]) != plan["plan_id"]:
            found.problems.append(f"{name} was changed: its settings are not those of its plan id")
        plans[number] = plan
    return plans


def _read_listings(ledger: Ledger, files: Mapping[str, int], found: Findings) -> dict[int, tuple[InputFile, ...]]:
    """Return the input files of each generation."""
    if INPUTS not in files:
        found.problems.append(f"{INPUTS} is gone: whether each input is in the parts once was not checked")
        return {}
    try:
        return dict(enumerate(ledger.read_inputs()))
    except (DataError, *ODD_BYTES) as error:
        found.problems.append(f"{INPUTS} is damaged: {error}")
        return {}


def _check_shards(number: int, plan: Mapping[str, Any], rows: Sequence[ManifestRow]) -> Iterator[str]:
    """Check that each shard of a plan is in the manifest once."""
    seen, of = Counter(row.shard_id for row in rows), f" of generation {number}" if number else ""
    num_shards, num_missing = plan["num_shards"], 0
    for shard_id in sorted(shard_id for shard_id, count in seen.items() if count > 1):
        yield f"shard {shard_id}{of} is in {MANIFEST} {seen[shard_id]} times; {REWRITE}"
    for shard_id in range(min(num_shards, len(seen) + MAX_SHOWN)):
        if not seen[shard_id] and num_missing < MAX_SHOWN:
            num_missing += 1
            yield f"shard {shard_id}{of} is not in {MANIFEST}; {REWRITE}"
    more = num_shards - num_missing - sum(shard_id < num_shards for shard_id in seen)
    if more > 0:
        yield f"and {more} more shards{of} are not in {MANIFEST}"
    for row in rows:
        own = part_name(Shard(row.shard_id, dirname(row.part), ()), num_shards, number)
        if row.shard_id >= num_shards or row.part != own:
            yield f"{row.part} is in {MANIFEST}, but the plan's name for shard {row.shard_id} is {basename(own)}"
        if not row.counts.is_complete:
            yield f"{row.part}: not every input row is in it, in quarantine or filtered ({counts_text(row.counts)})"


def _check_sources(files: Sequence[InputFile], rows: Sequence[ManifestRow], is_limited: bool) -> Iterator[str]:
    """Check that each byte of each input file is in one part, in order; with a limit, later files are in none."""
    pieces = [(row.part, piece) for row in sorted(rows, key=lambda row: row.shard_id) for piece in sources_of(row)]
    index = 0
    for file in files:
        stop, has_any = 0, False
        while (
            index < len(pieces) and pieces[index][1][0] == file.relative_path and (not has_any or pieces[index][1][1])
        ):
            part, (_, start, end) = pieces[index]
            if start != stop:
                gap = f"bytes {min(start, stop)} to {max(start, stop)}"
                yield f"input {file.relative_path}: {gap} are in {'no part' if start > stop else 'two parts'}"
            if dirname(part) != file.partition:
                yield f"{part} is not in {file.partition or 'the output folder itself'}, where its input belongs"
            stop, has_any, index = end, True, index + 1
        if stop != file.size_bytes if has_any else not is_limited:
            yield f"input {file.relative_path}: bytes {stop} to {file.size_bytes} are in no part"
    for part, (name, start, end) in pieces[index:]:
        yield f"input {name}: bytes {start} to {end} are in {part}, but not in {INPUTS} at that place"


def _check_summary(
    ledger: Ledger,
    files: Mapping[str, int],
    plans: Mapping[int, Mapping[str, Any]],
    manifest: Sequence[ManifestRow],
    found: Findings,
) -> None:
    """Check the summary's figures against the manifest, as far as that has them."""
    if SUMMARY not in files:
        found.problems.append(f"{SUMMARY} is gone")
        return
    odd = [row.odd_values for row in manifest]
    counts = sum((row.counts for row in manifest), RowCounts())
    wanted = {
        "rows_in": counts.rows_in,
        "rows_out": counts.rows,
        "rows_quarantined": counts.rows_quarantined,
        "rows_filtered": counts.rows_filtered,
        "parts": len(manifest),
        "nan_values": add_odd_values(odd, 0),
        "inf_values": add_odd_values(odd, 1),
    }
    try:
        summary = json.loads(ledger.folder.read(SUMMARY) or b"null")
        differing = [f"{name} {summary[name]} ({value})" for name, value in wanted.items() if summary[name] != value]
        plan_ids = [plan["plan_id"] for plan in plans.values()]
        has_all = plans.keys() >= {part_generation(row.part) or 0 for row in manifest}
        if plan_ids and has_all and summary["plan_id"] not in plan_ids:
            differing.append(f"plan_id {summary['plan_id']} ({plan_ids[-1]})")
    except (EngineError, *ODD_BYTES) as error:
        found.problems.append(f"{SUMMARY} is damaged ({type(error).__name__}: {error})")
        return
    if differing:
        found.problems.append(f"{SUMMARY} tells other figures than plan and manifest (in brackets): {differing[0]}"
                              + "".join(f", {text}" for text in differing[1:]))  # fmt: skip


def _check_inputs(plans: Mapping[int, Mapping[str, Any]], old: Sequence[InputFile], found: Findings) -> None:
    """Compare the inputs with what they were when they were planned; those that are gone may be so on purpose."""
    uris = dict.fromkeys(str(uri) for plan in plans.values() for uri in plan["config"]["input"])
    now: dict[str, InputFile] = {}
    unseen: list[str] = []
    for uri in uris:
        try:
            now |= {file.path: file for file in list_inputs([uri])}
        except (EngineError, *ODD_BYTES) as error:
            unseen.append(place_of(uri))
            found.notes.append(f"inputs below {unseen[-1]} were not compared: {str(error).removeprefix('--input ')}")
    pairs, _ = pair_files(old, list(now.values()))
    changes = touched_files(pairs)
    if changes:
        found.problems.append(f"inputs have changed since they were scored: {'; '.join(changes)}")
    there = {file.path for file, _ in pairs}
    gone = [file.path for file in old if file.path not in there]
    gone = [path for path in gone if not any(is_inside(path, place) for place in unseen)]
    if gone and plans:
        found.notes.append(f"{len(gone)} input files are gone since they were scored, first: {gone[0]}")
