import json
from pathlib import Path

import graphs
import pytest

from engine.errors import GraphError
from engine.model.sidecar import Ports, check_place, read_sidecar, sidecar_bytes, sidecar_path
from engine.model.tensor import TensorSpec

PORTS = Ports(
    (TensorSpec("x:0", "float32", (None, 4)), TensorSpec("k:0", None, ())),
    (TensorSpec("y:0", "string", None),),
    ("init", "more"),
)
DATA = graphs.linear().SerializeToString()


def kept(tmp_path: Path, document: bytes) -> str:
    model = tmp_path / "m.pb"
    sidecar_path(str(model)).write_bytes(document)
    return str(model)


def test_ports_come_back_as_they_were(tmp_path: Path) -> None:
    model = kept(tmp_path, sidecar_bytes(DATA, PORTS, {"comparison": "compared on 4 random rows"}))
    assert sidecar_path(model) == tmp_path / "m.json"
    assert read_sidecar(model, DATA) == (PORTS, "")


def test_the_file_says_what_the_readme_says(tmp_path: Path) -> None:
    document = json.loads(sidecar_bytes(DATA, PORTS, {}))
    assert set(document) == {"format", "sha256", "inputs", "outputs", "init_ops"}
    assert document["inputs"][0] == {"name": "x:0", "dtype": "float32", "shape": [None, 4]}


def test_ports_of_another_graph_are_not_used(tmp_path: Path) -> None:
    model = kept(tmp_path, sidecar_bytes(DATA, PORTS, {}))
    ports, remark = read_sidecar(model, DATA + b"\x00")
    assert ports is None
    assert remark == "m.json was written for another graph (its sha-256 differs) and is not used"


def test_without_ports_nothing_is_said(tmp_path: Path) -> None:
    assert read_sidecar(str(tmp_path / "m.pb"), DATA) == (None, "")


@pytest.mark.parametrize("document", [b"{}", b"[]", b'{"format": "of another tool"}', b'"text"', b"5"])
def test_files_of_others_are_passed_over(tmp_path: Path, document: bytes) -> None:
    assert read_sidecar(kept(tmp_path, document), DATA) == (None, "")


@pytest.mark.parametrize("key", ["sha256", "inputs", "outputs", "init_ops"])
@pytest.mark.parametrize("value", [None, 5, [5], [{}]])
def test_a_damaged_one_is_told_and_not_used(tmp_path: Path, key: str, value: object) -> None:
    document = {**json.loads(sidecar_bytes(DATA, PORTS, {})), key: value}
    if key == "init_ops" and isinstance(value, list):
        return  # names of operations that are not there are told when they are looked up
    ports, remark = read_sidecar(kept(tmp_path, json.dumps(document).encode()), DATA)
    assert ports is None
    assert "is not used" in remark


def test_broken_json_is_told(tmp_path: Path) -> None:
    ports, remark = read_sidecar(kept(tmp_path, sidecar_bytes(DATA, PORTS, {})[:-5]), DATA)
    assert ports is None
    assert remark.startswith("m.json is damaged")


def test_places_where_a_graph_cannot_go(tmp_path: Path) -> None:
    check_place(str(tmp_path / "new" / "m.pb"))
    with pytest.raises(GraphError, match=rf"is a folder; name the file to write, {tmp_path}/model\.pb"):
        check_place(str(tmp_path))
    with pytest.raises(GraphError, match="need two names; name the graph .pb"):
        check_place(str(tmp_path / "m.json"))
    (tmp_path / "m.json").write_text('{"class_name": "Sequential"}')
    with pytest.raises(GraphError, match=r"m\.json is there and is no file of ours"):
        check_place(str(tmp_path / "m.pb"))
    (tmp_path / "m.json").write_bytes(sidecar_bytes(DATA, PORTS, {}))
    check_place(str(tmp_path / "m.pb"))
