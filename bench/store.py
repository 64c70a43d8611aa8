"""A server of a folder that speaks as much of S3's protocol as pyarrow's client asks for, with a delay before answers.

Small and threaded, for measurements on one machine: bodies go out by `sendfile`, each connection has a thread, no
signature is looked at, and every request is logged. It listens on this machine alone. Start at `serve`; by itself:

    python bench/store.py FOLDER SECONDS LOG     (prints its port; ends with its standard input)
"""

import contextlib
import io
import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

NO_SUCH_KEY = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"


class Store(ThreadingHTTPServer):
    """The folders below `folder` are buckets; names that hold a dot in front are files being written."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, delay_seconds: float, log: Path) -> None:
        """Listen on a free port; every answer begins `delay_seconds` after its request."""
        super().__init__(("127.0.0.1", 0), _Connection)
        self.folder, self.delay_seconds = folder, delay_seconds
        self.log = log.open("a", buffering=1)
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.numbers = itertools.count(1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and small bodies in one packet
    server: Store

    def log_message(self, *_: object) -> None:
        pass

    def parse_request(self) -> bool:
        is_whole = super().parse_request()
        if is_whole:
            path, _, query = self.path.partition("?")
            self.bucket, _, self.key = unquote(path).lstrip("/").partition("/")
            self.query = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
            self.file = self.server.folder / self.bucket / self.key
            kind = next((name for name in ("uploads", "uploadId", "list-type", "delete") if name in self.query), "")
            named = f"{self.command} {kind}".strip()
            what = (f"{time.time():.3f}", named, unquote(path), self.headers.get("Range", "-"))
            self.server.log.write("\t".join(what) + "\n")
            time.sleep(self.server.delay_seconds)
        return is_whole

    def handle_expect_100(self) -> bool:
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def do_HEAD(self) -> None:
        if not self.key and self.file.is_dir():
            self._answer(200)
        elif self.file.is_file():
            self._head(200, self.file.stat().st_size, self.file.stat())
        else:
            self._answer(404)

    def do_GET(self) -> None:
        if not self.key:
            self._answer(200, self._list())
            return
        try:
            file = self.file.open("rb")
        except OSError:
            self._answer(404, NO_SUCH_KEY)
            return
        with file:
            status = os.fstat(file.fileno())
            start, stop = self._range(status.st_size)
            whole = f"bytes {start}-{stop - 1}/{status.st_size}" if "Range" in self.headers else ""
            self._head(206 if whole else 200, stop - start, status, whole)
            self.wfile.flush()
            while start < stop:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)

    def do_PUT(self) -> None:
        body = self._body()
        if "uploadId" in self.query:
            self.server.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = body
        else:
            self._keep([body])
        self._answer(200, headers={"ETag": '"0"'})

    def do_POST(self) -> None:
        body = self._body()
        if "uploads" in self.query:
            number = str(next(self.server.numbers))
            self.server.uploads[number] = {}
            named = f"<Bucket>{self.bucket}</Bucket><Key>{escape(self.key)}</Key><UploadId>{number}</UploadId>"
            self._answer(200, f"<InitiateMultipartUploadResult>{named}</InitiateMultipartUploadResult>")
        elif "uploadId" in self.query:
            parts = self.server.uploads.pop(self.query["uploadId"])
            self._keep([parts[number] for number in sorted(parts)])
            self._answer(200, '<CompleteMultipartUploadResult><ETag>"0"</ETag></CompleteMultipartUploadResult>')
        elif "delete" in self.query:
            for each in body.decode().split("<Key>")[1:]:
                (self.server.folder / self.bucket / each.partition("</Key>")[0]).unlink(missing_ok=True)
            self._answer(200, "<DeleteResult></DeleteResult>")
        else:
            self._answer(400)

    def do_DELETE(self) -> None:
        if "uploadId" in self.query:
            self.server.uploads.pop(self.query["uploadId"], None)
        else:
            with contextlib.suppress(OSError):
                self.file.rmdir() if self.key.endswith("/") else self.file.unlink()
        self._answer(204)

    def _keep(self, blocks: list[bytes]) -> None:
        if self.key.endswith("/"):
            self.file.mkdir(parents=True, exist_ok=True)
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_name(f".{self.file.name}-{next(self.server.numbers)}")
        with draft.open("wb") as file:
            file.writelines(blocks)
        draft.replace(self.file)

    def _list(self) -> str:
        """Return all objects with a prefix, or those and the folders right below it."""
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        objects, folders = list[str](), set[str]()
        for path in self._files(prefix):
            key = str(path.relative_to(self.server.folder / self.bucket))
            below = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in below:
                folders.add(prefix + below.partition(delimiter)[0] + delimiter)
                continue
            status = path.stat()
            changed = datetime.fromtimestamp(int(status.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            objects.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{changed}</LastModified>"
                f'<ETag>"0"</ETag><Size>{status.st_size}</Size></Contents>'
            )
            if len(objects) >= int(self.query.get("max-keys", sys.maxsize)):
                break
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(folders)
        )
        count = f"<KeyCount>{len(objects) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{count}{''.join(objects)}{common}</ListBucketResult>"

    def _files(self, prefix: str) -> Iterator[Path]:
        start = self.server.folder / self.bucket / prefix.rpartition("/")[0]
        for folder, folders, names in os.walk(start, followlinks=True):
            folders.sort()
            yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))

    def _range(self, size: int) -> tuple[int, int]:
        asked = self.headers.get("Range")
        if not asked:
            return 0, size
        first, _, last = asked.removeprefix("bytes=").partition("-")
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1 if last else size)

    def _body(self) -> bytes:
        """Return the body, freed of its frames: HTTP's, and those that bring a checksum behind the data."""
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(_unframed(self.rfile))
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return b"".join(_unframed(io.BytesIO(body))) if "aws-" in self.headers.get("Content-Encoding", "") else body

    def _head(self, status: int, size: int, state: os.stat_result, content_range: str = "") -> None:
        self.send_response_only(status)
        self.send_header("Content-Length", str(size))
        self.send_header("Last-Modified", formatdate(int(state.st_mtime), usegmt=True))
        self.send_header("ETag", f'"{state.st_mtime_ns:x}-{state.st_ino:x}"')
        self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def _answer(self, status: int, body: str = "", headers: dict[str, str] | None = None) -> None:
        data = body.encode()
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _unframed(file: IO[bytes]) -> Iterator[bytes]:
    while size := int(file.readline().partition(b";")[0], 16):
        yield file.read(size)
        file.readline()
    while file.readline().strip():  # what follows ends with an empty line
        pass


def serve(folder: Path, delay_seconds: float, log: Path) -> None:
    """Serve until standard input ends."""
    with Store(folder, delay_seconds, log) as store:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        sys.stdout.write(f"{store.server_address[1]}\n")
        sys.stdout.flush()
        sys.stdin.read()
        store.shutdown()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
