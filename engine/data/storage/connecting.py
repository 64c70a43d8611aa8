"""From a URI to the file system that reaches it: `s3://`, `gs://`, `hdfs://`, `abfs://` by pyarrow, others by fsspec.

Credentials come from where each store's own tools look for them (environment, files, the machine's role), or from the
URI. Retries with backoff on throttling and server errors are the store's client's. Start at `connect`.
"""

import functools
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from engine.data.storage.places import hide_secrets, place_of, store_of
from engine.errors import ConfigError

# By the client's standard strategy: throttling, 5xx and cut connections, five times within about 5 s.
S3_ATTEMPTS = 5
CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 30.0
GCS_RETRY_SECONDS = 120.0
S3_OPTIONS = ("region", "scheme", "endpoint_override", "anonymous", "allow_bucket_creation")
BY_PYARROW = ("hdfs", "viewfs", "abfs", "abfss")


def connect(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a remote URI, and the path in it.

    Raises:
        ConfigError: for a scheme, option or package that is not there; the message holds no secret.
    """
    scheme = uri.partition("://")[0].lower()
    maker = MAKERS.get(scheme, _by_fsspec)
    try:
        return maker(uri)
    except ConfigError:
        raise
    except (pa.ArrowException, OSError, ValueError, ImportError, TypeError) as error:
        raise ConfigError(f"{place_of(uri)}: cannot be reached: {hide_secrets(str(error))}") from None


def can_rename(uri: str) -> bool:
    """Whether a file written under another name in the same folder appears at once when it is renamed."""
    return uri.startswith(("hdfs://", "viewfs://"))


def is_whole_on_upload(uri: str) -> bool:
    """Whether an upload that is cut off leaves nothing behind under the name."""
    return uri.startswith(("s3://", "gs://", "gcs://", "hdfs://", "viewfs://", "abfs://", "abfss://"))


def _s3(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in given if name not in S3_OPTIONS]
    if unknown:
        raise ConfigError(
            f"{place_of(uri)}: unknown option {unknown[0]!r} behind the question mark; known are "
            f"{', '.join(S3_OPTIONS)} (in a glob, type * or [0-9] for a character)"
        )
    bucket = parts.netloc.rpartition("@")[2]
    if ":" in bucket or not bucket:
        raise ConfigError(f"{place_of(uri)}: expected s3://BUCKET/PATH; write a / in a secret as %2F, or export it")
    options: dict[str, Any] = {
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": REQUEST_SECONDS,
        "allow_delayed_open": True,  # a small file is one request, and appears whole
    }
    if parts.username:
        options |= {"access_key": unquote(parts.username), "secret_key": unquote(parts.password or "")}
    if given.get("anonymous", "").lower() in ("true", "1"):
        options["anonymous"] = True
    if given.get("allow_bucket_creation", "").lower() in ("true", "1"):
        options["allow_bucket_creation"] = True
    endpoint = given.get("endpoint_override", "")
    scheme, _, host = endpoint.rpartition("://")
    if endpoint:
        options |= {"endpoint_override": host, "scheme": given.get("scheme") or scheme or "https"}
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        elsewhere = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = "us-east-1" if elsewhere else pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(region=region, **options), bucket + _path(uri)


def _path(uri: str) -> str:
    """Return the path in a bucket as it is written: keys may hold a percent sign, which means nothing there."""
    place = place_of(uri)
    return place[len(store_of(place)) :]


def _gcs(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    given = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {"anonymous": parts.username == "anonymous" or given.get("anonymous") == "true"}
    for name in ("endpoint_override", "scheme"):
        if name in given:
            options[name] = given[name]
    seconds = float(given.get("retry_limit_seconds", GCS_RETRY_SECONDS))
    file_system = pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=seconds), **options)
    return file_system, parts.netloc.rpartition("@")[2] + _path(uri)


def _by_pyarrow(uri: str) -> tuple[pafs.FileSystem, str]:
    file_system, path = pafs.FileSystem.from_uri(uri)
    return file_system, path


def _by_fsspec(uri: str) -> tuple[pafs.FileSystem, str]:
    import fsspec

    file_system, path = fsspec.core.url_to_fs(uri)
    return pafs.PyFileSystem(pafs.FSSpecHandler(file_system)), str(path)


MAKERS: dict[str, Callable[[str], tuple[pafs.FileSystem, str]]] = {
    "s3": _s3,
    "gs": _gcs,
    "gcs": _gcs,
    **dict.fromkeys(BY_PYARROW, _by_pyarrow),
}


@functools.lru_cache(maxsize=64)
def connected(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return what `connect` does, and keep it: a client has its own connections and threads."""
    return connect(uri)


def forget_clients() -> None:
    """Let the next call of `connected` make clients anew: those of S3 try again a hundred times in their life."""
    connected.cache_clear()
