"""Turns what pyarrow and the operating system raise while reading or writing into our own errors.

The one place where their exception classes are named; `FOREIGN` lists them, and a test holds it against pyarrow.
"""

import contextlib
import errno
from collections.abc import Iterator

import pyarrow as pa

from engine.errors import DataError, EngineError, StorageError

# ArrowInvalid and friends say that the bytes are wrong; an OSError says that the storage did not deliver them.
FOREIGN: dict[type[Exception], type[EngineError]] = {
    FileNotFoundError: DataError,
    PermissionError: DataError,
    IsADirectoryError: DataError,
    MemoryError: StorageError,
    pa.ArrowCancelled: StorageError,
    pa.ArrowException: DataError,
    OSError: StorageError,
}


@contextlib.contextmanager
def reading(path: str) -> Iterator[None]:
    """Translate errors of reading `path`; the message names it."""
    try:
        yield
    except EngineError:
        raise
    except tuple(FOREIGN) as error:
        # pyarrow raises a bare OSError for damaged pages; only the operating system's own carry a number.
        is_damage = isinstance(error, OSError) and error.errno in (None, errno.EINVAL)
        kind = DataError if is_damage else next(ours for theirs, ours in FOREIGN.items() if isinstance(error, theirs))
        what = "no readable Parquet file" if kind is DataError else "cannot be read now"
        raise kind(f"{path}: {what}: {str(error).strip() or type(error).__name__}") from error
