"""Tells the kernel which bytes of a local file will be read, so that the disk works while others compute.

Stores need none of it: from them a row group comes in few large requests, which nobody waits for with a turn at the
CPU in hand. Start at `read_ahead`.
"""

import contextlib
import os

import pyarrow.parquet as pq

from engine.data.columns import leaf_names
from engine.data.pieces import Piece
from engine.data.row_groups import belongs
from engine.data.source import Selection, open_parquet, own_row_groups
from engine.data.storage.places import is_local
from engine.errors import EngineError

# Of many small files so many are looked at ahead; the rest is read when their turn comes.
MAX_FILES = 16


def read_ahead(pieces: tuple[Piece, ...], selection: Selection) -> None:
    """Have the kernel load the column chunks of these pieces into its page cache; returns before it has.

    What cannot be read is left for the reader to tell.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    for piece in pieces[:MAX_FILES]:
        if is_local(piece.path):
            with contextlib.suppress(EngineError, OSError):
                _advise(piece, selection)


def _advise(piece: Piece, selection: Selection) -> None:
    with open_parquet(piece.path) as file:
        ranges = _chunk_ranges(file, piece, selection)
    descriptor = os.open(piece.path, os.O_RDONLY)
    try:
        for start, length in ranges:
            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def _chunk_ranges(file: pq.ParquetFile, piece: Piece, selection: Selection) -> list[tuple[int, int]]:
    """Return first byte and length of the column chunks that will be read, neighbours in one."""
    names = [name for name, _ in leaf_names(selection.columns)]
    ranges: list[tuple[int, int]] = []
    for group in own_row_groups(file.metadata, piece, selection):
        footer = file.metadata.row_group(group.index)
        for chunk in (footer.column(i) for i in range(footer.num_columns)):
            if not belongs(chunk.path_in_schema, names):
                continue
            start = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
            if ranges and sum(ranges[-1]) == start:
                ranges[-1] = ranges[-1][0], ranges[-1][1] + chunk.total_compressed_size
            else:
                ranges.append((start, chunk.total_compressed_size))
    return ranges
