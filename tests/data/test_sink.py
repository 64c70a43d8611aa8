import contextlib
import hashlib
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.sink import GROUP_BYTES, Encoding, EncodingRules, PartWriter, choose_encoding
from engine.data.storage.folder import PublishedPart
from engine.data.storage.local_folder import LocalFolder, write_whole
from engine.errors import DataError, JobFailedError, SchemaError, StorageError

SCHEMA = pa.schema([("id", pa.int64()), ("label", pa.string()), ("score", pa.list_(pa.float32(), 2))])


def rows(start: int, stop: int) -> pa.Table:
    ids = np.arange(start, stop)
    scores = pa.FixedSizeListArray.from_arrays(pa.array(np.sin(np.arange(start * 2, stop * 2)).astype(np.float32)), 2)
    return pa.table({"id": ids, "label": [f"class {i % 3}" for i in ids], "score": scores}, SCHEMA)


def writer(path: Path, schema: pa.Schema = SCHEMA, encoding: Encoding | None = None) -> PartWriter:
    """Write a part of the output folder that is the nearest one above `path`."""
    root = next((folder for folder in path.parents if folder.is_dir()), path.parent)
    name = path.relative_to(root).as_posix()
    return PartWriter(LocalFolder(str(root)), name, schema, encoding or choose_encoding(SCHEMA, ["score"]))


def publish(
    path: Path, *tables: pa.Table, metadata: dict[str, str] | None = None, rules: EncodingRules | None = None
) -> PublishedPart:
    with writer(path, SCHEMA, choose_encoding(SCHEMA, ["score"], rules or EncodingRules())) as part:
        for table in tables:
            part.write(table)
        return part.publish(metadata or {}, lambda: None, lambda: True)


def hashed(path: Path) -> PublishedPart:
    return LocalFolder(str(path.parent)).hash(path.name)


def group_sizes(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def small_disk(num_bytes: int) -> Iterator[None]:
    """Let the system refuse to make any file longer than `num_bytes`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_part_holds_its_rows_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "out/dt=1/part.parquet"  # folders are made
    part = publish(path, rows(0, 100), rows(100, 130), metadata={"icefloe": "{}", "more": "é"})
    table = pq.read_table(path, partitioning=None)
    assert table.schema.equals(SCHEMA)
    assert table.equals(rows(0, 130))
    metadata = pq.read_metadata(path)
    assert metadata.metadata[b"icefloe"] == b"{}"
    assert metadata.metadata[b"more"].decode() == "é"
    assert metadata.num_row_groups == 1  # two small slices make one
    assert part == PublishedPart(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    assert part == hashed(path)


def test_only_the_columns_asked_for_have_dictionaries(tmp_path: Path) -> None:
    publish(tmp_path / "a.parquet", rows(0, 100))
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    chunks = {group.column(i).path_in_schema.split(".")[0]: group.column(i) for i in range(group.num_columns)}
    assert {name: chunk.has_dictionary_page for name, chunk in chunks.items()} == {
        "id": False,
        "label": True,
        "score": False,
    }
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}


def test_a_part_without_rows_is_still_a_part(tmp_path: Path) -> None:
    publish(tmp_path / "a.parquet", rows(0, 0), metadata={"icefloe": "none"})
    assert pq.read_table(tmp_path / "a.parquet").schema.equals(SCHEMA)
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 0
    assert pq.read_metadata(tmp_path / "a.parquet").metadata[b"icefloe"] == b"none"
    publish(tmp_path / "b.parquet")
    assert pq.read_metadata(tmp_path / "b.parquet").num_rows == 0


def test_nothing_is_seen_before_publishing(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    with writer(path) as part:
        part.write(rows(0, 10))
        assert not path.exists()
        assert all(name.startswith(".") for name in files_in(tmp_path))
        part.publish({}, lambda: None, lambda: True)
        assert path.exists()
    assert files_in(tmp_path) == ["part.parquet"]


def test_what_was_not_published_leaves_nothing(tmp_path: Path) -> None:
    with writer(tmp_path / "part.parquet") as part:
        part.write(rows(0, 10))
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(1), StorageError("x")])
def test_an_exception_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with writer(tmp_path / "part.parquet") as part:
            part.write(rows(0, 10))
            raise error

    with pytest.raises(type(error)):
        fail()
    assert files_in(tmp_path) == []


def test_a_schema_that_parquet_lacks_leaves_nothing(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.month_day_nano_interval())])
    with pytest.raises(SchemaError, match="column 'x' .* Parquet holds no such column"):
        choose_encoding(schema, ())
    with (
        pytest.raises(DataError, match=r"part\.parquet"),
        writer(tmp_path / "part.parquet", schema, choose_encoding(SCHEMA, ())),
    ):
        pass
    assert files_in(tmp_path) == []


def test_text_that_is_kept_gets_dictionaries_and_fetched_floats_no_statistics() -> None:
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("tags", pa.list_(pa.string())),
            ("box", pa.struct([("a", pa.float32())])),
            ("half", pa.float16()),
            ("score", pa.list_(pa.float32(), 2)),
            ("label", pa.string()),
            ("count", pa.int64()),
        ]
    )
    encoding = choose_encoding(schema, ["half", "score", "label", "count"])
    assert encoding.dictionary == ("name",)
    assert encoding.statistics == ("name", "tags.list.element", "box.a", "label", "count")


def test_a_twin_finds_the_part_there_and_does_not_replace_it(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    with (
        writer(path) as slow,
        writer(path) as fast,
    ):
        slow.write(rows(0, 10))
        fast.write(rows(50, 70))
        published = fast.publish({"who": "fast"}, lambda: None, lambda: True)
        before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
        assert slow.publish({"who": "slow"}, lambda: None, lambda: True) == published
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert files_in(tmp_path) == ["part.parquet"]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    first = publish(tmp_path / "a" / "x.parquet", rows(0, 100), rows(100, 150), metadata={"icefloe": "1"})
    second = publish(tmp_path / "b" / "other.parquet", rows(0, 100), rows(100, 150), metadata={"icefloe": "1"})
    assert first == second
    assert (tmp_path / "a/x.parquet").read_bytes() == (tmp_path / "b/other.parquet").read_bytes()


def test_the_same_rows_in_other_memory_give_the_same_bytes(tmp_path: Path) -> None:
    whole = rows(0, 150)
    pieces = pa.concat_tables([rows(0, 70), rows(0, 150).slice(70)])
    assert pieces.column(0).num_chunks == 2
    assert publish(tmp_path / "a.parquet", whole) == publish(tmp_path / "b.parquet", pieces)


@pytest.mark.parametrize("place", ["file/part.parquet", "file/sub/part.parquet"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(JobFailedError, match=r"part\.parquet: cannot be written: (File exists|Not a directory)"):
        PartWriter(LocalFolder(str(tmp_path)), place, SCHEMA, choose_encoding(SCHEMA, ()))


def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(JobFailedError, match=r"/proc/part\.parquet: cannot be written"):
        writer(Path("/proc/part.parquet"))


def test_a_full_disk_publishes_nothing(tmp_path: Path) -> None:
    with small_disk(10_000), pytest.raises(StorageError, match=r"part\.parquet: cannot be written: "):
        publish(tmp_path / "part.parquet", rows(0, 100_000))
    assert files_in(tmp_path) == []


def test_a_disk_that_is_full_at_the_last_byte_publishes_nothing(tmp_path: Path) -> None:
    size = publish(tmp_path / "whole.parquet", rows(0, 100)).num_bytes
    with small_disk(size - 1), pytest.raises(StorageError, match=r"part\.parquet: cannot be written: "):
        publish(tmp_path / "part.parquet", rows(0, 100))
    assert files_in(tmp_path) == ["whole.parquet"]


def test_what_a_discarded_job_left_under_the_name_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    publish(path, rows(0, 10), metadata={"who": "late"})
    with writer(path) as part:
        part.write(rows(50, 70))
        published = part.publish(
            {"who": "mine"}, lambda: None, lambda: pq.read_metadata(path).metadata[b"who"] == b"mine"
        )
    assert published == hashed(path)
    assert pq.read_table(path)["id"].to_pylist() == list(range(50, 70))
    assert files_in(tmp_path) == ["part.parquet"]


def test_a_folder_that_vanished_publishes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out/part.parquet"
    path.parent.mkdir()
    with writer(path) as part:
        part.write(rows(0, 10))
        shutil.rmtree(path.parent)
        with pytest.raises(JobFailedError, match="No such file"):
            part.publish({}, lambda: None, lambda: True)
    with pytest.raises(JobFailedError, match="the output folder is gone"):
        PartWriter(LocalFolder(str(path.parent)), path.name, SCHEMA, choose_encoding(SCHEMA, ()))
    assert not path.parent.exists()


def test_write_whole_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_whole(path, b"old")
    assert path.read_bytes() == b"old"
    with path.open("rb") as reader:
        write_whole(path, b"new")
        assert reader.read() == b"old"  # whoever had it open sees one whole file
    assert path.read_bytes() == b"new"
    assert files_in(tmp_path) == ["plan.json"]


def test_write_whole_keeps_the_old_file_where_the_new_one_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_whole(path, b"old")
    with small_disk(1000), pytest.raises(StorageError, match=r"plan\.json: cannot be written: "):
        write_whole(path, b"x" * 100_000)
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["plan.json"]


def test_write_whole_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="No such file"):
        write_whole(tmp_path / "none/plan.json", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(JobFailedError, match="Is a directory"):
        write_whole(tmp_path / "folder", b"")
    assert os.listdir(tmp_path) == ["folder"]


def test_row_groups_are_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    publish(path, rows(0, 70), rows(70, 80), rows(80, 330), rules=EncodingRules(group_rows=100))
    assert group_sizes(path) == [100, 100, 100, 30]
    assert pq.read_table(path).equals(rows(0, 330))


def test_slices_are_gathered_to_row_groups_of_some_megabytes(tmp_path: Path) -> None:
    path, size = tmp_path / "a.parquet", 40_000
    slices = [rows(i * size, (i + 1) * size) for i in range(16)]
    publish(path, *slices)
    sizes = group_sizes(path)
    assert 1 < len(sizes) < 16
    assert all(n * rows(0, size).nbytes / size < GROUP_BYTES + rows(0, size).nbytes for n in sizes)
    assert pq.read_table(path).equals(pa.concat_tables(slices))


@pytest.mark.parametrize(
    ("dictionary", "expected"), [("all", {"id", "label", "score"}), ("none", set()), (("id",), {"id"})]
)
def test_dictionaries_and_codec_are_the_callers(tmp_path: Path, dictionary: object, expected: set[str]) -> None:
    publish(tmp_path / "a.parquet", rows(0, 100), rules=EncodingRules("gzip", None, dictionary))  # type: ignore[arg-type]
    group = pq.read_metadata(tmp_path / "a.parquet").row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    assert {c.path_in_schema.split(".")[0] for c in chunks if c.has_dictionary_page} == expected
    assert {c.compression for c in chunks} == {"GZIP"}
