import contextlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from graphs import constant, graph, linear, node, placeholder
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.function_pb2 import FunctionDef
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

from engine.errors import GraphError
from engine.model.audit import MAX_DEPTH, MAX_IDENTITIES, Finding, audit_everything, audit_graph, check_audit

READS = "reads files"


def text(name: str, *values: bytes) -> NodeDef:
    made = node(name, "Const", dtype="string")
    made.attr["value"].tensor.dtype = 7
    made.attr["value"].tensor.string_val.extend(values)
    return made


def calling(made: NodeDef, **functions: str | list[str]) -> NodeDef:
    for attr, names in functions.items():
        if isinstance(names, str):
            made.attr[attr].func.name = names
        else:
            for name in names:
                made.attr[attr].list.func.add(name=name)
    return made


def function(name: str, *nodes: NodeDef) -> FunctionDef:
    made = FunctionDef(node_def=nodes)
    made.signature.name = name
    return made


def with_library(graph_def: GraphDef, *functions: FunctionDef) -> GraphDef:
    graph_def.library.function.extend(functions)
    return graph_def


def holding(*nodes: NodeDef, name: str = "data") -> GraphDef:
    """A graph whose node `name` makes a dataset of a graph of `nodes`, kept in a constant."""
    inner = graph(*nodes).SerializeToString()
    return graph(text(f"{name}/graph", inner), node(name, "DatasetFromGraph", f"{name}/graph"))


def found(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    return [(each.node, each.operation, each.effect, each.place) for each in findings]


def refusal(findings: Sequence[Finding], allow_ops: Sequence[str] = (), has_library: bool = False) -> str:
    with pytest.raises(GraphError) as caught:
        check_audit("model.pb", findings, allow_ops, has_library)
    return str(caught.value)


CHAIN = graph(
    placeholder("x", "string", [None]),
    node("secret", "ReadFile", "x"),
    node("y", "Identity", "secret"),
    node("z", "Identity", "x"),
    node("guard", "Assert", "x"),
    node("guarded", "Identity", "z", "^guard"),
    node("printed", "Identity", "z", "^print"),
    node("print", "PrintV2", "x"),
    node("save/SaveV2", "SaveV2", "y"),
)


@pytest.mark.parametrize(
    ("feeds", "targets", "expected"),
    [
        (["x:0"], ["y:0"], ["secret"]),
        (["x:0"], ["z:0"], []),
        (["x:0"], ["guarded:0"], []),
        (["x:0"], ["printed:0"], ["print"]),
        (["x:0"], ["z:0", "y:0"], ["secret"]),
        (["secret:0"], ["y:0"], []),
        (["x:0"], ["save/SaveV2"], ["secret", "save/SaveV2"]),
        (["x:0"], [], []),
        (["x:0"], ["nowhere:0"], []),
    ],
)
def test_what_lies_between_feeds_and_targets_is_audited(
    feeds: list[str], targets: list[str], expected: list[str]
) -> None:
    assert [each.node for each in audit_graph(CHAIN, feeds, targets)] == expected


def test_everything_is_audited_whatever_is_fed() -> None:
    assert found(audit_everything(CHAIN)) == [
        ("secret", "ReadFile", READS, ""),
        ("print", "PrintV2", "writes files", ""),
        ("save/SaveV2", "SaveV2", "writes files", ""),
    ]


@pytest.mark.parametrize(
    ("operation", "effect"),
    [
        ("WriteFile", "writes files"),
        ("PyFunc", "Python"),
        ("RpcCall", "network"),
        ("Abort", "ends or blocks the process"),
        ("Addons>GatherTree", "unknown"),
        ("XlaCustomCallV2", "unknown"),
        ("", "unknown"),
    ],
)
def test_each_effect_is_found(operation: str, effect: str) -> None:
    assert found(audit_graph(graph(node("y", operation)), [], ["y:0"])) == [("y", operation, effect, "")]


def test_a_graph_that_computes_has_no_findings() -> None:
    assert audit_graph(linear(), ["inputs:0"], ["prediction:0"]) == ()
    assert audit_everything(linear()) == ()
    check_audit("model.pb", (), (), False)


@pytest.mark.parametrize(
    "call",
    [
        node("y", "f"),
        calling(node("y", "PartitionedCall"), f="f"),
        calling(node("y", "StatefulPartitionedCall"), f="f"),
        calling(node("y", "If"), then_branch="g", else_branch="f"),
        calling(node("y", "While"), cond="f", body="g"),
        calling(node("y", "Case"), branches=["g", "f"]),
        calling(node("y", "MapDataset"), f="f"),
        calling(node("y", "OneShotIterator"), dataset_factory="f"),
        calling(node("y", "PartitionedCall"), f="outer"),
        node("y", "outer"),
        calling(node("y", "PartitionedCall"), f="itself"),
    ],
    ids=lambda call: f"{call.op}-{'-'.join(sorted(call.attr))}",
)
def test_functions_that_are_reached_are_audited(call: NodeDef) -> None:
    made = with_library(
        graph(call, node("z", "Identity")),
        function("g", node("sum", "AddV2")),
        function("f", node("secret", "ReadFile")),
        function("outer", calling(node("inner", "PartitionedCall"), f="f")),
        function("itself", node("again", "itself"), node("both", "outer")),
        function("dead", node("write", "WriteFile")),
    )
    assert found(audit_graph(made, [], ["y:0"])) == [("secret", "ReadFile", READS, "function f")]
    assert audit_graph(made, [], ["z:0"]) == ()
    assert [each.place for each in audit_everything(made)] == ["function f", "function dead"]


def test_functions_that_call_each_other_are_audited_once() -> None:
    made = with_library(graph(node("y", "a")), function("a", node("b", "b")), function("b", node("a", "a")))
    assert audit_graph(made, [], ["y:0"]) == ()


def test_a_function_hides_no_operation_of_its_name() -> None:
    made = with_library(graph(node("y", "ReadFile")), function("ReadFile", node("sum", "AddV2")))
    assert found(audit_graph(made, [], ["y:0"])) == [("y", "ReadFile", READS, "")]


def test_a_call_of_a_function_that_is_not_there_is_unknown() -> None:
    (only,) = audit_graph(graph(node("y", "__inference_call_42")), [], ["y:0"])
    assert only.is_foreign
    assert "it is the name of a function that the file lacks" in refusal([only])


def test_a_graph_in_a_constant_is_audited() -> None:
    made = holding(node("secret", "ReadFile"), node("guard", "Assert"))
    assert found(audit_graph(made, [], ["data:0"])) == [("secret", "ReadFile", READS, "graph inside data")]
    assert audit_graph(made, [], ["data/graph:0"]) == ()
    assert audit_graph(holding(node("sum", "AddV2")), [], ["data:0"]) == ()


def test_a_graph_in_a_constant_has_functions_of_its_own() -> None:
    inner = with_library(graph(node("y", "f")), function("f", node("secret", "ReadFile")))
    made = graph(text("c", inner.SerializeToString()), node("data", "DatasetFromGraph", "c"))
    assert found(audit_everything(made)) == [("secret", "ReadFile", READS, "function f of graph inside data")]
    outer = with_library(graph(node("y", "call")), function("call", *made.node))
    assert [each.place for each in audit_graph(outer, [], ["y:0"])] == [
        "function f of graph inside data of function call"
    ]


def test_graphs_in_graphs_are_audited() -> None:
    twice = holding(*holding(node("secret", "ReadFile"), name="inner").node)
    assert [each.place for each in audit_graph(twice, [], ["data:0"])] == ["graph inside inner of graph inside data"]


def test_graphs_too_deep_in_graphs_are_unknown() -> None:
    made = graph(node("secret", "ReadFile"))
    for level in range(MAX_DEPTH + 2):
        made = holding(*made.node, name=f"level{level}")
        (only,) = audit_everything(made)
        is_read = level < MAX_DEPTH
        assert (only.operation, only.effect) == (("ReadFile", READS) if is_read else ("DatasetFromGraph", "unknown"))
        assert only.place.count("graph inside") == min(level + 1, MAX_DEPTH)


def chain(length: int) -> list[NodeDef]:
    names = ["c", *(f"hop{number}" for number in range(length))]
    return [
        text("c", graph(node("secret", "ReadFile")).SerializeToString()),
        *(node(name, "Identity", f"{before}:0", "^c") for before, name in zip(names, names[1:], strict=False)),
        node("data", "DatasetFromGraph", names[-1]),
    ]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, "ReadFile"), (MAX_IDENTITIES - 1, "ReadFile"), (MAX_IDENTITIES, "DatasetFromGraph")],
)
def test_a_constant_may_come_through_identities(length: int, expected: str) -> None:
    assert [each.operation for each in audit_graph(graph(*chain(length)), [], ["data:0"])] == [expected]


def no_value() -> NodeDef:
    return node("c", "Const", dtype="string")


def in_content() -> NodeDef:
    made = text("c", b"")
    made.attr["value"].tensor.tensor_content = b"\x02ab"
    return made


@pytest.mark.parametrize(
    ("source", "edges"),
    [
        ([placeholder("c", "string", [])], ["c"]),
        ([node("c", "PlaceholderWithDefault", "d"), text("d", b"")], ["c"]),
        ([node("c", "ReadVariableOp")], ["c"]),
        ([node("c", "Identity", "c")], ["c"]),
        ([node("c", "Identity")], ["c"]),
        ([text("c", b"no graph \xff")], ["c"]),
        ([no_value()], ["c"]),
        ([in_content()], ["c"]),
        ([text("c")], ["c"]),
        ([constant("c", np.float32(1))], ["c"]),
        ([text("c", b"")], ["^c"]),
        ([text("c", b"")], []),
        ([], ["nowhere:0"]),
        ([], [""]),
    ],
)
def test_a_graph_that_is_no_constant_is_unknown(source: list[NodeDef], edges: list[str]) -> None:
    made = graph(*source, node("data", "DatasetFromGraph", *edges))
    findings = [each for each in audit_graph(made, [], ["data:0"]) if each.node == "data"]
    assert found(findings) == [("data", "DatasetFromGraph", "unknown", "")]
    assert str(findings[0]) == "data (DatasetFromGraph) runs what cannot be read"
    assert not findings[0].is_foreign
    assert "data (DatasetFromGraph) runs what cannot be read" in refusal(findings, has_library=True)


def test_a_constant_that_is_fed_is_no_constant() -> None:
    made = graph(text("c", b""), node("d", "Identity", "c"), node("data", "DatasetFromGraph", "d"))
    assert audit_graph(made, [], ["data:0"]) == ()
    assert [each.effect for each in audit_graph(made, ["c:0"], ["data:0"])] == ["unknown"]
    assert [each.effect for each in audit_graph(made, ["d:0"], ["data:0"])] == ["unknown"]


def test_the_argument_of_a_function_is_no_constant() -> None:
    made = with_library(
        graph(text("c", b""), calling(node("y", "PartitionedCall", "c"), f="f")),
        function("f", node("data", "DatasetFromGraph", "c")),
    )
    assert found(audit_graph(made, [], ["y:0"])) == [("data", "DatasetFromGraph", "unknown", "function f")]


def test_a_constant_that_many_read_is_audited_once() -> None:
    inner = graph(node("secret", "ReadFile")).SerializeToString()
    made = graph(text("c", inner), *(node(f"data{i}", "DatasetFromGraph", "c") for i in range(50)))
    assert found(audit_everything(made)) == [("secret", "ReadFile", READS, "graph inside data0")]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (b"ML\xefR\x01StableHLO add_v1", []),
        (b"ML\xefR\x01StableHLO custom_call_v1 printf", ["unknown"]),
        (b'module { "stablehlo.custom\\5Fcall"() }', ["unknown"]),
        (None, ["unknown"]),
    ],
)
def test_a_module_that_may_call_by_name_is_unknown(module: bytes | None, expected: list[str]) -> None:
    made = node("y", "XlaCallModule")
    if module is not None:
        made.attr["module"].s = module
    assert [each.effect for each in audit_everything(graph(made))] == expected


@pytest.mark.parametrize(
    ("finding", "expected"),
    [
        (Finding("secret", "ReadFile", READS, ""), "secret (ReadFile) reads files"),
        (Finding("a", "ReadFile", READS, "function f"), "a (ReadFile) reads files, in function f"),
        (Finding("a", "PyFunc", "Python", ""), "a (PyFunc) calls Python"),
        (Finding("a", "RpcCall", "network", ""), "a (RpcCall) reaches other machines"),
        (Finding("a", "Abort", "ends or blocks the process", ""), "a (Abort) ends or blocks the process"),
        (Finding("a", "Foo", "unknown", ""), "a (Foo) is unknown to TensorFlow 2.21"),
        (Finding("\x1b[2J\n", "Foo", "unknown", ""), "'\\x1b[2J\\n' (Foo) is unknown to TensorFlow 2.21"),
        (Finding("a" * 999, "Foo", "unknown", ""), f"{'a' * 200}... (Foo) is unknown to TensorFlow 2.21"),
    ],
)
def test_a_finding_as_messages_show_it(finding: Finding, expected: str) -> None:
    assert str(finding) == expected


def test_a_refusal_names_nodes_effects_and_what_to_type() -> None:
    assert refusal(audit_everything(CHAIN)) == (
        "model.pb does more than compute: secret (ReadFile) reads files; print (PrintV2) writes files; "
        "save/SaveV2 (SaveV2) writes files; if you trust this model, "
        "type --allow-op ReadFile --allow-op PrintV2 --allow-op SaveV2"
    )


def test_a_refusal_of_unknown_operations_names_the_library() -> None:
    findings = audit_everything(graph(node("warp", "Addons>Resampler"), node("more", "Foo")))
    assert refusal(findings) == (
        "model.pb holds foreign operations: warp (Addons>Resampler) is unknown to TensorFlow 2.21; "
        "more (Foo) is unknown to TensorFlow 2.21; Addons>Resampler: it is part of tensorflow-addons, "
        "which ended in 2024; its .so must be built for this TensorFlow; type --op-library PATH for the library "
        "that has them, or --allow-op 'Addons>Resampler' --allow-op Foo to go on without"
    )
    check_audit("model.pb", findings, (), True)
    check_audit("model.pb", findings, ("Foo", "Addons>Resampler"), False)


def test_a_refusal_of_both_kinds_tells_both() -> None:
    findings = audit_everything(graph(node("secret", "ReadFile"), node("warp", "Foo")))
    assert "compute: secret (ReadFile) reads files; if" in refusal(findings)
    assert "; it holds foreign operations: warp (Foo)" in refusal(findings)
    assert "Foo" not in refusal(findings, has_library=True)
    assert "ReadFile" not in refusal(findings, allow_ops=["ReadFile"])


def test_a_refusal_shows_each_operation_once_and_counts_the_others() -> None:
    files = [Finding(f"file{i}", "ReadFile", READS, "") for i in range(1500)]
    message = refusal([*files, Finding("out", "WriteFile", "writes files", "")])
    assert "file0 (ReadFile) reads files; out (WriteFile) writes files; and 1,499 more; if" in message
    many = refusal([Finding("a", f"Operation{i}", "unknown", "") for i in range(999)])
    assert "; and 993 more" in many
    assert len(many) < 1000


def test_an_operation_is_quoted_as_a_shell_needs_it() -> None:
    assert "--allow-op '$(reboot)'" in refusal([Finding("a", "$(reboot)", "unknown", "")])


@pytest.mark.parametrize(
    ("allow_ops", "expected"),
    [
        ([], ["ReadFile", "PrintV2", "SaveV2"]),
        (["ReadFile"], ["PrintV2", "SaveV2"]),
        (["SaveV2", "PrintV2", "MatMul"], ["ReadFile"]),
    ],
)
def test_allowed_operations_are_let_through(allow_ops: list[str], expected: list[str]) -> None:
    message = refusal(audit_everything(CHAIN), allow_ops, has_library=True)
    assert [name for name in ("ReadFile", "PrintV2", "SaveV2") if name in message] == expected


def test_all_operations_allowed_is_no_refusal() -> None:
    check_audit("model.pb", audit_everything(CHAIN), ["ReadFile", "PrintV2", "SaveV2"], False)


def hostile_edges() -> GraphDef:
    return graph(node("y", "Identity", "y", "^y", "^", ":", "", "::", "a:b:c", "\x00"), node("y", "ReadFile", "gone"))


def hostile_attributes() -> GraphDef:
    made = graph(node("y", "DatasetFromGraph", "c"), text("c", b"\xff\xfe"))
    made.node[0].attr["f"].s = b"\xff"
    made.node[0].attr["value"].func.name = ""
    made.node[1].attr["module"].placeholder = "m"
    return made


def hostile_functions() -> GraphDef:
    twin = function("a", calling(node("a", "a"), f=""), node("a", "ReadFile"))
    twin.attr["api_implements"].s = b"\xff"
    made = with_library(graph(node("y", "a")), twin, twin, function(""), function("y", node("", "")))
    made.library.gradient.add(function_name="a", gradient_func="a")
    made.library.gradient.add()
    return made


@pytest.mark.parametrize("make", [GraphDef, hostile_edges, hostile_attributes, hostile_functions])
def test_hostile_graphs_are_audited(make: Callable[[], GraphDef]) -> None:
    audit_everything(make())
    audit_graph(make(), [""], ["y:0", "", "^y", "y:x"])


def test_an_output_index_of_thousands_of_digits_is_a_mistake_at_most() -> None:
    with contextlib.suppress(GraphError):
        audit_graph(graph(node("y", "Identity", "x:" + "9" * 5000)), [], ["y:0"])


def test_many_nodes_that_read_one_chain_take_no_time() -> None:
    nodes = [node(f"hop{i}", "Identity", f"hop{i + 1}") for i in range(20_000)]
    nodes += [node(f"data{i}", "DatasetFromGraph", f"hop{i}") for i in range(20_000)]
    assert len(audit_everything(graph(*nodes))) == 20_000


def varied() -> bytes:
    """A graph with everything that the audit looks into."""
    inner = with_library(graph(node("secret", "ReadFile"), node("y", "g")), function("g", node("out", "WriteFile")))
    made = with_library(
        graph(
            *linear().node,
            text("c", inner.SerializeToString()),
            node("hop", "Identity", "c"),
            node("data", "DatasetFromGraph", "hop", "^prediction"),
            calling(node("branch", "If", "data"), then_branch="f", else_branch="g"),
            node("y", "Foo", "branch", "^data"),
        ),
        function("f", node("call", "g"), node("again", "f")),
        function("g", *holding(node("secret", "ReadFile")).node),
    )
    made.library.gradient.add(function_name="f", gradient_func="g")
    return made.SerializeToString()


SERIALISED = varied()


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    flips=st.lists(st.tuples(st.integers(0, len(SERIALISED) - 1), st.integers(0, 255)), max_size=4),
    stop=st.one_of(st.just(len(SERIALISED)), st.integers(0, len(SERIALISED))),
)
def test_a_damaged_graph_raises_nothing_but_a_graph_error(flips: list[tuple[int, int]], stop: int) -> None:
    damaged = bytearray(SERIALISED)
    for position, value in flips:
        damaged[position] = value
    try:
        graph_def = GraphDef.FromString(bytes(damaged[:stop]))
    except DecodeError:
        return
    for findings in (audit_everything(graph_def), audit_graph(graph_def, ["inputs:0"], ["y:0", "data:0"])):
        try:
            check_audit("model.pb", findings, ("ReadFile",), False)
        except GraphError as error:
            assert str(error).startswith("model.pb ")  # noqa: PT017


@pytest.mark.tf
def test_tensorflows_protos_are_audited_alike() -> None:
    from tensorflow.core.framework import graph_pb2

    for made in (CHAIN, GraphDef.FromString(SERIALISED), hostile_functions(), hostile_edges()):
        twin = graph_pb2.GraphDef.FromString(made.SerializeToString())
        assert audit_everything(twin) == audit_everything(made)
        assert audit_graph(twin, ["x:0"], ["y:0"]) == audit_graph(made, ["x:0"], ["y:0"])


@pytest.mark.tf
def test_a_dataset_that_tensorflow_serialised_is_looked_into() -> None:
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(["a", "b"]).map(tf.io.read_file)
    serialised = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor).numpy()
    with tf.Graph().as_default() as made:
        variant = tf.raw_ops.DatasetFromGraph(graph_def=tf.identity(tf.constant(serialised)))
        tf.raw_ops.DatasetCardinality(input_dataset=variant, name="y")
    findings = audit_graph(made.as_graph_def(), [], ["y:0"])
    assert [(each.operation, each.effect) for each in findings] == [("ReadFile", READS)]
    assert "of graph inside DatasetFromGraph" in findings[0].place


@pytest.mark.tf
@pytest.mark.parametrize(
    ("operation", "expected"), [("stablehlo.abs", []), ("stablehlo.custom_call @printf", ["unknown"])]
)
def test_modules_that_tensorflow_serialised_show_their_calls(operation: str, expected: list[str]) -> None:
    from tensorflow.compiler.mlir.stablehlo import stablehlo

    types = "(tensor<2xf32>) -> tensor<2xf32>" if "@" in operation else "tensor<2xf32>"
    argument = "(%x)" if "@" in operation else " %x"
    body = f"%y = {operation}{argument} : {types}\n return %y : tensor<2xf32>"
    module = f"module {{ func.func public @main(%x: tensor<2xf32>) -> tensor<2xf32> {{ {body} }} }}"
    made = node("y", "XlaCallModule")
    made.attr["module"].s = stablehlo.serialize_portable_artifact_str(module, stablehlo.get_minimum_version())
    assert [each.effect for each in audit_everything(graph(made))] == expected
