from typing import Any

import graphs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.meta_graph_pb2 import TensorInfo

from engine.errors import GraphError
from engine.model.metagraph import Signature
from engine.model.ports import Port, check_names, choose_inputs, choose_outputs, default_columns, rename_nodes


def info(name: str) -> TensorInfo:
    made = TensorInfo(name=name, dtype=graphs.dtype_number("float32"))
    made.tensor_shape.dim.add(size=-1)
    return made


def signature(inputs: dict[str, str], outputs: dict[str, str]) -> Signature:
    infos = [{key: info(name) for key, name in each.items()} for each in (inputs, outputs)]
    return Signature("serving_default", *infos)


NONE = Signature("")
LONE = signature({"x": "serving_default_x:0"}, {"dense": "StatefulPartitionedCall:0"})
MANY = signature({"b": "pb:0", "a": "pa:0"}, {"output_10": "y:10", "output_2": "y:2", "score": "s:0"})
GRAPH = graphs.graph(*(graphs.node(name, "Identity") for name in ("x", "y", "s", "a/b", "StatefulPartitionedCall")))


def names(ports: tuple[Port, ...]) -> list[tuple[str, str]]:
    return [(port.name, port.tensor) for port in ports]


@pytest.mark.parametrize(
    ("known", "outputs", "expected"),
    [
        (LONE, (), [("prediction", "StatefulPartitionedCall:0")]),
        (LONE, ("prediction",), [("prediction", "StatefulPartitionedCall:0")]),  # which a lone output is as well
        (LONE, ("prediction:0",), [("prediction", "StatefulPartitionedCall:0")]),
        (LONE, ("dense",), [("dense", "StatefulPartitionedCall:0")]),
        (LONE, ("score=dense",), [("score", "StatefulPartitionedCall:0")]),
        (LONE, ("y",), [("y", "y:0")]),  # but for that of a tensor
        (MANY, (), [("output_2", "y:2"), ("output_10", "y:10"), ("score", "s:0")]),
        (MANY, ("score", "first=output_2"), [("score", "s:0"), ("first", "y:2")]),
        (MANY, ("y:2",), [("y_2", "y:2")]),
        (NONE, ("a/b", "y:0", "y:1", "p=x"), [("a/b", "a/b:0"), ("y", "y:0"), ("y_1", "y:1"), ("p", "x:0")]),
    ],
)
def test_outputs(known: Signature, outputs: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    assert names(choose_outputs("m", GRAPH, known, outputs)) == expected


@pytest.mark.parametrize(
    ("known", "inputs", "expected"),
    [
        (LONE, (), [("inputs", "serving_default_x:0")]),
        (LONE, ("rows=x",), [("rows", "serving_default_x:0")]),
        (LONE, ("rows=x:0",), [("rows", "serving_default_x:0")]),
        (LONE, ("rows=serving_default_x",), [("rows", "serving_default_x:0")]),
        (MANY, (), [("a", "pa:0"), ("b", "pb:0")]),
        (MANY, ("c=b", "q=inner:3"), [("c", "pb:0"), ("q", "inner:3"), ("a", "pa:0")]),
        (NONE, (), []),
        (NONE, ("inputs=x",), [("inputs", "x:0")]),
    ],
)
def test_inputs(known: Signature, inputs: tuple[str, ...], expected: list[tuple[str, str]]) -> None:
    ports = choose_inputs("m", known, inputs)
    assert names(ports) == expected
    for port in ports:
        if port.tensor in {each.name for each in known.inputs.values()}:
            assert port.spec is not None
            assert str(port.spec) == f"{port.name}:0 (float32 [?])"


@pytest.mark.parametrize(
    ("known", "outputs", "message"),
    [
        (NONE, (), "^m: --outputs is missing: which tensors to freeze to. Likely ones are x:0, y:0, s:0"),
        (NONE, ("z/b",), r"^m has no tensor z/b to freeze to \(--outputs.*\); what comes near is a/b:0"),
        (MANY, ("scor",), r"near is output_10 \(of the signature\), output_2 .*, score \(of the signature\)"),
        (LONE, ("score",), r"has no tensor score to freeze to .*dense \(of the signature\)"),
        (LONE, ("p=nothing",), r"has no tensor nothing to freeze to .*dense \(of the signature\)"),
    ],
)
def test_outputs_that_are_not_there(known: Signature, outputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        choose_outputs("m", GRAPH, known, outputs)


@pytest.mark.parametrize("entry", ["rows", "=x", "rows="])
def test_inputs_take_two_names(entry: str) -> None:
    with pytest.raises(
        GraphError, match=f"--inputs takes NEW=TENSOR, as in inputs=serving_default_x:0, found {entry}$"
    ):
        choose_inputs("m", NONE, (entry,))


def test_what_is_no_plain_tensor() -> None:
    sparse = Signature("s", {"x": TensorInfo()}, {"y": info("y:0")})
    with pytest.raises(
        GraphError, match="^m: the signature's x is no plain tensor .sparse or composite.; name tensors"
    ):
        choose_inputs("m", sparse, ())


def test_names_that_clash() -> None:
    x, y = Port("x", "x:0"), Port("x", "y:0")
    check_names("m", [x], [x])  # an input may be an output
    check_names("m", [x], [Port("y", "x:0")])
    for inputs, outputs in (([x], [y]), ([], [x, y]), ([], [x, x]), ([x, y], [])):
        with pytest.raises(GraphError, match="^m: two ports would be called x .*; name them apart with --outputs NEW"):
            check_names("m", inputs, outputs)
    for name in ("a b", "^x", "a:0", "_x", ""):
        with pytest.raises(GraphError, match="is no name for a tensor"):
            check_names("m", [], [Port(name, "x:0")])
        with pytest.raises(GraphError, match="is no name for a tensor"):
            check_names("m", [Port(name, "x:0")], [])


NODES = st.lists(st.sampled_from([f"n{i}" for i in range(8)]), min_size=1, max_size=8, unique=True)


@settings(deadline=None)
@given(NODES, st.data())
def test_renaming_keeps_every_edge(nodes: list[str], data: Any) -> None:
    """Each node is read by the same nodes as before, and no name is given twice."""
    edges = {name: data.draw(st.lists(st.sampled_from(nodes), max_size=3)) for name in nodes}
    marks = data.draw(st.sampled_from(["", ":0", ":2"]))
    graph = graphs.graph(*(graphs.node(name, name, *(f"{edge}{marks}" for edge in edges[name])) for name in nodes))
    for node in graph.node:
        node.input.extend(f"^{edge}" for edge in edges[node.name])
    olds = data.draw(st.lists(st.sampled_from(nodes), max_size=4, unique=True))
    news = data.draw(st.lists(st.sampled_from([*nodes, "p", "q", "r", "s"]), min_size=4, max_size=4, unique=True))
    wanted = dict(zip(olds, news, strict=False))
    renamed = rename_nodes(graph, wanted)
    now = {node.op: node.name for node in graph.node}  # the operation is the old name
    assert len(set(now.values())) == len(nodes)
    assert now == {name: renamed.get(name, name) for name in nodes}
    assert {name: now[name] for name in wanted} == wanted
    for node in graph.node:
        expected = [f"{now[edge]}{marks}" for edge in edges[node.op]] + [f"^{now[edge]}" for edge in edges[node.op]]
        assert list(node.input) == expected


def test_columns_are_the_last_word_where_that_is_clear() -> None:
    names = ["a/x:0", "y:0", "y:1", "b/z:0"]
    assert default_columns(names) == dict(zip(names, ["x", "y", "y_1", "z"], strict=True))
    assert default_columns(["a/x:0", "b/x:0"]) == {"a/x:0": "a_x", "b/x:0": "b_x"}
