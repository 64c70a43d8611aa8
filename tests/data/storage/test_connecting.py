import sys
from pathlib import Path
from urllib.parse import urlencode

import fsspec
import pyarrow.fs as pafs
import pytest
from object_store import ACCESS_KEY, SECRET_KEY, ObjectStore

from engine.data.storage.connecting import connect
from engine.data.storage.reading import storage_of
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://KEY:hunter2@bucket/x?foo=1", "unknown option 'foo' .* known are region, scheme"),
        ("s3://KEY:hunter2/more@bucket/x", "s3://bucket/x: expected s3://BUCKET/PATH; write a / in a secret as %2F"),
        ("s3://KEY:hunter2?more@bucket/x", "expected s3://BUCKET/PATH"),
        ("s3:///x", "expected s3://BUCKET/PATH"),
        ("nosuch://me:hunter2@host/x", "nosuch://host/x: cannot be reached: Protocol not known: nosuch"),
        ("sftp://me:hunter2@host/x", "cannot be reached: .*paramiko"),
        ("zip://a::sftp://me:hunter2@host/x", "zip://a::sftp://host/x: cannot be reached: .*paramiko"),
        ("gs://bucket/x?retry_limit_seconds=hunter", "could not convert"),
        ("abfs://x", "account name"),
        ("hdfs://me:hunter2@host:1/x", "hdfs://host:1/x: cannot be reached"),
        ("s3://KEY:hunter2\u2100@bucket/x", "cannot be reached|expected"),
    ],
)
def test_what_cannot_be_reached_is_one_mistake_without_secrets(
    uri: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "paramiko", None)
    with pytest.raises(ConfigError, match=message) as caught:
        connect(uri)
    assert "hunter2" not in str(caught.value)
    assert "KEY" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_error_of_a_package_of_its_own_is_a_mistake_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class OddError(Exception):
        pass

    def fail(uri: str) -> None:
        raise OddError(f"no credentials for {uri} of hunter'2")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(ConfigError, match="odd://host/x: cannot be reached: no credentials") as caught:
        connect("odd://me:hunter'2@host/x")
    assert "me:" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["{}", "http://{}", "http://{}/"])
def test_an_endpoint_with_and_without_its_scheme(store: ObjectStore, prefix: str, endpoint: str) -> None:
    store.put(f"{prefix}/a", b"found")
    options = {"endpoint_override": endpoint.format(store.endpoint)}
    options |= {"scheme": "http"} if "://" not in endpoint else {}
    uri = f"s3://{ACCESS_KEY}:{SECRET_KEY}@data/{prefix}?{urlencode(options)}"
    assert storage_of([uri]).read(f"s3://data/{prefix}/a") == b"found"


def test_an_endpoint_from_the_environment_needs_no_region(
    store: ObjectStore, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(f"{prefix}/a", b"found")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{store.endpoint}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert storage_of([f"s3://data/{prefix}"]).read(f"s3://data/{prefix}/a") == b"found"


@pytest.mark.parametrize("name", ["a b", "100%", "a%20b", "x@y", "k=ü", "a+b", "a#b", "a&b=c", "[x]"])
def test_keys_are_taken_as_they_are_written(store: ObjectStore, prefix: str, name: str) -> None:
    store.put(f"{prefix}/{name}/data", name.encode())
    uri = store.uri().replace("data/?", f"data/{prefix}/{name}?")
    storage, place = storage_of([uri]), f"s3://data/{prefix}/{name}"
    assert storage.list_files(place)[0][0] == "data"
    assert storage.read(f"{place}/data") == name.encode()
    assert storage.find(place) is pafs.FileType.Directory


@pytest.mark.parametrize("name", ["a b", "a%20b", "x@y", "100%", "a#b"])
def test_paths_of_pyarrows_own_stores_are_taken_as_they_are_written(name: str) -> None:
    root = f"abfs://box:S2V5@account.dfs.core.windows.net/{name}"
    file_system, path = storage_of([root]).reach(f"abfs://box@account.dfs.core.windows.net/{name}/x")
    assert isinstance(file_system, pafs.AzureFileSystem)
    assert path == f"box/{name}/x"


def test_what_fsspec_knows_is_reached_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "in" / "a b").mkdir(parents=True)
    (tmp_path / "in" / "a b" / "x").write_bytes(b"found")
    storage = storage_of([f"local://{tmp_path}/in"])
    assert storage.list_files(f"local://{tmp_path}/in")[0][0] == "a b/x"
    assert storage.read(f"local://{tmp_path}/in/a b/x") == b"found"
    assert storage.state(f"local://{tmp_path}/in/a b/x").size_bytes == 5


def test_a_file_by_its_whole_uri_keeps_its_query(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda uri: (fsspec.filesystem("memory"), uri))
    _, path = storage_of(["https://host/a.parquet?signature=abc"]).reach("https://host/a.parquet")
    assert path == "https://host/a.parquet?signature=abc"
