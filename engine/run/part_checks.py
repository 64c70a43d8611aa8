"""Checks the files of an output: parts and quarantine against the manifest, and what is there beside them.

Start at `check_parts` and `check_strays`; `read_manifest` and `sources_of` give the manifest as something to rely on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.ledger import LOCK, MANIFEST, SCHEMA, Ledger
from engine.data.listing import SUFFIXES, is_hidden
from engine.data.manifest import ManifestRow, PartFacts, parse_part_facts, read_part_facts, read_small
from engine.data.parts import READERS, is_part, is_temporary, part_generation
from engine.data.pieces import InputFile, Piece
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.data.quarantine import quarantine_name
from engine.errors import DataError, EngineError, PlanError

AGAIN = "delete it, and rerun the job to score it again"
REWRITE = f"delete {MANIFEST}, and rerun the job to write it again"
# What changed bytes raise besides pyarrow's own errors: for text that is none, a key that is gone.
ODD_BYTES = (ValueError, TypeError, KeyError, AttributeError, OverflowError)


def read_manifest(ledger: Ledger) -> list[ManifestRow]:
    """Return the manifest, each value of the kind that it should be.

    Raises:
        DataError: if it is damaged, or not there.
    """
    place = ledger.folder.place_of(MANIFEST)
    try:
        manifest = ledger.read_manifest()
    except ODD_BYTES as error:
        raise DataError(f"{place} is damaged ({error})") from error
    for row in manifest:
        numbers = row.shard_id, row.rows_in, row.rows, row.rows_quarantined, row.rows_filtered, row.bytes
        if not isinstance(row.part, str) or not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise DataError(f"{place} is damaged: {row} is no row of it")
        try:
            sources_of(row)
            [(nan + 0, inf + 0) for nan, inf in json.loads(row.odd_values).values()]
        except ODD_BYTES as error:
            raise DataError(f"{place} is damaged: {row} is no row of it") from error
    return manifest


def sources_of(row: ManifestRow) -> list[tuple[str, int, int]]:
    """Return what a part was made of: files below their roots, and ranges of their bytes."""
    return [(str(name), int(start), int(stop)) for name, start, stop in json.loads(row.sources)]


def pair_pieces(rows: Sequence[ManifestRow], files: Sequence[InputFile]) -> dict[str, list[Piece]]:
    """Return what the parts of a generation were made of; files of one name below several roots come in their order."""
    found: dict[str, list[Piece]] = {}
    left = iter(files)
    file: InputFile | None = None
    for row in sorted(rows, key=lambda row: row.shard_id):
        for name, start, stop in sources_of(row):
            if file is None or start == 0 or file.relative_path != name:
                file = next((each for each in left if each.relative_path == name), None)
            if file is None:
                raise DataError(f"{row.part} was made of {name}, which is not in it at that place")
            piece = Piece(file.path, name, file.size_bytes, file.mtime_ns, start, stop, None)
            found.setdefault(row.part, []).append(piece)
    return found


def check_parts(
    ledger: Ledger,
    plans: Mapping[int, Mapping[str, Any]],
    manifest: Sequence[ManifestRow],
    files: Mapping[str, int],
) -> list[str]:
    """Check every part, and its quarantine, against the manifest; return what is wrong."""
    schema, wrong = _read_schema(ledger, files)
    others: dict[str, str] = {}  # parts as they were published, with another schema

    def check(row: ManifestRow) -> list[str]:
        plan, aside = plans.get(part_generation(row.part) or 0), quarantine_name(row.part)
        problems: list[str] = []
        try:
            if row.part in files:
                problems += _check_part(ledger, row, plan, schema, others)
            else:
                problems.append(f"{row.part} is gone, with {row.rows} rows; rerun the job to score it again")
            if row.rows_quarantined:
                problems += _check_quarantine(ledger, row, plan, aside in files)
        except EngineError as error:
            problems.append(f"{row.part} cannot be read: {error}")
        return problems

    with ThreadPoolExecutor(READERS) as pool:
        wrong += [problem for problems in pool.map(check, manifest) for problem in problems]
    if others:
        first = min(others)
        wrong.append(f"{SCHEMA} is not the schema of {len(others)} parts, first {first}: {others[first]}")
    return wrong


def _read_schema(ledger: Ledger, files: Mapping[str, int]) -> tuple[pa.Schema | None, list[str]]:
    """Return the output's schema, and what is wrong with the file that keeps it."""
    if SCHEMA not in files:
        return None, [f"{SCHEMA} is gone: whether the parts have one schema was not checked"]
    try:
        schema = ledger.read_schema()
        return schema, [] if str(schema) else [f"{SCHEMA} tells of no column"]
    except (EngineError, *ODD_BYTES) as error:
        return None, [f"{SCHEMA} is damaged, and whether the parts have one schema was not checked: {error}"]


def _difference(found: pa.Schema, schema: pa.Schema) -> str:
    """Say in which columns two schemas differ; empty where they do not."""
    if found.equals(schema):
        return ""
    mine, theirs = ({field.name: str(field.type) for field in each} for each in (found, schema))
    names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    told = [f"{name} {theirs.get(name, 'missing')} where they have {mine.get(name, 'none')}" for name in names]
    return "; ".join(told) or "its columns come in another order, or other ones may be null"


def _read_part(ledger: Ledger, name: str) -> tuple[PartFacts, int, pa.Schema]:
    """Return what the footer of a part says, its rows and its schema.

    Raises:
        PlanError: if no job of ours wrote the file.
        DataError: if it is damaged.
    """
    place = ledger.folder.place_of(name)
    try:
        with ledger.folder.open(name) as file, reading(place):
            metadata = pq.read_metadata(file)
            facts = parse_part_facts(place, metadata.metadata or {})
            schema = metadata.schema.to_arrow_schema().remove_metadata()
            str(schema)  # names that are no text show here
            return facts, metadata.num_rows, schema
    except ODD_BYTES as error:
        raise DataError(f"{place}: its footer is damaged ({error})") from error


def _check_part(
    ledger: Ledger,
    row: ManifestRow,
    plan: Mapping[str, Any] | None,
    schema: pa.Schema | None,
    others: dict[str, str],
) -> Iterator[str]:
    """Check one part: whose it is, its bytes, and what its footer counts; note in `others` how its schema differs."""
    try:
        facts, num_rows, its_schema = _read_part(ledger, row.part)
    except DataError as error:
        yield f"{row.part} is damaged or was cut short ({error.message}); {AGAIN}"
        return
    except PlanError:
        yield f"{row.part}: no job of icefloe wrote this file; {AGAIN}"
        return
    if plan is not None and facts.plan_id != plan["plan_id"]:
        yield f"{row.part} is a part of another plan ({facts.plan_id}); {AGAIN}"
        return
    if facts.shard_id != row.shard_id:
        yield f"{row.part} holds shard {facts.shard_id} in place of {row.shard_id}; {AGAIN}"
        return
    part, cure = ledger.folder.hash(row.part), REWRITE
    if part.num_bytes != row.bytes:
        cure = AGAIN
        yield f"{row.part} has {part.num_bytes} bytes where the manifest says {row.bytes}; {cure}"
    elif part.sha256 != row.sha256:
        cure = AGAIN
        yield f"{row.part}: its bytes are not those that were published (sha-256 differs from the manifest's); {cure}"
    if facts.counts != row.counts or num_rows != row.rows:
        yield (
            f"{row.part}: its footer counts {counts_text(facts.counts)} and it has {num_rows} rows, "
            f"the manifest counts {counts_text(row.counts)}; {cure}"
        )
    if json.loads(facts.sources) != json.loads(row.sources):
        yield f"{row.part}: its footer names other inputs ({facts.sources}) than the manifest ({row.sources}); {cure}"
    if {name: list(pair) for name, pair in facts.odd_values.items()} != json.loads(row.odd_values):
        yield f"{row.part}: its footer counts other NaN and Inf values than the manifest; {cure}"
    difference = "" if schema is None or cure == AGAIN else _difference(its_schema, schema)
    if difference:
        others[row.part] = difference


def counts_text(counts: Any) -> str:
    """Write what became of the rows as people read it."""
    return (
        f"{counts.rows_in} rows in, {counts.rows} out, {counts.rows_quarantined} quarantined, "
        f"{counts.rows_filtered} filtered"
    )


def _check_quarantine(
    ledger: Ledger, row: ManifestRow, plan: Mapping[str, Any] | None, is_there: bool
) -> Iterator[str]:
    """Check that the bad rows of a part lie in quarantine, and can be read."""
    name = quarantine_name(row.part)
    cure = f"delete {row.part}, and rerun the job"
    if not is_there:
        yield f"{name} is gone, with {row.rows_quarantined} rows; {cure}"
        return
    sources, num_rows = {source for source, _, _ in sources_of(row)}, 0
    try:
        facts = _read_part(ledger, name)[0]
        with ledger.folder.open(name) as file, reading(ledger.folder.place_of(name)):
            for batch in pq.ParquetFile(file).iter_batches():
                num_rows += len(batch)
                batch.validate(full=True)
                if not sources.issuperset(batch.column("_file").to_pylist()):
                    yield f"{name} holds rows of other inputs than {row.part}; {cure}"
                    return
    except (DataError, PlanError, *ODD_BYTES) as error:
        yield f"{name} is damaged ({error}); {cure}"
        return
    if plan is not None and (facts.plan_id, facts.shard_id) != (plan["plan_id"], row.shard_id):
        yield f"{name} holds bad rows of shard {facts.shard_id} of plan {facts.plan_id}; {cure}"
    elif facts.counts != row.counts or num_rows != row.rows_quarantined:
        yield f"{name} holds {num_rows} rows where the manifest counts {row.rows_quarantined}; {cure}"


def quarantined_rows(ledger: Ledger, row: ManifestRow) -> dict[str, frozenset[int]]:
    """Return the rows of a shard that are in quarantine, by file below its root."""
    if not row.rows_quarantined:
        return {}
    name = quarantine_name(row.part)
    with ledger.folder.open(name) as file, reading(ledger.folder.place_of(name)):
        table = read_small(file, ["_file", "_row"])
    found: dict[str, set[int]] = {}
    for path, number in zip(table["_file"].to_pylist(), table["_row"].to_pylist(), strict=True):
        found.setdefault(path, set()).add(number)
    return {path: frozenset(numbers) for path, numbers in found.items()}


def check_strays(
    ledger: Ledger,
    plans: Mapping[int, Mapping[str, Any]],
    manifest: Sequence[ManifestRow] | None,
    files: Mapping[str, int],
) -> tuple[list[str], list[str]]:
    """Find files that readers would take for parts, or for bad rows, and that are none.

    Args:
        ledger: the output folder.
        plans: plan of each generation.
        manifest: the manifest; None where it cannot be read, and no file can be told to be too many.
        files: every file of the folder.

    Returns:
        What is wrong, and what is worth knowing.
    """
    notes = [
        f"{name} was left behind by an attempt that was killed; the next run removes it"
        for name in sorted(files)
        if is_temporary(name)
    ]
    if LOCK in files:
        notes.append(f"{LOCK}: a job is writing to the folder now, or was killed; verify it again once none does")
    if manifest is None:
        return [], notes
    wrong: list[str] = []
    parts = {row.part for row in manifest}
    asides = {quarantine_name(row.part) for row in manifest if row.rows_quarantined}
    for name in sorted(name for name in files if not is_temporary(name)):
        if name.startswith(f"{QUARANTINE_FOLDER}/"):
            if name not in asides:
                wrong.append(f"{name}: no part in the manifest has these bad rows; move it away")
        elif name not in parts and (is_part(name) or (name.endswith(SUFFIXES) and not is_hidden(name))):
            facts = _facts_of(ledger, name)
            if facts is not None:
                wrong.append(f"{name} holds {_whose(facts, plans, manifest)}; readers take it for a part; move it away")
            elif is_part(name):
                wrong.append(f"{name} is called as a part is, but no job of icefloe wrote it; move it away")
            else:
                notes.append(f"{name} is no file of this job; whoever reads the whole folder reads it, too")
    return wrong, notes


def _whose(facts: PartFacts, plans: Mapping[int, Mapping[str, Any]], manifest: Sequence[ManifestRow]) -> str:
    """Say which shard a part that the manifest does not list holds."""
    number = next((number for number, plan in plans.items() if plan["plan_id"] == facts.plan_id), None)
    if number is None:
        return f"shard {facts.shard_id} of another plan ({facts.plan_id})"
    if any((part_generation(row.part) or 0, row.shard_id) == (number, facts.shard_id) for row in manifest):
        return f"shard {facts.shard_id} of this job a second time"
    return f"shard {facts.shard_id} of this job, which the manifest does not list"


def _facts_of(ledger: Ledger, name: str) -> PartFacts | None:
    """Return what the footer of a file says; None where no job of ours wrote it."""
    try:
        return read_part_facts(ledger.folder, name)
    except (EngineError, *ODD_BYTES):
        return None
