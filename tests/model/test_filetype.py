import zipfile
from pathlib import Path

import graphs
import pytest

from engine.errors import GraphError
from engine.model.filetype import TABLE_MAGIC, ModelKind, explain_bytes, locate_model
from engine.model.graphdef import read_graph
from engine.model.protos import GraphDef, MetaGraphDef, parse_message, saved_model_class

SAVED_MODEL = b"\x08\x01\x12\xd7\x17\n\xa6\x01\x12\x7d"  # schema version 1, then a meta graph
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x031.9:\x10"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("m.pb", b"", "an empty file"),
        ("m.pb", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer; fetch the file"),
        ("m.pb", b"<!DOCTYPE html><html>404</html>", "an HTML or XML page; the download went wrong"),
        ("m.pb", b"\n  <html><body>", "an HTML or XML page"),
        ("m.pb", b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an HTML or XML page"),
        ("weights", b"\x00\x00\x01" + TABLE_MAGIC, "a part of a checkpoint whose graph, PREFIX.meta, is not beside it"),
        ("m.data-00000-of-00001", b"\x00\x01", "a part of a checkpoint without the rest of it"),
        ("m.ckpt", b"\x00\x01", "a part of a checkpoint without the rest of it"),
        ("m.pb", b"\x1c\x00\x00\x00TFL3\x00", "a TensorFlow Lite model"),
        ("m.pb", ONNX, "an ONNX model"),
        ("m.pt", b"\x80\x02}q\x00", "a Python pickle"),
        ("m.tar.gz", b"\x1f\x8b\x08", "a gzip archive; unpack it first"),
        ("m.tar", b"\0" * 257 + b"ustar\x0000" + b"\0" * 100, "a tar archive; unpack it first"),
        ("m.parquet", b"PAR1\x15\x04", "a Parquet file; is it the input?"),
        ("m.json", b' {"class_name": "Sequential"}', "JSON"),
    ],
)
def test_each_kind_of_wrong_file_is_called_by_its_name(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(GraphError) as caught:
        locate_model(str(path))
    assert str(caught.value).startswith(f"{path}: expected a model, found {kind}")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("m.pb", b"\x0a\x05\x0a\x01x\x12\x00", ModelKind.GRAPH),
        ("m.pb", b"\x00\x01\x02 what is this", ModelKind.GRAPH),  # told when it is parsed
        ("m.pb", b'node {\n  name: "x"\n}', ModelKind.TEXT),
        ("m.pb", b"node{name:'x'}", ModelKind.TEXT),
        ("m.pbtxt", b"# by hand\n\n# twice\nversions { producer: 22 }", ModelKind.TEXT),
        ("m.pbtxt", b"\xef\xbb\xbfnode {", ModelKind.TEXT),
        ("m.pbtxt", b"library <\n>", ModelKind.TEXT),
        ("m.pbtxt", b"meta_info_def {\n}", ModelKind.META_GRAPH),
        ("m.meta", b"\n\x8f\x02", ModelKind.META_GRAPH),
        ("saved_model.pb", SAVED_MODEL, ModelKind.SAVED_MODEL),
        ("renamed.pb", SAVED_MODEL, ModelKind.SAVED_MODEL),
        ("saved_model.pbtxt", b"saved_model_schema_version: 1", ModelKind.SAVED_MODEL),
        ("m.h5", b"\x89HDF\r\n\x1a\n\x00", ModelKind.KERAS),
    ],
)
def test_models_are_told_from_their_bytes(tmp_path: Path, name: str, data: bytes, kind: ModelKind) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = locate_model(str(path))
    assert (found.kind, found.path) == (kind, str(path))


def test_a_keras_file_is_a_zip_with_a_config(tmp_path: Path) -> None:
    for name, member in (("keras.zip", "config.json"), ("torch.zip", "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "{}")
    assert locate_model(str(tmp_path / "keras.zip")).kind is ModelKind.KERAS
    with pytest.raises(GraphError, match="a zip archive that is no Keras model"):
        locate_model(str(tmp_path / "torch.zip"))
    (tmp_path / "cut.keras").write_bytes((tmp_path / "keras.zip").read_bytes()[:-10])
    with pytest.raises(GraphError, match="a zip archive that is no Keras model"):
        locate_model(str(tmp_path / "cut.keras"))


@pytest.mark.parametrize("inside", ["saved_model.pb", "saved_model.pbtxt"])
def test_a_saved_model_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).write_bytes(SAVED_MODEL)
    found = locate_model(str(tmp_path))
    assert (found.kind, found.path, found.given) == (ModelKind.SAVED_MODEL, str(tmp_path / inside), str(tmp_path))


@pytest.mark.parametrize(
    "files",
    [
        ("m.meta", "m.index", "m.data-00000-of-00001"),
        ("m.meta", "m.index", "m.data-00000-of-00002", "m.data-00001-of-00002"),
        ("m.meta", "m"),
        ("m.meta", "m-00000-of-00002", "m-00001-of-00002"),
    ],
    ids=["V2", "V2 in two", "V1", "V1 sharded"],
)
def test_a_checkpoint_by_its_prefix_any_of_its_files_or_its_folder(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"\x00" + TABLE_MAGIC)
    for given in ("m", *files):
        found = locate_model(str(tmp_path / given))
        assert (found.kind, found.path) == (ModelKind.CHECKPOINT, str(tmp_path / "m")), given
    assert locate_model(str(tmp_path)).path == str(tmp_path / "m")


def test_a_folder_is_read_by_its_checkpoint_file(tmp_path: Path) -> None:
    for step in (1, 2):
        for ending in ("meta", "index", "data-00000-of-00001"):
            (tmp_path / f"model-{step}.{ending}").write_bytes(b"\x00")
    with pytest.raises(GraphError, match=r"several checkpoints \(model-1, model-2\); name one by its prefix"):
        locate_model(str(tmp_path))
    state = tmp_path / "checkpoint"
    state.write_text('model_checkpoint_path: "/home/somebody/run/model-2"\nall_model_checkpoint_paths: "model-1"\n')
    assert locate_model(str(tmp_path)).path == str(tmp_path / "model-2")
    assert locate_model(str(state)).path == str(tmp_path / "model-2")
    state.write_text('model_checkpoint_path: "model-3"\n')
    with pytest.raises(GraphError, match="its file 'checkpoint' names model-3, which is not there"):
        locate_model(str(tmp_path))


def test_a_folder_of_a_sharded_v1_checkpoint(tmp_path: Path) -> None:
    for name in ("m.meta", "m-00000-of-00002", "m-00001-of-00002"):
        (tmp_path / name).write_bytes(b"\x00" + TABLE_MAGIC)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m-?????-of-00002"\n')
    assert locate_model(str(tmp_path)).path == str(tmp_path / "m")


def test_a_checkpoint_s_graph_without_its_values(tmp_path: Path) -> None:
    (tmp_path / "m.meta").write_bytes(b"\x0a\x00")
    with pytest.raises(GraphError, match=r"the graph of a checkpoint \(m\.meta\) without its values; copy m\.index"):
        locate_model(str(tmp_path / "m"))
    assert locate_model(str(tmp_path / "m.meta")).kind is ModelKind.META_GRAPH


def test_a_cut_v1_file_beside_its_graph_is_still_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "m.meta").write_bytes(b"\x0a\x00")
    (tmp_path / "m").write_bytes(b"\x00\x01 cut")
    assert locate_model(str(tmp_path / "m")).kind is ModelKind.CHECKPOINT


def test_other_folders_show_what_is_in_them(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="a folder that is neither a SavedModel nor holds a checkpoint$"):
        locate_model(str(tmp_path))
    (tmp_path / "m.pb").write_bytes(b"x")
    with pytest.raises(GraphError, match=r"in it there is m\.pb$"):
        locate_model(str(tmp_path))
    (tmp_path / "17").mkdir()
    (tmp_path / "17" / "saved_model.pb").write_bytes(SAVED_MODEL)
    with pytest.raises(GraphError, match="in it there is 17$"):
        locate_model(str(tmp_path))


def test_a_missing_file_shows_what_is_beside_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "modle.pb")
    with pytest.raises(GraphError, match=f"^{missing}: no such file$"):
        locate_model(missing)
    for name in ("c.pb", "a.pb", "b.pb", "d.pb", "e.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(GraphError, match=r"no such file; in that folder there is a\.pb, b\.pb, c\.pb$"):
        locate_model(missing)
    with pytest.raises(GraphError, match="no such file$"):
        locate_model(str(tmp_path / "nowhere" / "m.pb"))


def test_bytes_that_do_not_parse_are_explained() -> None:
    data = graphs.linear().SerializeToString()
    assert explain_bytes(data[:40]) == (
        "a graph that was cut short (its last field wants 26 bytes more); copy or download it again"
    )
    for stop in range(1, len(data)):
        assert "graph" in explain_bytes(data[:stop]) or "message" in explain_bytes(data[:stop])
    assert explain_bytes(b"\xff\xfe\x00 some other thing").startswith("something that is no model")
    assert explain_bytes(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").startswith("something that is no model")


def test_a_graph_cut_at_any_byte_is_a_graph_error_or_a_smaller_graph(tmp_path: Path) -> None:
    data = graphs.linear().SerializeToString()
    path = tmp_path / "m.pb"
    for stop in range(len(data)):
        path.write_bytes(data[:stop])
        said = ""
        try:
            assert read_graph(str(path)).graph_def.node
        except GraphError as error:
            said = str(error)
        assert not said or said.startswith(f"{path}: expected a ")


@pytest.mark.parametrize(
    "text", ['node { name: "x"', "node { op: 5 }", "node { nme: 'x' } }", "node { name: '\udc80' }"]
)
def test_broken_text_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.pbtxt"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(GraphError, match=f"^{path}: (text that is no graph|a graph as text that is not UTF-8)"):
        read_graph(str(path))


def test_text_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pbtxt"
    path.write_text("node { attr { value { func { attr { value {" + " func { attr { value {" * 100_000)
    with pytest.raises(GraphError, match="text that is no graph|deeper than any graph"):
        read_graph(str(path))


def test_text_and_binary_are_the_same_graph(tmp_path: Path) -> None:
    made = graphs.linear()
    text, binary = tmp_path / "m.pbtxt", tmp_path / "m.pb"
    text.write_text(f"# a comment\n{made}")
    binary.write_bytes(made.SerializeToString())
    assert read_graph(str(text)).graph_def == read_graph(str(binary)).graph_def
    assert GraphDef.FromString(read_graph(str(text)).data) == made


def test_a_saved_model_message_holds_meta_graphs() -> None:
    made = saved_model_class()(saved_model_schema_version=1)
    made.meta_graphs.append(MetaGraphDef(graph_def=graphs.linear()))
    again = parse_message(saved_model_class()(), "m", made.SerializeToString())
    assert again.meta_graphs[0].graph_def == graphs.linear()
    assert parse_message(saved_model_class()(), "m", str(made).encode()) == made


def test_a_graph_past_two_gib_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.pb"
    with path.open("wb") as file:
        file.write(b"\x0a")
        file.truncate(2**31)
    with pytest.raises(GraphError, match="larger than 2 GiB, which no GraphDef can be"):
        read_graph(str(path))
