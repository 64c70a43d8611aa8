"""Local paths and URIs, taken apart and put together by their text alone.

A *place* is what messages show and files keep: an absolute local path, or a URI without user, password and query. A URI
as the caller gave it may hold both. Pure. Start at `place_of`.
"""

import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from engine.errors import ConfigError

LOCAL_SCHEMES = ("file", "")
# Parts of a query that say how a store is reached, and nothing that is secret.
OPEN_OPTIONS = ("region", "scheme", "endpoint_override", "anonymous", "allow_bucket_creation", "retry_limit_seconds")
BUCKET_SCHEMES = ("s3", "gs", "gcs")
CONTAINER_SCHEMES = ("abfs", "abfss")
SCHEME = r"[a-zA-Z][a-zA-Z0-9+.-]*(?:::[a-zA-Z][a-zA-Z0-9+.-]*)*://"
URI = re.compile(SCHEME)
HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d+)?")
LINK = re.compile("::(?=" + SCHEME + ")")
# From the beginning of a word on: tried at each of its letters, a long word would take the square of its length.
MENTIONED = re.compile(r"(?<![a-zA-Z0-9+.-])([0-9+.-]*)([a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"<>]+)")


def is_local(uri: str) -> bool:
    """Whether `uri` names a path of this machine, a mounted one too."""
    found = URI.match(uri)
    return found is None or _scheme(found) in LOCAL_SCHEMES


def local_path(uri: str) -> str:
    """Return the path that a local URI names.

    Raises:
        ConfigError: for `file://` with a host.
    """
    if URI.match(uri) is None:
        return uri
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{uri}: a file URI with the host {parts.netloc}; type file:///path or the path alone")
    return unquote(parts.path)


def place_of(uri: str) -> str:
    """Return what may be shown and kept of a URI: neither user, password nor query."""
    if is_local(uri):
        return local_path(uri)
    start, rest = _split(uri)
    return start + rest.partition("?")[0].rstrip("/")


def without_secrets(uri: str) -> str:
    """Return a URI by which the same place can be reached with the credentials of whoever reads it."""
    if is_local(uri):
        return uri
    start, rest = _split(uri)
    path, _, query = rest.partition("?")
    options = [(name, value) for name, value in parse_qsl(query) if name in OPEN_OPTIONS]
    return start + path + (f"?{urlencode(options)}" if options else "")


def hide_secrets(text: str) -> str:
    """Return `text` with every user, password and query taken out of the URIs in it."""
    return MENTIONED.sub(lambda found: found[1] + _hidden(found[2]), text)


def shown_text(text: str) -> str:
    """Return a message as files keep it and people see it: without secrets, whatever bytes a name in it has."""
    return hide_secrets(text).encode("utf-8", "backslashreplace").decode()


def _hidden(uri: str) -> str:
    start, rest = _split(uri)
    return start + rest.partition("?")[0]


def store_of(place: str) -> str:
    """Return the beginning of a place that names its store: `s3://bucket`."""
    found = URI.match(place)
    return "" if found is None else found[0] + place[found.end() :].partition("/")[0]


def _split(uri: str) -> tuple[str, str]:
    """Split a URI into its scheme, and the rest without user and password; paths and queries may hold `@`.

    A chain (`zip://a.parquet::s3://bucket/a.zip`) has them in any of its links.
    """
    found = URI.match(uri)
    if found is None:
        return "", uri
    rest = uri[found.end() :]
    link = LINK.search(rest)
    if link is not None:
        first, others = rest[: link.start()], rest[link.end() :]
        return found[0], _without_user(_scheme(found), first) + "::" + "".join(_split(others))
    return found[0], _without_user(_scheme(found), rest)


def _scheme(found: re.Match[str]) -> str:
    return found[0].removesuffix("://").lower()


def _without_user(scheme: str, rest: str) -> str:
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    is_bucket = scheme.rpartition("::")[2] in BUCKET_SCHEMES
    if "@" not in authority and not (":" not in authority if is_bucket else HOST.fullmatch(authority)):
        authority = rest  # neither a bucket nor a port: a secret with a slash in it, which should have been %2F
    user, _, _ = authority.rpartition("@")
    shown = rest[authority.rfind("@") + 1 :]
    container = user.partition(":")[0] if scheme in CONTAINER_SCHEMES else ""
    return f"{container}@{shown}" if container else shown  # abfs://CONTAINER@ACCOUNT/PATH: no user at all


def below(place: str, name: str) -> str:
    """Return the place of `name` below the folder `place`."""
    return f"{place.rstrip('/')}/{name}"


def is_inside(place: str, folder: str) -> bool:
    """Whether `place` is `folder` or lies below it, by their text."""
    return place == folder or place.startswith(folder.rstrip("/") + "/")
