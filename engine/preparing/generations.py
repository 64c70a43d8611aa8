"""Settles which generation of an output folder a call scores: its first, one that was cut off, or a new one.

A folder that grows is scored again and again into the same output (`--add`): each time, the files that are new since
make a generation with a plan and parts of its own. Old files may go, but not change. Start at `choose_generation`.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.data.arrow_errors import reading
from engine.data.columns import InputSchema
from engine.data.ledger import MANIFEST, Ledger, last_generation
from engine.data.manifest import read_small
from engine.data.parts import part_generation, part_total
from engine.data.pieces import InputFile
from engine.errors import DataError, PlanError
from engine.run.plan import pair_files, part_name, plan_shards, touched_files

ADVICE = "name another folder, or type --overwrite to discard it"
ADD_ADVICE = "type --add to keep it and score only what is new, " + ADVICE
# File systems keep times to the nanosecond; stores tell whole seconds, which two files may well share.
SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class History:
    """What earlier runs left in an output folder."""

    first_plan: Mapping[str, Any]
    """Plan of generation 0, which settles what later ones share."""
    inputs: tuple[tuple[InputFile, ...], ...]
    """Listing of each generation."""
    unfinished: tuple[int, ...]
    """Generations of which parts are missing, or whose bad rows may not have been judged yet."""
    is_marked: bool = True
    """Whether the mark of success stands."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a call scores."""

    generation: int
    """Number of the generation, from 0."""
    files: tuple[InputFile, ...]
    """Its files."""
    first_plan: Mapping[str, Any] | None = None
    """Plan of generation 0, where the folder has one that this call goes on with; it settles columns and batches."""
    has_more: bool = False
    """Whether there is more to score once this is done: other generations, or files that came since."""
    has_gaps: bool = False
    """Whether parts of other generations are missing: the end of this one is not yet success."""
    is_settled: bool = False
    """Whether every generation is done, and no file is new."""
    gone: frozenset[str] = frozenset()
    """Paths of those of its files that are not there any more."""


def read_history(ledger: Ledger) -> History | None:
    """Return what earlier runs left; None where a job starts anew.

    Raises:
        PlanError: if the folder belongs to something else.
    """
    first_plan = ledger.read_plan()
    if first_plan is None or first_plan.get("discarding"):
        return None
    inputs = ledger.read_inputs()
    if not inputs:  # cut off before it wrote them
        return None
    names = ledger.find_files()
    begun = last_generation(names)
    last = min(begun, len(inputs) - 1)  # a plan without its inputs was cut off before them
    while last and not any(part_generation(name) == last for name in names):
        last -= 1  # nothing is lost by planning anew what has no part, be its files mended or gone
    unfinished = find_unfinished(ledger, names, inputs[: last + 1])
    is_marked = ledger.is_finished(names)
    if last == begun and last not in unfinished and not is_marked:  # another begins only after it was judged
        unfinished = (*unfinished, last)
    return History(first_plan, tuple(inputs[: last + 1]), unfinished, is_marked)


def find_unfinished(ledger: Ledger, names: Mapping[str, int], inputs: Sequence[Sequence[InputFile]]) -> tuple[int, ...]:
    """Return the generations of which parts are missing among the files `names`.

    The manifest tells the parts of those that came to their end, so that not every plan has to be read.
    """
    told: dict[int, list[str]] = {}
    for name in _manifest_parts(ledger, names):
        told.setdefault(part_generation(name) or 0, []).append(name)
    unfinished = []
    for number, files in enumerate(inputs):
        parts = told.get(number, [])
        if not parts or len(parts) != part_total(parts[0]):
            parts = expected_parts(ledger.read_plan(number), files, number)
        if not parts or not names.keys() >= set(parts):
            unfinished.append(number)
    return tuple(unfinished)


def _manifest_parts(ledger: Ledger, names: Mapping[str, int]) -> list[str]:
    if MANIFEST not in names:
        return []
    try:
        with reading(ledger.folder.place_of(MANIFEST)), ledger.folder.open(MANIFEST) as file:
            return [str(name) for name in read_small(file, ["part"])["part"].to_pylist()]
    except DataError:
        return []


def expected_parts(plan: Mapping[str, Any] | None, files: Sequence[InputFile], generation: int) -> list[str]:
    """Return the names of the parts that a generation has when it is done; none where it has no plan."""
    if plan is None:
        return []
    shards = list(plan_shards(files, plan["settings"]["shard_size"]))
    return [part_name(shard, len(shards), generation) for shard in shards]


def choose_generation(
    history: History | None, listed: Sequence[InputFile], may_add: bool, output: str = "the folder"
) -> Target:
    """Settle which files are scored, as which generation.

    Args:
        history: what earlier runs left; None where the job starts anew.
        listed: files of the call, without those whose folders `--where` leaves out.
        may_add: whether files that are new make another generation, and files that are gone are put up with.
        output: what messages call the output folder.

    Raises:
        PlanError: if an old file changed, or new ones are there and nobody asked to add them.
    """
    if history is None or (len(history.inputs) == 1 and not may_add):
        return Target(0, tuple(listed))
    old = [file for files in history.inputs for file in files]
    pairs, added = pair_files(old, listed)
    lies_now = {file.path: new for file, new in pairs}
    changes = touched_files(pairs) + moved_files([file for file in old if file.path not in lies_now], added)
    advice = ADVICE if changes else ADD_ADVICE
    if added and not may_add:
        changes.append(f"{len(added)} input files new, first: {added[0].relative_path}")
    if changes:
        raise PlanError(refusal(output, changes, advice))
    last = len(history.inputs) - 1
    if not history.unfinished and added:
        return Target(last + 1, tuple(added), history.first_plan)
    number = history.unfinished[0] if history.unfinished else last
    return Target(
        generation=number,
        files=tuple(lies_now.get(file.path, file) for file in history.inputs[number]),  # gone ones as they were
        first_plan=history.first_plan,
        has_more=len(history.unfinished) > 1 or bool(added),
        has_gaps=len(history.unfinished) > 1,
        is_settled=not history.unfinished and history.is_marked,
        gone=frozenset(file.path for file in history.inputs[number] if file.path not in lies_now),
    )


def refusal(output: str, changes: Sequence[str], advice: str) -> str:
    """Say why an output folder is not gone on with."""
    return f"--output {output} holds a job that differs: {'; '.join(changes)}; {advice}"


def moved_files(gone: Sequence[InputFile], added: Sequence[InputFile]) -> list[str]:
    """Say which file seems to be new only because it lies elsewhere below its root: its rows were scored already.

    Times of whole seconds prove nothing.
    """
    by_state = {_likeness(file): file for file in gone if file.mtime_ns % SECOND_NS}
    moved = [(by_state[_likeness(file)], file) for file in added if _likeness(file) in by_state]
    if not moved:
        return []
    old, new = moved[0]
    more = f", and {len(moved) - 1} more" if len(moved) > 1 else ""
    return [
        f"{old.relative_path} was moved to {new.relative_path}{more} (same name, size and time); move it back, "
        "or touch it if it is another file"
    ]


def _likeness(file: InputFile) -> tuple[str, int, int]:
    return os.path.basename(file.path), file.size_bytes, file.mtime_ns


def keep_schema(first: InputSchema) -> dict[str, Any]:
    """Return what a plan keeps of the first file's columns, which later generations are read by."""
    encoded = base64.b64encode(first.schema.serialize().to_pybytes()).decode()
    return {"path": first.path, "schema": encoded, "partitions": list(first.partitions)}


def kept_schema(plan: Mapping[str, Any]) -> InputSchema:
    """Return the columns that a plan keeps.

    Raises:
        PlanError: if they cannot be read.
    """
    try:
        kept = plan["columns"]
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept["schema"])))
        return InputSchema(kept["path"], schema, tuple(kept["partitions"]))
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise PlanError(f"the plan of the earlier job keeps no columns ({error}); type --overwrite") from error


def shared_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that all generations of an output have in common."""
    own = ("inputs_sha256", "shard_size", "versions", "generation", "first_plan_id")
    return {name: value for name, value in settings.items() if name not in own}
