from pathlib import Path

import numpy as np
import pytest
from descriptions import calling, described, training, variable
from graphs import constant, graph, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.model.describing.cost import Measured, count_multiply_adds, load_graph, multiply_adds
from engine.model.describing.description import LoadedGraph
from engine.model.graphdef import graph_of
from engine.model.sidecar import Ports
from engine.model.tensor import Shape, TensorSpec


def cost(operation: str, inputs: list[Shape], output: Shape, **attributes: object) -> int | None:
    return multiply_adds(Measured(operation, tuple(inputs), output, attributes))


@pytest.mark.parametrize(
    ("operation", "inputs", "output", "attributes", "expected"),
    [
        ("MatMul", [(2, 5), (5, 3)], (2, 3), {}, 2 * 3 * 5),
        ("MatMul", [(5, 2), (5, 3)], (2, 3), {"transpose_a": True}, 2 * 3 * 5),
        ("_FusedMatMul", [(2, 5), (5, 3), (3,)], (2, 3), {"transpose_a": False}, 2 * 3 * 5),
        ("QuantizedMatMul", [(2, 5), (5, 3), (), ()], (2, 3), {}, 2 * 3 * 5),
        ("BatchMatMulV2", [(7, 2, 5), (7, 5, 3)], (7, 2, 3), {}, 7 * 2 * 3 * 5),
        ("BatchMatMul", [(7, 5, 2), (7, 5, 3)], (7, 2, 3), {"adj_x": True}, 7 * 2 * 3 * 5),
        ("Conv2D", [(1, 8, 8, 3), (3, 3, 3, 16)], (1, 6, 6, 16), {}, 6 * 6 * 16 * 3 * 3 * 3),
        ("_FusedConv2D", [(1, 8, 8, 3), (3, 3, 3, 16), (16,)], (1, 6, 6, 16), {}, 6 * 6 * 16 * 27),
        ("QuantizedConv2DWithBiasAndRelu", [(1, 8, 8, 3), (3, 3, 3, 16)], (1, 6, 6, 16), {}, 6 * 6 * 16 * 27),
        ("Conv2D", [(1, 16, 8, 8), (3, 3, 4, 16)], (1, 16, 6, 6), {}, 16 * 6 * 6 * 3 * 3 * 4),
        ("Conv3D", [(1, 4, 4, 4, 2), (3, 3, 3, 2, 5)], (1, 2, 2, 2, 5), {}, 8 * 5 * 27 * 2),
        ("DepthwiseConv2dNative", [(1, 8, 8, 3), (3, 3, 3, 2)], (1, 6, 6, 6), {}, 6 * 6 * 6 * 9),
        ("Conv2DBackpropInput", [(4,), (2, 2, 5, 3), (1, 4, 4, 3)], (1, 8, 8, 5), {}, 4 * 4 * 3 * 2 * 2 * 5),
        ("Einsum", [(2, 3, 4), (4, 5)], (2, 3, 5), {"equation": "abc,cd->abd"}, 2 * 3 * 4 * 5),
        ("Einsum", [(2, 3), (4, 5)], None, {"equation": "...a,ab->...b"}, None),
        ("Einsum", [(2, 3)], None, {}, None),
        ("MatMul", [(None, 5), (5, 3)], (None, 3), {}, None),
        ("MatMul", [None, (5, 3)], (2, 3), {}, None),
        ("MatMul", [(5,), (5, 3)], (3,), {}, None),
        ("MatMul", [], None, {}, None),
        ("Conv2D", [(1, 8, 8, 3), None], (1, 6, 6, 16), {}, None),
        ("Conv2DBackpropInput", [(4,), (2, 2, 5, 3)], (1, 8, 8, 5), {}, None),
    ],
)
def test_multiply_adds(
    operation: str, inputs: list[Shape], output: Shape, attributes: dict, expected: int | None
) -> None:
    assert cost(operation, inputs, output, **attributes) == expected


def test_what_is_not_counted_is_told() -> None:
    product = Measured("MatMul", ((1, 2), (2, 3)), (1, 3), {})
    assert count_multiply_adds([product, Measured("Relu", ((1, 3),), (1, 3), {}), product], ["Relu"]) == (12, "")
    unknown, loop = Measured("MatMul", (None, None), None, {}), Measured("Enter", (), None, {})
    fused = Measured("BlockLSTMV2", (), None, {})
    assert count_multiply_adds([product, unknown, loop, loop, fused], ["MatMul", "Conv2D"]) == (
        6,
        "products whose shapes depend on the input: 1; products in functions: 2; loops may run more than once; "
        "not counted: BlockLSTMV2",
    )


def loaded(graph_def: GraphDef, ports: Ports | None = None) -> LoadedGraph:
    return load_graph(graph_of("m.pb", graph_def), described(graph_def, ports=ports))


def test_what_reaches_outside_is_not_given_to_tensorflow() -> None:
    made = graph(placeholder("name", "string", []), node("prediction", "ReadFile", "name"))
    found = loaded(made)
    assert (found.tensorflow, found.inputs) == ("", ())
    assert found.refusal.startswith("m.pb does more than compute: prediction (ReadFile) reads files")


def test_what_has_no_graph_or_no_output_is_not_loaded() -> None:
    description = described(linear())
    assert load_graph(None, description).refusal.startswith("only Keras itself loads a Keras file")
    assert "no" in loaded(graph(node("a", "Relu", "b"), node("b", "Relu", "a"))).refusal


@pytest.mark.tf
@pytest.mark.parametrize(
    ("rows", "expected"), [(None, 4 * 3), (5, 4 * 3)], ids=["any number of rows", "always five rows"]
)
def test_true_shapes_and_the_cost_of_a_row(rows: int | None, expected: int) -> None:
    made = graph(
        placeholder("inputs", "float32", [rows, 4]),
        constant("weights", np.ones((4, 3), np.float32)),
        node("logits", "MatMul", "inputs", "weights", T="float32"),
        node("best", "TopKV2", "logits", "k", T="float32"),
        constant("k", np.int32(2)),
    )
    found = loaded(made)
    assert found.refusal == ""
    assert found.inputs == (TensorSpec("inputs:0", "float32", (rows, 4)),)
    assert found.outputs == (TensorSpec("best:0", "float32", (rows, 2)),)
    assert (found.multiply_adds, found.at_least) == (expected, "")


@pytest.mark.tf
def test_variables_and_large_constants_need_no_values() -> None:
    made = graph(
        placeholder("x", "float32", [None, 100]),
        constant("big", np.ones((100, 100), np.float32)),
        variable("w", 100, 7),
        node("hidden", "MatMul", "x", "big", T="float32"),
        node("prediction", "MatMul", "hidden", "w", T="float32"),
        constant("shape", np.array([-1, 7, 1], np.int32)),
        node("out", "Reshape", "prediction", "shape", T="float32"),
    )
    found = loaded(made)
    assert found.outputs == (TensorSpec("out:0", "float32", (None, 7, 1)),)
    assert (found.multiply_adds, found.at_least) == (100 * 100 + 100 * 7, "")


@pytest.mark.tf
def test_products_in_functions_are_told() -> None:
    made = calling("StatefulPartitionedCall")
    call = next(each for each in made.node if each.name == "call")
    call.attr["Tin"].list.type.extend([1, 20])
    call.attr["Tout"].list.type.append(1)
    for argument, dtype in zip(made.library.function[0].signature.input_arg, (1, 20), strict=True):
        argument.type = dtype
    made.library.function[0].signature.output_arg[0].type = 1
    for name in ("T", "dtype"):
        made.library.function[0].node_def[1].attr[name].type = 1
    del made.library.function[0].node_def[1].attr["dtype"]
    del made.library.function[1]
    found = loaded(made)
    assert found.refusal == ""
    assert (found.multiply_adds, found.at_least) == (0, "products in functions: 1")


@pytest.mark.tf
def test_a_graph_saved_from_training_is_loaded_up_to_its_prediction() -> None:
    made = training()
    for each in made.node:
        if each.op == "RandomUniform":  # it draws numbers in the shape of the rows, as TensorFlow wants it
            each.op = "ZerosLike"
            each.attr["T"].type = 1
            del each.attr["dtype"]
    found = loaded(made)
    assert found.refusal == ""
    assert found.outputs == (TensorSpec("prediction:0", "float32", (None, 3)),)
    assert (found.multiply_adds, found.at_least) == (12, "")


@pytest.mark.tf
@pytest.mark.parametrize(
    "broken",
    [
        node("prediction", "MatMul", "inputs", "inputs", T="int8"),
        node("prediction", "MatMul", "inputs", "gone", T="float32"),
        node("prediction", "Softmax", "inputs", "inputs", T="float32"),
    ],
    ids=["dtype", "missing", "too many inputs"],
)
def test_what_tensorflow_refuses_is_told(broken: object) -> None:
    found = loaded(graph(placeholder("inputs", "float32", [None, 4]), broken))
    assert found.tensorflow
    assert found.refusal.startswith("m.pb: ")


@pytest.mark.tf
def test_ports_of_tensors_that_are_not_there() -> None:
    ports = Ports((TensorSpec("nowhere:0", None, None),), (TensorSpec("prediction:0", None, None),))
    assert loaded(linear(), ports).refusal


@pytest.mark.tf
def test_a_graph_that_takes_no_batch_of_one() -> None:
    made = graph(
        placeholder("x", "float32", [None, 4]),
        constant("three", np.ones((3, 4), np.float32)),
        constant("w", np.ones((4, 2), np.float32)),
        node("both", "ConcatV2", "x", "three", "axis", T="float32", Tidx="int32"),
        constant("axis", np.int32(1)),
        node("wide", "MatMul", "both", "wide_w", T="float32"),
        constant("wide_w", np.ones((8, 2), np.float32)),
    )
    made.node[3].attr["N"].i = 2
    found = loaded(made)
    assert found.refusal == ""
    assert found.at_least == "a batch of one row is refused"
    assert found.multiply_adds == 3 * 2 * 8


@pytest.mark.tf
def test_cases_have_the_shapes_that_tensorflow_gave_them() -> None:
    import json

    from engine.model.describing.describe import describe_model, open_model

    cases = Path(__file__).resolve().parents[4] / "shared" / "cases"
    if not cases.exists():
        pytest.skip("the cases are not beside this checkout")
    checked = 0
    for case in json.loads((cases / "index.json").read_text()):
        if case["kind"] != "graphdef" or case["outcome"] != "ok":
            continue
        opened = open_model(str(cases / case["case"] / "model.pb"))
        found = load_graph(opened.graph, describe_model(opened))
        assert found.refusal == "", case["case"]
        specs = {spec.name: spec for spec in found.outputs}
        for item in case["outputs"]:
            shape = None if item["tf_shape"] is None else tuple(item["tf_shape"])
            assert specs[item["name"]] == TensorSpec(item["name"], item["dtype"], shape)
        checked += 1
    assert checked > 10
