import errno
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.arrow_errors import FOREIGN, reading
from engine.errors import DataError, EngineError, RefusedError, SchemaError, StorageError


def pyarrow_errors() -> list[type[Exception]]:
    found = {value for value in vars(pa.lib).values() if isinstance(value, type) and issubclass(value, Exception)}
    return sorted((kind for kind in found if kind.__module__.startswith("pyarrow")), key=lambda kind: kind.__name__)


def test_pyarrow_has_the_errors_that_we_know() -> None:
    assert {"ArrowInvalid", "ArrowTypeError", "ArrowCancelled", "ArrowMemoryError"} <= {
        kind.__name__ for kind in pyarrow_errors()
    }


@pytest.mark.parametrize("kind", [*pyarrow_errors(), *FOREIGN], ids=lambda kind: kind.__name__)
def test_every_foreign_error_is_translated(kind: type[Exception]) -> None:
    error = kind("no luck")
    with pytest.raises(EngineError, match="^/in/a.parquet: .*no luck") as caught, reading("/in/a.parquet"):
        raise error
    assert type(caught.value) in (DataError, RefusedError, StorageError)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (pa.ArrowInvalid("bad magic"), DataError),
        (pa.ArrowNotImplementedError("new encoding"), DataError),
        (pa.ArrowMemoryError("realloc"), StorageError),
        (MemoryError(), StorageError),
        (pa.ArrowCancelled("stopped"), StorageError),
        (OSError("Corrupt snappy compressed data."), DataError),  # pyarrow's own carries no number
        (OSError(errno.EINVAL, "Invalid argument"), DataError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), StorageError),
        (ConnectionResetError(errno.ECONNRESET, "reset"), StorageError),
        (OSError(errno.ESTALE, "Stale file handle"), StorageError),
        (FileNotFoundError(errno.ENOENT, "No such file"), DataError),
        (PermissionError(errno.EACCES, "Permission denied"), RefusedError),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), DataError),
    ],
)
def test_bad_bytes_are_not_retried_and_bad_storage_is(error: Exception, expected: type[EngineError]) -> None:
    with pytest.raises(expected) as caught, reading("/in/a.parquet"):
        raise error
    assert type(caught.value) is expected
    assert caught.value.retryable == (expected is StorageError)


def test_an_error_without_words_is_named_by_its_class() -> None:
    with pytest.raises(StorageError, match="MemoryError"), reading("/in/a.parquet"):
        raise MemoryError


@pytest.mark.parametrize("error", [SchemaError("ours"), KeyboardInterrupt(), ZeroDivisionError()])
def test_the_rest_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, reading("/in/a.parquet"):
        raise error
    assert caught.value is error


def test_what_pyarrow_really_raises(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"x" * 100 + b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet"), reading(str(path)):
        pq.ParquetFile(path)
    with pytest.raises(DataError, match="no such|No such"), reading("/no/such"):
        pq.ParquetFile("/no/such")
