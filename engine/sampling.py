"""Scores some rows of a finished output again, in one plain session without Ray, and compares.

The rows are drawn from the parts; each is found in its input by counting past those in quarantine, and the very batch
that held it is scored. Start at `score_sample`.
"""

import json
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import JobConfig, build_config
from engine.data.arrow_errors import reading
from engine.data.ledger import Ledger
from engine.data.manifest import ManifestRow
from engine.data.parts import part_generation
from engine.data.pieces import InputFile, Piece, partition_values
from engine.data.quarantine import quarantine_name
from engine.data.source import Slice, read_slices
from engine.data.storage.places import is_local, local_path
from engine.data.storage.reading import storage_of
from engine.errors import DataError, EngineError, GraphError
from engine.generations import Target
from engine.inputs import Listed, choose_inputs
from engine.job import scoring_spec
from engine.model.session import SessionOptions, load_session
from engine.prepare import Job, bind_feeds, bind_job_model
from engine.run.freezing import ScoredModel, freeze_here, scored_model
from engine.run.plan import Plan
from engine.run.shard import Scorer
from engine.run.spec import ScoringSpec

# Another kind of device, or other threads, may round otherwise.
RELATIVE, ABSOLUTE = 1e-3, 1e-4
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Resample:
    """What scoring some rows again has shown."""

    num_rows: int
    """Rows that were compared."""
    problems: tuple[str, ...]
    """What is wrong, a sentence each."""


def score_sample(ledger: Ledger, num_rows: int, seed: int | None = None) -> Resample:
    """Score random rows of an output again.

    Args:
        ledger: the output folder, which is finished.
        num_rows: how many rows, at most as many as there are.
        seed: draws the same rows each time; None for others each time.

    Raises:
        Mistake: if the model or the inputs are no longer those of the job.
    """
    manifest = ledger.read_manifest()
    total = sum(row.rows for row in manifest)
    drawn = sorted(random.Random(seed).sample(range(total), min(num_rows, total)))
    problems, compared, before = list[str](), 0, 0
    scorers: dict[int, _Again] = {}
    for row in manifest:
        mine = [index - before for index in drawn if before <= index < before + row.rows]
        before += row.rows
        if mine:
            number = part_generation(row.part) or 0
            if number not in scorers:
                scorers[number] = _Again(ledger, number)
            try:
                problems += [text for text in scorers[number].compare(row, mine) if text]
                compared += len(mine)
            except DataError as error:
                problems.append(f"{row.part}: its rows could not be scored again: {error}")
    more = len(problems) - MAX_SHOWN
    if more > 0:
        problems = [*problems[:MAX_SHOWN], f"and {more} more rows differ"]
    return Resample(compared, tuple(problems))


class _Again:
    """One generation's job, ready to score rows of it once more."""

    def __init__(self, ledger: Ledger, number: int) -> None:
        self._ledger = ledger
        plan, first_plan = ledger.read_plan(number) or {}, ledger.read_plan() or {}
        self._files = ledger.read_inputs()[number]
        job = _job_of(plan, first_plan, self._files, number)
        model = _model_of(job, plan)
        self._spec: ScoringSpec = scoring_spec(job, model)
        tensors, columns = [name for name, _ in self._spec.feeds], [name for name, _ in self._spec.fetches]
        options = SessionOptions(threads=os.cpu_count() or 1)
        session = load_session(
            model.data, tensors, columns, model.constants, model.init_ops, options, job.config.op_library
        )
        self._scorer = Scorer(self._spec, session)
        self._fetched = {column for _, column in self._spec.fetches}

    def compare(self, row: ManifestRow, indices: Sequence[int]) -> Iterator[str]:
        """Yield a sentence for each of the part's rows `indices` (ascending) that is not what the model gives."""
        bad, left, done = self._quarantined(row), list(indices), 0
        part = _PartRows(self._ledger, row.part)
        for read in self._read(row):
            is_bad = bad.get(read.relative_path, frozenset())
            good = np.array([i for i, number in enumerate(read.rows.tolist()) if number not in is_bad], np.int64)
            here = [index for index in left if index < done + len(good)]
            left = left[len(here) :]
            if here:
                wanted = good[np.array(here) - done]
                rows, table = self._scorer.score_again(read, wanted)
                for index, position in zip(here, wanted.tolist(), strict=True):
                    where = f"{row.part}, row {index} ({read.path}, row {read.rows[position]})"
                    yield self._difference(where, part.row(index), rows, table, position)
            done += len(good)
            if not left:
                return
        for index in left:
            yield f"{row.part}, row {index}: its input has only {done} rows that are not in quarantine"

    def _difference(
        self, where: str, written: Mapping[str, Any], rows: np.ndarray[Any, Any], table: pa.Table, position: int
    ) -> str:
        at = np.searchsorted(rows, position)
        if at >= len(rows) or rows[at] != position:
            return f"{where}: the model refuses this row now"
        (now,) = table.slice(int(at), 1).to_pylist()
        for column, value in now.items():
            if not is_close(written.get(column), value, column in self._fetched):
                was, is_now = (str(each)[:80] for each in (written.get(column), value))
                return f"{where}: {column} is {was} where the model gives {is_now}"
        return ""

    def _quarantined(self, row: ManifestRow) -> dict[str, frozenset[int]]:
        """Return the rows of a shard that are in quarantine, by file below its root."""
        if not row.rows_quarantined:
            return {}
        name = quarantine_name(row.part)
        with self._ledger.folder.open(name) as file, reading(self._ledger.folder.place_of(name)):
            table = pq.read_table(file, columns=["_file", "_row"])
        found: dict[str, set[int]] = {}
        for path, number in zip(table["_file"].to_pylist(), table["_row"].to_pylist(), strict=True):
            found.setdefault(path, set()).add(number)
        return {path: frozenset(numbers) for path, numbers in found.items()}

    def _read(self, row: ManifestRow) -> Iterator[Slice]:
        """Read the shard's rows again, up to where a limit ended it."""
        rows_in = 0
        for piece in _pieces_of(row, self._files):
            for read in read_slices(piece, self._spec.selection, self._spec.batch_rows):
                yield read
                rows_in += read.rows_in
                if rows_in >= row.rows_in:
                    return


class _PartRows:
    """Single rows of a part, read a row group at a time."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._place = ledger.folder.place_of(name)
        with reading(self._place):
            self._file = pq.ParquetFile(ledger.folder.open(name))
        self._group, self._rows, self._start = -1, pa.table({}), 0

    def row(self, index: int) -> dict[str, Any]:
        start = 0
        for group in range(self._file.metadata.num_row_groups):
            num_rows = self._file.metadata.row_group(group).num_rows
            if index < start + num_rows:
                if group != self._group:
                    with reading(self._place):
                        self._group, self._rows = group, self._file.read_row_group(group)
                (found,) = self._rows.slice(index - start, 1).to_pylist()
                return dict(found)
            start += num_rows
        return {}


def _job_of(plan: Mapping[str, Any], first_plan: Mapping[str, Any], files: tuple[InputFile, ...], number: int) -> Job:
    """Bind the job of a plan once more, to the files that it was planned for."""
    settings, told = plan["settings"], plan["config"]
    ports = {name: dict(text.rpartition("=")[::2] for text in settings[name]) for name in ("feed", "fetch")}
    config: JobConfig = build_config({**told, **ports, "init_op": settings["init_op"], "overwrite": False})
    bound = bind_job_model(config, config.model_fields_set)
    if bound.known.sha256 != settings["model_sha256"]:
        raise GraphError(f"{bound.known.found.given} is not the model that this output was made with")
    names = tuple(
        dict.fromkeys(name for file in files for name in partition_values(os.path.dirname(file.relative_path)))
    )
    listed = Listed(files, 0, names, storage_of(config.input))
    target = Target(number, files, first_plan)
    inputs = choose_inputs(config, listed, target, bound.feed, list(bound.fetch.values()))
    again = Plan(plan["plan_id"], settings, files, (), settings["batch_size"], settings["shard_size"], number)
    return Job(config, bound, bind_feeds(config, bound, inputs), inputs, target, again)


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


def _pieces_of(row: ManifestRow, files: Sequence[InputFile]) -> Iterator[Piece]:
    """Return what a part was made of, as pieces of the files of its generation."""
    by_name: dict[str, list[InputFile]] = {}
    for file in files:
        by_name.setdefault(file.relative_path, []).append(file)
    for name, start, stop in json.loads(row.sources):
        fitting = [file for file in by_name.get(name, ()) if stop <= file.size_bytes]
        if len(fitting) != 1:
            raise DataError(f"{row.part}: {len(fitting)} input files are called {name}; which one it was is not kept")
        file = fitting[0]
        yield Piece(file.path, name, file.size_bytes, file.mtime_ns, start, stop, None)


def is_close(old: Any, new: Any, is_fetched: bool) -> bool:
    """Whether two values agree: exactly, but for numbers that the graph gave, which may be rounded otherwise."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(is_close(old[name], new[name], is_fetched) for name in new)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(is_close(a, b, is_fetched) for a, b in zip(old, new, strict=True))
    if isinstance(old, float) and isinstance(new, float):
        if math.isnan(old) or math.isnan(new):
            return math.isnan(old) and math.isnan(new)
        return old == new or (is_fetched and math.isclose(old, new, rel_tol=RELATIVE, abs_tol=ABSOLUTE))
    return bool(old == new)
