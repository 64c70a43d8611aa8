import numpy as np
import pytest
from descriptions import variable
from graphs import constant, graph, linear, node, placeholder

from engine.model.graphdef import graph_of
from engine.model.infer import infer_tensor
from engine.model.tensor import Shape


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([None, 3], [3], (None, 3)),
        ([3], [None, 3], (None, 3)),
        ([None, 1], [1, 5], (None, 5)),
        ([None, 3], [], (None, 3)),
        ([], [], ()),
        ([None], [4], (4,)),
        ([None], [None], (None,)),
        ([None], [1], (None,)),
        ([2, 0], [1, 0], (2, 0)),
        (None, [3], None),
    ],
)
def test_elementwise_operations_broadcast(left: list | None, right: list | None, expected: Shape) -> None:
    made = graph(placeholder("a", "float32", left), placeholder("b", "float32", right), node("y", "AddV2", "a", "b"))
    assert infer_tensor(graph_of("m.pb", made), "y:0").shape == expected


def test_a_layer_with_an_added_bias() -> None:
    made = graph(
        *linear(4, 3).node,
        constant("b", np.ones(3, np.float32)),
        node("add", "Add", "logits", "b", T="float32"),
        node("y", "Relu", "add", T="float32"),
    )
    assert str(infer_tensor(graph_of("m.pb", made), "y:0")) == "y:0 (float32 [?, 3])"


@pytest.mark.parametrize(("op", "read"), [("VariableV2", "Identity"), ("VarHandleOp", "ReadVariableOp")])
def test_a_variable_has_the_shape_of_its_value(op: str, read: str) -> None:
    made = graph(
        placeholder("x", "float32", [None, 4]),
        variable("w", 4, 3, op=op),
        node("read", read, "w", T="float32"),
        node("y", "MatMul", "x", "read", T="float32"),
    )
    assert infer_tensor(graph_of("m.pb", made), "y:0").shape == (None, 3)


@pytest.mark.parametrize("edges", [[], ["x"], ["x", "x"], ["x", "gone"], ["x:abc", "^x"], ["y", "y"]])
@pytest.mark.parametrize("op", ["MatMul", "Add", "Identity", "Softmax"])
def test_odd_inputs_leave_the_shape_open(op: str, edges: list[str]) -> None:
    made = graph(placeholder("x", "float32", [None, 4, 2]), node("y", op, *edges, T="float32"))
    before = made.SerializeToString(deterministic=True)
    assert infer_tensor(graph_of("m.pb", made), "y:0").dtype == "float32"
    assert made.SerializeToString(deterministic=True) == before


def test_matrices_of_another_rank_are_no_matrices() -> None:
    made = graph(placeholder("x", "float32", []), constant("w", np.ones(3)), node("y", "MatMul", "x", "w", T="float32"))
    assert infer_tensor(graph_of("m.pb", made), "y:0").shape == (None, None)
