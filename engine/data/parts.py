"""The parts of an output folder: which are there, which are a plan's own, and which go.

A part that is there under its name is done, for parts appear whole or not at all. Start at `PartNames`.
"""

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.data.manifest import ManifestRow, PartFacts, describe_part, read_part_facts
from engine.data.quarantine import QUARANTINE, quarantine_name
from engine.data.storage.folder import TEMPORARY_PREFIX, OutputFolder
from engine.errors import DataError, PlanError, RefusedError

PART = re.compile(r"part-(?:g(?P<generation>\d{4,})-)?(?P<shard_id>\d{5,})-of-(?P<num_shards>\d{5,})\.parquet")
# Footers are small; what takes the time is waiting for them.
READERS = 16


def is_part(name: str) -> bool:
    """Whether the file `name` is called as a part is."""
    return PART.fullmatch(name.rpartition("/")[2]) is not None


def part_generation(name: str) -> int | None:
    """Return the generation that a part belongs to by its name; None for any other file."""
    found = PART.fullmatch(name.rpartition("/")[2])
    return None if found is None else int(found["generation"] or 0)


def part_total(name: str) -> int | None:
    """Return how many parts a part's name says that there are of its generation; None for any other file."""
    found = PART.fullmatch(name.rpartition("/")[2])
    return None if found is None else int(found["num_shards"])


def part_shard(name: str) -> int | None:
    """Return the shard that a part's name says; None for any other file."""
    found = PART.fullmatch(name.rpartition("/")[2])
    return None if found is None else int(found["shard_id"])


def is_temporary(name: str) -> bool:
    """Whether the file `name` is what a killed attempt left behind."""
    return name.rpartition("/")[2].startswith(TEMPORARY_PREFIX)


def keep_parts(folder: OutputFolder, names: Iterable[str], plan_id: str) -> set[str]:
    """Return which of `names` are parts of the plan, each of the shard that its name says, and remove the others.

    Such were left by a discarded job's late actor, or miss the quarantine that their rows went to, or were cut off
    where uploads appear before they are complete.

    Raises:
        PlanError: for a file under a part's name that no job of ours wrote, or that is damaged.
        RefusedError: if the storage does not let them be read.
    """

    def is_mine(name: str) -> bool:
        try:
            facts = read_part_facts(folder, name)
            is_its_own = (facts.plan_id, facts.shard_id) == (plan_id, part_shard(name))
            if is_its_own and _has_quarantine(folder, name, facts):
                return True
        except RefusedError:
            raise
        except DataError as error:
            if folder.is_whole:
                raise PlanError(f"{error}; delete this part, and the same command scores it again") from error
        folder.remove(name)
        return False

    names = sorted(names)
    with ThreadPoolExecutor(READERS) as pool:
        return {name for name, mine in zip(names, pool.map(is_mine, names), strict=True) if mine}


def _has_quarantine(folder: OutputFolder, name: str, facts: PartFacts) -> bool:
    """Return whether the bad rows that a part's footer tells of lie in quarantine."""
    if not facts.counts.rows_quarantined:
        return True
    try:
        aside = read_part_facts(folder, quarantine_name(name))
        return (aside.plan_id, aside.counts) == (facts.plan_id, facts.counts)
    except RefusedError:
        raise
    except (DataError, PlanError):
        return False


def describe_parts(folder: OutputFolder, names: Sequence[str]) -> list[ManifestRow]:
    """Read footers and hash the bytes of parts of earlier runs."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda name: describe_part(folder, name), names))


def count_quarantined(folder: OutputFolder, parts: Iterable[str], names: Collection[str]) -> int:
    """Return how many bad rows `parts` left in quarantine.

    Args:
        folder: the output folder.
        parts: parts that are there.
        names: every file that is there.
    """
    asides = sorted({quarantine_name(part) for part in parts}.intersection(names))
    with ThreadPoolExecutor(READERS) as pool:
        found = pool.map(lambda name: read_part_facts(folder, name).counts.rows_quarantined, asides)
        return sum(found)


def parts_of(folder: OutputFolder, names: Iterable[str], plan_ids: Collection[str]) -> list[str]:
    """Return which of `names` are parts, or lie in quarantine, of the plans `plan_ids`."""

    def is_theirs(name: str) -> bool:
        with contextlib.suppress(PlanError, DataError):  # a foreign or a damaged file is nobody's
            return read_part_facts(folder, name).plan_id in plan_ids
        return False

    called_so = [name for name in names if is_part(name) or QUARANTINE.fullmatch(name.rpartition("/")[2])]
    with ThreadPoolExecutor(READERS) as pool:
        return [name for name, theirs in zip(called_so, pool.map(is_theirs, called_so), strict=True) if theirs]


def remove_parts(folder: OutputFolder, names: Iterable[str], plan_ids: Collection[str]) -> None:
    """Remove the parts, and what lies in quarantine, of the plans `plan_ids`, and nothing else."""
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(folder.remove, parts_of(folder, names, plan_ids)))


def remove_others(
    folder: OutputFolder,
    names: Collection[str],
    manifest: Sequence[ManifestRow],
    plan: Mapping[str, Any],
    generation: int,
) -> list[str]:
    """Remove what late actors of discarded jobs have left, and return what of it lay in the place of a part of ours.

    Args:
        folder: the output folder.
        names: every file that is there.
        manifest: the parts of the job that is through.
        plan: its plan, which names those that were discarded for it; it may be one of them itself, run once more.
        generation: its generation; the parts of others are not looked at.
    """
    own = {name for row in manifest if part_generation(row.part) == generation for name in _files_of(row)}
    known = {name for row in manifest for name in _files_of(row)}
    discarded = plan.get("discarded", ())
    remove_parts(folder, [name for name in names if name not in known], discarded)
    others = set(discarded) - {plan["plan_id"]}
    replaced = parts_of(folder, sorted(own.intersection(names)), others) if others else []
    for name in replaced:
        folder.remove(name)
    return replaced


def _files_of(row: ManifestRow) -> tuple[str, ...]:
    return (row.part, quarantine_name(row.part)) if row.rows_quarantined else (row.part,)
