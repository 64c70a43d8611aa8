from typing import Any

import graphs
import numpy as np
import pytest
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from engine.errors import GraphError
from engine.model.filetype import MAX_GRAPH_BYTES, ModelKind
from engine.model.freezing.plan import FreezeOptions, check_size, plan_freeze
from engine.model.metagraph import MetaGraph


def variable(name: str, shape: list[int], dtype: str = "float32", op: str = "VariableV2") -> Any:
    made = graphs.node(name, op, dtype=dtype)
    made.attr["shape"].shape.SetInParent()
    for extent in shape:
        made.attr["shape"].shape.dim.add(size=extent)
    return made


def source(
    *nodes: Any, prefix: str = "/nowhere/model", kind: ModelKind = ModelKind.CHECKPOINT, **saver: str
) -> MetaGraph:
    meta = MetaGraphDef(graph_def=graphs.graph(*nodes))
    for key, value in saver.items():
        setattr(meta.saver_def, key, value)
    return MetaGraph("m", kind, meta, prefix)


X = graphs.placeholder("x", "float32", [None, 4])
W = variable("w", [4, 2])
Y = graphs.node("y", "MatMul", "x", "w", T="float32")
OUTPUT = FreezeOptions(outputs=("y",))


def test_a_plan_is_made_without_touching_the_source() -> None:
    meta = source(X, W, Y, graphs.node("labels", "Placeholder", dtype="float32"))
    before = meta.meta.SerializeToString(deterministic=True)
    plan = plan_freeze(meta, OUTPUT)
    assert meta.meta.SerializeToString(deterministic=True) == before
    assert [(port.name, port.tensor) for port in plan.inputs] == [("x", "x:0")]
    assert [str(spec) for spec in plan.input_specs()] == ["x:0 (float32 [?, 4])"]
    assert plan.feeds == ["x:0"]
    assert plan.notes == plan.init_ops == plan.tables == ()


def const(name: str) -> Any:
    made = graphs.node(name, "Const", dtype="string")
    made.attr["value"].tensor.dtype = graphs.dtype_number("string")
    made.attr["value"].tensor.string_val.append(b"/etc/passwd")
    return made


EVIL = {
    "ReadFile": "reads files",
    "WriteFile": "writes files",
    "PyFunc": "calls Python",
    "RestoreV2": "reads files",
    "SaveV2": "writes files",
}


@pytest.mark.parametrize("operation", EVIL)
def test_what_reaches_outside_between_inputs_and_outputs_is_refused(operation: str) -> None:
    nodes = [X, W, Y, const("name"), graphs.node("evil", operation, "name")]
    plan_freeze(source(*nodes), OUTPUT)  # beside the way it does no harm, for it is left out
    waiting = graphs.node("y", "MatMul", "x", "w", "^evil", T="float32")
    with pytest.raises(
        GraphError, match=rf"^m does more than compute: evil \({operation}\) {EVIL[operation]}; .*--allow"
    ):
        plan_freeze(source(X, W, waiting, *nodes[3:]), OUTPUT)
    plan_freeze(source(X, W, waiting, *nodes[3:]), FreezeOptions(outputs=("y",), allow_ops=(operation,)))


@pytest.mark.parametrize("operation", [each for each in EVIL if each != "RestoreV2"])
def test_what_reaches_outside_in_the_restoring_operation_is_refused(operation: str) -> None:
    restore = [const("name"), graphs.node("evil", operation, "name"), graphs.node("restore", "NoOp", "^evil")]
    with pytest.raises(GraphError, match=rf"evil \({operation}\) {EVIL[operation]}"):
        plan_freeze(source(X, W, Y, *restore, restore_op_name="restore"), OUTPUT)


def test_restoring_reads_files() -> None:
    restore = [const("name"), graphs.node("read", "RestoreV2", "name"), graphs.node("restore", "NoOp", "^read")]
    assert plan_freeze(source(X, W, Y, *restore, restore_op_name="restore"), OUTPUT).meta.restore_op == "restore"


@pytest.mark.parametrize("operation", EVIL)
def test_what_reaches_outside_in_a_function_is_refused(operation: str) -> None:
    call = graphs.node("y", "PartitionedCall", "x")
    call.attr["f"].func.name = "outer"
    meta = source(X, call)
    for name, op in (("outer", "PartitionedCall"), ("inner", operation)):
        function = meta.graph_def.library.function.add()
        function.signature.name = name
        node = function.node_def.add(name="evil", op=op)
        if name == "outer":
            node.attr["f"].func.name = "inner"
    with pytest.raises(GraphError, match=rf"evil \({operation}\) {EVIL[operation]}, in function inner"):
        plan_freeze(meta, OUTPUT)


@pytest.mark.parametrize("operation", EVIL)
def test_what_reaches_outside_in_the_initialisation_is_refused(operation: str) -> None:
    table = graphs.node("table", "HashTableV2", key_dtype="string", value_dtype="int64")
    find = graphs.node("y", "LookupTableFindV2", "table", "words", "default", Tin="string", Tout="int64")
    nodes = [table, graphs.placeholder("words", "string", [None]), const("default"), find]
    nodes += [const("name"), graphs.node("evil", operation, "name"), graphs.node("init", "NoOp", "^evil")]
    file = graphs.node("fill", "LookupTableImportV2", "table", "words", "words", Tin="string", Tout="int64")
    nodes.append(file)  # fed, and so it cannot be kept
    meta = source(*nodes)
    meta.meta.collection_def["table_initializer"].node_list.value.extend(["init", "fill"])
    plan_freeze(meta, OUTPUT)  # it fills no table that is needed
    next(node for node in meta.graph_def.node if node.name == "init").input.append("^fill")
    with pytest.raises(GraphError, match=rf"evil \({operation}\) {EVIL[operation]}"):
        plan_freeze(meta, OUTPUT)


def test_an_initialiser_that_is_fed_is_none() -> None:
    table = graphs.node("table", "HashTableV2", key_dtype="string", value_dtype="int64")
    words = graphs.placeholder("words", "string", [None])
    find = graphs.node("y", "LookupTableFindV2", "table", "words", "words", Tin="string", Tout="int64")
    fill = graphs.node("fill", "LookupTableImportV2", "table", "words", "words", Tin="string", Tout="int64")
    with pytest.raises(GraphError, match=r"^m: nothing in it fills the lookup table table \(HashTableV2\); freeze the"):
        plan_freeze(source(table, words, find, fill, prefix="", kind=ModelKind.GRAPH), OUTPUT)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ModelKind.GRAPH, "freeze the checkpoint that it was saved with: icefloe freeze PREFIX DEST.pb"),
        (ModelKind.META_GRAPH, "a .meta is but the graph of a checkpoint"),
        (ModelKind.SAVED_MODEL, "its folder variables/ is missing"),
    ],
)
def test_variables_without_values(kind: ModelKind, message: str) -> None:
    with pytest.raises(GraphError, match=rf"^m holds variables without values \(w, VariableV2\): {message}"):
        plan_freeze(source(X, W, Y, prefix="", kind=kind), OUTPUT)


def test_what_was_cut_short() -> None:
    with pytest.raises(GraphError, match="^m was cut short: its operations read w, which is not there; copy it again"):
        plan_freeze(source(X, Y), OUTPUT)


@pytest.mark.parametrize("op", ["Variable", "VariableV2", "VarHandleOp"])
@pytest.mark.parametrize(
    ("shapes", "dtype", "fits"),
    [
        ([[2**29 - 2]], "float32", True),
        ([[2**29]], "float32", False),
        ([[2**30]], "bfloat16", False),
        ([[2**28]], "float64", False),
        ([[2**31 - 2]], "int8", True),
        ([[2**14, 2**14], [2**14, 2**14]], "float32", False),
        ([[2**13, 2**14], [2**13, 2**14]], "float32", True),
    ],
)
def test_2_gib_is_the_end(op: str, shapes: list[list[int]], dtype: str, fits: bool) -> None:
    variables = [variable(f"w{i}", shape, dtype, op) for i, shape in enumerate(shapes)]
    reads = [graphs.node(f"r{i}", "Identity", each.name, T=dtype) for i, each in enumerate(variables)]
    total = graphs.node("y", "AddN", "x", *(node.name for node in reads), T="float32")
    meta = source(X, *variables, *reads, total)
    if op == "VarHandleOp":
        for node in meta.graph_def.node:
            if node.op == "Identity":
                node.op = "ReadVariableOp"
    if fits:
        plan_freeze(meta, OUTPUT)
    else:
        with pytest.raises(GraphError, match="^m: frozen, this would be 2,147,483,.* bytes, .* ends at 2 GiB"):
            plan_freeze(meta, OUTPUT)


def test_the_size_of_what_is_left_out_does_not_count() -> None:
    plan_freeze(source(X, W, Y, variable("other", [2**31])), OUTPUT)
    check_size("m", MAX_GRAPH_BYTES)
    with pytest.raises(GraphError, match="2 GiB"):
        check_size("m", MAX_GRAPH_BYTES + 1)


def test_constants_replace_inputs() -> None:
    scale = graphs.placeholder("scale", "float32", [])
    meta = source(X, W, Y, scale, graphs.node("z", "Mul", "y", "scale", T="float32"))
    meta.meta.signature_def["serving_default"].inputs["rows"].name = "x:0"
    meta.meta.signature_def["serving_default"].inputs["factor"].name = "scale:0"
    meta.meta.signature_def["serving_default"].outputs["z"].name = "z:0"
    assert [port.name for port in plan_freeze(meta, FreezeOptions()).inputs] == ["factor", "rows"]
    for name in ("factor", "scale", "scale:0"):
        plan = plan_freeze(meta, FreezeOptions(constants={name: 2.0}))
        assert plan.constants == {"scale:0": 2.0}
        assert [port.tensor for port in plan.inputs] == ["x:0"]
    with pytest.raises(GraphError, match="^m has no scal:0"):
        plan_freeze(meta, FreezeOptions(constants={"scal": 2.0}))


def test_an_input_and_an_output_of_one_name() -> None:
    meta = source(X, W, Y)
    signature = meta.meta.signature_def["serving_default"]
    for name, tensor in (("a", "x:0"), ("b", "y:0")):
        signature.outputs[name].name = tensor
    signature.inputs["b"].name, signature.inputs["c"].name = "x:0", "w:0"
    plan = plan_freeze(meta, FreezeOptions())
    assert [port.name for port in plan.inputs] == ["b", "c"]
    assert [port.name for port in plan.outputs] == ["a", "b_output"]


def test_weights_in_constants_count_too() -> None:
    big = graphs.constant("big", np.zeros(2**20, np.float32))
    add = graphs.node("y", "Add", "w", "big", T="float32")
    with pytest.raises(GraphError, match="2 GiB"):
        plan_freeze(source(big, variable("w", [2**29 - 2**19]), add, X), OUTPUT)
