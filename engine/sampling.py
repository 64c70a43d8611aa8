"""Scores some rows of a finished output again, in one plain session without Ray, and compares.

The rows are drawn from the parts; each is found in its input by counting past those in quarantine, and the very batch
that held it is scored. Start at `score_sample`.
"""

import bisect
import itertools
import math
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import JobConfig, build_config
from engine.data.arrow_errors import reading
from engine.data.faults import Array
from engine.data.ledger import Ledger, plan_name
from engine.data.manifest import ManifestRow
from engine.data.parts import part_generation
from engine.data.pieces import InputFile, Piece, partition_values
from engine.data.source import read_slices
from engine.data.storage.places import is_local, local_path
from engine.data.storage.reading import FileState, Storage, storage_of
from engine.errors import DataError, EngineError, GraphError
from engine.model.session import SessionOptions, load_session
from engine.preparing.generations import Target
from engine.preparing.inputs import Listed, choose_inputs
from engine.preparing.prepare import Job, bind_feeds, bind_job_model
from engine.preparing.scoring import scoring_spec
from engine.run.freezing import ScoredModel, freeze_here, scored_model
from engine.run.part_checks import ODD_BYTES, pair_pieces, quarantined_rows, read_manifest
from engine.run.plan import Cut, Plan
from engine.run.shard import Scorer

# Another kind of device, or other threads, may round otherwise; of small floats by a few of their last digits.
RELATIVE, ABSOLUTE = 1e-3, 1e-4
ROUGH = {"float16": 4e-3, "bfloat16": 3e-2}
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Resample:
    """What scoring some rows again has shown."""

    num_rows: int
    """Rows that were compared."""
    problems: tuple[str, ...]
    """What is wrong, a sentence each."""
    notes: tuple[str, ...] = ()
    """What could not be compared, and is nobody's fault."""


def score_sample(ledger: Ledger, num_rows: int, seed: int | None = None) -> Resample:
    """Score random rows of an output again.

    Args:
        ledger: the output folder, which is finished.
        num_rows: how many rows, at most as many as there are of inputs that are still there.
        seed: draws the same rows each time; None for others each time.

    Raises:
        DataError: if the manifest cannot be read.
    """
    manifest, files = read_manifest(ledger), ledger.find_files()
    generations = _Generations(ledger, manifest)
    drawn, num_gone = _draw([row for row in manifest if row.part in files], generations, num_rows, random.Random(seed))
    problems, differing, notes, compared = list[str](), list[str](), list[str](), 0
    for row, mine in drawn:
        again = generations.ready(row)
        if again is None:
            continue  # said once for its generation
        try:
            found = list(again.compare(row, mine, generations.pieces(row)))
        except (EngineError, *ODD_BYTES) as error:
            problems.append(f"{row.part}: its rows could not be scored again: {error}")
            continue
        compared += len(mine)
        if again.random_operations and found:
            node = again.random_operations[0]
            notes.append(f"{row.part}: {len(found)} rows differ, as they may: {node} in the graph draws random numbers")
        else:
            differing += found
    if num_gone:
        notes.append(f"the inputs of {num_gone} parts are gone; no row of these was scored again")
        if not drawn:
            problems.append("no row could be scored again: all inputs are gone, or lie elsewhere")
    more = len(differing) - MAX_SHOWN
    problems += [*generations.refusals, *differing[:MAX_SHOWN], *[f"and {more} more rows differ"] * (more > 0)]
    return Resample(compared, tuple(problems), tuple(notes))


def _draw(
    manifest: Sequence[ManifestRow], generations: "_Generations", num_rows: int, chance: random.Random
) -> tuple[list[tuple[ManifestRow, list[int]]], int]:
    """Draw rows of parts whose inputs are there; return them by part, and the number of parts that were passed over."""
    pool, num_gone = [row for row in manifest if row.rows], 0
    while True:
        starts, drawn = [0, *itertools.accumulate(row.rows for row in pool)], dict[int, list[int]]()
        for index in sorted(chance.sample(range(starts[-1]), min(num_rows, starts[-1]))):
            at = bisect.bisect_right(starts, index) - 1
            drawn.setdefault(at, []).append(index - starts[at])
        gone = {at for at in drawn if not generations.has_inputs(pool[at])}
        if not gone:
            return [(pool[at], mine) for at, mine in drawn.items()], num_gone
        pool, num_gone = [row for at, row in enumerate(pool) if at not in gone], num_gone + len(gone)


class _Generations:
    """The jobs that made an output, one a generation, each made ready when a row of it is wanted."""

    def __init__(self, ledger: Ledger, manifest: Sequence[ManifestRow]) -> None:
        self._ledger = ledger
        self._manifest = manifest
        self._inputs: list[tuple[InputFile, ...]] = []
        self._storage: dict[int, Storage] = {}
        self._pieces: dict[int, dict[str, list[Piece]]] = {}
        self._again: dict[int, _Again | None] = {}
        self._there: dict[str, bool] = {}
        self.refusals: list[str] = []
        """Why generations could not be scored again."""

    def pieces(self, row: ManifestRow) -> list[Piece]:
        """Return what a part was made of."""
        number = part_generation(row.part) or 0
        if number not in self._pieces:
            try:
                self._inputs = self._inputs or self._ledger.read_inputs()
                self._storage[number] = storage_of((self._ledger.read_plan(number) or {})["config"]["input"])
                mine = [row for row in self._manifest if (part_generation(row.part) or 0) == number]
                self._pieces[number] = pair_pieces(mine, self._inputs[number])
            except (EngineError, IndexError, *ODD_BYTES) as error:
                self._refuse(number, f"plan or list of inputs cannot be used: {error}")
                self._pieces[number] = {}
        return self._pieces[number].get(row.part, [])

    def has_inputs(self, row: ManifestRow) -> bool:
        """Whether every input of a part is there, changed or not."""
        pieces, there = self.pieces(row), self._there
        for path in {piece.path for piece in pieces} - there.keys():
            there[path] = _state(self._storage[part_generation(row.part) or 0], path) is not None
        return all(there[piece.path] for piece in pieces)

    def ready(self, row: ManifestRow) -> "_Again | None":
        """Return the job of a part, ready to score; None where `refusals` tells why not."""
        number = part_generation(row.part) or 0
        if self.pieces(row) and number not in self._again:
            try:
                self._again[number] = _Again(self._ledger, number, self._inputs[number])
            except (EngineError, IndexError, *ODD_BYTES) as error:
                what = "" if isinstance(error, EngineError) else f"{plan_name(number)} is damaged: "
                self._refuse(number, f"{what}{error}")
        return self._again.get(number)

    def _refuse(self, number: int, why: str) -> None:
        self._again[number] = None
        self.refusals.append(f"rows{f' of generation {number}' if number else ''} could not be scored again: {why}")


class _Again:
    """One generation's job, ready to score rows of it once more."""

    def __init__(self, ledger: Ledger, number: int, files: Sequence[InputFile]) -> None:
        self._ledger = ledger
        plan, first_plan = ledger.read_plan(number) or {}, ledger.read_plan() or {}
        job = _job_of(plan, first_plan, files, number)
        model = _model_of(job, plan)
        self.random_operations = job.model.random_operations
        spec = self._spec = scoring_spec(job, model)
        tensors, columns = [name for name, _ in spec.feeds], [name for name, _ in spec.fetches]
        options = SessionOptions(os.cpu_count() or 1, precision=spec.precision, xla=spec.xla)
        session = load_session(
            model.data, tensors, columns, model.constants, model.init_ops, options, job.config.op_library
        )
        self._scorer = Scorer(self._spec, session)
        tolerances = [max(ROUGH.get(x or "", RELATIVE) for x in (t.dtype, spec.precision)) for t in session.outputs]
        self._fetched = dict(zip((column for _, column in self._spec.fetches), tolerances, strict=True))

    def compare(self, row: ManifestRow, indices: Sequence[int], pieces: Sequence[Piece]) -> Iterator[str]:
        """Yield a sentence for each of the part's rows `indices` (ascending) that is not what the model gives."""
        bad, left, done = quarantined_rows(self._ledger, row), list(indices), 0
        paths = Counter(name for _, name in {(piece.path, piece.relative_path) for piece in pieces})
        written, spec = _read_rows(self._ledger, row.part, indices), self._spec
        for read in (read for piece in pieces for read in read_slices(piece, spec.selection, spec.batch_rows)):
            is_bad = bad.get(read.relative_path, frozenset())
            good = np.array([i for i, number in enumerate(read.rows.tolist()) if number not in is_bad], np.int64)
            if is_bad and paths[read.relative_path] > 1:  # which of them had the bad rows is not kept
                good, _ = self._scorer.score_again(read, np.arange(len(read.table)))
            here = [index for index in left if index < done + len(good)]
            left = left[len(here) :]
            if here:
                wanted = good[np.array(here) - done]
                rows, table = self._scorer.score_again(read, wanted)
                for index, position in zip(here, wanted.tolist(), strict=True):
                    difference = self._difference(written.get(index), rows, table, position)
                    if difference:
                        yield f"{row.part}, row {index} ({read.path}, row {read.rows[position]}): {difference}"
            done += len(good)
            if not left:
                return
        for index in left:
            yield f"{row.part}, row {index}: its input has only {done} rows that are not in quarantine"

    def _difference(self, written: pa.Table | None, rows: Array, table: pa.Table, position: int) -> str:
        at = int(np.searchsorted(rows, position))
        if at >= len(rows) or rows[at] != position:
            return "the model refuses this row now"
        if written is None:
            return "the part has fewer rows"
        for column in table.column_names:
            if column not in written.column_names:
                return f"the part has no column {column}"
            old, new = written[column], table.slice(at, 1)[column]
            relative, source = self._fetched.get(column), "the model" if column in self._fetched else "the input"
            if not (is_same(old, new) if relative is None else is_close(old[0].as_py(), new[0].as_py(), relative)):
                return f"{column} is {str(old[0])[:80]} where {source} gives {str(new[0])[:80]}"
        return ""


def _read_rows(ledger: Ledger, name: str, indices: Sequence[int]) -> dict[int, pa.Table]:
    """Read single rows of a part, a row group at a time; none where the part has fewer."""
    found, start = dict[int, pa.Table](), 0
    with ledger.folder.open(name) as opened, reading(ledger.folder.place_of(name)):
        file = pq.ParquetFile(opened)
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            here = [index for index in indices if start <= index < stop]
            if here:
                rows = file.read_row_group(group).take([index - start for index in here])
                found |= {index: rows.slice(i, 1) for i, index in enumerate(here)}
            start = stop
    return found


def _job_of(plan: Mapping[str, Any], first_plan: Mapping[str, Any], files: Sequence[InputFile], number: int) -> Job:
    """Bind the job of a plan once more, to those of its files that are still as they were."""
    settings, told = plan["settings"], plan["config"]
    ports = {name: dict(text.partition("=")[::2] for text in settings[name]) for name in ("feed", "fetch")}
    config: JobConfig = build_config({**told, **ports, "init_op": settings["init_op"], "overwrite": False})
    bound = bind_job_model(config, config.model_fields_set)
    if bound.known.sha256 != settings["model_sha256"]:
        raise GraphError(f"{bound.known.found.given} is not the model that this output was made with")
    storage = storage_of(config.input)
    names = dict.fromkeys(name for file in files for name in partition_values(os.path.dirname(file.relative_path)))
    same = (file for file in files if _state(storage, file.path) == FileState(file.size_bytes, file.mtime_ns))
    few = tuple(itertools.islice(same, MAX_SHOWN))
    if not few:
        raise DataError("every input has changed since, or is gone")
    target = Target(number, few, first_plan)
    listed = Listed(few, 0, tuple(names), storage)
    inputs = choose_inputs(config, listed, target, bound.feed, list(bound.fetch.values()))
    same_plan = Plan(plan["plan_id"], settings, few, Cut, settings["batch_size"], settings["shard_size"], number)
    return Job(config, bound, bind_feeds(config, bound, inputs), inputs, target, same_plan)


def _model_of(job: Job, plan: Mapping[str, Any]) -> ScoredModel:
    """Return the graph that was scored with, frozen once more where it has to be."""
    model: ScoredModel | EngineError | None = scored_model(job.model, job.config.set)
    if model is None:
        uri = job.config.model
        model = freeze_here((job.model, local_path(uri) if is_local(uri) else uri))
    if isinstance(model, EngineError):
        raise model
    if model.sha256 != plan["scored_sha256"]:
        raise GraphError(f"{job.config.model}, frozen again, gives another graph than this output was made with")
    return model


def _state(storage: Storage, path: str) -> FileState | None:
    """Return how an input is now; None where it is gone."""
    try:
        return storage.state(path)
    except DataError:
        return None


def is_same(old: pa.ChunkedArray, new: pa.ChunkedArray) -> bool:
    """Whether two columns of one row have the same value, NaN too, which is not equal to itself."""
    return bool(old.equals(new)) or _bits(old) == _bits(new)


def _bits(column: pa.ChunkedArray) -> bytes:
    batch = pa.table({"": column.take(pa.array([0]))}).combine_chunks().to_batches()[0]
    return bytes(batch.schema.serialize().to_pybytes() + batch.serialize().to_pybytes())


def is_close(old: Any, new: Any, relative: float) -> bool:
    """Whether two values that the graph gave agree: exactly, but for floats, which may be rounded otherwise."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(is_close(a, b, relative) for a, b in zip(old, new, strict=True))
    if isinstance(old, float) and isinstance(new, float):
        both_nan = math.isnan(old) and math.isnan(new)
        return both_nan or math.isclose(old, new, rel_tol=relative, abs_tol=ABSOLUTE)
    return bool(old == new)
