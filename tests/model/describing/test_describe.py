import dataclasses
import json
import time
from pathlib import Path

import graphs
import numpy as np
import pytest
from descriptions import calling, described, described_meta, training, variable
from graphs import constant, graph, linear, node, placeholder
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import EngineError, GraphError
from engine.model.describing.describe import describe_model, open_model
from engine.model.describing.description import Kind, UnknownOperation
from engine.model.filetype import ModelKind
from engine.model.graphdef import check_ports, read_graph
from engine.model.protos import MetaGraphDef, saved_model_class
from engine.model.sidecar import Ports, sidecar_bytes, sidecar_path
from engine.model.tensor import TensorSpec

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
INDEX = json.loads((CASES / "index.json").read_text()) if (CASES / "index.json").exists() else []
UNREADABLE = ("corrupt_empty_file", "corrupt_truncated_mid_field", "lfs_pointer_identity_string")
READABLE = [case for case in INDEX if case["case"] not in UNREADABLE]
KINDS = {
    "graphdef": Kind.FROZEN_GRAPH,
    "graphdef-text": Kind.FROZEN_GRAPH,
    "checkpoint": Kind.CHECKPOINT,
    "savedmodel": Kind.SAVED_MODEL,
}


def meta_graph(graph_def: GraphDef, **signatures: tuple[dict[str, str], dict[str, str]]) -> MetaGraphDef:
    """A MetaGraph with signatures, each from names of inputs and outputs to tensors."""
    meta = MetaGraphDef(graph_def=graph_def)
    meta.meta_info_def.tensorflow_version = "1.15.0"
    meta.meta_info_def.tags.append("serve")
    for name, sides in signatures.items():
        entry = meta.signature_def[name]
        for infos, side in zip((entry.inputs, entry.outputs), sides, strict=True):
            for key, tensor in side.items():
                infos[key].name = tensor
                infos[key].dtype = 1
                infos[key].tensor_shape.dim.add(size=-1)
    return meta


def test_a_frozen_graph() -> None:
    graph_def = graph(
        *linear(4, 3).node,
        constant("bias", np.zeros(3, np.float16)),
        constant("scale", np.float32(2)),
        constant("axes", np.zeros(5, np.int32)),
        placeholder("mode", "bool", []),
        node("init", "NoOp"),
        variable("w", 7),
    )
    found = described(graph_def)
    assert found.kind is Kind.FROZEN_GRAPH
    assert [str(spec) for spec in found.inputs] == ["inputs:0 (float32 [?, 4])"]
    assert [str(spec) for spec in found.unused_inputs] == ["mode:0 (bool [])"]
    assert [str(spec) for spec in found.outputs] == ["prediction:0 (float32 [?, 3])"]
    assert (found.parameters, found.parameter_bytes) == (12, 48)
    assert (found.outside_parameters, found.outside_bytes) == (3 + 7, 3 * 2 + 7 * 4)
    assert [layer.operation for layer in found.layers] == ["MatMul"]
    assert dict(found.operations) == {
        **{"Const": 4, "Placeholder": 2, "MatMul": 1, "Softmax": 1, "NoOp": 1, "VariableV2": 1},
    }
    assert found.operations[0] == ("Const", 4)
    assert (found.num_nodes, found.num_function_nodes, found.num_functions) == (10, 0, 0)
    assert found.producer == graphs.PRODUCER
    assert found.variables == ()
    assert [(each.kind, each.num_outside) for each in found.leftovers] == [("variables", 1)]
    assert (found.findings, found.random_operations, found.unknown_operations, found.notes) == ((), (), (), ())


def test_variables_between_inputs_and_outputs_make_it_unfrozen() -> None:
    made = graph(placeholder("x", "float32", [None, 4]), variable("w", 4, 3), node("y", "MatMul", "x", "w"))
    found = described(made)
    assert found.kind is Kind.UNFROZEN_GRAPH
    assert found.variables == ("w",)
    assert found.parameters == 12
    assert found.notes == (
        "it is not frozen (variables: w), and holds no values: "
        "freeze the checkpoint that it was saved with (icefloe freeze)",
    )


def test_a_checkpoint_saved_from_training() -> None:
    found = described_meta(meta_graph(training()), ModelKind.CHECKPOINT, prefix="m")
    assert (found.kind, found.tensorflow_version, found.ports_from) == (Kind.CHECKPOINT, "1.15.0", "guess")
    assert [spec.name for spec in found.inputs] == ["x:0", "keep_prob:0"]
    assert [spec.name for spec in found.unused_inputs] == ["y:0"]
    assert [str(spec) for spec in found.outputs] == ["prediction:0 (float32 [?, 3])"]
    assert found.other_outputs == ("Mean:0", "Mean_1:0")
    assert found.variables == ("w", "b")
    assert (found.parameters, found.outside_parameters) == (15, 15), "the slots of Adam lie outside"
    inside = {each.kind: each.num_inside for each in found.leftovers if each.num_inside}
    assert inside == {"dropout": 1}
    assert found.random_operations == ("dropout/RandomUniform (RandomUniform)",)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("dropout (1, dropout/RandomUniform (RandomUniform)) between inputs and outputs")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ModelKind.META_GRAPH, "the checkpoint's values are not beside it"),
        (ModelKind.SAVED_MODEL, "its folder 'variables' is not beside it"),
    ],
)
def test_values_that_are_not_there(kind: ModelKind, expected: str) -> None:
    assert any(expected in note for note in described_meta(meta_graph(training()), kind).notes)
    assert not any(expected in note for note in described_meta(meta_graph(training()), kind, prefix="m").notes)


def test_a_signature_tells_inputs_and_outputs() -> None:
    made = graph(*linear().node, placeholder("keep_prob", "float32", []), placeholder("spare", "float32", []))
    made.node.append(node("scores", "Mul", "prediction", "keep_prob", T="float32"))
    meta = meta_graph(
        made,
        serving_default=({"x": "inputs:0"}, {"s": "scores:0", "again": "scores:0"}),
        other=({"z": "spare:0"}, {"l": "logits:0", "sparse": ""}),
        __saved_model_init_op=({}, {"init": "init"}),
    )
    found = described_meta(meta, ModelKind.SAVED_MODEL)
    assert (found.ports_from, found.signature) == ("signature", "serving_default")
    assert [spec.name for spec in found.inputs] == ["inputs:0", "keep_prob:0"], "what it does not name is needed, too"
    assert found.outputs == (TensorSpec("scores:0", "float32", (None,)),)
    assert found.unused_inputs == (), "the other signature names it"
    assert [each.name for each in found.signatures] == ["other", "serving_default"]
    assert [(entry.key, entry.tensor.name) for entry in found.signatures[0].outputs] == [
        ("l", "logits:0"),
        ("sparse", ""),
    ]


def test_without_a_default_signature_the_first_one_tells() -> None:
    meta = meta_graph(linear(), b=({"x": "inputs:0"}, {"y": "logits:0"}), a=({"x": "inputs:0"}, {"y": "prediction:0"}))
    found = described_meta(meta, ModelKind.SAVED_MODEL)
    assert (found.signature, found.outputs[0].name) == ("a", "prediction:0")


def test_a_saved_model_without_a_signature() -> None:
    made = graph(variable("w", 3, op="VarHandleOp"), node("save/SaveV2", "SaveV2", "w"))
    found = described_meta(meta_graph(made), ModelKind.SAVED_MODEL, prefix="m")
    assert found.outputs == ()
    assert "no output could be told, for it has no signature" in found.notes[0]


def test_ports_beside_a_graph_are_its_ports() -> None:
    ports = Ports(
        (TensorSpec("inputs:0", "float32", (None, 4)),), (TensorSpec("logits:0", "float32", (None, 3)),), ("i",)
    )
    found = described(graph(*linear().node, node("i", "NoOp")), ports=ports)
    assert (found.ports_from, found.inputs, found.outputs) == ("ports", ports.inputs, ports.outputs)
    assert found.init_ops == ("i",)
    assert described(linear(), remark="m.json is damaged").notes == ("m.json is damaged",)


def test_a_sidecar_is_read_and_one_of_another_graph_is_told(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "m.pb", linear())
    ports = Ports((TensorSpec("inputs:0", "float32", (None, 4)),), (TensorSpec("logits:0", "float32", (None, 3)),))
    sidecar_path(path).write_bytes(sidecar_bytes(Path(path).read_bytes(), ports, {}))
    found = describe_model(open_model(path))
    assert (found.ports_from, found.outputs[0].name) == ("ports", "logits:0")
    graphs.write(tmp_path / "m.pb", linear(5))
    found = describe_model(open_model(path))
    assert (found.ports_from, found.outputs[0].name) == ("guess", "prediction:0")
    assert "was written for another graph" in found.notes[0]


def test_functions_are_looked_into() -> None:
    found = described(calling())
    assert (found.num_nodes, found.num_function_nodes, found.num_functions) == (7, 3, 2)
    assert dict(found.operations)["RandomUniform"] == 1
    assert found.random_operations == (), "nothing calls it"
    assert (found.parameters, found.variables) == (12, ("w",))


def test_operations_that_tensorflow_lacks() -> None:
    made = graph(*linear().node, node("out", "CompareAndBitpack", "prediction"), node("dead", "NoSuchOp", "prediction"))
    made.node.add(name="z", op="own")
    made.library.function.add().signature.name = "own"
    made.node.add(name="again", op="NoSuchOp", input=["z"])
    found = described(made, ports=Ports((), (TensorSpec("out:0", None, None),)))
    first, second = found.unknown_operations
    assert (first.operation, first.count, first.example, first.is_inside) == ("CompareAndBitpack", 1, "out", True)
    assert "left TensorFlow" in first.hint
    assert second == UnknownOperation("NoSuchOp", 2, "dead", False, "")
    assert [finding.operation for finding in found.findings] == ["CompareAndBitpack"]
    assert found.num_findings_outside == 2


def test_what_reaches_outside_is_told_apart_by_where_it_lies() -> None:
    made = graph(placeholder("name", "string", []), node("read", "ReadFile", "name"), node("log", "WriteFile", "name"))
    ports = Ports((TensorSpec("name:0", "string", ()),), (TensorSpec("read:0", "string", ()),))
    found = described(made, ports=ports)
    assert [(finding.operation, finding.effect) for finding in found.findings] == [("ReadFile", "reads files")]
    assert found.num_findings_outside == 1


def test_tables_and_what_fills_them() -> None:
    made = graph(
        placeholder("words", "string", [None]),
        node("table", "HashTableV2"),
        node("keys", "Const", dtype="string"),
        node("fill", "LookupTableImportV2", "table", "keys", "keys"),
        node("prediction", "LookupTableFindV2", "table", "words", "keys", Tout="int64"),
        node("bare", "HashTableV2"),
        node("scores", "LookupTableFindV2", "bare", "prediction", "keys", Tout="float32"),
        node("spare", "HashTableV2"),
        node("spare_fill", "InitializeTableV2", "spare", "keys", "keys"),
    )
    found = described(made)
    assert found.init_ops == ("fill",)
    assert found.notes == (
        "nothing in it fills the lookup table bare; freeze the SavedModel or checkpoint that it comes from",
    )


def test_an_initialiser_that_reads_a_file_is_found() -> None:
    made = graph(
        placeholder("words", "string", [None]),
        node("table", "HashTableV2"),
        node("fill", "InitializeTableFromTextFileV2", "table"),
        node("prediction", "LookupTableFindV2", "table", "words"),
    )
    assert [finding.node for finding in described(made).findings] == ["fill"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("prediction", "Relu", "gone", T="float32")], "it was cut short: its operations read gone"),
        ([*linear().node, node("logits", "MatMul", "inputs", "weights")], "two nodes have one name: logits"),
        ([node("a", "Relu", "b"), node("b", "Relu", "a")], "no output could be told"),
        ([constant("c", np.ones(3)), node("y", "Relu", "c")], "it has no placeholder that the outputs need"),
        ([node("IteratorGetNext", "IteratorGetNext"), node("y", "Relu", "IteratorGetNext")], "from an input pipeline"),
        ([placeholder("x", "string", []), node("y", "DecodeJpeg", "x")], "it takes one row a call"),
        (
            [placeholder("x", "float32", [None]), node("y", "FusedBatchNormV3", "x")],
            "batch norm in training form (1, y (FusedBatchNormV3)) between inputs and outputs normalises each row",
        ),
        (
            [
                placeholder("x", "float32", [None]),
                variable("v", 3),
                node("a", "AssignAdd", "v", "x"),
                node("y", "Relu", "a"),
            ],
            "assignments (1, a (AssignAdd)) between inputs and outputs changes variables",
        ),
    ],
)
def test_notes_say_what_ails_a_graph(nodes: list, expected: str) -> None:
    assert any(expected in note for note in described(graph(*nodes)).notes)


def test_channels_first() -> None:
    made = graph(placeholder("x", "float32", [None]), node("y", "Conv2D", "x", "x"))
    made.node[1].attr["data_format"].s = b"NCHW"
    assert "it keeps channels first (NCHW, y)" in described(made).notes[0]
    made.node[1].attr["data_format"].s = b"NHWC"
    assert described(made).notes == ()


def test_describing_changes_nothing() -> None:
    for made in (training(), calling(), graph(node("x", "Placeholder"), node("y", "MatMul", "x", "x"))):
        before = made.SerializeToString(deterministic=True)
        described(made)
        assert made.SerializeToString(deterministic=True) == before


def test_the_description_is_plain_json() -> None:
    document = json.loads(json.dumps(dataclasses.asdict(described(training()))))
    assert document["kind"] == "unfrozen_graph"
    assert document["inputs"][0] == {"name": "x:0", "dtype": "float32", "shape": [None, 4]}
    assert document["layers"][0] == {"operation": "MatMul", "num_tensors": 1, "parameters": 12, "num_bytes": 48}


def test_sizes_and_kinds_of_files(tmp_path: Path) -> None:
    meta = meta_graph(linear(), serving_default=({"x": "inputs:0"}, {"y": "prediction:0"}))
    folder = tmp_path / "saved"
    (folder / "variables").mkdir(parents=True)
    saved = saved_model_class()(saved_model_schema_version=1, meta_graphs=[meta])
    (folder / "saved_model.pb").write_bytes(saved.SerializeToString())
    (folder / "variables" / "variables.index").write_bytes(b"12345")
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(b"123")
    found = describe_model(open_model(str(folder)))
    assert (found.kind, found.is_text) == (Kind.SAVED_MODEL, False)
    assert found.size_bytes == (folder / "saved_model.pb").stat().st_size + 8
    assert describe_model(open_model(str(folder / "saved_model.pb"))).kind is Kind.SAVED_MODEL

    (tmp_path / "alone.meta").write_bytes(meta.SerializeToString())
    assert describe_model(open_model(str(tmp_path / "alone.meta"))).kind is Kind.META_GRAPH

    (tmp_path / "ck.meta").write_bytes(meta.SerializeToString())
    (tmp_path / "ck.index").write_bytes(b"12345")
    for path in ("ck", "ck.meta", "ck.index"):
        found = describe_model(open_model(str(tmp_path / path)))
        assert (found.kind, found.size_bytes) == (Kind.CHECKPOINT, len(meta.SerializeToString()) + 5)

    (tmp_path / "m.pbtxt").write_text(str(linear()))
    found = describe_model(open_model(str(tmp_path / "m.pbtxt")))
    assert (found.kind, found.is_text, found.parameters) == (Kind.FROZEN_GRAPH, True, 12)
    assert found.size_bytes == (tmp_path / "m.pbtxt").stat().st_size


# Graphs that nobody would write: names and edges at random, attributes of any kind, extents of any size.
NAMES = st.sampled_from(["a", "b", "c", "save/a", "gradients/b", "", "^a", "a:0", "dropout/a", "prediction"])
EDGES = st.one_of(NAMES, st.sampled_from(["a:1", "^b", "nowhere:0", "a:99999999999999999999", "a:b:0", ":", "a:-1"]))
OPERATIONS = st.sampled_from(
    [
        "Const",
        "Placeholder",
        "PlaceholderWithDefault",
        "MatMul",
        "Add",
        "Identity",
        "Switch",
        "Merge",
        "VariableV2",
        "Cast",
    ]
    + [
        "VarHandleOp",
        "IteratorGetNext",
        "SaveV2",
        "ApplyAdam",
        "PartitionedCall",
        "While",
        "If",
        "f",
        "FusedBatchNormV3",
    ]
    + ["HashTableV2", "InitializeTableV2", "ScalarSummary", "ReadFile", "NoSuchOp", "RandomUniform", "Conv2D", ""]
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["value", "dtype", "shape", "T", "f", "is_training", "_output_shapes", "output_types", "data_format"]
    ),
    st.sampled_from(["s", "i", "type", "shape", "huge", "tensor", "func", "list", "none"]),
    max_size=4,
)
NODES = st.lists(st.tuples(NAMES, OPERATIONS, st.lists(EDGES, max_size=4), ATTRIBUTES), max_size=12)


def hostile_node(nodes: object, name: str, operation: str, edges: list[str], attributes: dict[str, str]) -> None:
    made = nodes.add(name=name, op=operation, input=edges)
    for key, kind in attributes.items():
        value = made.attr[key]
        if kind == "s":
            value.s = b"\xff\x00"
        elif kind == "i":
            value.i = -(2**63)
        elif kind == "type":
            value.type = 99
        elif kind == "shape":
            value.shape.dim.add(size=-7)
            value.shape.dim.add(size=2**62)
        elif kind == "huge":
            value.list.shape.add().dim.add(size=2**63 - 1)
            for _ in range(300):
                value.shape.dim.add(size=2**40)
        elif kind == "tensor":
            value.tensor.dtype = 1
            value.tensor.tensor_shape.dim.add(size=2**61)
            value.tensor.float_val.append(1)
        elif kind == "func":
            value.func.name = "f"
        elif kind == "list":
            value.list.func.add().name = "f"
            value.list.type.append(1234)


@settings(max_examples=150, deadline=None)
@given(NODES, NODES)
def test_hostile_graphs_are_described_or_refused(nodes: list, inner: list) -> None:
    made = GraphDef()
    for each in nodes:
        hostile_node(made.node, *each)
    function = made.library.function.add()
    function.signature.name = "f"
    function.signature.input_arg.add(name="a")
    for each in inner:
        hostile_node(function.node_def, *each)
    try:
        json.dumps(dataclasses.asdict(described(made)))
        json.dumps(dataclasses.asdict(described_meta(meta_graph(made), ModelKind.SAVED_MODEL)))
    except EngineError:
        pass


def test_deep_wide_and_circular_graphs_take_no_longer() -> None:
    number = 3000
    deep = [node(f"d{i}", "Identity", f"d{i - 1}" if i else "x", T="float32") for i in range(number)]
    doubling = [node(f"p{i}", "Add", f"p{i - 1}" if i else "x", f"p{i - 1}" if i else "x") for i in range(number)]
    circle = [node(f"c{i}", "MatMul", f"c{(i + 1) % number}", f"c{(i * 7) % number}") for i in range(number)]
    chain = [node(f"w{i}", "Identity", f"w{i - 1}" if i else "big") for i in range(number)]
    wide = [node(f"r{i}", "MatMul", "x", chain[-1].name) for i in range(number)]
    made = graph(
        placeholder("x", "float32", [None]), constant("big", np.ones(100)), *deep, *doubling, *circle, *chain, *wide
    )
    for i in range(200):  # each function calls the next one twice
        function = made.library.function.add()
        function.signature.name = f"f{i}"
        function.signature.input_arg.add(name="handle")
        for part in "ab":
            function.node_def.add(name=part, op=f"f{i + 1}", input=["handle"])
    made.node.add(name="call", op="f0", input=["big"])
    start = time.monotonic()
    found = described(made)
    assert time.monotonic() - start < 5
    assert len(found.outputs) <= 1000


@pytest.mark.parametrize("case", READABLE, ids=lambda case: case["case"])
def test_cases_are_described_as_tensorflow_sees_them(case: dict) -> None:
    path = CASES / case["case"] / ("model.pb" if "model.pb" in case["files"] else case["files"][0])
    found = describe_model(open_model(str(path)))
    expected = Kind.UNFROZEN_GRAPH if "unfrozen" in case["case"] else KINDS[case["kind"]]
    assert (found.kind, found.is_text) == (expected, case["kind"] == "graphdef-text")
    by_name = {spec.name: spec for spec in (*found.inputs, *found.unused_inputs)}
    placeholders = [item for item in case.get("placeholders", ()) if not item["name"].startswith("save/")]
    for item in placeholders:
        shape = None if item["tf_shape"] is None else tuple(item["tf_shape"])
        assert by_name[item["name"]] == TensorSpec(item["name"], item["dtype"], shape)
    if case["case"] != "corrupt_truncated_at_node_boundary":
        outputs = {item["name"] for item in case.get("outputs", ())}
        assert outputs <= {spec.name for spec in found.outputs}, "an output was not found"
    if case["kind"] == "graphdef":
        assert found.size_bytes == case["size_bytes"]
        assert found.num_nodes - found.num_function_nodes == case["nodes"]
        assert found.producer == case["producer"]
        assert len(by_name) == len(placeholders)
    if case["outcome"] == "ok":
        feeds = [item["name"] for item in case["inputs"]]
        check_ports(read_graph(str(path)), feeds, [item["name"] for item in case["outputs"]], case["init_ops"])


@pytest.mark.parametrize("case", [case for case in INDEX if case["case"] in UNREADABLE], ids=lambda case: case["case"])
def test_cases_that_are_no_model(case: dict) -> None:
    with pytest.raises(GraphError, match="expected a model, found"):
        open_model(str(CASES / case["case"] / "model.pb"))
