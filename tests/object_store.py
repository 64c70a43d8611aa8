"""An S3 store on this machine, and a proxy before it that breaks requests as a script says.

The store is moto's server: it keeps objects in memory, and takes any credentials. It answers as S3 does, but never
fails, so what a client does about failures is tested through the proxy.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlencode

import pyarrow.fs as pafs

ACCESS_KEY = "testing"
SECRET_KEY = "testing-secret"
REGION = "us-east-1"
START_SECONDS = 30
REQUEST_SECONDS = 60
CLOSE_SECONDS = 10
BLOCK_BYTES = 1 << 16
FOREVER = sys.maxsize

# The server ends when its standard input does, so that none outlives tests that were killed.
SERVER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
from moto.server import main
main(["--host", "127.0.0.1", "--port", "0"])
"""
# The store reads the account off this, and checks no signature.
AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/{REGION}/s3/aws4_request, SignedHeaders=host"


def s3_uri(endpoint: str, bucket: str, path: str = "") -> str:
    """URI as `pyarrow.fs.FileSystem.from_uri` takes it, with credentials and endpoint in it."""
    options = urlencode({"scheme": "http", "endpoint_override": endpoint, "region": REGION})
    return f"s3://{quote(ACCESS_KEY)}:{quote(SECRET_KEY)}@{bucket}/{quote(path)}?{options}"


def s3_filesystem(endpoint: str, **options: Any) -> pafs.S3FileSystem:
    """Filesystem that reaches the store at `endpoint`; `options` are those of S3FileSystem."""
    given = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "region": REGION, "scheme": "http"}
    return pafs.S3FileSystem(**(given | {"endpoint_override": endpoint} | options))


class ObjectStore:
    """S3 server in a process of its own, with one bucket.

    `put`, `get` and the like speak plain HTTP: they see objects as they are stored, where a filesystem would hide
    empty directory markers and uploads that were never completed.
    """

    def __init__(self, bucket: str = "data") -> None:
        """Start the server, wait until it answers, and make `bucket`."""
        self.bucket = bucket
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the store
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=self._log, stderr=self._log
        )
        try:
            self.endpoint = f"127.0.0.1:{self._wait_for_port()}"
            self.make_bucket(bucket)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the server; its objects are gone."""
        self._process.kill()  # it holds nothing worth a clean end
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._log.close()

    def uri(self, bucket: str | None = None, path: str = "") -> str:
        return s3_uri(self.endpoint, bucket or self.bucket, path)

    def filesystem(self, **options: Any) -> pafs.S3FileSystem:
        return s3_filesystem(self.endpoint, **options)

    def make_bucket(self, bucket: str) -> None:
        self._request("PUT", f"/{bucket}")

    def put(self, key: str, data: bytes, bucket: str | None = None) -> None:
        self._request("PUT", self._path(key, bucket), data)

    def get(self, key: str, bucket: str | None = None) -> bytes:
        """Bytes of the object; KeyError without one."""
        return self._request("GET", self._path(key, bucket))

    def delete(self, key: str, bucket: str | None = None) -> None:
        self._request("DELETE", self._path(key, bucket))

    def sizes(self, prefix: str = "", bucket: str | None = None) -> dict[str, int]:
        """Size of every object by its key, directory markers included."""
        found: dict[str, int] = {}
        query = {"list-type": "2", "prefix": prefix}
        while True:
            page = self._list(query, bucket)
            for entry in page.iterfind("{*}Contents"):
                found[entry.findtext("{*}Key", "")] = int(entry.findtext("{*}Size", ""))
            following = page.findtext("{*}NextContinuationToken")
            if not following:
                return found
            query["continuation-token"] = following

    def open_uploads(self, bucket: str | None = None) -> list[str]:
        """Keys of multipart uploads that were neither completed nor aborted."""
        uploads = self._list({"uploads": ""}, bucket)
        return sorted(entry.findtext("{*}Key", "") for entry in uploads.iterfind("{*}Upload"))

    def _path(self, key: str, bucket: str | None) -> str:
        return f"/{bucket or self.bucket}/{quote(key)}"

    def _list(self, query: dict[str, str], bucket: str | None) -> ET.Element:
        return ET.fromstring(self._request("GET", f"/{bucket or self.bucket}?{urlencode(query)}"))

    def _request(self, method: str, target: str, body: bytes | None = None) -> bytes:
        connection = http.client.HTTPConnection(self.endpoint, timeout=REQUEST_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, target, body, {"Authorization": AUTHORIZATION})
            answer = connection.getresponse()
            data = answer.read()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            raise KeyError(target)
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise OSError(f"{method} {target}: {answer.status} {data!r}")
        return data

    def _wait_for_port(self) -> int:
        """The server takes a free port by itself (a port picked here could be another's by then), and prints it."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            printed = self._printed()
            if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", printed):
                return int(found[1])  # printed after it listens: requests wait in its queue from then on
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto's server did not start: {printed}")
            time.sleep(0.02)

    def _printed(self) -> str:
        with open(f"/proc/self/fd/{self._log.fileno()}", "rb") as log:  # its own offset: the server writes at the other
            return log.read().decode(errors="replace")


Action = Literal[
    "internal_error",  # 500, retried by clients
    "slow_down",  # 503, retried by clients
    "access_denied",  # 403
    "no_such_key",  # 404
    "cut_request",  # end the connection once `after_bytes` of the request's body came; the store sees nothing of it
    "cut_response",  # end the connection once `after_bytes` of the response's body went
    "lose_response",  # the store does what is asked, and the connection ends without an answer
    "delay",  # `seconds`, then forward
    "hang",  # never answer, until the proxy is closed
    "hold",  # forward once the test calls `release`
    "hold_response",  # the store does what is asked, and its answer goes once the test calls `release`
]
ERRORS: dict[str, tuple[int, str, str]] = {
    "internal_error": (500, "InternalError", "We encountered an internal error. Please try again."),
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "access_denied": (403, "AccessDenied", "Access Denied"),
    "no_such_key": (404, "NoSuchKey", "The specified key does not exist."),
}


@dataclass(frozen=True)
class Fault:
    """What to do to the first `times` requests that match, after `skip` of them were let through.

    `method` is matched whole; `path` and `query` are searched for, the path after percent-decoding.
    """

    action: Action
    method: str = ".*"
    path: str = ""
    query: str = ""
    times: int = 1
    skip: int = 0
    seconds: float = 0.0
    after_bytes: int = 0
    reset: bool = False  # cut with RST (as when a host fails) instead of FIN (as when a server ends)

    def matches(self, method: str, path: str, query: str) -> bool:
        return bool(re.fullmatch(self.method, method) and re.search(self.path, path) and re.search(self.query, query))


@dataclass
class Request:
    """A request that the proxy took: `status` is what the client was answered, None without an answer."""

    method: str
    path: str
    query: str
    fault: Action | None = None
    status: int | None = None
    started: float = field(default_factory=time.monotonic)


class FaultyProxy:
    """HTTP proxy before a store: forwards all requests, but those that faults match.

    It answers from threads of this process, so a client in this process must not wait for it with the interpreter
    locked: dropping an open pyarrow stream does, and times out.

    For each request the first fault in the list that matches and has times left is used; faults after it do not
    count that request.
    """

    def __init__(self, store: ObjectStore, faults: Sequence[Fault] = (), page_size: int | None = None) -> None:
        """Listen on a free port. With `page_size`, listings have pages of so many keys instead of 1,000."""
        self.store = store
        self.page_size = page_size
        self.closed = threading.Event()
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._matched: list[tuple[Fault, list[Request]]] = []
        self._releases = 0
        self._held = 0
        self.set_faults(*faults)
        self._server = _Server(self)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="faulty-proxy", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and end all connections; requests that are held never reach the store."""
        self.closed.set()
        with self._changed:
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.end_connections()

    def uri(self, bucket: str | None = None, path: str = "") -> str:
        return s3_uri(self.address, bucket or self.store.bucket, path)

    def filesystem(self, **options: Any) -> pafs.S3FileSystem:
        return s3_filesystem(self.address, **options)

    def set_faults(self, *faults: Fault) -> None:
        """Replace the script, and count matches from zero."""
        with self._changed:
            self._matched = [(fault, []) for fault in faults]

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order they came."""
        with self._changed:
            return list(self._requests)

    def count(self, method: str = ".*", path: str = "", query: str = "") -> int:
        """How many requests came that a fault with these patterns would match."""
        pattern = Fault("delay", method, path, query)
        return sum(pattern.matches(request.method, request.path, request.query) for request in self.requests)

    def clear(self) -> None:
        """Forget the requests so far; faults keep their counts."""
        with self._changed:
            self._requests.clear()

    def release(self) -> None:
        """Let all requests go on that are held now, those of clients that died too: after a kill, close instead."""
        with self._changed:
            self._releases += 1
            self._changed.notify_all()

    def wait_until_held(self, number: int = 1, seconds: float = 30) -> None:
        """Wait until `number` requests are held at the same time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._held >= number, seconds):
                raise TimeoutError(f"{self._held} requests are held after {seconds} s, not {number}")

    def _log(self, request: Request) -> Fault | None:
        """Write the request down, and pick the fault for it."""
        with self._changed:
            self._requests.append(request)
            for fault, matched in self._matched:
                if len(matched) < fault.skip + fault.times and fault.matches(
                    request.method, request.path, request.query
                ):
                    matched.append(request)
                    if len(matched) > fault.skip:
                        request.fault = fault.action
                        return fault
        return None

    def _hold(self) -> bool:
        """Wait for `release`; whether it came, instead of the proxy's end."""
        with self._changed:
            before = self._releases
            self._held += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._releases > before or self.closed.is_set())
            self._held -= 1
            return self._releases > before


class _Server(socketserver.ThreadingTCPServer):
    """Knows its connections, to end them: clients keep them open for the next request."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self._changed = threading.Condition()
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def end_connections(self) -> None:
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client ended it first
                    connection.shutdown(socket.SHUT_RDWR)
            if not self._changed.wait_for(lambda: not self._connections, CLOSE_SECONDS):
                raise TimeoutError(f"{len(self._connections)} connections are still open")

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away is no error here
            super().handle_error(request, client_address)


class _Cut(Exception):
    """This connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, and its requests one after the other."""

    protocol_version = "HTTP/1.1"  # keeps connections open
    disable_nagle_algorithm = True  # head and body are written apart, and would wait 40 ms for each other
    server: _Server

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        path, _, query = self.path.partition("?")
        request = Request(self.command, unquote(path), query)
        fault = self.server.proxy._log(request)
        try:
            self._answer(request, fault)
        except (_Cut, OSError, http.client.HTTPException):
            self.close_connection = True
            if fault is not None and fault.reset:
                # Linger of 0 s: closing sends RST.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

    def _answer(self, request: Request, fault: Fault | None) -> None:
        proxy = self.server.proxy
        match request.fault:
            case "internal_error" | "slow_down" | "access_denied" | "no_such_key":
                self._refuse(request, *ERRORS[request.fault])
                return
            case "cut_request":
                assert fault is not None
                self._drain(fault.after_bytes)
                raise _Cut
            case "hang":
                proxy.closed.wait()
                raise _Cut
            case "delay":
                assert fault is not None
                if proxy.closed.wait(fault.seconds):
                    raise _Cut
            case "hold":
                if not proxy._hold():
                    raise _Cut
        self._forward(request, fault)

    def _refuse(self, request: Request, status: int, code: str, message: str) -> None:
        self._drain()  # what is left of the body would be taken for the next request
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
            f"<Resource>{request.path}</Resource><RequestId>4442587FB7D0A2F9</RequestId></Error>"
        ).encode()
        request.status = status
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(body)

    def _forward(self, request: Request, fault: Fault | None) -> None:
        connection = http.client.HTTPConnection(self.server.proxy.store.endpoint, timeout=REQUEST_SECONDS)
        with contextlib.closing(connection):
            connection.putrequest(request.method, self._target(), skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in {"connection", "expect"}:  # of this connection; the other has its own
                    connection.putheader(name, value)
            connection.endheaders(self._body(), encode_chunked=self._is_chunked())
            self._pass_on(request, fault, connection.getresponse())

    def _pass_on(self, request: Request, fault: Fault | None, answer: http.client.HTTPResponse) -> None:
        proxy = self.server.proxy
        if request.fault == "lose_response" or (request.fault == "hold_response" and not proxy._hold()):
            raise _Cut
        has_body = request.method != "HEAD" and answer.status not in {204, 304}
        body = None
        if has_body and answer.getheader("Content-Length") is None:
            body = answer.read()  # to know its length
        request.status = answer.status
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {"connection", "keep-alive", "transfer-encoding"}:
                self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not has_body:
            return
        left = fault.after_bytes if fault is not None and request.fault == "cut_response" else FOREVER
        blocks = iter(lambda: answer.read(BLOCK_BYTES), b"") if body is None else iter([body])
        for block in blocks:
            self.wfile.write(block[:left])
            left -= len(block)
            if left <= 0:
                raise _Cut

    def _target(self) -> str:
        size = self.server.proxy.page_size
        path, _, query = self.path.partition("?")
        if size is None or "list-type=2" not in query:
            return self.path
        fields = [part for part in query.split("&") if not part.startswith("max-keys=")]
        return f"{path}?{'&'.join([*fields, f'max-keys={size}'])}"

    def _is_chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _drain(self, limit: int = FOREVER) -> None:
        """Read the body, or `limit` bytes of it."""
        if limit > 0:
            for block in self._body(min(limit, BLOCK_BYTES)):
                limit -= len(block)
                if limit <= 0:
                    return

    def _body(self, most: int = BLOCK_BYTES) -> Iterator[bytes]:
        """Blocks of the request's body, of `most` bytes at most."""
        if not self._is_chunked():
            yield from self._exactly(int(self.headers.get("Content-Length", 0)), most)
            return
        while size := int(self._line().split(b";")[0], 16):
            yield from self._exactly(size, most)
            self._line()
        while self._line().strip():  # trailers end with an empty line
            pass

    def _line(self) -> bytes:
        line = self.rfile.readline(BLOCK_BYTES)
        if not line:
            raise ConnectionError("client ended the connection within a body")
        return line

    def _exactly(self, size: int, most: int) -> Iterator[bytes]:
        while size:
            block = self.rfile.read(min(size, most))
            if not block:
                raise ConnectionError("client ended the connection within a body")
            size -= len(block)
            yield block
