"""What is asked again when a store does not answer as it should, and what is not."""

import contextlib
import os
import re
import time
from collections.abc import Callable

import fsspec
import pyarrow.fs as pafs
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from object_store import FOREVER, Fault, FaultyProxy, ObjectStore, s3_uri

from engine.data.arrow_errors import is_refusal
from engine.data.storage import connecting, retrying
from engine.data.storage.opening import open_folder
from engine.data.storage.reading import storage_of
from engine.errors import DataError, EngineError, JobFailedError, PlanError, RefusedError, StorageError

pytestmark = pytest.mark.store

TINY = b"tiny"  # fewer bytes than an error has
SMALL = os.urandom(1 << 10) * 20
LARGE = os.urandom(1 << 20) * 12
Call = Callable[[str, str], object]


def publish(uri: str, data: bytes) -> None:
    draft = open_folder(uri).draft("large")
    try:
        draft.file.write(data)
        draft.publish(lambda: None, lambda: False)
    finally:
        draft.drop()


CALLS: dict[str, Call] = {
    "read": lambda uri, place: storage_of([uri]).read(f"{place}/small"),
    "read tiny": lambda uri, place: storage_of([uri]).read(f"{place}/tiny"),
    "open": lambda uri, place: storage_of([uri]).open(f"{place}/small").read(),
    "state": lambda uri, place: storage_of([uri]).state(f"{place}/small"),
    "find": lambda uri, place: storage_of([uri]).find(place),
    "list": lambda uri, place: storage_of([uri]).list_files(place),
    "children": lambda uri, place: storage_of([uri]).children(place),
    "folder read": lambda uri, place: open_folder(uri).read("tiny"),
    "folder files": lambda uri, place: list(open_folder(uri).files()),
    "folder children": lambda uri, place: open_folder(uri).children(),
    "folder size": lambda uri, place: open_folder(uri).size("small"),
    "folder hash": lambda uri, place: open_folder(uri).hash("small"),
    "folder make": lambda uri, place: open_folder(uri).make(),
    "write": lambda uri, place: open_folder(uri).write("new", SMALL),
    "remove": lambda uri, place: open_folder(uri).remove("old"),
    "publish": lambda uri, place: publish(uri, LARGE),
}


@pytest.fixture
def objects(store: ObjectStore, prefix: str) -> str:
    for name, data in (("tiny", TINY), ("small", SMALL), ("old", TINY)):
        store.put(f"{prefix}/{name}", data)
    return prefix


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("action", ["internal_error", "slow_down"])
def test_errors_of_the_server_are_asked_again(
    proxy: FaultyProxy, objects: str, quick: None, name: str, action: str
) -> None:
    uri, place = proxy.uri(path=objects), f"s3://data/{objects}"
    expected = CALLS[name](uri, place)
    proxy.store.put(f"{objects}/old", TINY)
    proxy.set_faults(Fault(action, times=3))  # by a client that tries once
    assert str(CALLS[name](uri, place)) == str(expected) or isinstance(expected, pafs.FileInfo)
    assert sum(request.fault is not None for request in proxy.requests) == 3


@pytest.mark.parametrize("name", ["read tiny", "write"])
def test_a_client_as_it_is_made_asks_again_too(proxy: FaultyProxy, objects: str, name: str) -> None:
    proxy.set_faults(Fault("slow_down", times=1, skip=1), Fault("internal_error", times=1))
    CALLS[name](proxy.uri(path=objects), f"s3://data/{objects}")


@pytest.mark.parametrize("name", CALLS)
def test_what_fails_for_good_is_told_as_the_storages(proxy: FaultyProxy, objects: str, quick: None, name: str) -> None:
    proxy.set_faults(Fault("slow_down", times=FOREVER))
    with pytest.raises(StorageError, match=rf"^s3://data/{objects}(/\w+)?: cannot be (read now|written): .*(503|SLOW)"):
        CALLS[name](proxy.uri(path=objects), f"s3://data/{objects}")
    assert len(proxy.requests) == retrying.ATTEMPTS


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("action", ["access_denied", "no_such_key"])
def test_refusals_are_not_asked_again(proxy: FaultyProxy, objects: str, name: str, action: str) -> None:
    proxy.set_faults(Fault(action, times=FOREVER))
    allowed = contextlib.nullcontext() if action == "no_such_key" else pytest.raises(EngineError)
    with contextlib.suppress(DataError, JobFailedError, PlanError), allowed as caught:  # nothing is an answer, too
        CALLS[name](proxy.uri(path=objects), f"s3://data/{objects}")
    if caught is not None:
        assert type(caught.value) in (RefusedError, DataError, JobFailedError, PlanError)
        assert f"s3://data/{objects}" in str(caught.value)
        assert "testing" not in str(caught.value)
    requests = [(request.method, request.path, request.query) for request in proxy.requests]
    assert len(requests) == len(set(requests))


def test_a_client_that_has_used_up_its_retries_is_made_anew(
    proxy: FaultyProxy, objects: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "MAX_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(connecting, "S3_ATTEMPTS", 2)
    storage, place = storage_of([proxy.uri(path=objects)]), f"s3://data/{objects}/tiny"
    connecting.forget_clients()
    before = connecting.connected(storage.roots[0].uri)[0]
    proxy.set_faults(Fault("internal_error", times=3))
    assert storage.read(place) == TINY
    assert connecting.connected(storage.roots[0].uri)[0] is not before


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after_bytes", [0, 1000])
@pytest.mark.parametrize("name", ["small", "tiny"])
def test_a_read_that_is_cut_off(
    proxy: FaultyProxy, objects: str, quick: None, name: str, after_bytes: int, reset: bool
) -> None:
    proxy.set_faults(Fault("cut_response", "GET", times=2, after_bytes=after_bytes, reset=reset))
    data = storage_of([proxy.uri(path=objects)]).read(f"s3://data/{objects}/{name}")
    assert data == (TINY if name == "tiny" else SMALL)


@pytest.mark.parametrize(
    ("fault", "data"),
    [
        (Fault("cut_request", "PUT", times=2, after_bytes=5000), SMALL),
        (Fault("lose_response", "PUT", times=2), SMALL),
        (Fault("cut_request", "PUT", query="partNumber=2", times=2, after_bytes=5000), LARGE),
        (Fault("cut_request", "PUT", query="partNumber=1", times=1, after_bytes=5000, reset=True), LARGE),
        (Fault("internal_error", "PUT", query="partNumber=2", times=2), LARGE),
        (Fault("internal_error", "POST", query="uploads", times=2), LARGE),
        (Fault("slow_down", "POST", query="uploadId", times=2), LARGE),
        (Fault("lose_response", "POST", query="uploadId", times=1), LARGE),
    ],
    ids=lambda value: f"{value.action} {value.query}" if isinstance(value, Fault) else "",
)
def test_an_upload_that_is_cut_off(
    store: ObjectStore, proxy: FaultyProxy, prefix: str, quick: None, fault: Fault, data: bytes
) -> None:
    seen = []
    proxy.set_faults(fault)
    folder = open_folder(proxy.uri(path=prefix))
    draft = folder.draft("part")
    draft.file.write(data)
    draft.publish(lambda: seen.append(store.sizes(f"{prefix}/part")), lambda: False)
    draft.drop()
    assert store.get(f"{prefix}/part") == data
    assert all(sizes in ({}, {f"{prefix}/part": len(data)}) for sizes in seen)  # never a part of it


def test_each_try_asks_for_the_right_to_publish(proxy: FaultyProxy, prefix: str, quick: None) -> None:
    asked = []

    def confirm() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise JobFailedError("belongs to another job")

    proxy.set_faults(Fault("internal_error", "PUT", times=1))
    draft = open_folder(proxy.uri(path=prefix)).draft("part")
    draft.file.write(SMALL)
    with pytest.raises(JobFailedError, match="another job"):
        draft.publish(confirm, lambda: False)
    draft.drop()
    assert proxy.store.sizes(f"{prefix}/") == {}


def test_a_store_that_is_down_is_told_within_seconds(quick: None) -> None:
    started = time.monotonic()
    with pytest.raises(StorageError, match=r"s3://data/x: cannot be read now: .*connect"):
        storage_of([s3_uri("127.0.0.1:1", "data", "x")]).read("s3://data/x")
    assert time.monotonic() - started < 5


def test_a_store_that_takes_minutes_to_fail_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "LAST_START_SECONDS", 0.05)
    calls = []

    @retrying.persistent
    def hang() -> None:
        calls.append(1)
        time.sleep(0.1)
        raise StorageError("timed out")

    with pytest.raises(StorageError, match="timed out"):
        hang()
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("status", "is_final"),
    [(301, True), (400, True), (401, True), (403, True), (404, True), (429, False), (500, False)],
)
def test_what_an_answer_without_a_body_means(status: int, is_final: bool) -> None:
    """Of a wrong region or an expired token, a look at a file tells the status alone."""
    text = f"When reading information for key 'x': AWS Error UNKNOWN (HTTP status {status}) during HeadObject operation"
    assert is_refusal(OSError(text)) == is_final


class OddError(Exception):
    """As packages of fsspec raise them, which are no OSErrors."""


class OddFileSystem(MemoryFileSystem):
    """A store in memory that fails as long as it is told to."""

    protocol = "odd"
    cachable = False
    failures = 0
    store: dict[str, object] = {}  # noqa: RUF012

    def _fail(self) -> None:
        if OddFileSystem.failures:
            OddFileSystem.failures -= 1
            raise OddError("throttled by odd://me:hunter2@host/x?token=hunter2")

    def info(self, path: str, **kwargs: object) -> object:
        self._fail()
        return super().info(path, **kwargs)

    def _open(self, path: str, mode: str = "rb", **kwargs: object) -> object:
        self._fail()
        return super()._open(path, mode, **kwargs)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + re.sub("^odd://", "", path).strip("/")


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("odd", OddFileSystem, clobber=True)
    monkeypatch.setattr(retrying, "MAX_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(OddFileSystem, "failures", 0)


@pytest.mark.usefixtures("odd")
def test_errors_of_other_packages_are_asked_again_and_told_without_secrets() -> None:
    folder = open_folder("odd://host/out")
    folder.make()
    OddFileSystem.failures = 3
    folder.write("small", SMALL)
    OddFileSystem.failures = 3
    assert storage_of(["odd://host/out"]).read("odd://host/out/small") == SMALL
    for call in (lambda: folder.read("small"), lambda: folder.write("small", TINY), lambda: folder.size("small")):
        OddFileSystem.failures = 1000
        with pytest.raises(StorageError, match=r"odd://host/out/small: .*OddError: throttled by odd://host/x$"):
            call()
