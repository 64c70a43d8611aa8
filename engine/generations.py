"""Settles which generation of an output folder a call scores: its first, one that was cut off, or a new one.

A folder that grows is scored again and again into the same output (`--add`): each time, the files that are new since
make a generation with a plan and parts of its own. Old files may go, but not change. Start at `choose_generation`.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.data.columns import InputSchema
from engine.data.ledger import Ledger, last_generation
from engine.data.parts import is_part, part_generation, part_total
from engine.data.pieces import InputFile
from engine.errors import PlanError
from engine.run.plan import pair_files, touched_files


@dataclass(frozen=True, slots=True)
class History:
    """What earlier runs left in an output folder."""

    first_plan: Mapping[str, Any]
    """Plan of generation 0, which settles what later ones share."""
    inputs: tuple[tuple[InputFile, ...], ...]
    """Listing of each generation."""
    unfinished: tuple[int, ...]
    """Generations of which parts are missing."""


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
    """Whether the call's input holds more to score once this is done."""


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
    last = min(last_generation(names), len(inputs) - 1)  # a plan without its inputs was cut off before them
    return History(first_plan, tuple(inputs[: last + 1]), find_unfinished(names, last))


def find_unfinished(names: Mapping[str, int], last: int) -> tuple[int, ...]:
    """Return the generations, up to the last one, of which parts are missing among the files `names`."""
    found = Counter((part_generation(name), part_total(name)) for name in names if is_part(name))
    complete = {number for (number, total), count in found.items() if count == total}
    return tuple(number for number in range(last + 1) if number not in complete)


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
    pairs, added = pair_files([file for files in history.inputs for file in files], listed)
    changes = touched_files(pairs)
    if added and not may_add:
        changes.append(f"{len(added)} input files new, first: {added[0].relative_path} (type --add to score them too)")
    if changes:
        raise PlanError(
            f"--output {output} holds a job that differs: {'; '.join(changes)}; "
            "name another folder, or type --overwrite to discard it"
        )
    last = len(history.inputs) - 1
    if not history.unfinished and added:
        return Target(last + 1, tuple(added), history.first_plan)
    number = history.unfinished[0] if history.unfinished else last
    has_more = bool(history.unfinished) and (len(history.unfinished) > 1 or bool(added))
    lies_now = {old.path: new for old, new in pairs}
    files = tuple(lies_now.get(file.path, file) for file in history.inputs[number])  # those that are gone as they were
    return Target(number, files, history.first_plan, has_more)


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
