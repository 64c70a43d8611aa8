"""The rows that are measured with: the first rows of the first files, in helpings of any size.

Pure but for `read_sample`, which opens footers. Start at `read_sample` and `take_turns`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.data.pieces import InputFile, Piece
from engine.data.source import Selection, open_parquet

# Enough to read for a while, little enough to stay in the page cache, as what was read ahead would.
SAMPLE_BYTES = 64 * 2**20
MIN_ROWS, MAX_ROWS = 256, 200_000
MAX_FILES = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of the input."""

    pieces: tuple[Piece, ...]
    """Beginnings of files: each up to its `stop_row`, which is set."""

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return sum(_num_rows(piece) for piece in self.pieces)


def choose_rows(row_bytes: float) -> int:
    """Return how many rows a sample has, by the bytes of one in memory."""
    return min(MAX_ROWS, max(MIN_ROWS, int(SAMPLE_BYTES / max(row_bytes, 1.0))))


def read_sample(files: Sequence[InputFile], selection: Selection, num_rows: int) -> Sample:
    """Return the first `num_rows` rows of the first files, or as many as these have.

    Raises:
        DataError, StorageError: if a file cannot be opened.
    """
    pieces = list[Piece]()
    for file in files[:MAX_FILES]:
        left = num_rows - sum(_num_rows(piece) for piece in pieces)
        if left <= 0:
            break
        with open_parquet(file.path, selection.storage) as opened:
            stop_row = min(left, opened.metadata.num_rows)
        if stop_row:
            size = file.size_bytes
            pieces.append(Piece(file.path, file.relative_path, size, file.mtime_ns, 0, size, stop_row))
    return Sample(tuple(pieces))


def take_turns(sample: Sample, num_rows: int) -> Iterator[tuple[Piece, ...]]:
    """Yield what to score, without end: beginnings of the sample's files, which take turns.

    Args:
        sample: the rows.
        num_rows: rows of each; at most all of the sample.
    """
    turns = itertools.cycle(sample.pieces)
    while True:
        pieces, left = list[Piece](), min(num_rows, sample.num_rows)
        while left > 0:
            piece = next(turns)
            stop_row = min(left, _num_rows(piece))
            pieces.append(replace(piece, stop_row=stop_row))
            left -= stop_row
        yield tuple(pieces)


def _num_rows(piece: Piece) -> int:
    return piece.stop_row or 0
