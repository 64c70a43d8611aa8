"""Small frozen graphs, built as protos by hand so that tests need no TensorFlow to make them."""

from pathlib import Path

import numpy as np
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.types_pb2 import DataType

PRODUCER = 2000
ENUM = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}


def dtype_number(dtype: str) -> int:
    return DataType.Value("DT_" + ENUM.get(dtype, dtype.upper()))


def node(name: str, op: str, *inputs: str, **types: str) -> NodeDef:
    """A node with type attributes: `node("y", "Identity", "x", T="float32")`."""
    made = NodeDef(name=name, op=op, input=inputs)
    for attr, dtype in types.items():
        made.attr[attr].type = dtype_number(dtype)
    return made


def placeholder(name: str, dtype: str, shape: list[int | None] | None) -> NodeDef:
    made = node(name, "Placeholder", dtype=dtype)
    if shape is None:
        made.attr["shape"].shape.unknown_rank = True
    else:
        made.attr["shape"].shape.SetInParent()
        for extent in shape:
            made.attr["shape"].shape.dim.add(size=-1 if extent is None else extent)
    return made


def constant(name: str, value: np.ndarray) -> NodeDef:
    value = np.asarray(value)
    made = node(name, "Const", dtype=value.dtype.name)
    tensor = made.attr["value"].tensor
    tensor.dtype = dtype_number(value.dtype.name)
    tensor.tensor_shape.SetInParent()
    for extent in value.shape:
        tensor.tensor_shape.dim.add(size=extent)
    tensor.tensor_content = np.ascontiguousarray(value).tobytes()
    return made


def graph(*nodes: NodeDef, producer: int = PRODUCER) -> GraphDef:
    made = GraphDef(node=nodes)
    made.versions.producer = producer
    return made


def write(path: Path, made: GraphDef) -> str:
    path.write_bytes(made.SerializeToString())
    return str(path)


def linear(num_in: int = 4, num_out: int = 3, name: str = "inputs", output: str = "prediction") -> GraphDef:
    """softmax(x @ w): `name` float32 [?, num_in] in, `output` float32 [?, num_out] out."""
    weights = np.random.default_rng(0).normal(size=(num_in, num_out)).astype(np.float32)
    return graph(
        placeholder(name, "float32", [None, num_in]),
        constant("weights", weights),
        node("logits", "MatMul", name, "weights", T="float32"),
        node(output, "Softmax", "logits", T="float32"),
    )


def slow(num_in: int, width: int = 4000) -> GraphDef:
    """Like `linear`, but with some 10 GFLOP for 100 rows; the file stays small."""
    nodes = [placeholder("inputs", "float32", [None, num_in]), constant("one", np.float32(1e-3))]
    previous, extents = "inputs", [num_in, width, width, width, 3]
    for i in range(len(extents) - 1):
        shape = np.array(extents[i : i + 2], np.int32)
        nodes += [
            constant(f"shape{i}", shape),
            node(f"w{i}", "Fill", f"shape{i}", "one", T="float32", index_type="int32"),
        ]
        nodes.append(node(f"layer{i}", "MatMul", previous, f"w{i}", T="float32"))
        previous = f"layer{i}"
    return graph(*nodes, node("prediction", "Softmax", previous, T="float32"))


def identity(dtype: str, shape: list[int | None] | None, name: str = "inputs", output: str = "prediction") -> GraphDef:
    return graph(placeholder(name, dtype, shape), node(output, "Identity", name, T=dtype))


def hungry(room_rows: int, num_in: int = 4, num_rows: int | None = None) -> GraphDef:
    """Like `linear`, but a batch of more than `room_rows` rows asks for 2^48 bytes, which no allocator gives."""
    made = linear(num_in, output="scores")
    made.node[0].CopyFrom(placeholder("inputs", "float32", [num_rows, num_in]))
    made.node.extend([
        node("size", "Size", "inputs", T="float32", out_type="int64"),
        constant("room", np.int64(num_in * (room_rows + 1))),
        node("excess", "FloorDiv", "size", "room", T="int64"),
        constant("huge", np.int64(2**46)),
        node("more", "Mul", "excess", "huge", T="int64"),
        constant("one", np.int64(1)),
        node("count", "AddV2", "more", "one", T="int64"),
        constant("axis", np.int32(0)),
        node("extents", "ExpandDims", "count", "axis", T="int64", Tdim="int32"),
        constant("unit", np.float32(1)),
        node("large", "Fill", "extents", "unit", T="float32", index_type="int64"),
        node("mean", "Mean", "large", "axis", T="float32", Tidx="int32"),
        node("prediction", "Mul", "scores", "mean", T="float32"),
    ])  # fmt: skip
    return made


def wide(num_in: int, width: int) -> GraphDef:
    """The mean over `width` of exp of each row's sum: an intermediate of 4 x `width` bytes a row, and little else."""
    return graph(
        placeholder("inputs", "float32", [None, num_in]),
        constant("last", np.int32(1)),
        _keep_dims(node("sum", "Sum", "inputs", "last", T="float32", Tidx="int32")),
        constant("extents", np.array([1, width], np.int32)),
        constant("unit", np.float32(1)),
        node("ones", "Fill", "extents", "unit", T="float32", index_type="int32"),
        node("spread", "Mul", "sum", "ones", T="float32"),
        node("large", "Exp", "spread", T="float32"),
        node("prediction", "Mean", "large", "last", T="float32", Tidx="int32"),
    )


def _keep_dims(made: NodeDef) -> NodeDef:
    made.attr["keep_dims"].b = True
    return made


def heavy(num_in: int, num_bytes: int) -> GraphDef:
    """Like `linear`, with a table of so many random bytes in it of which the first three numbers are added."""
    rows = np.random.default_rng(1).normal(size=(num_bytes // 12, 3)).astype(np.float32)
    made = linear(num_in, output="scores")
    made.node.extend([
        constant("table", rows),
        constant("first", np.int32(0)),
        node("row", "GatherV2", "table", "first", "first", Tparams="float32", Tindices="int32", Taxis="int32"),
        node("prediction", "AddV2", "scores", "row", T="float32"),
    ])  # fmt: skip
    return made
