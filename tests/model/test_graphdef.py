import json
from pathlib import Path

import graphs
import numpy as np
import pytest
from graphs import constant, graph, identity, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import GraphError
from engine.model.closure import needed_nodes, split_tensor
from engine.model.graphdef import (
    Graph,
    check_ports,
    describe_tensor,
    dtype_name,
    find_random_operations,
    read_graph,
)
from engine.model.tensor import Shape, TensorSpec, shape_text

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
INDEX = json.loads((CASES / "index.json").read_text()) if (CASES / "index.json").exists() else []
needs_cases = pytest.mark.skipif(not INDEX, reason="the cases are not beside this checkout")


def case_graph(name: str) -> Graph:
    return read_graph(str(CASES / name / "model.pb"))


def made(graph_def: GraphDef) -> Graph:
    return Graph("made.pb", graph_def.SerializeToString(), graph_def, {item.name: item for item in graph_def.node})


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x", ("x", 0)), ("x:0", ("x", 0)), ("a/b:12", ("a/b", 12)), ("^x", ("x", -1)), ("call:output:1", ("call", 0))],
)
def test_split_tensor(name: str, expected: tuple[str, int]) -> None:
    assert split_tensor(name) == expected


@pytest.mark.parametrize(
    ("shape", "text"), [(None, "[...]"), ((), "[]"), ((None, 64), "[?, 64]"), ((4, 3, None), "[4, 3, ?]")]
)
def test_tensors_as_messages_show_them(shape: Shape, text: str) -> None:
    assert shape_text(shape) == text
    assert str(TensorSpec("x:0", "float32", shape)) == f"x:0 (float32 {text})"


def test_a_tensor_of_unknown_dtype_says_so() -> None:
    assert str(TensorSpec("x:0", None, None)) == "x:0 (dtype unknown [...])"


@pytest.mark.parametrize(
    "dtype",
    ["float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]
    + ["uint64", "bool", "string", "complex64", "qint8", "resource", "variant"],
)
def test_describe_tensor_tells_the_dtype(dtype: str) -> None:
    assert describe_tensor(made(identity(dtype, [None, 2])), "inputs:0") == TensorSpec("inputs:0", dtype, (None, 2))


@pytest.mark.parametrize("number", [99, 199, -1, 2**31 - 1])
def test_a_dtype_that_does_not_exist_is_told_by_its_number(number: int) -> None:
    assert dtype_name(number) == f"dtype {number}"


def test_a_node_without_its_attributes_is_described_as_unknown_and_left_as_it_is() -> None:
    graph_def = graph(node("x", "Placeholder"), node("c", "Const"), node("wrong", "Const"))
    graph_def.node[2].attr["value"].i = 5
    found = made(graph_def)
    before = graph_def.SerializeToString(deterministic=True)
    for name in ("x:0", "c:0", "wrong:0"):
        assert describe_tensor(found, name) == TensorSpec(name, None, None)
    assert graph_def.SerializeToString(deterministic=True) == before


def test_a_shape_of_more_axes_than_a_tensor_can_have_is_unknown() -> None:
    assert describe_tensor(made(graph(placeholder("x", "float32", [1] * 254))), "x:0").shape == (1,) * 254
    assert describe_tensor(made(graph(placeholder("x", "float32", [1] * 255))), "x:0").shape is None


def test_a_reference_dtype_is_its_base_dtype() -> None:
    assert dtype_name(101) == "float32"
    assert dtype_name(107) == "string"


@pytest.mark.parametrize(
    ("shape", "producer", "expected"),
    [
        ([None, 4], 2000, (None, 4)),
        ([3, 4], 2000, (3, 4)),
        ([None, None, 3], 0, (None, None, 3)),
        (None, 2000, None),
        (None, 0, None),
        ([], 2000, ()),
        ([], 24, ()),
        ([], 23, None),
        ([], 0, None),
    ],
)
def test_describe_tensor_tells_the_shape(shape: list[int | None] | None, producer: int, expected: Shape) -> None:
    found = made(graph(placeholder("x", "float32", shape), producer=producer))
    assert describe_tensor(found, "x:0").shape == expected


def test_a_placeholder_without_a_shape_has_an_unknown_one() -> None:
    assert describe_tensor(made(graph(node("x", "Placeholder", dtype="float32"))), "x:0").shape is None


@pytest.mark.parametrize("producer", [0, 2000])
def test_a_constant_tells_its_own_shape(producer: int) -> None:
    found = made(graph(constant("c", np.ones((2, 3), np.int64)), constant("s", np.float32(1)), producer=producer))
    assert describe_tensor(found, "c:0") == TensorSpec("c:0", "int64", (2, 3))
    assert describe_tensor(found, "s:0") == TensorSpec("s:0", "float32", ())


@pytest.mark.parametrize("name", ["prediction:0", "logits:0", "prediction:3"])
def test_what_only_tensorflow_knows_is_left_open(name: str) -> None:
    assert describe_tensor(made(linear()), name) == TensorSpec(name, None, None)


@pytest.mark.parametrize("name", ["inputs:1", "weights:2"])
def test_a_placeholder_and_a_constant_have_one_output(name: str) -> None:
    with pytest.raises(GraphError, match=r"inputs:1|weights:2"):
        describe_tensor(made(linear()), name)


@pytest.mark.parametrize("name", ["prediction:x", "prediction:-1", "prediction:0:0", "prediction:"])
def test_an_output_index_is_a_number(name: str) -> None:
    with pytest.raises(GraphError, match="prediction"):
        describe_tensor(made(linear()), name)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("input:0", "did you mean inputs:0?"),
        ("predictions:0", "did you mean prediction:0?"),
        ("import/inputs:0", "did you mean inputs:0?"),
        ("^prediction", "has no tensor ^prediction"),
        ("zzz:0", "its inputs and likely outputs are inputs:0, prediction:0"),
    ],
)
def test_a_name_that_is_not_there_shows_the_nearest(asked: str, expected: str) -> None:
    with pytest.raises(GraphError) as caught:
        describe_tensor(made(linear()), asked)
    assert str(caught.value).startswith(f"made.pb has no tensor {asked}; ")
    assert expected in str(caught.value)


def test_a_prefix_that_the_graph_has_is_shown() -> None:
    found = made(linear(name="import/x", output="import/y"))
    assert describe_tensor(found, "import/x:0").dtype == "float32"
    with pytest.raises(GraphError, match=r"has no tensor x:0; did you mean import/x:0\?"):
        describe_tensor(found, "x:0")
    with pytest.raises(GraphError, match=r"has no tensor other/y:0; did you mean import/y:0\?"):
        describe_tensor(found, "other/y:0")


@pytest.mark.parametrize("name", ["x", "inputs", "model/dense/x"])
def test_a_prefix_that_the_graph_has_not_is_taken_off(name: str) -> None:
    with pytest.raises(GraphError, match=rf"did you mean {name}:0\?"):
        describe_tensor(made(linear(name=name)), f"import/{name}:0")


def test_of_many_layers_the_nearest_are_shown() -> None:
    layers = [node(f"block_{i}/BiasAdd", "Identity", "x", T="float32") for i in range(9)]
    with pytest.raises(GraphError, match="block_7/BiasAdd:0"):
        describe_tensor(made(graph(placeholder("x", "float32", [None]), *layers)), "blok_7/BiasAdd:0")


CHAIN = {
    item.name: item
    for item in graph(
        node("raw", "ReadFile"),
        node("both", "Split", "raw"),
        node("left", "Identity", "both"),
        node("right", "Identity", "both:1"),
        node("guard", "Assert", "raw"),
        node("sum", "AddV2", "left", "right", "^guard"),
        node("dead", "NoSuchOperation", "raw"),
    ).node
}


@pytest.mark.parametrize(
    ("feeds", "targets", "expected"),
    [
        ([], ["sum:0"], {"raw", "both", "left", "right", "guard", "sum"}),
        (["raw:0"], ["sum:0"], {"both", "left", "right", "guard", "sum"}),
        (["both:0", "both:1", "raw:0"], ["sum:0"], {"left", "right", "guard", "sum"}),
        (["both:0"], ["left:0"], {"left"}),
        (["both:0"], ["sum:0"], {"raw", "both", "left", "right", "guard", "sum"}),
        (["both:1"], ["right:0"], {"right"}),
        (["left:0", "right:0", "guard:0"], ["sum"], {"sum"}),
        (["sum:0"], ["sum:0"], set()),
        ([], [], set()),
        ([], ["nowhere:0"], {"nowhere"}),
        ([], ["^guard"], {"guard", "raw"}),
    ],
)
def test_needed_nodes(feeds: list[str], targets: list[str], expected: set[str]) -> None:
    assert needed_nodes(CHAIN, feeds, targets) == expected


def test_needed_nodes_walks_a_loop_once() -> None:
    nodes = {item.name: item for item in graph(node("merge", "Merge", "next"), node("next", "Identity", "merge")).node}
    assert needed_nodes(nodes, [], ["merge:0"]) == {"merge", "next"}


def test_a_control_edge_to_a_fed_placeholder_needs_nothing_else() -> None:
    nodes = graph(placeholder("x", "float32", [None]), node("y", "Identity", "x", "^x", T="float32"))
    check_ports(made(nodes), ["x:0"], ["y:0"], [])
    assert needed_nodes({item.name: item for item in nodes.node}, ["x:0"], ["y:0"]) == {"y"}


def test_check_ports_takes_what_can_be_computed() -> None:
    check_ports(made(linear()), ["inputs:0"], ["prediction:0", "logits:0"], ["weights"])


def test_a_dead_branch_is_no_mistake() -> None:
    dead = [node("variable", "VariableV2", dtype="float32"), placeholder("spare", "float32", [])]
    both = graph(*linear().node, *dead, node("lost", "AddV2", "variable", "nowhere", T="float32"))
    check_ports(made(both), ["inputs:0"], ["prediction:0"], [])


def test_feeding_an_inner_tensor_makes_what_is_before_it_needless() -> None:
    check_ports(made(linear()), ["logits:0"], ["prediction:0"], [])


WITH_KEEP_PROB = graph(
    placeholder("inputs", "float32", [None, 4]),
    placeholder("keep_prob", "float32", []),
    node("prediction", "Mul", "inputs", "keep_prob", T="float32"),
)


@pytest.mark.parametrize(
    ("graph_def", "feeds", "fetches", "init_ops", "expected"),
    [
        (linear(), ["input:0"], ["prediction:0"], [], "no tensor input:0; did you mean inputs:0?"),
        (linear(), ["inputs:0"], ["predicton:0"], [], "no tensor predicton:0; did you mean prediction:0?"),
        (linear(), ["inputs:0"], ["prediction:0"], ["init"], "no operation init (--init-op); "),
        (
            WITH_KEEP_PROB,
            ["inputs:0"],
            ["prediction:0"],
            [],
            "needs keep_prob:0 (float32 []), which nothing feeds; "
            "type --feed keep_prob:0=COLUMN, or --set keep_prob:0=VALUE for a constant",
        ),
        (linear(), [], ["prediction:0"], [], "needs inputs:0 (float32 [?, 4]), which nothing feeds"),
        (
            graph(node("w", "VariableV2", dtype="float32"), node("prediction", "Identity", "w", T="float32")),
            [],
            ["prediction:0"],
            [],
            "still has variables (w, VariableV2) where a frozen graph has constants; freeze it from its checkpoint",
        ),
        (
            graph(node("w", "VarHandleOp"), node("prediction", "ReadVariableOp", "w")),
            [],
            ["prediction:0"],
            [],
            "still has variables (w, VarHandleOp)",
        ),
        (
            graph(node("prediction", "Identity", "gone", T="float32")),
            [],
            ["prediction:0"],
            [],
            "was cut short: its operations read gone, which is not there",
        ),
        (
            graph(*linear().node, node("init", "NoOp", "^gone")),
            ["inputs:0"],
            ["prediction:0"],
            ["init"],
            "was cut short: its operations read gone",
        ),
    ],
)
def test_check_ports_tells_each_mistake(
    graph_def: GraphDef, feeds: list[str], fetches: list[str], init_ops: list[str], expected: str
) -> None:
    with pytest.raises(GraphError) as caught:
        check_ports(made(graph_def), feeds, fetches, init_ops)
    assert str(caught.value).startswith("made.pb ")
    assert expected in str(caught.value)


def test_a_placeholder_with_default_need_not_be_fed() -> None:
    default = node("k", "PlaceholderWithDefault", "one", dtype="float32")
    check_ports(
        made(graph(constant("one", np.float32(1)), default, node("y", "Identity", "k", T="float32"))), [], ["y:0"], []
    )


@pytest.mark.parametrize(
    ("op", "is_random"),
    [
        ("RandomUniform", True),
        ("RandomStandardNormal", True),
        ("RandomShuffle", True),
        ("StatefulUniform", True),
        ("StatefulStandardNormalV2", True),
        ("TruncatedNormal", True),
        ("Multinomial", True),
        ("StatelessRandomUniform", False),
        ("Identity", False),
    ],
)
def test_random_operations_between_feeds_and_fetches(op: str, is_random: bool) -> None:
    found = made(graph(node("noise", op), node("y", "Identity", "noise"), node("z", "Identity")))
    assert find_random_operations(found, [], ["y:0"]) == ([f"noise ({op})"] if is_random else [])
    assert find_random_operations(found, [], ["z:0"]) == []
    assert find_random_operations(found, ["noise:0"], ["y:0"]) == []


def test_random_operations_in_the_function_library() -> None:
    graph_def = graph(node("y", "PartitionedCall"), node("z", "Identity"))
    graph_def.node[0].attr["f"].func.name = "f"
    function = graph_def.library.function.add()
    function.signature.name = "f"
    function.node_def.add(name="inner", op="RandomUniform")
    function.node_def.add(name="plain", op="Identity")
    assert find_random_operations(made(graph_def), [], ["y:0"]) == ["inner (RandomUniform)"]
    assert find_random_operations(made(graph_def), [], ["z:0"]) == []  # nothing there calls it


def test_read_graph(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "model.pb", linear())
    found = read_graph(path)
    assert found.path == path
    assert found.data == Path(path).read_bytes()
    assert list(found.nodes) == ["inputs", "weights", "logits", "prediction"]


def test_reading_says_where_and_what_is_wrong(tmp_path: Path) -> None:
    path = str(tmp_path / "model.pb")
    with pytest.raises(GraphError) as caught:
        read_graph(path)
    assert str(caught.value) == f"{path}: no such file"


@needs_cases
@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("corrupt_empty_file", "an empty file"),
        ("corrupt_truncated_mid_field", "cut short"),
        ("lfs_pointer_identity_string", "a Git LFS pointer; fetch the file itself"),
        ("mlnet_savedmodel_types", "a SavedModel"),
    ],
)
def test_cases_that_are_no_frozen_graph(case: str, expected: str) -> None:
    with pytest.raises(GraphError) as caught:
        case_graph(case)
    assert str(CASES / case / "model.pb") in str(caught.value)
    assert expected in str(caught.value)


@needs_cases
def test_a_graph_cut_between_two_nodes_lacks_its_output() -> None:
    with pytest.raises(GraphError, match="no tensor output:0; .*the file carries no version: was it cut short?"):
        check_ports(case_graph("corrupt_truncated_at_node_boundary"), ["input:0"], ["output:0"], [])


@needs_cases
def test_a_case_that_is_not_frozen() -> None:
    with pytest.raises(GraphError, match="still has variables"):
        check_ports(case_graph("tf2onnx_unfrozen_assign"), ["X:0"], ["output:0"], [])


@needs_cases
def test_a_case_whose_keep_prob_is_not_fed() -> None:
    found = case_graph("tf2onnx_gru_keep_prob_unfed")
    with pytest.raises(GraphError, match=r"needs keep_prob:0 .*--set keep_prob:0=VALUE"):
        check_ports(found, ["X:0"], ["output:0"], [])
    check_ports(found, ["X:0", "keep_prob:0"], ["output:0"], [])
