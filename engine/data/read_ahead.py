"""Tells the kernel which bytes of a local file will be read, so that the disk works while others compute.

What lies in a store is fetched instead (`engine.data.fetching`). Start at `read_ahead`.
"""

import contextlib
import os

from engine.data.pieces import Piece
from engine.data.row_groups import chunk_ranges
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
        mine = [group.index for group in own_row_groups(file.metadata, piece, selection)]
        ranges = chunk_ranges(file.metadata, mine, selection.columns)
    descriptor = os.open(piece.path, os.O_RDONLY)
    try:
        for start, stop in ranges:
            os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)
