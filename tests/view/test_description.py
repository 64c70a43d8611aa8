import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from descriptions import calling, described, described_meta, training
from graphs import constant, graph, linear, node, placeholder
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from engine.model.describing.description import Description, Kind, LoadedGraph, SignatureDescription, SignatureEntry
from engine.model.filetype import ModelKind
from engine.model.keras_file import KerasFile
from engine.model.sidecar import Ports
from engine.model.tensor import TensorSpec
from engine.view.commands import command_to_paste
from engine.view.description import print_description

LONG = "/data/" + "a-rather-long-folder-name/" * 12 + "model.pb"


def shown(description: Description) -> str:
    stream = io.StringIO()
    print_description(description, stream)
    return stream.getvalue()


def rows(description: Description) -> list[tuple[str, str]]:
    """Lines as name and text, the title left out."""
    lines = shown(description).splitlines()[1:]
    width = min(len(line) - len(line.lstrip().partition("  ")[2].lstrip()) for line in lines)
    return [(line[:width].strip(), line[width:].strip()) for line in lines]


def test_a_frozen_graph() -> None:
    found = described(linear(), LONG)
    assert rows(found) == [
        ("model", LONG),
        ("kind", "frozen graph"),
        ("size", "0 B"),
        ("parameters", "12 (48 B)"),
        ("MatMul", "12 in 1 tensor, 48 B"),
        ("operations", "4: Placeholder x1, Const x1, MatMul x1, Softmax x1"),
        ("producer", "2000"),
        ("input", "inputs:0 (float32 [?, 4])"),
        ("likely output", "prediction:0 (float32 [?, 3])"),
        ("to score", command_to_paste(found)),
    ]


def test_a_graph_saved_from_training() -> None:
    text = shown(described(training()))
    for part in (
        "graph with variables, not frozen",
        "15 more (60 B) that the outputs do not need, pruned when loaded",
        "input not needed  y:0 (int64 [?])",
        "read by nothing   Mean:0, Mean_1:0",
        "from training     dropout: 1 between inputs and outputs, such as dropout/RandomUniform (RandomUniform)",
        "from training     optimizer: 2 outside, pruned when loaded, such as train/update_w/ApplyAdam (ApplyAdam)",
        "random            dropout/RandomUniform (RandomUniform); reruns give other bytes",
        "note              it is not frozen (variables: w, b), and holds no values",
        "to freeze         icefloe freeze CHECKPOINT DEST.pb --outputs prediction",
        "does more         2 operations outside, which are pruned when loaded",
    ):
        assert part in text


def test_operations_in_functions_are_told() -> None:
    assert "7 (3 of them in 2 functions): " in shown(described(calling()))


def test_operations_that_reach_outside_or_are_unknown() -> None:
    made = graph(
        placeholder("x", "string", [None]), node("r", "ReadFile", "x"), node("prediction", "CompareAndBitpack", "r")
    )
    text = shown(described(made))
    assert "r (ReadFile) reads files; needs --allow-op ReadFile" in text
    assert "not in TensorFlow 2.21  CompareAndBitpack x1 (prediction), between inputs and outputs; it left" in text


def test_ports_and_signatures() -> None:
    spec = TensorSpec("inputs:0", "float32", (None, 4))
    text = shown(
        described(linear(), ports=Ports((spec,), (TensorSpec("prediction:0", "float32", (None, 3)),), ("init",)))
    )
    assert "ports          kept beside the graph; score takes them by itself" in text
    assert "output         prediction:0" in text
    assert "fills a table  init (--init-op)" in text
    entries = (SignatureEntry("x", spec), SignatureEntry("s", TensorSpec("", "float32", None)))
    signature = SignatureDescription("serving_default", entries, ())
    text = shown(replace(described(linear()), signatures=(signature,), ports_from="signature"))
    assert "serving_default: x=inputs:0 (float32 [?, 4]), s (sparse) -> nothing" in text


def test_a_saved_model_tells_who_wrote_it() -> None:
    meta = MetaGraphDef(graph_def=linear())
    meta.meta_info_def.tensorflow_version = "1.15.0"
    assert "SavedModel, written by TensorFlow 1.15.0" in shown(described_meta(meta, ModelKind.SAVED_MODEL))


def test_a_keras_file() -> None:
    spec = TensorSpec("rows", "float32", (None, 4))
    keras = KerasFile("zip", "Functional", "3.15.1", (("Dense", 2), ("InputLayer", 1)), (spec,), ("score",), (), ())
    assert rows(Description(Kind.KERAS, "m.keras", 2048, inputs=(spec,), keras=keras)) == [
        ("model", "m.keras"),
        ("kind", "Keras model"),
        ("size", "2.0 KiB"),
        ("class", "Functional, in zip"),
        ("Keras", "3.15.1"),
        ("layers", "Dense x2, InputLayer x1"),
        ("input", "rows (float32 [?, 4])"),
        ("output layer", "score"),
        ("to freeze", "icefloe freeze m.keras DEST.pb"),
    ]


def test_what_tensorflow_says() -> None:
    found = described(linear())
    spec = TensorSpec("prediction:0", "float32", (None, 3))
    loaded = LoadedGraph("2.21.0", (), (spec,), 1234567)
    text = shown(replace(found, loaded=loaded))
    assert "in TensorFlow 2.21.0  gives prediction:0 (float32 [?, 3])" in text
    assert "multiply-adds         1,234,567 a row\n" in text
    text = shown(replace(found, loaded=replace(loaded, at_least="loops may run more than once")))
    assert "1,234,567 a row, at least: loops may run more than once" in text
    assert "not loaded     it reads" in shown(replace(found, loaded=LoadedGraph("", refusal="it reads files")))
    assert "in TensorFlow 2.21.0  no" in shown(replace(found, loaded=LoadedGraph("2.21.0", refusal="no")))


def test_long_lists_are_cut_and_counted() -> None:
    many = [node(f"out{i:04}", "Relu", "x", T="float32") for i in range(1100)]
    text = shown(described(graph(placeholder("x", "float32", [None]), *many)))
    assert "likely output    and 980 more" in text
    assert "out1000:0, out1001:0, out1002:0, out1003:0, out1004:0, out1005:0, out1006:0, out1007:0 and 92 more" in text
    assert len(text.splitlines()) < 40
    operations = shown(described(graph(*(node(f"n{i}", f"Op{i}") for i in range(11)))))
    assert "Op7 x1 and 3 other types" in operations
    assert "Op8 x1" not in operations.partition("not in TensorFlow")[0]


@pytest.mark.parametrize(
    "path", [LONG, "/data/[bold]/m.pb", "/data/[/]/m.pb", "/data/ü b/m.pb", "/data/:100:/m.pb", "/data/:cat:.pb"]
)
def test_files_and_pipes_get_whole_paths(path: str) -> None:
    assert path in shown(described(linear(), path)).splitlines()[1]


def test_names_from_a_file_do_not_steer_the_terminal() -> None:
    made = graph(placeholder("x", "float32", [None]), node("y", "Bad\x1b]0;title\x07\nOp", "x"))
    text = shown(described(made, "m\x1b[2J.pb"))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert r"Bad\x1b]0;title\x07\nOp" in text
    assert r"m\x1b[2J.pb" in text


def test_a_name_without_end_is_cut() -> None:
    made = graph(placeholder("x", "float32", [None]), node("y" * 10**6, "Relu", "x"), constant("c", np.ones(3)))
    assert len(shown(described(made)).partition("to score")[0]) < 6000


def test_the_description_of_a_folder_has_no_escape_codes(tmp_path: Path) -> None:
    assert "\x1b" not in shown(described(training(), str(tmp_path)))
