import numpy as np
import pytest
from descriptions import training, variable
from graphs import constant, graph, identity, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.model.describing.likely import find_placeholders, likely_inputs, likely_outputs
from engine.model.graphdef import graph_of
from engine.model.tensor import TensorSpec


def inputs_of(graph_def: GraphDef, *outputs: str) -> list[str]:
    return [spec.name for spec in likely_inputs(graph_of("m.pb", graph_def), outputs)]


def test_a_graph_made_for_prediction_ends_in_its_outputs() -> None:
    found = likely_outputs(graph(*linear().node, node("other", "Relu", "logits", T="float32")))
    assert (found.likely, found.others) == (("prediction:0", "other:0"), ())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "softmax", "prediction"], ["prediction", "softmax", "a"]),
        (["loss", "x1", "OUTPUT0"], ["OUTPUT0", "x1", "loss"]),
        (["net/output/BiasAdd", "net/logits"], ["net/logits", "net/output/BiasAdd"]),
        (["accuracy/prediction", "final_result"], ["final_result", "accuracy/prediction"]),
        (["headProbabilities", "head"], ["headProbabilities", "head"]),
        (["b", "a"], ["b", "a"]),
    ],
)
def test_names_decide_the_order(names: list[str], expected: list[str]) -> None:
    leaves = [node(name, "Relu", "inputs", T="float32") for name in names]
    found = likely_outputs(graph(placeholder("inputs", "float32", [None]), *leaves))
    assert found.likely == tuple(f"{name}:0" for name in expected)


def test_what_no_input_changes_comes_last() -> None:
    fixed = [constant("c", np.ones(3, np.float32)), node("prediction", "Identity", "c", T="float32")]
    found = likely_outputs(graph(*fixed, placeholder("x", "float32", [None]), node("y", "Relu", "x", T="float32")))
    assert found.likely == ("y:0", "prediction:0")


@pytest.mark.parametrize("op", ["NoOp", "Assert", "InitializeTableV2", "LookupTableImportV2", "HashTableV2", "Const"])
def test_what_gives_no_prediction_is_no_output(op: str) -> None:
    assert likely_outputs(graph(*linear().node, node("end", op, "inputs"))).likely == ("prediction:0",)


def test_an_assertion_and_a_control_edge_read_nothing() -> None:
    made = graph(*linear().node, node("check", "Assert", "prediction"), node("done", "NoOp", "^prediction"))
    assert likely_outputs(made).likely == ("prediction:0",)


def test_a_graph_saved_from_training_ends_in_its_prediction() -> None:
    found = likely_outputs(training())
    assert found.likely == ("prediction:0",)
    assert found.others == ("Mean:0", "Mean_1:0")


def test_a_prediction_without_a_name_is_what_the_loss_reads() -> None:
    unnamed = training("Relu")
    assert likely_outputs(unnamed).likely == ("dense/BiasAdd:0",)


def test_a_prediction_without_a_name_is_what_is_set_against_a_label() -> None:
    regression = graph(
        placeholder("x", "float32", [None, 2]),
        placeholder("t", "float32", [None, 1]),
        variable("w", 2, 1),
        node("MatMul", "MatMul", "x", "w", T="float32"),
        node("sub", "Sub", "MatMul", "t", T="float32"),
        node("Square", "Square", "sub", T="float32"),
        node("Mean", "Mean", "Square", T="float32"),
        node("gradients/g", "Mul", "Mean", "x", T="float32"),
        node("update", "ApplyGradientDescent", "w", "gradients/g", T="float32"),
    )
    assert likely_outputs(regression).likely == ("MatMul:0",)


def test_updates_of_moving_averages_are_no_outputs() -> None:
    made = training("out")
    made.node.extend([
        variable("moving_mean", 3),
        node("norm/mul", "Mul", "dense/BiasAdd", "moving_mean", T="float32"),
        node("AssignSub", "AssignSub", "moving_mean", "norm/mul", T="float32"),
    ])  # fmt: skip
    found = likely_outputs(made)
    assert "norm/mul:0" not in (*found.likely, *found.others)


def test_a_graph_of_training_alone_has_its_loss_at_least() -> None:
    made = graph(
        placeholder("x", "float32", [None]),
        node("Mean", "Mean", "x", T="float32"),
        node("s", "ScalarSummary", "Mean", T="float32"),
    )
    assert likely_outputs(made).likely == ("Mean:0",)


def test_a_loop_is_walked_once() -> None:
    made = graph(
        placeholder("x", "float32", [None]),
        node("prediction", "Merge", "x", "next", T="float32"),
        node("next", "NextIteration", "prediction", T="float32"),
        node("save/SaveV2", "SaveV2", "x"),
    )
    assert likely_outputs(made).likely == ("prediction:0",)


def test_names_that_no_tensor_can_have_are_passed_over() -> None:
    odd = [node(name, "Relu", "inputs", T="float32") for name in ("", ":0", "^x", "a:1", "with space", "_x")]
    made = graph(placeholder("inputs", "float32", [None]), *odd, node("", "Placeholder"), node("p:0", "Placeholder"))
    assert likely_outputs(made).likely == ()
    assert find_placeholders(graph_of("m.pb", made)) == ["inputs:0"]


def test_inputs_are_the_placeholders_that_the_outputs_need() -> None:
    made = graph(*linear().node, placeholder("spare", "float32", []))
    assert inputs_of(made, "prediction:0") == ["inputs:0"]
    assert inputs_of(made) == ["inputs:0", "spare:0"]
    assert inputs_of(identity("float32", [None]), "inputs:0") == ["inputs:0"]


def test_inputs_of_a_saver_are_none() -> None:
    made = graph(placeholder("x", "float32", [None]), node("save/filename", "PlaceholderWithDefault", dtype="string"))
    assert find_placeholders(graph_of("m.pb", made)) == ["x:0"]


def test_what_an_input_pipeline_hands_over_is_an_input() -> None:
    end = node("IteratorGetNext", "IteratorGetNext", "iterator")
    end.attr["output_types"].list.type.extend([1, 9])
    for extents in ([-1, 8], [-1]):
        shape = end.attr["output_shapes"].list.shape.add()
        for extent in extents:
            shape.dim.add(size=extent)
    made = graph(
        placeholder("file_names", "string", [None]),
        node("iterator", "IteratorV2", "file_names"),
        end,
        node("prediction", "Relu", "IteratorGetNext", T="float32"),
        node("loss", "Equal", "prediction", "IteratorGetNext:1", T="float32"),
    )
    found = graph_of("m.pb", made)
    assert likely_inputs(found, ["prediction:0"]) == (TensorSpec("IteratorGetNext:0", "float32", (None, 8)),)
    assert likely_inputs(found, ["loss:0"])[1] == TensorSpec("IteratorGetNext:1", "int64", (None,))


def test_a_pipeline_that_does_not_tell_its_types() -> None:
    made = graph(node("q", "QueueDequeueV2"), node("prediction", "Relu", "q:3"))
    assert likely_inputs(graph_of("m.pb", made), ["prediction:0"]) == (TensorSpec("q:3", None, None),)


def test_what_a_loop_leaves_behind_is_no_output() -> None:
    made = graph(
        placeholder("x", "float32", [None]),
        node("map/TensorArrayV2", "TensorListReserve"),
        node("map/while", "StatelessWhile", "x", "map/TensorArrayV2"),
        node("map/while/Identity", "Identity", "map/while", T="int32"),
        node("map/while/Identity_1", "Identity", "map/while:1", T="variant"),
        node("map/stack", "TensorListStack", "map/while/Identity_1"),
        node("other", "Identity", "map/while:2", T="float32"),
    )
    assert set(likely_outputs(made).likely) == {"other:0", "map/stack:0"}
