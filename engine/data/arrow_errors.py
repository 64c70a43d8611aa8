"""Turns what pyarrow, stores and the operating system raise while reading or writing into our own errors.

The one place where their exception classes are named; `FOREIGN` lists them, and a test holds it against pyarrow.
A store's refusals (403, a bucket that is not there) are final; everything else that it says is weather.
"""

import contextlib
import errno
import re
from collections.abc import Iterator

import pyarrow as pa

from engine.data.storage.places import hide_secrets
from engine.errors import DataError, EngineError, JobFailedError, RefusedError, StorageError, system_text

# ArrowInvalid and friends say that the bytes are wrong; an OSError says that the storage did not deliver them.
FOREIGN: dict[type[Exception], type[EngineError]] = {
    FileNotFoundError: DataError,
    PermissionError: RefusedError,
    IsADirectoryError: DataError,
    NotADirectoryError: DataError,
    MemoryError: StorageError,
    pa.ArrowCancelled: StorageError,
    pa.ArrowException: DataError,
    OSError: StorageError,
}
READ_AS: dict[type[EngineError], str] = {DataError: "no readable Parquet file", RefusedError: "cannot be read"}
# What the clients of stores put into the text of an OSError without a number.
STORE = re.compile(r"AWS Error|google::cloud|Azure|curlCode|HTTP response|HTTP status")
REFUSALS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_BUCKET|NO_SUCH_KEY|"
    r"EXPIRED_TOKEN|INVALID_TOKEN|UNRECOGNIZED_CLIENT|PERMISSION_DENIED|UNAUTHENTICATED|"
    r"(?:HTTP status|HTTP response code|HTTP Status Code:)\s*\(?(?:30[1278]|40[01345])|NoSuchBucket|AccessDenied"
)
# What the operating system does not take back by itself.
FINAL = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def is_refusal(error: BaseException) -> bool:
    """Whether trying again is of no use: the store or the system has said no."""
    if isinstance(error, OSError) and error.errno is not None and error.errno != errno.EIO:
        return error.errno in FINAL
    return REFUSALS.search(str(error)) is not None


def cause_of(error: BaseException) -> str:
    """Return what an error says, in one line and without secrets."""
    text = system_text(error) if isinstance(error, OSError) and error.errno else str(error)
    return hide_secrets(" ".join(str(text).split())) or type(error).__name__


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Translate errors of reading `place`; the message names it."""
    try:
        yield
    except EngineError:
        raise
    except tuple(FOREIGN) as error:
        if isinstance(error, OSError) and STORE.search(str(error)):
            if is_refusal(error):
                raise RefusedError(f"{place}: the store refuses: {cause_of(error)}") from error
            raise StorageError(f"{place}: cannot be read now: {cause_of(error)}") from error
        # pyarrow raises a bare OSError for damaged pages; only the operating system's own carry a number.
        is_damage = isinstance(error, OSError) and error.errno in (None, errno.EINVAL)
        kind = DataError if is_damage else next(ours for theirs, ours in FOREIGN.items() if isinstance(error, theirs))
        what = READ_AS.get(kind, "cannot be read now")
        why = cause_of(error) if isinstance(error, PermissionError) else hide_secrets(str(error).strip())
        raise kind(f"{place}: {what}: {why or type(error).__name__}") from error
    except Exception as error:
        if not _is_of_client(error):
            raise
        raise StorageError(f"{place}: cannot be read now: {type(error).__name__}: {cause_of(error)}") from error


@contextlib.contextmanager
def writing(place: str) -> Iterator[None]:
    """Translate errors of writing `place`: of rows a DataError, of the storage a StorageError, or final refusals.

    Raises:
        DataError: for rows that no file can hold.
        JobFailedError: if the storage refuses for good: no such folder, no right to write.
        StorageError: if it may take them later; a disk that is full, too.
    """
    try:
        yield
    except EngineError:
        raise
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{place}: these rows cannot be written: {error}") from error
    except (OSError, pa.ArrowException) as error:
        kind = JobFailedError if is_refusal(error) else StorageError
        raise kind(f"{place}: cannot be written: {cause_of(error)}") from error
    except Exception as error:
        if not _is_of_client(error):
            raise
        raise StorageError(f"{place}: cannot be written: {type(error).__name__}: {cause_of(error)}") from error


def _is_of_client(error: Exception) -> bool:
    """Whether the package by which fsspec reaches a store raised an error of its own, and neither Python nor we did."""
    return type(error).__module__.partition(".")[0] not in ("builtins", "engine", "pyarrow", "numpy")
