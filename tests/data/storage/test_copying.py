import json
from pathlib import Path

import pytest
from object_store import FOREVER, Fault, FaultyProxy, ObjectStore

from engine.data.storage.copying import local_copy
from engine.errors import DataError, GraphError, StorageError

pytestmark = pytest.mark.store


def put(store: ObjectStore, prefix: str, *names: str) -> None:
    for name in names:
        store.put(f"{prefix}/{name}", name.encode())


def copied(uri: str) -> tuple[str, list[str]]:
    with local_copy(uri) as path:
        root = Path(path).parent
        files = sorted(found.relative_to(root).as_posix() for found in root.rglob("*") if found.is_file())
        for file in files:
            assert file.endswith((root / file).read_bytes().decode())
        name = Path(path).name
    assert not root.exists()
    return name, files


SEVEN = [f"model-7.{end}" for end in ("data-00000-of-00002", "data-00001-of-00002", "index", "meta")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.pb", ["model.json", "model.pb"]),
        ("model-7", SEVEN),
        ("model-7.index", SEVEN),
        ("v1", ["v1-00000-of-00001"]),
        ("net.keras", ["net.keras"]),
    ],
)
def test_what_belongs_to_a_model_comes_along(store: ObjectStore, prefix: str, name: str, expected: list[str]) -> None:
    put(store, prefix, "model.pb", "model.json", "model2.pb", "other.json", "net.keras", "checkpoint")
    put(store, prefix, "model-7.index", "model-7.meta", "model-7.data-00000-of-00002", "model-7.data-00001-of-00002")
    put(store, prefix, "model-70.index", "model-8.index", "v1-00000-of-00001", "model.pb/inside")
    assert copied(store.uri(path=f"{prefix}/{name}")) == (name, expected)


@pytest.mark.parametrize("end", ["", "/"])
def test_a_folder_comes_whole(store: ObjectStore, prefix: str, end: str) -> None:
    names = ["saved_model.pb", "variables/variables.index", "assets/words.txt"]
    put(store, f"{prefix}/saved", *names)
    put(store, prefix, "saved2/saved_model.pb", "saved.txt")
    uri = store.uri(path=f"{prefix}/saved{end}")
    assert copied(uri) == ("saved", sorted(f"saved/{name}" for name in names))


def test_a_model_right_in_the_bucket(store: ObjectStore) -> None:
    store.make_bucket("models")
    for name in ("m.pb", "m.json"):
        store.put(name, name.encode(), "models")
    assert copied(store.uri("models", "m.pb")) == ("m.pb", ["m.json", "m.pb"])


def test_a_local_model_is_itself(tmp_path: Path) -> None:
    for uri in (str(tmp_path / "m.pb"), f"file://{tmp_path}/m.pb"):
        with local_copy(uri) as path:
            assert path == str(tmp_path / "m.pb")


@pytest.mark.parametrize("bucket", ["data", "nosuch"])
def test_a_model_that_is_not_there_is_named_by_its_place(store: ObjectStore, prefix: str, bucket: str) -> None:
    with (
        pytest.raises(GraphError, match=rf"^s3://{bucket}/{prefix}/m.pb: no such file$"),
        local_copy(store.uri(bucket, f"{prefix}/m.pb")),
    ):
        pass


def test_what_is_wrong_with_a_copy_is_told_of_the_models_own_place(store: ObjectStore, prefix: str) -> None:
    put(store, prefix, "m.pb")
    for kind in (GraphError, DataError):
        with (
            pytest.raises(kind, match=rf"^s3://data/{prefix}/m.pb is no graph; s3://data/{prefix}/m.json is there$"),
            local_copy(store.uri(path=f"{prefix}/m.pb")) as path,
        ):
            raise kind(f"{path} is no graph; {path.replace('.pb', '.json')} is there")


def test_a_refusal_is_a_mistake_and_an_outage_is_none(proxy: FaultyProxy, prefix: str, quick: None) -> None:
    put(proxy.store, prefix, "m.pb")
    for action, kind in (("access_denied", GraphError), ("slow_down", StorageError)):
        for method in ("HEAD", "GET"):
            proxy.set_faults(Fault(action, method, times=FOREVER))
            with pytest.raises(kind, match=rf"^s3://data/{prefix}") as caught:
                copied(proxy.uri(path=f"{prefix}/m.pb"))
            assert "icefloe-model-" not in str(caught.value)


def test_a_copy_is_made_through_faults(proxy: FaultyProxy, prefix: str, quick: None) -> None:
    data = json.dumps(list(range(5000))).encode()
    proxy.store.put(f"{prefix}/m.pb", data)
    proxy.set_faults(Fault("cut_response", "GET", times=2, after_bytes=900), Fault("slow_down", "GET", times=2, skip=1))
    with local_copy(proxy.uri(path=f"{prefix}/m.pb")) as path:
        assert Path(path).read_bytes() == data
