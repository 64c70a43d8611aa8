"""Checks the files of an output: parts and quarantine against the manifest, and what is there beside them.

Start at `check_parts` and `check_strays`.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.ledger import Ledger
from engine.data.listing import is_hidden
from engine.data.manifest import ManifestRow, PartFacts, parse_part_facts, read_part_facts
from engine.data.parts import READERS, is_part, is_temporary, part_generation
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.data.quarantine import quarantine_name
from engine.errors import DataError, PlanError


def check_parts(
    ledger: Ledger,
    plans: Mapping[int, Mapping[str, Any]],
    manifest: Sequence[ManifestRow],
    files: Mapping[str, int],
) -> list[str]:
    """Check every part, and its quarantine, against the manifest; return what is wrong."""
    schema = ledger.read_schema()

    def check(row: ManifestRow) -> list[str]:
        plan = plans.get(part_generation(row.part) or 0)
        if row.part not in files:
            return [f"{row.part} is gone, with {row.rows} rows; rerun the job to score it again"]
        problems = list(_check_part(ledger, row, plan, schema))
        if not problems and row.rows_quarantined:
            problems += _check_quarantine(ledger, row, files)
        return problems

    with ThreadPoolExecutor(READERS) as pool:
        wrong = [problem for problems in pool.map(check, manifest) for problem in problems]
    return wrong if schema is not None else ["the output's schema is gone", *wrong]


def _check_part(
    ledger: Ledger, row: ManifestRow, plan: Mapping[str, Any] | None, schema: pa.Schema | None
) -> Iterator[str]:
    """Check one part: whose it is, what its footer counts, its schema and its bytes."""
    folder, cure = ledger.folder, "delete it and rerun the job"
    try:
        with folder.open(row.part) as file, reading(folder.place_of(row.part)):
            metadata = pq.read_metadata(file)
            facts = parse_part_facts(folder.place_of(row.part), metadata.metadata or {})
            its_schema = metadata.schema.to_arrow_schema().remove_metadata()
    except DataError as error:
        yield f"{row.part} is damaged or was cut short: {error.message}; {cure}"
        return
    except PlanError:
        yield f"{row.part}: no job of icefloe wrote this file; {cure}"
        return
    if plan is not None and facts.plan_id != plan["plan_id"]:
        yield f"{row.part} is a part of another plan ({facts.plan_id}); {cure}"
    elif facts.shard_id != row.shard_id:
        yield f"{row.part} holds shard {facts.shard_id} in place of {row.shard_id}; {cure}"
    elif facts.counts != row.counts or metadata.num_rows != row.rows:
        yield f"{row.part}: its footer counts {facts.counts} and {metadata.num_rows} rows, the manifest {row.counts}"
    elif schema is not None and not its_schema.equals(schema):
        yield f"{row.part}: its schema is {its_schema}, that of the output {schema}"
    else:
        part = folder.hash(row.part)
        if part.num_bytes != row.bytes:
            yield f"{row.part} has {part.num_bytes} bytes where the manifest says {row.bytes}; {cure}"
        elif part.sha256 != row.sha256:
            yield f"{row.part}: its bytes are not those that were published (sha-256 differs); {cure}"


def _check_quarantine(ledger: Ledger, row: ManifestRow, files: Mapping[str, int]) -> Iterator[str]:
    """Check that the bad rows of a part lie in quarantine."""
    name = quarantine_name(row.part)
    if name not in files:
        yield f"{name} is gone, with {row.rows_quarantined} rows; delete {row.part} and rerun the job"
        return
    try:
        with ledger.folder.open(name) as file, reading(ledger.folder.place_of(name)):
            num_rows = pq.read_metadata(file).num_rows
        facts = read_part_facts(ledger.folder, name)
    except (DataError, PlanError) as error:
        yield f"{name} is damaged: {error}"
        return
    if facts.counts != row.counts or num_rows != row.rows_quarantined:
        yield f"{name} holds {num_rows} rows ({facts.counts}), the manifest says {row.counts}"


def check_strays(
    ledger: Ledger,
    plans: Mapping[int, Mapping[str, Any]],
    manifest: Sequence[ManifestRow],
    files: Mapping[str, int],
) -> tuple[list[str], list[str]]:
    """Find files that readers would take for parts, or for bad rows, and that are none.

    Returns:
        What is wrong, and what is worth knowing.
    """
    wrong: list[str] = []
    notes: list[str] = []
    parts = {row.part for row in manifest}
    asides = {quarantine_name(row.part) for row in manifest if row.rows_quarantined}
    plan_ids = {plan["plan_id"] for plan in plans.values()}
    for name in sorted(files):
        if is_temporary(name):
            notes.append(f"{name} was left behind by an attempt that was killed; the next run removes it")
        elif name.startswith(f"{QUARANTINE_FOLDER}/") and name not in asides:
            wrong.append(f"{name}: no part's bad rows")
        elif name.endswith(".parquet") and not is_hidden(name) and name not in parts:
            facts = _facts_of(ledger, name)
            if facts is not None:
                whose = "this job, a second time" if facts.plan_id in plan_ids else "another plan"
                wrong.append(f"{name} holds shard {facts.shard_id} of {whose}; readers count it; delete it")
            elif is_part(name):
                wrong.append(f"{name} is called as a part, but no job of icefloe wrote it; move it away")
            else:
                notes.append(f"{name} is no file of this job; who reads the whole folder reads it, too")
    return wrong, notes


def _facts_of(ledger: Ledger, name: str) -> PartFacts | None:
    """Return what the footer of a file says; None where no job of ours wrote it."""
    try:
        return read_part_facts(ledger.folder, name)
    except (DataError, PlanError):
        return None
