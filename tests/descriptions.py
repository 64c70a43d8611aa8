"""Descriptions of graphs made by hand; and graphs as people have them: saved from training, or made of functions."""

import numpy as np
from graphs import constant, graph, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

from engine.model.describing.describe import OpenedModel, describe_model
from engine.model.describing.description import Description
from engine.model.filetype import ModelKind, ModelPath
from engine.model.graphdef import graph_of
from engine.model.metagraph import MetaGraph
from engine.model.protos import MetaGraphDef
from engine.model.sidecar import Ports


def described(graph_def: GraphDef, path: str = "m.pb", ports: Ports | None = None, remark: str = "") -> Description:
    found = ModelPath(ModelKind.GRAPH, path, path)
    return describe_model(OpenedModel(found, graph_of(path, graph_def), ports=ports, remark=remark))


def described_meta(meta: MetaGraphDef, kind: ModelKind, prefix: str = "") -> Description:
    found = ModelPath(kind, "m", "m")
    return describe_model(OpenedModel(found, graph_of("m", meta.graph_def), MetaGraph("m", kind, meta, prefix)))


def variable(name: str, *shape: int, dtype: str = "float32", op: str = "VariableV2") -> NodeDef:
    made = node(name, op, dtype=dtype)
    made.attr["shape"].shape.SetInParent()
    for extent in shape:
        made.attr["shape"].shape.dim.add(size=extent)
    return made


def training(output: str = "prediction") -> GraphDef:
    """softmax(dropout(x) @ w + b), with what training adds: loss, gradients, Adam, summaries, saver, initialisers."""
    return graph(
        placeholder("x", "float32", [None, 4]),
        placeholder("y", "int64", [None]),
        placeholder("keep_prob", "float32", []),
        *(node for name, shape in (("w", (4, 3)), ("b", (3,))) for node in _trained(name, shape)),
        variable("global_step", dtype="int64"),
        node("dropout/RandomUniform", "RandomUniform", "x", T="int32", dtype="float32"),
        node("dropout/mask", "Add", "dropout/RandomUniform", "keep_prob", T="float32"),
        node("dropout/mul", "Mul", "x", "dropout/mask", T="float32"),
        node("dense/MatMul", "MatMul", "dropout/mul", "w/read", T="float32"),
        node("dense/BiasAdd", "BiasAdd", "dense/MatMul", "b/read", T="float32"),
        node(output, "Softmax", "dense/BiasAdd", T="float32"),
        node("xentropy", "SparseSoftmaxCrossEntropyWithLogits", "dense/BiasAdd", "y", T="float32"),
        constant("axis", np.array([0], np.int32)),
        node("Mean", "Mean", "xentropy", "axis", T="float32"),
        node("ArgMax", "ArgMax", output, "axis", T="float32"),
        node("Equal", "Equal", "ArgMax", "y", T="int64"),
        node("Cast", "Cast", "Equal", SrcT="bool", DstT="float32"),
        node("Mean_1", "Mean", "Cast", "axis", T="float32"),
        node("gradients/MatMul_grad", "MatMul", "x", "Mean", T="float32"),
        node("loss_summary", "ScalarSummary", "Mean", T="float32"),
        node("save/Const", "Const", dtype="string"),
        node("save/SaveV2", "SaveV2", "save/Const", "w", "b"),
        node("save/RestoreV2", "RestoreV2", "save/Const"),
        node("save/Assign", "Assign", "w", "save/RestoreV2", T="float32"),
        node("init", "NoOp", "^w/Assign", "^b/Assign"),
    )


def _trained(name: str, shape: tuple[int, ...]) -> list[NodeDef]:
    return [
        variable(name, *shape),
        node(f"{name}/read", "Identity", name, T="float32"),
        node(f"{name}/Initializer/random", "TruncatedNormal", dtype="float32"),
        node(f"{name}/Assign", "Assign", name, f"{name}/Initializer/random", T="float32"),
        variable(f"{name}/Adam", *shape),
        node(f"train/update_{name}/ApplyAdam", "ApplyAdam", name, f"{name}/Adam", "gradients/MatMul_grad", T="float32"),
    ]


def calling(op: str = "PartitionedCall", skipped: int = 0) -> GraphDef:
    """x @ w inside a function that gets the variable's handle as an argument; an unused function draws numbers."""
    made = graph(
        placeholder("x", "float32", [None, 4]),
        variable("w", 4, 3, op="VarHandleOp"),
        *(placeholder(f"skipped{i}", "bool", []) for i in range(skipped)),
        node("call", op, *(f"skipped{i}" for i in range(skipped)), "x", "w"),
        node("prediction", "Identity", "call", T="float32"),
    )
    call = next(each for each in made.node if each.name == "call")
    call.attr["f"].func.name = "body"
    body = made.library.function.add()
    body.signature.name = "body"
    body.signature.input_arg.add(name="rows")
    body.signature.input_arg.add(name="handle")
    body.signature.output_arg.add(name="out")
    body.node_def.extend([
        node("read", "ReadVariableOp", "handle", dtype="float32"),
        node("product", "MatMul", "rows", "read:value:0", T="float32"),
    ])  # fmt: skip
    body.ret["out"] = "product:product:0"
    spare = made.library.function.add()
    spare.signature.name = "spare"
    spare.node_def.add(name="noise", op="RandomUniform")
    return made
