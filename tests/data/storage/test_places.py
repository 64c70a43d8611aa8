from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.storage.places import (
    below,
    hide_secrets,
    is_inside,
    is_local,
    local_path,
    place_of,
    store_of,
    without_secrets,
)
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("/data/in", "/data/in"),
        ("a b/100%/x@y", "a b/100%/x@y"),
        ("file:///data/a%20b", "/data/a b"),
        ("file://localhost/data", "/data"),
        ("s3://bucket/in", "s3://bucket/in"),
        ("s3://bucket/in/", "s3://bucket/in"),
        ("s3://bucket", "s3://bucket"),
        ("s3://KEY:SECRET@bucket/in?region=eu-west-1", "s3://bucket/in"),
        ("s3://KEY:SEC/RET@bucket/in", "s3://bucket/in"),
        ("s3://KEY:SEC?RET@bucket/in", "s3://bucket/in"),
        ("s3://KEY:SEC#RET@bucket/in", "s3://bucket/in"),
        ("s3://bucket/dt=1/x@y", "s3://bucket/dt=1/x@y"),
        ("s3://KEY:SECRET@bucket/dt=1/x@y", "s3://bucket/dt=1/x@y"),
        ("s3://bucket/100%25/a%20b/c d", "s3://bucket/100%25/a%20b/c d"),
        ("s3://bucket/a#b", "s3://bucket/a#b"),
        ("gs://anonymous@bucket/in", "gs://bucket/in"),
        ("sftp://user:pass@host:22/in/x@y", "sftp://host:22/in/x@y"),
        ("sftp://user:pa/ss@host/in", "sftp://host/in"),
        ("hdfs://node:8020/in/x@y", "hdfs://node:8020/in/x@y"),
        ("hdfs://[::1]:8020/in/x@y", "hdfs://[::1]:8020/in/x@y"),
        ("hdfs://[::1]/in/x@y", "hdfs://[::1]/in/x@y"),
        ("abfs://box@account.dfs.core.windows.net/in", "abfs://box@account.dfs.core.windows.net/in"),
        ("abfs://box:KEY@account.dfs.core.windows.net/in", "abfs://box@account.dfs.core.windows.net/in"),
        ("abfss://box:K/E+Y==@account.dfs.core.windows.net/in", "abfss://box@account.dfs.core.windows.net/in"),
        ("abfs://:KEY@account.blob.core.windows.net/box/in", "abfs://account.blob.core.windows.net/box/in"),
        ("simplecache::s3://KEY:SECRET@bucket/in", "simplecache::s3://bucket/in"),
        ("simplecache::s3://KEY:SEC/RET@bucket/in", "simplecache::s3://bucket/in"),
        ("zip://a.parquet::s3://KEY:SECRET@bucket/a.zip?region=x", "zip://a.parquet::s3://bucket/a.zip"),
        ("zip://a::simplecache::sftp://me:pw@host/a.zip", "zip://a::simplecache::sftp://host/a.zip"),
        ("https://me:pw@host/a.parquet?signature=abc", "https://host/a.parquet"),
    ],
)
def test_what_is_shown_of_a_uri(uri: str, place: str) -> None:
    assert place_of(uri) == place
    assert place_of(place) == place


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("s3://KEY:SECRET@bucket/in/?region=eu&endpoint_override=h%3A1&session_token=T", "s3://bucket/in/?region=eu&"),
        ("abfs://box:KEY@account/in?sas_token=T", "abfs://box@account/in"),
        ("/in?x", "/in?x"),
    ],
)
def test_what_a_plan_keeps_of_a_uri(uri: str, kept: str) -> None:
    found = without_secrets(uri)
    assert found.startswith(kept)
    assert place_of(found) == place_of(uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [("/x", True), ("x", True), ("file:///x", True), ("FILE:///x", True), ("s3://x", False), ("local:///x", False)],
)
def test_local_or_not(uri: str, expected: bool) -> None:
    assert is_local(uri) == expected


def test_a_file_uri_of_another_host_is_refused() -> None:
    with pytest.raises(ConfigError, match="host nas; type file:///path"):
        local_path("file://nas/data")


def test_stores_and_folders() -> None:
    assert store_of("s3://bucket/a/b") == "s3://bucket"
    assert store_of("abfs://box@account/a") == "abfs://box@account"
    assert store_of("/a/b") == ""
    assert below("s3://bucket/", "a") == below("s3://bucket", "a") == "s3://bucket/a"
    assert is_inside("s3://bucket/out/a", "s3://bucket/out")
    assert not is_inside("s3://bucket/output", "s3://bucket/out")


SECRETS = st.text("abcXYZ019+/?#:=&%._-", min_size=6, max_size=40).map(lambda text: f"SeC{text}rEt")
URIS = st.builds(
    lambda scheme, secret, is_quoted, tail: (
        f"{scheme}://user:{quote(secret, safe='') if is_quoted else secret}@bucket/path{tail}"
    ),
    st.sampled_from(["s3", "gs", "sftp", "simplecache::s3", "abfs", "zip://a.parquet::s3", "https"]),
    SECRETS,
    st.booleans(),
    st.sampled_from(["", "/", "/x.parquet", "?region=eu", "/a%20b?scheme=http"]),
)


@settings(max_examples=400, deadline=None)
@given(uri=URIS)
def test_no_password_is_ever_shown_or_kept(uri: str) -> None:
    for text in (place_of(uri), without_secrets(uri), hide_secrets(f"cannot reach '{uri}': no luck")):
        assert "SeC" not in text
        assert "rEt" not in text
        assert "user" not in text or uri.startswith("abfs")  # there it may be the container
        assert "bucket" in text


@given(secret=SECRETS, scheme=st.sampled_from(["s3", "abfs", "https", "simplecache::gs"]))
def test_no_secret_in_a_query_is_ever_shown_or_kept(secret: str, scheme: str) -> None:
    uri = f"{scheme}://bucket/path?session_token={quote(secret, safe='')}&region=eu"
    for text in (place_of(uri), without_secrets(uri), hide_secrets(f"<{uri}> failed")):
        assert "SeC" not in text


@pytest.mark.timeout(20)
def test_a_long_word_is_looked_at_once() -> None:
    word = "a" * 200_000
    assert hide_secrets(word) == word
    assert hide_secrets(f"{word}, {word}://me:pw@host/a?sig=1") == f"{word}, {word}://host/a"


def test_a_uri_need_not_begin_a_word() -> None:
    text = "=s3://K:S@b/x -s3://K:S@b/x .1s3://K:S@b/x _s3://K:S@b/x ::s3://K:S@b/x és3://K:S@b/x"
    assert hide_secrets(text) == text.replace("K:S@", "")


def test_text_around_uris_stays() -> None:
    text = "GET https://me:pw@host/a?sig=1 and s3://K:S@b/x@y: 404; me@example.com, 12:30"
    assert hide_secrets(text) == "GET https://host/a and s3://b/x@y: 404; me@example.com, 12:30"
