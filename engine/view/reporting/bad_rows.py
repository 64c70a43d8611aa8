"""The bad rows of a job: counted by reason, and the first of each as they came.

Every file of the quarantine is opened where there are few, else some spread over all. Start at `read_bad_rows`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.parts import READERS
from engine.data.quarantine import REASONS
from engine.data.storage.folder import OutputFolder
from engine.errors import EngineError
from engine.view.reporting.cells import cell_text

MAX_FILES = 256
MAX_ROWS_A_FILE = 50_000
NUM_SHOWN = 3
MAX_REASONS = 20
MAX_COLUMNS = 6
# The cells of a row are shown where its file is read in no time.
MAX_BYTES = 4 * 2**20
# A small file may hold a large image a thousand times, so few rows are decoded at once, and not too many of them.
CELLS_AT_ONCE, MAX_CELLS_DEEP = 64, 2048


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row in quarantine."""

    file: str
    """Input file, below its root."""
    row: int
    """Row number in it."""
    message: str
    """What was found, and what was expected."""
    cells: Mapping[str, str]
    """The row as it came, shortened; empty where reading that would take long."""


@dataclass(frozen=True, slots=True)
class BadRows:
    """The quarantine of a job."""

    counts: tuple[tuple[str, int], ...]
    """Rows by reason in the files that were read, most first."""
    firsts: Mapping[str, tuple[BadRow, ...]]
    """The first few rows of each reason."""
    num_rows: int
    """Rows in the files that were read."""
    num_files: int
    """Files that were read."""
    num_all_files: int
    """Files that there are."""
    notes: tuple[str, ...]
    """What could not be read."""


@dataclass(frozen=True, slots=True)
class _File:
    """What one file of the quarantine holds."""

    counts: Counter[str]
    """Rows by reason."""
    firsts: Mapping[str, tuple[tuple[int, BadRow], ...]]
    """Position in the file, and the row, of the first few of each reason."""


def read_bad_rows(folder: OutputFolder, files: Mapping[str, int]) -> BadRows:
    """Count the rows of the quarantine by reason, and return the first of each.

    Args:
        folder: the output folder.
        files: the files of the quarantine, with their sizes.
    """
    names = evenly(sorted(files), MAX_FILES)
    notes: list[str] = []

    def look(name: str) -> _File | None:
        try:
            return _read_file(folder, name)
        except EngineError as error:
            notes.append(str(error))
            return None

    with ThreadPoolExecutor(READERS) as pool:
        read = list(zip(names, pool.map(look, names), strict=True))
    counts: Counter[str] = Counter()
    picked: dict[str, list[tuple[str, int, BadRow]]] = {}
    for name, found in read:
        if found is not None:
            counts.update(found.counts)
            for reason, rows in found.firsts.items():
                mine = picked.setdefault(reason, [])
                mine += [(name, position, row) for position, row in rows[: NUM_SHOWN - len(mine)]]
    shown_reasons = [reason for reason, _ in counts.most_common(MAX_REASONS)]
    firsts = _with_cells(folder, {reason: picked.get(reason, []) for reason in shown_reasons}, files)
    num_read = sum(found is not None for _, found in read)
    return BadRows(tuple(counts.most_common()), firsts, counts.total(), num_read, len(files), tuple(notes))


def evenly(names: Sequence[str], most: int) -> list[str]:
    """Return at most `most` of `names`, spread evenly, the same ones each time."""
    if len(names) <= most:
        return list(names)
    return [names[index * len(names) // most] for index in range(most)]


def _read_file(folder: OutputFolder, name: str) -> _File:
    with folder.open(name) as file, reading(folder.place_of(name)):
        parquet = pq.ParquetFile(file, pre_buffer=False)
        columns = [field.name for field in REASONS]
        batches, rows = list[pa.RecordBatch](), 0
        for batch in parquet.iter_batches(MAX_ROWS_A_FILE, columns=columns, use_threads=False):
            batches.append(batch)
            rows += len(batch)
            if rows >= MAX_ROWS_A_FILE:
                break
    table = pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in columns})
    reasons = pc.fill_null(table["_error"].cast(pa.string()), "").combine_chunks()
    counts = Counter({entry["values"]: entry["counts"] for entry in reasons.value_counts().to_pylist()})
    firsts: dict[str, tuple[tuple[int, BadRow], ...]] = {}
    for reason, _ in counts.most_common(MAX_REASONS):
        positions = pc.indices_nonzero(pc.equal(reasons, reason))[:NUM_SHOWN].to_pylist()
        picked = table.take(positions).to_pylist()
        firsts[reason] = tuple(
            (position, BadRow(str(row["_file"]), int(row["_row"] or 0), str(row["_message"]), {}))
            for position, row in zip(positions, picked, strict=True)
        )
    return _File(counts, firsts)


def _with_cells(
    folder: OutputFolder, picked: Mapping[str, Sequence[tuple[str, int, BadRow]]], files: Mapping[str, int]
) -> dict[str, tuple[BadRow, ...]]:
    """Read the cells of the rows that are shown, of files that are small."""
    wanted: dict[str, set[int]] = {}
    for rows in picked.values():
        for name, position, _ in rows:
            if files[name] <= MAX_BYTES:
                wanted.setdefault(name, set()).add(position)

    def cells_of(name: str) -> dict[int, Mapping[str, str]]:
        try:
            return _read_cells(folder, name, sorted(wanted[name]))
        except (EngineError, pa.ArrowException):
            return {}

    with ThreadPoolExecutor(READERS) as pool:
        cells = dict(zip(wanted, pool.map(cells_of, wanted), strict=True))
    return {
        reason: tuple(
            BadRow(row.file, row.row, row.message, cells.get(name, {}).get(position, {}))
            for name, position, row in rows
        )
        for reason, rows in picked.items()
    }


def _read_cells(folder: OutputFolder, name: str, positions: Sequence[int]) -> dict[int, Mapping[str, str]]:
    with folder.open(name) as file, reading(folder.place_of(name)):
        parquet = pq.ParquetFile(file, pre_buffer=False)
        columns = [name for name in parquet.schema_arrow.names if name not in {field.name for field in REASONS}]
        found: dict[int, Mapping[str, str]] = {}
        start = 0
        for batch in parquet.iter_batches(CELLS_AT_ONCE, columns=columns[:MAX_COLUMNS], use_threads=False):
            for position in positions:
                if start <= position < start + len(batch):
                    cells = zip(batch.schema.names, batch.columns, strict=True)
                    found[position] = {column: cell_text(values[position - start]) for column, values in cells}
            start += len(batch)
            if start > min(MAX_CELLS_DEEP, max(positions)):
                break
    return found
