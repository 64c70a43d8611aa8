"""What `pyarrow.fs.S3FileSystem` does about a store's failures, and that the proxy's faults are what they say.

The numbers of requests are those of pyarrow 26: it sizes an object (HEAD) before it reads, and writes every object as
a multipart upload (POST ?uploads, PUT ?partNumber, POST ?uploadId) unless `allow_delayed_open` is set.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import object_store
import pyarrow.fs as pafs
import pytest
from object_store import FOREVER, Fault, FaultyProxy, ObjectStore

pytestmark = pytest.mark.store

SMALL = b"small" * 1000  # more bytes than an error has
LARGE = os.urandom(1 << 20) * 20  # two parts
QUICK = pafs.AwsDefaultS3RetryStrategy(max_attempts=3)  # waits 25 ms before its first retry, not up to 1 s
ONE_TRY = pafs.AwsStandardS3RetryStrategy(max_attempts=1)


@pytest.fixture(scope="module")
def running_store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@pytest.fixture
def store(running_store: ObjectStore) -> ObjectStore:
    for key in running_store.sizes():
        running_store.delete(key)
    return running_store


@pytest.fixture
def proxy(store: ObjectStore) -> Iterator[FaultyProxy]:
    with FaultyProxy(store) as proxy:
        yield proxy


@pytest.fixture
def fs(proxy: FaultyProxy) -> pafs.S3FileSystem:
    return proxy.filesystem()  # three attempts, pyarrow's default


def read(fs: pafs.S3FileSystem, path: str) -> bytes:
    with fs.open_input_file(path) as file:
        return file.read()


def write(fs: pafs.S3FileSystem, path: str, data: bytes) -> None:
    with fs.open_output_stream(path) as stream:
        stream.write(data)


def paths(fs: pafs.S3FileSystem, folder: str) -> list[str]:
    return [info.path for info in fs.get_file_info(pafs.FileSelector(folder, recursive=True))]


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_objects_pass_through_the_proxy(
    store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem, data: bytes
) -> None:
    write(fs, "data/folder/näme with space.bin", data)
    assert store.sizes() == {"folder/näme with space.bin": len(data)}
    assert store.get("folder/näme with space.bin") == data
    assert read(fs, "data/folder/näme with space.bin") == data
    assert proxy.count("PUT", "folder/näme with space.bin$", "partNumber") == (2 if data is LARGE else 1)


def test_a_connection_serves_request_after_request(store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.set_faults(Fault("slow_down", "PUT", skip=1))
    headers = {"Authorization": object_store.AUTHORIZATION}
    connection = http.client.HTTPConnection(proxy.address, timeout=10)
    with contextlib.closing(connection):
        seen = set()
        for _ in range(2):  # a body that is refused is still read, or it would be taken for the next request
            connection.request("PUT", "/data/k", iter([SMALL, LARGE, b"end"]), headers, encode_chunked=True)
            connection.getresponse().read()
            seen.add(connection.sock)
        connection.request("HEAD", "/data/k", headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.getheader("Content-Length") == str(len(SMALL + LARGE + b"end"))
        connection.request("GET", "/data/k", headers=headers)
        assert connection.getresponse().read() == SMALL + LARGE + b"end"
        assert seen == {connection.sock}
    assert [request.status for request in proxy.requests] == [200, 503, 200, 200]


def test_a_client_that_dies_within_a_body_stores_nothing(store: ObjectStore, proxy: FaultyProxy) -> None:
    head = f"PUT /data/k HTTP/1.1\r\nHost: {proxy.address}\r\nAuthorization: {object_store.AUTHORIZATION}\r\n"
    for body in ("Content-Length: 1000\r\n\r\nshort", "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"):
        host, port = proxy.address.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall((head + body).encode())
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b""
    assert store.sizes() == {}


def test_uris_name_the_store_and_the_proxy(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("a b/c", b"1")
    for uri in (store.uri(path="a b/c"), proxy.uri(path="a b/c")):
        fs, path = pafs.FileSystem.from_uri(uri)
        assert read(fs, path) == b"1"
    assert proxy.count("GET", "^/data/a b/c$") == 1


def test_missing_objects_and_buckets(store: ObjectStore, fs: pafs.S3FileSystem) -> None:
    with pytest.raises(KeyError):
        store.get("none")
    for path in ("data/none", "none/none"):  # a HEAD has no body to tell one from the other
        assert fs.get_file_info(path).type == pafs.FileType.NotFound
        with pytest.raises(FileNotFoundError):
            read(fs, path)
    with pytest.raises(FileNotFoundError):
        paths(fs, "data/none")
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        paths(fs, "none/none")
    with pytest.raises(OSError, match="NO_SUCH_BUCKET"):
        write(fs, "none/none", b"1")


@pytest.mark.parametrize("page_size", [3, None])
def test_listings_come_in_pages(store: ObjectStore, page_size: int | None) -> None:
    for number in range(10):
        store.put(f"many/{number}", b"1")
    with FaultyProxy(store, page_size=page_size) as proxy:
        assert paths(proxy.filesystem(), "data/many") == [f"data/many/{number}" for number in range(10)]
        assert proxy.count("GET", "^/data$", "list-type=2") == (4 if page_size else 1)


def test_a_page_that_fails_is_asked_for_again(store: ObjectStore) -> None:
    for number in range(10):
        store.put(f"many/{number}", b"1")
    with FaultyProxy(store, [Fault("slow_down", query="list-type=2", skip=2)], page_size=3) as proxy:
        assert len(paths(proxy.filesystem(), "data/many")) == 10
        assert [request.status for request in proxy.requests] == [200, 200, 503, 200, 200]


@pytest.mark.parametrize(("action", "status"), [("internal_error", 500), ("slow_down", 503)])
def test_errors_of_the_server_are_retried(
    store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem, action: object_store.Action, status: int
) -> None:
    store.put("k", SMALL)
    proxy.set_faults(Fault(action, "GET"), Fault(action, "PUT"))
    assert read(fs, "data/k") == SMALL
    assert [request.status for request in proxy.requests] == [200, status, 206]
    proxy.clear()
    write(fs, "data/k", b"2")
    assert [request.status for request in proxy.requests] == [200, status, 200, 200]
    assert store.get("k") == b"2"


@pytest.mark.parametrize("action", ["internal_error", "slow_down", "access_denied", "no_such_key"])
def test_errors_longer_than_what_is_read_are_not_retried(
    store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem, action: object_store.Action
) -> None:
    # The body of a response is written to a buffer of the size asked for; an error's body that does not fit is taken
    # for a failure of this side, whatever the status was.
    store.put("k", b"1")
    proxy.set_faults(Fault(action, "GET"))
    with pytest.raises(OSError, match="INTERNAL_FAILURE during GetObject operation: Failed to flush response stream"):
        read(fs, "data/k")
    assert proxy.count("GET") == 1


def test_attempts_are_limited(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("k", SMALL)
    proxy.set_faults(Fault("internal_error", "GET", times=FOREVER))
    with pytest.raises(OSError, match="INTERNAL_FAILURE during GetObject"):
        read(proxy.filesystem(retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=2)), "data/k")
    assert proxy.count("GET") == 2
    assert [request.fault for request in proxy.requests] == [None, "internal_error", "internal_error"]


def test_refusals_are_not_retried(store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem) -> None:
    store.put("k", b"1")
    proxy.set_faults(Fault("access_denied", times=FOREVER))
    for work in (lambda: read(fs, "data/k"), lambda: write(fs, "data/k", b"2"), lambda: paths(fs, "data")):
        proxy.clear()
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            work()
        assert [request.status for request in proxy.requests] == [403]


def test_objects_that_go_away_are_not_retried(store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem) -> None:
    store.put("k", SMALL)
    proxy.set_faults(Fault("no_such_key", "GET"))
    with pytest.raises(OSError, match="(NO_SUCH_KEY|RESOURCE_NOT_FOUND) during GetObject") as caught:
        read(fs, "data/k")
    assert not isinstance(caught.value, FileNotFoundError)  # that is for objects missing when they are opened
    assert proxy.count("GET") == 1


@pytest.mark.parametrize("reset", [False, True])
def test_a_response_cut_off_is_asked_for_again(store: ObjectStore, proxy: FaultyProxy, reset: bool) -> None:
    store.put("k", LARGE)
    cut = Fault("cut_response", "GET", after_bytes=1 << 20, reset=reset)
    proxy.set_faults(cut)
    assert read(proxy.filesystem(retry_strategy=QUICK), "data/k") == LARGE
    assert [request.fault for request in proxy.requests] == [None, "cut_response", None]
    proxy.set_faults(cut)
    message = "Connection reset by peer" if reset else "19922944 bytes missing"
    with pytest.raises(OSError, match=message):
        read(proxy.filesystem(retry_strategy=ONE_TRY), "data/k")


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("action", ["cut_request", "lose_response"])
def test_a_part_cut_off_is_sent_again(
    store: ObjectStore, proxy: FaultyProxy, action: object_store.Action, reset: bool
) -> None:
    cut = Fault(action, "PUT", query="partNumber=1", after_bytes=1 << 20, reset=reset)
    proxy.set_faults(cut)
    write(proxy.filesystem(retry_strategy=QUICK), "data/k", LARGE)
    assert store.get("k") == LARGE
    assert (proxy.count("PUT", query="partNumber=1&"), proxy.count("PUT", query="partNumber=2&")) == (2, 1)
    proxy.set_faults(cut)
    with pytest.raises(OSError, match="NETWORK_CONNECTION during UploadPart"):
        write(proxy.filesystem(retry_strategy=ONE_TRY), "data/short", LARGE)
    assert "short" not in store.sizes()  # but its parts are kept, and paid for
    assert "short" in store.open_uploads()


@pytest.mark.parametrize("action", ["cut_request", "lose_response"])
def test_an_object_in_one_request_is_sent_again(
    store: ObjectStore, proxy: FaultyProxy, action: object_store.Action
) -> None:
    proxy.set_faults(Fault(action, "PUT", after_bytes=1 << 20))
    write(proxy.filesystem(allow_delayed_open=True, retry_strategy=QUICK), "data/k", LARGE[: 3 << 20])
    assert store.get("k") == LARGE[: 3 << 20]
    assert [(request.method, request.query) for request in proxy.requests] == [("PUT", "")] * 2


def test_an_upload_whose_completion_is_lost_is_completed_again(store: ObjectStore, proxy: FaultyProxy) -> None:
    proxy.set_faults(Fault("lose_response", "POST", query="uploadId"))
    write(proxy.filesystem(retry_strategy=QUICK), "data/k", b"1")
    assert proxy.count("POST", query="uploadId") == 2
    proxy.set_faults(Fault("lose_response", "POST", query="uploadId", times=FOREVER))
    with pytest.raises(OSError, match="NETWORK_CONNECTION during CompleteMultipartUpload"):
        write(proxy.filesystem(retry_strategy=QUICK), "data/failed", b"1")
    assert "failed" in store.sizes()  # a failure does not say that there is no object


def test_delays(store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem) -> None:
    store.put("k", b"1")
    proxy.set_faults(Fault("delay", "HEAD", seconds=0.4))
    started = time.monotonic()
    assert fs.get_file_info("data/k").size == 1
    assert time.monotonic() - started >= 0.4
    assert len(proxy.requests) == 1


def test_requests_that_hang_time_out(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("k", b"1")
    proxy.set_faults(Fault("hang", "HEAD", times=FOREVER))
    fs = proxy.filesystem(request_timeout=1, retry_strategy=ONE_TRY)
    started = time.monotonic()
    with pytest.raises(OSError, match="Operation too slow"):
        fs.get_file_info("data/k")
    assert 0.5 < time.monotonic() - started < 5
    assert [(request.fault, request.status) for request in proxy.requests] == [("hang", None)]


def test_held_requests_go_on_when_released(store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem) -> None:
    proxy.set_faults(Fault("hold", "PUT", query="partNumber"))
    writing = in_background(lambda: write(fs, "data/k", b"1"))
    proxy.wait_until_held()
    assert store.sizes() == {}
    proxy.release()
    writing.join(10)
    assert store.sizes() == {"k": 1}


def test_held_answers_come_after_the_work_is_done(
    store: ObjectStore, proxy: FaultyProxy, fs: pafs.S3FileSystem
) -> None:
    proxy.set_faults(Fault("hold_response", "POST", query="uploadId"))
    writing = in_background(lambda: write(fs, "data/k", b"1"))
    proxy.wait_until_held()
    assert store.sizes() == {"k": 1}
    assert writing.is_alive()
    proxy.release()
    writing.join(10)
    assert not writing.is_alive()


def test_closing_ends_what_is_held_and_leaves_no_threads(store: ObjectStore) -> None:
    before = set(threading.enumerate())
    with FaultyProxy(store, [Fault("hold", "PUT"), Fault("hang", "HEAD")]) as proxy:
        fs = proxy.filesystem(retry_strategy=ONE_TRY, request_timeout=30)
        failures: list[BaseException] = []

        def fail(work: Callable[[], object]) -> None:
            try:
                work()
            except OSError as error:
                failures.append(error)

        works = [
            in_background(lambda: fail(lambda: write(fs, "data/held", b"1"))),
            in_background(lambda: fail(lambda: fs.get_file_info("data/hung"))),
        ]
        proxy.wait_until_held()
        while not proxy.count("HEAD"):
            time.sleep(0.01)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    for work in works:
        work.join(10)
    assert len(failures) == 2
    assert "held" not in store.sizes()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before:  # handlers end just after their connections
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_scripts_run_in_order(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("k", b"1")
    store.put("l", b"1")
    fs = proxy.filesystem(retry_strategy=ONE_TRY)
    proxy.set_faults(
        Fault("internal_error", "HEAD", "k$", times=2, skip=1),
        Fault("no_such_key", "HEAD", "k$"),
        Fault("slow_down", "PUT"),
    )
    for key in "klklklkl":
        try:
            fs.get_file_info(f"data/{key}")
        except OSError:
            continue
    faults = [request.fault for request in proxy.requests if request.method == "HEAD" and request.path == "/data/k"]
    assert faults == ["no_such_key", "internal_error", "internal_error", None]
    assert {request.fault for request in proxy.requests if request.path == "/data/l"} == {None}


def test_filesystems_are_pickled_without_their_retries(store: ObjectStore, proxy: FaultyProxy) -> None:
    store.put("k", b"1")
    fs = proxy.filesystem(retry_strategy=ONE_TRY)
    proxy.set_faults(Fault("internal_error", "HEAD"))
    copy = pickle.loads(pickle.dumps(fs))
    assert copy == fs
    assert copy.get_file_info("data/k").size == 1  # with one try only this would fail
    assert proxy.count("HEAD") == 2


@pytest.mark.parametrize("size", [1, 20 << 20])
def test_streams_dropped_or_failed_publish_what_they_have(store: ObjectStore, size: int) -> None:
    # Dropping a stream waits for its requests with the interpreter locked, so that no proxy of this process answers.
    fs = store.filesystem()
    stream = fs.open_output_stream("data/dropped")
    stream.write(LARGE[:size])
    del stream
    with pytest.raises(ValueError, match="half-way"), fs.open_output_stream("data/failed") as stream:  # noqa: PT012
        stream.write(LARGE[:size])
        raise ValueError("half-way")
    assert store.sizes() == {"dropped": size, "failed": size}


def test_deleting_leaves_a_marker_for_the_folder(store: ObjectStore, fs: pafs.S3FileSystem) -> None:
    store.put("folder/a", b"1")
    store.put("folder/b", b"1")
    fs.delete_file("data/folder/a")
    assert store.sizes() == {"folder/": 0, "folder/b": 1}


def test_listings_and_lookups_tell_the_same_times(store: ObjectStore, fs: pafs.S3FileSystem) -> None:
    store.put("folder/a", b"1")
    [listed] = fs.get_file_info(pafs.FileSelector("data/folder", recursive=True))
    assert listed.mtime_ns == fs.get_file_info("data/folder/a").mtime_ns
    assert listed.mtime_ns % 1_000_000_000 == 0  # two writes within a second have the same time


def test_the_server_ends_with_the_process_that_started_it() -> None:
    script = "import object_store, os; print(object_store.ObjectStore().pid, flush=True); os._exit(0)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    deadline = time.monotonic() + 10
    while Path(f"/proc/{int(ran.stdout)}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
