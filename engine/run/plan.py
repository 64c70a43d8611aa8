"""Cuts input files into shards and gives the job its identity.

Pure: from a listing and settings to a plan, with no file opened and no footer read. The same listing and settings
give the same plan whatever the number of actors. Start at `plan_shards` and `plan_id`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.data.pieces import InputFile, Piece

MAX_SHOWN = 5
MIB = 2**20
MIN_SHARD_BYTES, MAX_SHARD_BYTES = 16 * MIB, 256 * MIB
SHARDS_PER_JOB = 512
# On a CPU what a batch makes between its layers should stay in the caches: at 256 KiB of input MLP, CNN, ResNet50 and
# JPEG in the graph are within 13 % of their best batch size, at 4 MiB up to 30 % behind. A GPU wants more at once.
CPU_BATCH_BYTES, GPU_BATCH_BYTES = MIB // 4, 4 * MIB
MIN_CPU_BATCH_ROWS, MIN_GPU_BATCH_ROWS, MAX_BATCH_ROWS = 4, 16, 4096


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work, of retry and of output: some whole files of one partition, or a byte range of one file."""

    shard_id: int
    """Position in the plan, from 0."""
    partition: str
    """Hive partition folder that its part goes to; empty where there is none."""
    pieces: tuple[Piece, ...]
    """What it reads, in order."""

    @property
    def num_bytes(self) -> int:
        """Input bytes on disk that it covers."""
        return sum(piece.stop_byte - piece.start_byte for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Cut:
    """The shards of a plan."""

    shards: tuple[Shard, ...] = ()
    """The shards; their positions name the parts."""
    part_names: Mapping[str, int] = field(default_factory=dict)
    """Shard by the name of its part."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job will do, down to the name of every part."""

    plan_id: str
    """Hash over everything that decides the output."""
    settings: Mapping[str, Any]
    """What the plan id is a hash of, by name."""
    files: tuple[InputFile, ...]
    """Every input file, sorted by path."""
    cut: Callable[[], Cut] = field(repr=False, compare=False)
    """Gives the shards, which may still be being cut; they follow from `settings` and `files`."""
    batch_rows: int
    """Rows per graph call."""
    shard_bytes: int
    """Input bytes per shard."""
    generation: int = 0
    """Which time that files were added; part of the names of its parts."""

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The shards; their positions name the parts."""
        return self.cut().shards

    @property
    def part_names(self) -> Mapping[str, int]:
        """Shard by the name of its part."""
        return self.cut().part_names

    def whole_file(self, file: InputFile) -> Piece:
        """Return one of the input files as a piece, to look at some of its rows."""
        return Piece(file.path, file.relative_path, file.size_bytes, file.mtime_ns, 0, file.size_bytes, None)


def part_name(shard: Shard, num_shards: int, generation: int = 0) -> str:
    """Return the path of a shard's part below the output folder; later generations have their number in it."""
    number = f"g{generation:04d}-" if generation else ""
    name = f"part-{number}{shard.shard_id:05d}-of-{num_shards:05d}.parquet"
    return f"{shard.partition}/{name}" if shard.partition else name


def resolve_shard_bytes(shard_size: int | str, total_bytes: int, group_bytes: int = 0) -> int:
    """Return the bytes per shard; `auto` is a 512th of the input, from 16 to 256 MiB.

    It is no smaller than `group_bytes`, what a row group takes with its share of the footer: ranges of a file that are
    smaller would be empty, for a row group is read whole.
    """
    if isinstance(shard_size, int):
        return shard_size
    return min(MAX_SHARD_BYTES, max(MIN_SHARD_BYTES, math.ceil(total_bytes / SHARDS_PER_JOB), group_bytes))


def resolve_batch_rows(batch_size: int | str, fixed_rows: int | None, row_bytes: float, has_gpu: bool) -> int:
    """Return the rows per graph call; a fixed batch axis wins.

    `auto` is the power of two nearest to 256 KiB of input, from 4 to 4,096; on GPUs to 4 MiB, from 16 on.
    """
    if fixed_rows is not None:
        return fixed_rows
    if isinstance(batch_size, int):
        return batch_size
    wanted, least = (GPU_BATCH_BYTES, MIN_GPU_BATCH_ROWS) if has_gpu else (CPU_BATCH_BYTES, MIN_CPU_BATCH_ROWS)
    power = round(math.log2(wanted / max(row_bytes, 1.0)))
    return min(MAX_BATCH_ROWS, max(least, 1 << max(power, 0)))


def plan_shards(
    files: Sequence[InputFile], shard_bytes: int, stop_rows: Mapping[str, int] | None = None
) -> Iterator[Shard]:
    """Cut `files` into shards of about `shard_bytes`.

    Every byte of every file is in exactly one piece of one shard, in file order, and so is every row group, by its
    midpoint. Consecutive small files share a shard only within one partition folder.

    Args:
        files: input files, sorted by path.
        shard_bytes: the most input bytes of a shard of several files, and of a range of one file.
        stop_rows: with a row limit, the files that are read and where each ends; None for all of all files.
    """
    shard_id = 0
    small: list[Piece] = []
    partition, small_bytes = "", 0
    for file in files:
        if stop_rows is not None and file.path not in stop_rows:
            continue
        stop_row = None if stop_rows is None else stop_rows[file.path]
        if small and (file.partition != partition or small_bytes + file.size_bytes > shard_bytes):
            yield Shard(shard_id, partition, tuple(small))
            shard_id, small, small_bytes = shard_id + 1, [], 0
        partition = file.partition
        num_ranges = max(1, math.ceil(file.size_bytes / shard_bytes))
        for i in range(num_ranges):
            start, stop = file.size_bytes * i // num_ranges, file.size_bytes * (i + 1) // num_ranges
            piece = Piece(file.path, file.relative_path, file.size_bytes, file.mtime_ns, start, stop, stop_row)
            if num_ranges == 1:
                small.append(piece)
                small_bytes += file.size_bytes
            else:
                yield Shard(shard_id, partition, (piece,))
                shard_id += 1
    if small:
        yield Shard(shard_id, partition, tuple(small))


def cut_plan(files: Sequence[InputFile], shard_bytes: int, stop_rows: Mapping[str, int] | None, generation: int) -> Cut:
    """Cut `files` into shards, and name their parts; 4 us a shard."""
    shards = tuple(plan_shards(files, shard_bytes, stop_rows))
    return Cut(shards, {part_name(shard, len(shards), generation): shard.shard_id for shard in shards})


def limit_rows(files: Sequence[InputFile], num_rows: Mapping[str, int], limit: int) -> dict[str, int]:
    """Return the files that hold the first `limit` rows, and for each the row that it is read to."""
    stop_rows: dict[str, int] = {}
    for file in files:
        if limit <= 0:
            break
        stop_rows[file.path] = min(limit, num_rows[file.path])
        limit -= num_rows[file.path]
    return stop_rows


def inputs_digest(files: Sequence[InputFile]) -> str:
    """Hash the input files in the plan's order, which decides the shards: path below its root, and size."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_path}\0{file.size_bytes}\n".encode())
    return digest.hexdigest()


def plan_id(settings: Mapping[str, Any]) -> str:
    """Hash the settings that decide the output; 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]


def explain_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], old_files: Sequence[InputFile], files: Sequence[InputFile]
) -> list[str]:
    """Say what differs between an earlier plan's settings and inputs and these, a sentence each."""
    changes = explain_settings(before, after)
    if not old_files:  # killed before it wrote them; the digest has names and sizes
        same = before.get("inputs_sha256") == after.get("inputs_sha256")
        return changes if same else [*changes, "the input files differ"]
    pairs, added = pair_files(old_files, files)
    if added:
        changes.append(f"{len(added)} input files new, first: {added[0].relative_path}")
    if len(pairs) < len(old_files):
        kept = {old.path for old, _ in pairs}
        gone = [file for file in old_files if file.path not in kept]
        changes.append(f"{len(gone)} input files gone, first: {gone[0].relative_path}")
    changes += touched_files(pairs)
    if not changes and before.get("inputs_sha256") != after.get("inputs_sha256"):
        changes.append("the input files come in another order")
    return changes


def explain_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say which settings differ, inputs apart."""
    return [
        f"{name} {before.get(name)} -> {after.get(name)}"
        for name in sorted({*before, *after} - {"inputs_sha256"})
        # As JSON, for that is how the earlier ones were kept: a tuple has become a list, NaN is equal to itself.
        if json.dumps(before.get(name), sort_keys=True) != json.dumps(after.get(name), sort_keys=True)
    ]


def pair_files(
    old: Sequence[InputFile], new: Sequence[InputFile]
) -> tuple[list[tuple[InputFile, InputFile]], list[InputFile]]:
    """Find the files of an earlier listing in a new one: where they were, else below roots that were renamed.

    Returns:
        Pairs of an old file and the same one now, and the files of the new listing that are none of them, in order.
    """
    by_path = {file.path: file for file in new}
    pairs = [(file, by_path[file.path]) for file in old if file.path in by_path]
    found = {file.path for file, _ in pairs}
    moved: dict[str, list[InputFile]] = {}
    for file in new:
        if file.path not in found:
            moved.setdefault(file.relative_path, []).append(file)
    for is_same in (True, False):  # those that are what they were choose first: of twins, one may be gone
        for file in old:
            candidates = moved.get(file.relative_path, ()) if file.path not in found else ()
            fitting = [each for each in candidates if not is_same or _state(each) == _state(file)]
            if fitting:
                moved[file.relative_path].remove(fitting[0])
                found.add(file.path)
                pairs.append((file, fitting[0]))
    paired = {file.path for _, file in pairs}
    return pairs, [file for file in new if file.path not in paired]


def _state(file: InputFile) -> tuple[int, int]:
    return file.size_bytes, file.mtime_ns


def touched_files(pairs: Sequence[tuple[InputFile, InputFile]]) -> list[str]:
    """Say which files are not what they were, the first few by name."""
    changes = []
    for old, new in pairs:
        if old.size_bytes != new.size_bytes:
            changes.append(f"{new.relative_path} {old.size_bytes} -> {new.size_bytes} bytes")
        elif old.mtime_ns != new.mtime_ns:
            changes.append(f"{new.relative_path} touched, same size")
    more = len(changes) - MAX_SHOWN
    return changes if more <= 0 else [*changes[:MAX_SHOWN], f"and {more} more input files"]
