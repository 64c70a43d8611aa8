import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import graphs
import pytest
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import GraphError
from engine.model.filetype import ModelKind
from engine.model.known import BoundModel, Request, bind_model, read_model
from engine.model.protos import MetaGraphDef, saved_model_class
from engine.model.sidecar import Ports, sidecar_bytes, sidecar_path
from engine.model.tensor import TensorSpec


def request(**changes: Any) -> Request:
    return Request(**{"feed": None, "fetch": None, "constants": {}, **changes})


def bound(path: str, **changes: Any) -> BoundModel:
    return bind_model(read_model(path), request(**changes))


def variable_graph() -> GraphDef:
    """x [?, 4] @ w -> y, w a variable, restored by a saver as TensorFlow 1 writes it."""
    made = graphs.graph(
        graphs.placeholder("x", "float32", [None, 4]),
        graphs.node("w", "VariableV2", dtype="float32"),
        graphs.node("y", "MatMul", "x", "w", T="float32"),
        graphs.node("save/Const", "Const", dtype="string"),
        graphs.node("save/RestoreV2", "RestoreV2", "save/Const"),
        graphs.node("save/Assign", "Assign", "w", "save/RestoreV2", T="float32"),
        graphs.node("save/restore_all", "NoOp", "^save/Assign"),
    )
    for extent in (4, 3):
        made.node[1].attr["shape"].shape.dim.add(size=extent)
    return made


def meta_graph(graph_def: GraphDef, inputs: dict[str, str] | None = None, outputs: dict[str, str] | None = None) -> Any:
    meta = MetaGraphDef(graph_def=graph_def)
    meta.meta_info_def.tags.append("serve")
    meta.saver_def.filename_tensor_name = "save/Const:0"
    meta.saver_def.restore_op_name = "save/restore_all"
    for name, tensor in (inputs or {}).items():
        info = meta.signature_def["serving_default"].inputs[name]
        info.name, info.dtype = tensor, 1
        info.tensor_shape.dim.add(size=-1)
        info.tensor_shape.dim.add(size=4)
    for name, tensor in (outputs or {}).items():
        info = meta.signature_def["serving_default"].outputs[name]
        info.name, info.dtype = tensor, 1
    return meta


def write_checkpoint(folder: Path, meta: Any) -> str:
    (folder / "model.meta").write_bytes(meta.SerializeToString())
    (folder / "model.index").write_bytes(b"\x00")
    (folder / "model.data-00000-of-00001").write_bytes(b"\x01\x02")
    return str(folder / "model")


def write_saved_model(folder: Path, meta: Any) -> str:
    (folder / "saved" / "variables").mkdir(parents=True)
    saved = saved_model_class()(saved_model_schema_version=1)
    saved.meta_graphs.append(meta)
    (folder / "saved" / "saved_model.pb").write_bytes(saved.SerializeToString())
    (folder / "saved" / "variables" / "variables.index").write_bytes(b"\x00")
    (folder / "saved" / "variables" / "variables.data-00000-of-00001").write_bytes(b"\x01\x02")
    return str(folder / "saved")


def test_a_frozen_graph_takes_the_usual_ports(model: str) -> None:
    found = bound(model)
    assert (found.feed, found.fetch) == ({"inputs:0": "inputs"}, {"prediction:0": "prediction"})
    assert found.freeze_options is None
    assert found.known.sha256 == hashlib.sha256(Path(model).read_bytes()).hexdigest()
    assert found.specs["inputs:0"] == TensorSpec("inputs:0", "float32", (None, 4))


def test_ports_beside_a_graph_are_its_defaults(tmp_path: Path) -> None:
    made = graphs.linear(name="in/pixels", output="out/score")
    made.node.append(graphs.node("init", "NoOp"))
    path = graphs.write(tmp_path / "m.pb", made)
    ports = Ports(
        (TensorSpec("in/pixels:0", "float32", (None, 4)),),
        (TensorSpec("out/score:0", "float32", (None, 3)),),
        ("init",),
    )
    sidecar_path(path).write_bytes(sidecar_bytes(made.SerializeToString(), ports, {}))
    found = bound(path)
    assert (found.feed, found.fetch) == ({"in/pixels:0": "pixels"}, {"out/score:0": "score"})
    assert found.init_ops == ("init",)
    assert found.specs["out/score:0"].shape == (None, 3)
    chosen = bound(path, feed={"in/pixels:0": "p"}, fetch={"logits:0": "l"}, init_ops=("logits",))
    assert (chosen.feed, chosen.fetch, chosen.init_ops) == ({"in/pixels:0": "p"}, {"logits:0": "l"}, ("logits",))


def test_ports_that_do_not_match_are_no_defaults(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "m.pb", graphs.linear(name="x"))
    ports = Ports((TensorSpec("x:0", "float32", (None, 4)),), (TensorSpec("prediction:0", "float32", (None, 3)),))
    sidecar_path(path).write_bytes(sidecar_bytes(b"another graph", ports, {}))
    assert "sha-256 differs" in read_model(path).remark
    with pytest.raises(GraphError, match=r"has no tensor inputs:0.*x:0"):
        bound(path)


def test_an_input_without_an_axis_is_no_default_feed(tmp_path: Path) -> None:
    made = graphs.graph(
        graphs.placeholder("x", "float32", [None]),
        graphs.placeholder("k", "float32", []),
        graphs.node("y", "Mul", "x", "k", T="float32"),
    )
    path = graphs.write(tmp_path / "m.pb", made)
    ports = Ports(
        (TensorSpec("x:0", "float32", (None,)), TensorSpec("k:0", "float32", ())), (TensorSpec("y:0", None, None),)
    )
    sidecar_path(path).write_bytes(sidecar_bytes(made.SerializeToString(), ports, {}))
    with pytest.raises(GraphError, match=r"needs k:0 \(float32 \[\]\), which nothing feeds; .*--set k:0=VALUE"):
        bound(path)
    assert bound(path, constants={"k:0": 2.0}).feed == {"x:0": "x"}
    assert bound(path, is_unbatched=True).feed == {"x:0": "x", "k:0": "k"}


def secret(operation: str = "ReadFile") -> GraphDef:
    return graphs.graph(
        graphs.placeholder("inputs", "string", [None]),
        graphs.node("path", "Const", dtype="string"),
        graphs.node("leak", operation, "path"),
        graphs.node("prediction", "StringJoin", "inputs", "leak"),
    )


def test_what_reaches_outside_is_refused_until_it_is_allowed(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "m.pb", secret())
    with pytest.raises(GraphError, match=r"leak \(ReadFile\) reads files.*--allow-op ReadFile"):
        bound(path)
    assert bound(path, allow_ops=("ReadFile",)).feed == {"inputs:0": "inputs"}
    assert bound(path, feed={"leak:0": "text", "inputs:0": "inputs"}).feed["leak:0"] == "text"  # it is not run then


def test_an_operation_that_tensorflow_lacks_needs_its_library(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "m.pb", secret("MyOwnOperation"))
    with pytest.raises(GraphError, match=r"leak \(MyOwnOperation\) is unknown to TensorFlow .*--op-library PATH"):
        bound(path)
    assert bound(path, op_libraries=("mine.so",)).fetch == {"prediction:0": "prediction"}


@pytest.mark.parametrize("write", [write_checkpoint, write_saved_model], ids=["checkpoint", "SavedModel"])
def test_a_source_with_a_signature_is_bound_to_it(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path, meta_graph(variable_graph(), {"a": "x:0"}, {"b": "y:0"}))
    found = bound(path)
    assert (found.feed, found.fetch) == ({"inputs:0": "inputs"}, {"prediction:0": "prediction"})
    assert found.specs["inputs:0"] == TensorSpec("inputs:0", "float32", (None, 4))
    assert found.freeze_options is not None
    assert found.freeze_options.outputs == ()
    by_key = bound(path, fetch={"b:0": "score"})
    assert by_key.freeze_options is not None
    assert by_key.freeze_options.outputs == ("b",)
    assert bound(path, feed={"a:0": "pixels"}).specs["a:0"].shape == (None, 4)
    by_tensor = bound(path, feed={"x:0": "pixels"}, fetch={"y:0": "score"})
    assert by_tensor.feed == {"x:0": "pixels"}
    assert by_tensor.specs["x:0"].shape == (None, 4)


def test_a_checkpoint_without_a_signature_takes_tensor_names(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, meta_graph(variable_graph()))
    assert read_model(path).found.kind is ModelKind.CHECKPOINT
    with pytest.raises(GraphError, match="has no tensor prediction to freeze to"):
        bound(path)
    with pytest.raises(GraphError, match=r"has no input z:0; its inputs are x:0 \(float32 \[\?, 4\]\)"):
        bound(path, feed={"z:0": "z"}, fetch={"y:0": "y"})
    found = bound(path, feed={"x:0": "x"}, fetch={"y:0": "y"})
    assert found.specs["x:0"] == TensorSpec("x:0", "float32", (None, 4))


def test_every_input_of_a_source_has_to_be_fed(tmp_path: Path) -> None:
    made = variable_graph()
    made.node.append(graphs.placeholder("k", "float32", []))
    made.node.append(graphs.node("z", "Mul", "y", "k", T="float32"))
    path = write_checkpoint(tmp_path, meta_graph(made))
    with pytest.raises(GraphError, match=r"needs k:0 \(float32 \[\]\), which nothing feeds"):
        bound(path, feed={"x:0": "x"}, fetch={"z:0": "z"})
    found = bound(path, feed={"x:0": "x"}, fetch={"z:0": "z"}, constants={"k:0": 1.0})
    assert found.freeze_options is not None
    assert found.freeze_options.constants == {"k:0": 1.0}


@pytest.mark.parametrize("write", [write_checkpoint, write_saved_model], ids=["checkpoint", "SavedModel"])
def test_the_hash_of_a_source_is_over_all_its_files(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path, meta_graph(variable_graph()))
    before = read_model(path).sha256
    assert read_model(path).sha256 == before
    for file in [
        each for each in sorted(tmp_path.rglob("*")) if each.is_file() and each.suffix not in (".meta", ".pb")
    ]:
        kept = file.read_bytes()
        file.write_bytes(kept + b"\x00")
        assert read_model(path).sha256 != before, file
        file.write_bytes(kept)
    assert read_model(path).sha256 == before


def test_a_source_is_audited_before_anything_loads_it(tmp_path: Path) -> None:
    made = variable_graph()
    made.node.append(graphs.node("leak", "ReadFile", "save/Const"))
    made.node[-2].input.append("^leak")  # restoring would run it
    path = write_checkpoint(tmp_path, meta_graph(made, {"a": "x:0"}, {"b": "y:0"}))
    with pytest.raises(GraphError, match=r"leak \(ReadFile\) reads files"):
        bound(path)


@pytest.mark.parametrize(
    ("names", "feed"), [(["pixels"], {"inputs:0": "inputs"}), (["a", "b"], {"a:0": "a", "b:0": "b"})]
)
def test_a_keras_file_s_inputs_are_its_defaults(names: list[str], feed: dict[str, str], tmp_path: Path) -> None:
    layers = [
        {"class_name": "InputLayer", "config": {"name": name, "batch_shape": [None, 4], "dtype": "float32"}}
        for name in names
    ]
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": layers}}))
    found = bound(str(tmp_path / "m.keras"))
    assert found.feed == feed
    assert all(found.specs[name].shape == (None, 4) for name in feed)
    assert found.freeze_options is not None
    assert bound(str(tmp_path / "m.keras"), feed={f"{names[0]}:0": "x"}).specs[f"{names[0]}:0"].dtype == "float32"


def test_a_missing_graph_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.index").write_bytes(b"\x00")
    with pytest.raises(GraphError, match=re.escape(f"holds values but no graph: {tmp_path}/model.meta is missing")):
        read_model(str(tmp_path / "model"))
