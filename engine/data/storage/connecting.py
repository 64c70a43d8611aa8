"""From a URI to the file system that reaches it: `s3://`, `gs://`, `hdfs://`, `abfs://` by pyarrow, others by fsspec.

Credentials come from where each store's own tools look for them (environment, files, the machine's role), or from the
URI. Retries with backoff on throttling and server errors are the store's client's. Start at `connect`.
"""

import functools
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow.fs as pafs

from engine.data.arrow_errors import cause_of
from engine.data.storage.places import place_of, store_of
from engine.errors import ConfigError

# By the client's standard strategy: throttling, 5xx and cut connections, five times within about 5 s.
S3_ATTEMPTS = 5
CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 30.0
GCS_RETRY_SECONDS = 120.0
SMALL_BYTES = 10 * 2**20 - 1  # what pyarrow 26 sends to S3 in one request
S3_OPTIONS = ("region", "scheme", "endpoint_override", "anonymous", "allow_bucket_creation")
BY_PYARROW = ("hdfs", "viewfs", "abfs", "abfss")


def connect(uri: str, is_large: bool = False) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a remote URI, and the path in it.

    Args:
        uri: what to reach.
        is_large: whether it is for uploads of more than `SMALL_BYTES`.

    Raises:
        ConfigError: for a scheme, option or package that is not there; the message holds no secret.
    """
    scheme = uri.partition("://")[0].lower()
    maker = MAKERS.get(scheme, _by_fsspec)
    try:
        return _s3(uri, is_large) if maker is _s3 else maker(uri)
    except ConfigError:
        raise
    except Exception as error:  # each package of fsspec has errors of its own
        place, authority = place_of(uri), re.split("[/?#]", uri.partition("://")[2], maxsplit=1)[0]
        cause = cause_of(error).replace(uri, place)
        raise ConfigError(f"{place}: cannot be reached: {cause.replace(authority or uri, store_of(place))}") from None


def can_rename(uri: str) -> bool:
    """Whether a file written under another name in the same folder appears at once when it is renamed."""
    return uri.startswith(("hdfs://", "viewfs://"))


def is_whole_on_upload(uri: str) -> bool:
    """Whether an upload that is cut off leaves nothing behind under the name."""
    return uri.startswith(("s3://", "gs://", "gcs://", "hdfs://", "viewfs://", "abfs://", "abfss://"))


def _s3(uri: str, is_large: bool = False) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    bucket = parts.netloc.rpartition("@")[2]
    if ":" in bucket or not bucket:
        raise ConfigError(f"{place_of(uri)}: expected s3://BUCKET/PATH; write a / in a secret as %2F, or export it")
    given = dict(parse_qsl(uri.partition("?")[2], keep_blank_values=True))  # a key may hold a #
    unknown = [name for name in given if name not in S3_OPTIONS]
    if unknown:
        raise ConfigError(
            f"{place_of(uri)}: unknown option {unknown[0]!r} behind the question mark; known are "
            f"{', '.join(S3_OPTIONS)} (in a glob, type * or [0-9] for a character)"
        )
    options: dict[str, Any] = {
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": REQUEST_SECONDS,
        # A small file is one request. A large one must not begin late: where its upload cannot be begun, pyarrow 26
        # would put an empty object in its place.
        "allow_delayed_open": not is_large,
    }
    if parts.username:
        options |= {"access_key": unquote(parts.username), "secret_key": unquote(parts.password or "")}
    if given.get("anonymous", "").lower() in ("true", "1"):
        options["anonymous"] = True
    if given.get("allow_bucket_creation", "").lower() in ("true", "1"):
        options["allow_bucket_creation"] = True
    endpoint = given.get("endpoint_override") or _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    scheme, _, host = endpoint.rpartition("://")
    if endpoint:
        options |= {"endpoint_override": host, "scheme": given.get("scheme") or scheme or "https"}
    region = given.get("region") or _environment("AWS_REGION", "AWS_DEFAULT_REGION")
    if not region:
        region = "us-east-1" if endpoint else _region_of(bucket)
    return pafs.S3FileSystem(region=region, **options), bucket + _path(uri)


@functools.cache
def _region_of(bucket: str) -> str:
    """Ask for the region once: clients are made anew just when the store does not answer."""
    return str(pafs.resolve_s3_region(bucket))


def _environment(*names: str) -> str:
    """Return the first variable that is set; of these, a client that is made here looks at none by itself."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _path(uri: str) -> str:
    """Return the path in a bucket as it is written: keys may hold a percent sign, which means nothing there."""
    place = place_of(uri)
    return place[len(store_of(place)) :]


def _gcs(uri: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(uri)
    given = dict(parse_qsl(uri.partition("?")[2]))
    options: dict[str, Any] = {"anonymous": parts.username == "anonymous" or given.get("anonymous") == "true"}
    for name in ("endpoint_override", "scheme"):
        if name in given:
            options[name] = given[name]
    seconds = float(given.get("retry_limit_seconds", GCS_RETRY_SECONDS))
    file_system = pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=seconds), **options)
    return file_system, parts.netloc.rpartition("@")[2] + _path(uri)


def _by_pyarrow(uri: str) -> tuple[pafs.FileSystem, str]:
    base, mark, query = uri.partition("?")
    store = base.rstrip("/").removesuffix(_path(uri))
    file_system, path = pafs.FileSystem.from_uri(store + quote(_path(uri)) + mark + query)
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
def connected(uri: str, is_large: bool = False) -> tuple[pafs.FileSystem, str]:
    """Return what `connect` does, and keep it: a client has its own connections and threads."""
    return connect(uri, is_large)


def forget_clients() -> None:
    """Let the next call of `connected` make clients anew: those of S3 try again a hundred times in their life."""
    connected.cache_clear()
