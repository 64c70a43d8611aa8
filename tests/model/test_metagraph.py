from pathlib import Path
from typing import Any

import graphs
import pytest
from tensorboard.compat.proto.meta_graph_pb2 import AssetFileDef, MetaGraphDef

from engine.errors import GraphError
from engine.model.filetype import ModelKind, locate_model
from engine.model.metagraph import MetaGraph, read_meta_graph
from engine.model.protos import saved_model_class

TABLE_END = bytes.fromhex("57fb808b247547db")


def meta(**signatures: list[str]) -> MetaGraphDef:
    made = MetaGraphDef(graph_def=graphs.linear())
    for name, outputs in signatures.items():
        made.signature_def[name].inputs["x"].name = "inputs:0"
        for each in outputs:
            made.signature_def[name].outputs[each].name = "prediction:0"
    return made


def of(made: MetaGraphDef, assets: str = "") -> MetaGraph:
    return MetaGraph("m", ModelKind.SAVED_MODEL, made, "", assets)


@pytest.mark.parametrize(
    ("signatures", "wanted", "chosen"),
    [
        ({}, None, ""),
        ({"serving_default": ["y"], "other": ["y"]}, None, "serving_default"),
        ({"only": ["y"], "__saved_model_init_op": ["init"], "train": []}, None, "only"),
        ({"serving_default": ["y"], "other": ["y"]}, "other", "other"),
    ],
)
def test_signatures(signatures: dict[str, list[str]], wanted: str | None, chosen: str) -> None:
    assert of(meta(**signatures)).signature(wanted).name == chosen


def test_a_signature_has_to_be_chosen() -> None:
    with pytest.raises(GraphError, match="^m: choose one of its signatures with --signature: a, b$"):
        of(meta(b=["y"], a=["y"])).signature(None)
    with pytest.raises(GraphError, match=r"^m: no signature c; its signatures are a, b \(--signature\)$"):
        of(meta(b=["y"], a=["y"])).signature("c")
    with pytest.raises(GraphError, match=r"its signatures are none \(--signature\)$"):
        of(meta()).signature("c")


def test_what_is_to_be_run_first() -> None:
    made = meta(serving_default=["y"])
    assert of(made).init_ops == ()
    made.collection_def["table_initializer"].node_list.value.extend(["one", "two"])
    assert of(made).init_ops == ("one", "two")
    made.collection_def["saved_model_main_op"].node_list.value.append("main")
    assert of(made).init_ops == ("main",)
    made.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "NoOp"
    assert of(made).init_ops == ("NoOp",)


def test_assets_lie_in_their_folder() -> None:
    made = meta()
    asset = AssetFileDef(filename="../../etc/passwd")
    asset.tensor_info.name = "path:0"
    made.collection_def["saved_model_assets"].any_list.value.add(value=asset.SerializeToString())
    assert of(made, "/m/assets").asset_files == {"path:0": "/m/assets/passwd"}
    asset.filename = "words.txt"
    made.asset_file_def.add().CopyFrom(asset)
    assert of(made, "/m/assets").asset_files == {"path:0": "/m/assets/words.txt"}
    damaged = meta()
    damaged.collection_def["saved_model_assets"].any_list.value.add(value=b"\xff\xff")
    with pytest.raises(GraphError, match="^m: "):
        _ = of(damaged).asset_files


def read(path: Path) -> MetaGraph:
    return read_meta_graph(locate_model(str(path)))


def test_a_graph_is_a_meta_graph_without_variables(tmp_path: Path) -> None:
    found = read(Path(graphs.write(tmp_path / "m.pb", graphs.linear())))
    assert (found.kind, found.prefix, found.session) == (ModelKind.GRAPH, "", None)
    assert [node.name for node in found.graph_def.node] == [node.name for node in graphs.linear().node]


def test_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.meta").write_bytes(meta().SerializeToString())
    (tmp_path / "model.index").write_bytes(TABLE_END)
    found = read(tmp_path / "model.meta")
    assert (found.kind, found.prefix) == (ModelKind.CHECKPOINT, str(tmp_path / "model"))
    (tmp_path / "model.meta").unlink()
    with pytest.raises(GraphError, match=r"model: this checkpoint holds values but no graph: .*model\.meta is missing"):
        read(tmp_path / "model")
    (tmp_path / "model.meta").write_bytes(b"")
    with pytest.raises(GraphError, match=r"model\.meta: a MetaGraph without a graph, or one that was cut short"):
        read(tmp_path / "model")


def test_a_meta_graph_alone(tmp_path: Path) -> None:
    (tmp_path / "model.meta").write_bytes(meta().SerializeToString())
    found = read(tmp_path / "model.meta")
    assert (found.kind, found.prefix) == (ModelKind.META_GRAPH, "")


def saved(folder: Path, *tags: list[str]) -> Path:
    message: Any = saved_model_class()(saved_model_schema_version=1)
    for each in tags:
        graph = message.meta_graphs.add()
        graph.CopyFrom(meta(serving_default=["y"]))
        graph.meta_info_def.tags.extend(each)
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    return folder


@pytest.mark.parametrize(
    ("tags", "chosen"),
    [
        ([["serve"]], 0),
        ([["train"], ["serve"]], 1),
        ([["serve", "gpu"], ["serve"]], 1),
        ([["train"]], 0),  # the only one will do
    ],
)
def test_a_saved_model(tags: list[list[str]], chosen: int, tmp_path: Path) -> None:
    found = read(saved(tmp_path, *tags))
    assert list(found.meta.meta_info_def.tags) == tags[chosen]
    assert (found.prefix, found.assets) == ("", str(tmp_path / "assets"))
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "variables.index").write_bytes(TABLE_END)
    assert read(tmp_path).prefix == str(tmp_path / "variables" / "variables")


def test_a_saved_model_without_a_graph_to_serve(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="none of its graphs has the tag 'serve'; their tags are train; none$"):
        read(saved(tmp_path, ["train"], []))
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(GraphError, match="a SavedModel without any graph in it"):
        read(tmp_path)
