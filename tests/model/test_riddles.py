"""What people ask when a graph does not load, one test a riddle: the answer names the cause and what to do.

Each was asked many times of TensorFlow and its relatives; the messages of theirs that puzzled people are in the names.
"""

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from graphs import constant, graph, node, placeholder

from engine.errors import DataError, GraphError
from engine.model.closure import split_tensor
from engine.model.filetype import TABLE_MAGIC
from engine.model.known import Request, bind_model, read_model
from engine.model.loading import explain
from engine.model.protos import MetaGraphDef, saved_model_class


def asked(path: Path, **changes: Any) -> str:
    """What is said when a job asks for the model at `path`; empty if it may go on."""
    try:
        bind_model(read_model(str(path)), Request(**{"feed": None, "fetch": None, "constants": {}, **changes}))
    except GraphError as error:
        return str(error)
    return ""


def written(path: Path, graph_def: Any) -> Path:
    path.write_bytes(graph_def.SerializeToString())
    return path


def test_a_saved_model_under_a_graph_s_name_error_parsing_message(tmp_path: Path) -> None:
    saved = saved_model_class()(saved_model_schema_version=1)
    saved.meta_graphs.append(MetaGraphDef(graph_def=graphs.linear()))
    saved.meta_graphs[0].meta_info_def.tags.append("serve")
    path = written(tmp_path / "frozen_inference_graph.pb", saved)
    assert asked(path) == ""  # it is told from its bytes, and frozen by a worker


def test_text_under_a_binary_s_name_wire_format_was_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "graph.pb"
    path.write_text(str(graphs.linear()))
    assert asked(path) == ""


def test_keep_prob_is_not_fed_you_must_feed_a_value(tmp_path: Path) -> None:
    made = graph(
        placeholder("inputs", "float32", [None]),
        placeholder("keep_prob", "float32", []),
        placeholder("spare", "float32", []),
        node("prediction", "Mul", "inputs", "keep_prob", T="float32"),
    )
    path = written(tmp_path / "m.pb", made)
    assert "needs keep_prob:0 (float32 []), which nothing feeds" in asked(path)
    assert "--set keep_prob:0=VALUE" in asked(path)
    assert asked(path, constants={"keep_prob:0": 1.0}) == ""  # and spare, which nothing reads, is not asked for


def test_names_with_the_prefix_of_an_import(tmp_path: Path) -> None:
    path = written(tmp_path / "m.pb", graphs.linear())
    said = asked(path, feed={"import/inputs:0": "inputs"})
    assert "has no tensor import/inputs:0; did you mean inputs:0?" in said


@pytest.mark.parametrize("operation", ["QueueDequeueManyV2", "IteratorGetNext", "ReaderReadV2"])
def test_the_input_is_a_queue_and_the_job_would_wait_for_ever(operation: str, tmp_path: Path) -> None:
    made = graph(node("batch_join", operation), node("prediction", "Identity", "batch_join", T="float32"))
    path = written(tmp_path / "m.pb", made)
    said = asked(path, feed={"prediction:0": "x"}, fetch={"prediction:0": "y"})
    assert said == ""  # the walk stops at what is fed
    written(path, graph(*made.node, placeholder("inputs", "float32", [None])))
    assert f"an input pipeline of its own (batch_join, {operation})" in asked(path)
    assert "--feed batch_join:0=COLUMN" in asked(path)


def test_an_output_that_an_optimizer_removed(tmp_path: Path) -> None:
    path = written(tmp_path / "m.pb", graphs.linear(output="logits_softmax"))
    assert "has no tensor prediction:0" in asked(path)
    assert "logits_softmax:0" in asked(path)


@pytest.mark.parametrize(
    ("operation", "hint"),
    [
        ("CompareAndBitpack", ""),
        ("ImageProjectiveTransform", "ImageProjectiveTransformV3"),
        ("TFLite_Detection_PostProcess", ""),
        ("TRTEngineOp", "TensorRT"),
        ("CreateTRTResourceHandle", "TensorRT"),
        ("MyOwnOperation", ""),
    ],
)
def test_op_type_not_registered(operation: str, hint: str, tmp_path: Path) -> None:
    made = graph(placeholder("inputs", "float32", [None]), node("prediction", operation, "inputs"))
    said = asked(written(tmp_path / "m.pb", made))
    assert f"prediction ({operation}) is unknown to TensorFlow 2.21" in said
    assert "--op-library PATH" in said
    assert hint in said


def test_op_type_not_registered_hidden_in_the_function_library(tmp_path: Path) -> None:
    made = graph(placeholder("inputs", "float32", [None]), node("prediction", "PartitionedCall", "inputs"))
    made.node[1].attr["f"].func.name = "inner"
    function = made.library.function.add()
    function.signature.name = "inner"
    function.node_def.add(name="deep", op="Resampler")
    unused = made.library.function.add()
    unused.signature.name = "unused"
    unused.node_def.add(name="other", op="NeverCalled")
    said = asked(written(tmp_path / "m.pb", made))
    assert "deep (Resampler) is unknown to TensorFlow 2.21, in function inner" in said
    assert "NeverCalled" not in said


def test_a_file_past_two_gib(tmp_path: Path) -> None:
    path = tmp_path / "m.pb"
    with path.open("wb") as file:
        file.write(b"\x0a")
        file.truncate(2**31)
    assert "larger than 2 GiB, which no GraphDef can be" in asked(path)


@pytest.mark.parametrize("given", ["model.data-00000-of-00001", "model.index", "model.meta", "model"])
def test_a_checkpoint_by_any_of_its_names_not_an_sstable(given: str, tmp_path: Path) -> None:
    written(tmp_path / "model.meta", MetaGraphDef(graph_def=graphs.linear()))
    (tmp_path / "model.index").write_bytes(b"\x00" + TABLE_MAGIC)
    (tmp_path / "model.data-00000-of-00001").write_bytes(b"\x00")
    assert asked(tmp_path / given) == ""


def test_a_checkpoint_of_tensorflow_2_has_no_graph(tmp_path: Path) -> None:
    (tmp_path / "ckpt-1.index").write_bytes(b"\x00" + TABLE_MAGIC)
    said = asked(tmp_path / "ckpt-1")
    assert "this checkpoint holds values but no graph" in said
    assert "export a SavedModel where the model is built" in said


def test_a_table_whose_initialiser_was_lost_table_not_initialized(tmp_path: Path) -> None:
    made = graph(
        placeholder("inputs", "string", [None]),
        node("table", "HashTableV2"),
        node("prediction", "LookupTableFindV2", "table", "inputs"),
    )
    path = written(tmp_path / "m.pb", made)
    assert "looks up in a table that nothing fills (table, HashTableV2)" in asked(path)
    assert "icefloe freeze keeps it" in asked(path)
    made.node.append(node("fill", "LookupTableImportV2", "table"))
    written(path, made)
    assert "type --init-op fill" in asked(path)
    assert asked(path, init_ops=("fill",)) == ""


def load(graph_def: Any, feeds: list[str], fetches: list[str]) -> Any:
    from engine.model.session import load_session

    return load_session(graph_def.SerializeToString(), feeds, fetches, {})


@pytest.mark.tf
def test_nodedef_mentions_attr_not_in_op() -> None:
    made = graph(placeholder("x", "float32", [None]), node("y", "Identity", "x", T="float32", invented="int32"))
    model = load(made, ["x:0"], ["y:0"])  # TensorFlow 2.21 passes over attributes that it does not know
    np.testing.assert_array_equal(model.run({"x:0": np.ones(2, np.float32)})[0], [1, 1])


@pytest.mark.tf
def test_a_graph_of_a_newer_tensorflow() -> None:
    made = graphs.linear()
    made.versions.min_consumer = 100_000
    with pytest.raises(GraphError, match="written by a newer TensorFlow: it asks for GraphDef version 100000"):
        load(made, ["inputs:0"], ["prediction:0"])


@pytest.mark.tf
def test_a_batch_norm_frozen_as_it_was_trained_expected_float_ref() -> None:
    made = graph(
        placeholder("x", "float32", []),
        constant("moving_mean", np.float32(3)),
        node("update", "AssignSub", "moving_mean", "x", T="float32"),
        node("y", "Identity", "update", T="float32"),
    )
    with pytest.raises(GraphError, match=r"update wants a variable where freezing left a constant.*icefloe freeze"):
        load(made, ["x:0"], ["y:0"])


@pytest.mark.tf
def test_a_variable_read_after_it_became_a_constant_expected_resource() -> None:
    made = graph(constant("w", np.float32(3)), node("y", "ReadVariableOp", "w", dtype="float32"))
    with pytest.raises(GraphError, match=r"y wants a variable where freezing left a constant.*icefloe freeze"):
        load(made, [], ["y:0"])


@pytest.mark.tf
def test_channels_first_without_onednn() -> None:
    said = explain(
        "The Conv2D op currently only supports the NHWC tensor format on the CPU. The op was given the format: NCHW"
    )
    assert "keeps channels first (NCHW)" in said
    assert "TF_ENABLE_ONEDNN_OPTS=0" in said


@pytest.mark.tf
def test_values_that_the_graph_refuses_stay_the_row_s_fault() -> None:
    made = graph(placeholder("x", "string", [None]), node("y", "StringToNumber", "x", out_type="float32"))
    model = load(made, ["x:0"], ["y:0"])
    with pytest.raises(DataError, match="the graph refuses these values: StringToNumberOp could not correctly convert"):
        model.run({"x:0": np.array([b"1", b"two"], object)})


@pytest.mark.tf
@pytest.mark.parametrize("name", ["x", "x:0"])
def test_names_with_and_without_their_index(name: str, tmp_path: Path) -> None:
    from engine.options import tensor_name

    assert split_tensor(name) == ("x", 0)
    model = load(graphs.identity("float32", [None], name="x"), [tensor_name(name)], ["prediction:0"])
    np.testing.assert_array_equal(model.run({"x:0": np.ones(2, np.float32)})[0], [1, 1])
