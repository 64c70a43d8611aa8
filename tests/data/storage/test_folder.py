"""Both kinds of output folder do the same, a local one and one in a store; reading does, too."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from object_store import Fault, FaultyProxy, ObjectStore

from engine.data.storage import connecting
from engine.data.storage.folder import OutputFolder, PublishedPart
from engine.data.storage.opening import open_folder
from engine.data.storage.reading import Storage, storage_of
from engine.errors import DataError, JobFailedError, PlanError, StorageError

pytestmark = pytest.mark.store

LARGE = os.urandom(1 << 20) * 12  # more than one part of an upload


@pytest.fixture(params=["local", "s3", "fsspec"])
def folder(request: pytest.FixtureRequest, store: ObjectStore, prefix: str, tmp_path: Path) -> OutputFolder:
    uris = {
        "local": str(tmp_path / "out"),
        "s3": store.uri(path=f"{prefix}/out"),
        "fsspec": f"local://{tmp_path}/out",
    }
    folder = open_folder(uris[request.param])
    folder.make()
    return folder


def yes() -> bool:
    return True


def no() -> bool:
    return False


def nothing() -> None:
    pass


def publish(folder: OutputFolder, name: str, data: bytes, is_twin: Callable[[], bool] = no) -> PublishedPart:
    draft = folder.draft(name)
    try:
        draft.file.write(data)
        return draft.publish(nothing, is_twin)
    finally:
        draft.drop()


def names(folder: OutputFolder) -> list[str]:
    return sorted(name for name, _ in folder.files())


def test_small_files(folder: OutputFolder) -> None:
    assert folder.read("_icefloe/plan.json") is None
    assert folder.size("_icefloe/plan.json") is None
    folder.write("_icefloe/plan.json", b"one")
    folder.write("_icefloe/plan.json", b"another")
    folder.write("_SUCCESS", b"")
    assert folder.read("_icefloe/plan.json") == b"another"
    assert folder.read("_SUCCESS") == b""
    assert folder.size("_icefloe/plan.json") == 7
    assert dict(folder.files()) == {"_icefloe/plan.json": 7, "_SUCCESS": 0}
    folder.remove("_SUCCESS")
    folder.remove("_SUCCESS")
    assert names(folder) == ["_icefloe/plan.json"]
    assert folder.place_of("_SUCCESS").endswith("/out/_SUCCESS")
    assert folder.size("_icefloe") is None  # a folder is no file


def test_children(folder: OutputFolder) -> None:
    assert folder.children("nowhere") == []
    folder.write("_icefloe/plan.json", b"{}")
    publish(folder, "dt=1/part", b"rows")
    assert folder.children() == ["_icefloe", "dt=1"]
    assert folder.children("dt=1") == ["part"]


@pytest.mark.parametrize("data", [b"rows", LARGE], ids=["small", "large"])
def test_a_part_is_seen_once_it_is_published(folder: OutputFolder, data: bytes) -> None:
    expected = PublishedPart(len(data), hashlib.sha256(data).hexdigest())
    draft = folder.draft("a=1/part")
    draft.file.write(data)
    assert [name for name in names(folder) if "/.icefloe-" not in name] == []
    assert draft.publish(nothing, no) == expected
    draft.drop()
    assert names(folder) == ["a=1/part"]
    assert folder.hash("a=1/part") == expected
    with folder.open("a=1/part") as file:
        assert file.read() == data


def test_a_twin_stays_and_another_goes(folder: OutputFolder) -> None:
    first = publish(folder, "part", b"first")
    assert publish(folder, "part", b"later", yes) == first
    assert folder.read("part") == b"first"
    assert publish(folder, "part", b"later", no).num_bytes == 5
    assert folder.read("part") == b"later"
    assert names(folder) == ["part"]


def test_nothing_is_published_where_it_is_objected_to(folder: OutputFolder) -> None:
    def object_to() -> None:
        raise JobFailedError("belongs to another job")

    for _ in range(2):
        draft = folder.draft("part")
        draft.file.write(LARGE)
        with pytest.raises(JobFailedError, match="another job"):
            draft.publish(object_to, no)
        draft.drop()
    assert names(folder) == []


def test_nothing_is_published_by_an_exception(folder: OutputFolder) -> None:
    draft = folder.draft("part")
    draft.file.write(LARGE)
    draft.drop()
    draft.drop()
    assert names(folder) == []


def test_the_output_of_another_job_below_is_not_listed(folder: OutputFolder) -> None:
    for name in ("_icefloe/plan.json", "part", "v2/_icefloe/plan.json", "v2/part", "v2/dt=1/part", "v20/part"):
        publish(folder, name, b"x")
    assert names(folder) == ["_icefloe/plan.json", "part", "v20/part"]


def test_the_folder_can_be_the_bucket(store: ObjectStore) -> None:
    store.make_bucket("whole")
    folder = open_folder(store.uri("whole").replace("whole/?", "whole?"))
    folder.make()
    folder.write("_icefloe/plan.json", b"{}")
    publish(folder, "part", b"x")
    assert names(folder) == ["_icefloe/plan.json", "part"]
    assert folder.children() == ["_icefloe", "part"]
    assert folder.place_of("part") == "s3://whole/part"


def test_a_bucket_that_is_not_there(store: ObjectStore) -> None:
    folder = open_folder(store.uri("nosuch", "out"))
    assert folder.read("a") is None
    with pytest.raises(PlanError, match=r"--output s3://nosuch/out: there is no bucket nosuch; make it first"):
        folder.make()
    with pytest.raises(JobFailedError, match=r"s3://nosuch/out/a: cannot be written: .*NO_SUCH_BUCKET"):
        folder.write("a", b"x")
    storage = storage_of([store.uri("nosuch", "in")])
    assert storage.find("s3://nosuch/in") is pafs.FileType.NotFound
    with pytest.raises(DataError, match=r"s3://nosuch/in: the store refuses: .*NO_SUCH_BUCKET"):
        storage.list_files("s3://nosuch/in")


def requests_of(proxy: FaultyProxy) -> list[str]:
    found = [request.method for request in proxy.requests]
    proxy.clear()
    return found


def test_a_small_file_is_sent_once_while_it_is_the_same(proxy: FaultyProxy, prefix: str) -> None:
    folder, other = open_folder(proxy.uri(path=prefix)), open_folder(proxy.uri(path=prefix))
    other.write("plan.json", b"one")
    proxy.clear()
    assert [folder.read("plan.json") for _ in range(3)] == [b"one"] * 3
    assert requests_of(proxy) == ["HEAD", "GET", "HEAD", "HEAD"]
    other.write("plan.json", b"two")
    proxy.clear()
    assert [folder.read("plan.json") for _ in range(2)] == [b"two"] * 2
    assert requests_of(proxy) == ["HEAD", "GET", "HEAD"]
    other.remove("plan.json")
    assert folder.read("plan.json") is None


def test_what_a_part_asks_of_a_store(proxy: FaultyProxy, prefix: str) -> None:
    folder = open_folder(proxy.uri(path=prefix))
    part = publish(folder, "part", LARGE[: 10 * 2**20 - 1])
    assert requests_of(proxy) == ["HEAD", "PUT"]
    assert folder.size("part") == part.num_bytes
    assert requests_of(proxy) == ["HEAD"]
    assert folder.hash("part") == part
    assert requests_of(proxy) == ["HEAD", "GET", "GET"]


def test_an_upload_leaves_nothing_open(store: ObjectStore, prefix: str) -> None:
    folder = open_folder(store.uri(path=prefix))
    publish(folder, "part", LARGE)
    assert store.get(f"{prefix}/part") == LARGE
    assert [name for name in store.open_uploads() if name.startswith(f"{prefix}/")] == []  # others cut theirs off


def test_an_upload_that_is_cut_off_leaves_what_was_there(
    store: ObjectStore, proxy: FaultyProxy, prefix: str, quick: None
) -> None:
    store.put(f"{prefix}/part", b"as before")
    folder = open_folder(proxy.uri(path=prefix))
    for method, query in (("POST", "uploads"), ("PUT", "partNumber=1"), ("PUT", "partNumber=2"), ("POST", "uploadId")):
        for action, kind in (("access_denied", JobFailedError), ("internal_error", StorageError)):
            proxy.set_faults(Fault(action, method, query=query, times=99))
            with pytest.raises(kind, match=r"part: cannot be written"):
                publish(folder, "part", LARGE)
            assert store.get(f"{prefix}/part") == b"as before"


@pytest.fixture
def reader(store: ObjectStore, prefix: str) -> Iterator[tuple[Storage, str]]:
    for name in ("a.parquet", "d/b.parquet", "d/e/c.parquet"):
        store.put(f"{prefix}/{name}", name.encode())
    yield storage_of([store.uri(path=prefix)]), f"s3://data/{prefix}"
    connecting.forget_clients()


def test_reading(reader: tuple[Storage, str]) -> None:
    storage, place = reader
    assert storage.read(f"{place}/d/b.parquet") == b"d/b.parquet"
    assert {name: state.size_bytes for name, state in storage.list_files(place)} == {
        "a.parquet": 9,
        "d/b.parquet": 11,
        "d/e/c.parquet": 13,
    }
    assert storage.children(place) == ["a.parquet"]
    kinds = [storage.find(f"{place}{name}").name for name in ("", "/a.parquet", "/d", "/none")]
    assert kinds == ["Directory", "File", "Directory", "NotFound"]
    with storage.open(f"{place}/a.parquet") as file:
        file.seek(2)
        assert file.read() == b"parquet"


def test_a_file_has_the_same_state_listed_and_looked_at(reader: tuple[Storage, str]) -> None:
    storage, place = reader
    for name, state in storage.list_files(place):
        assert storage.state(f"{place}/{name}") == state
        assert state.mtime_ns > 0
        assert state.mtime_ns % 10**9 == 0


def test_what_is_not_there_is_named(reader: tuple[Storage, str]) -> None:
    storage, place = reader
    for call in (storage.read, storage.open, storage.state):
        with pytest.raises(DataError, match=f"{place}/none: "):
            call(f"{place}/none")


def test_each_store_is_reached_by_its_own_credentials(store: ObjectStore, tmp_path: Path) -> None:
    store.make_bucket("other")
    store.put("x", b"mine")
    store.put("x", b"theirs", "other")
    (tmp_path / "x").write_bytes(b"local")
    storage = storage_of([store.uri(path="x"), store.uri("other", "y"), str(tmp_path)])
    assert storage.read("s3://data/x") == b"mine"
    assert storage.read("s3://other/x") == b"theirs"
    assert storage.read(str(tmp_path / "x")) == b"local"
    assert "secret" not in repr(storage)
