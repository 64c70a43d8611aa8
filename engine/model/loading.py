"""Brings a GraphDef into TensorFlow: what lies between feeds and fetches, and TensorFlow's errors turned into ours.

Takes the imported TensorFlow as an argument, so that nothing here imports it. Start at `import_between`.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.message import DecodeError

from engine.errors import DataError, EngineError, GraphError
from engine.model.closure import prune_graph, split_tensor
from engine.model.operations import hint_for
from engine.model.tensor import TensorSpec


def import_between(
    tf: Any,
    data: bytes | memoryview,
    feeds: Sequence[str],
    fetches: Sequence[str],
    init_ops: Sequence[str],
    amend: Callable[[Any], object] = lambda graph_def: None,
) -> dict[str, Any]:
    """Import what lies between feeds and targets into the current graph; return fed and fetched tensors by name.

    A fed tensor that is no placeholder gets one to stand in for it, so that nothing before it is imported. `amend` may
    change the GraphDef of what is imported.
    """
    try:
        graph_def = tf.compat.v1.GraphDef.FromString(data)
    except DecodeError as error:
        raise GraphError(f"these {len(data)} bytes are no GraphDef: {error}") from error
    nodes = {node.name: node for node in graph_def.node}
    inner = [name for name in feeds if nodes[split_tensor(name)[0]].op not in ("Placeholder", "PlaceholderV2")]
    stand_ins = {name: _stand_in(tf, nodes, name) for name in inner}
    fed = {split_tensor(name)[0] for name in feeds if name not in stand_ins}
    pruned = prune_graph(graph_def, feeds, [*fetches, *init_ops], fed)
    read = {split_tensor(edge) for node in pruned.node for edge in node.input}
    used = {name: tensor for name, tensor in stand_ins.items() if split_tensor(name) in read}
    amend(pruned)
    tf.graph_util.import_graph_def(pruned, input_map=used, name="")
    graph = tf.compat.v1.get_default_graph()
    others = [name for name in (*feeds, *fetches) if name not in stand_ins]
    return stand_ins | {name: graph.get_tensor_by_name(name) for name in others}


def _stand_in(tf: Any, nodes: Mapping[str, Any], name: str) -> Any:
    node = nodes[split_tensor(name)[0]]
    has_shape = node.op == "PlaceholderWithDefault" and "shape" in node.attr
    shape = tf.TensorShape(node.attr["shape"].shape) if has_shape else None
    return tf.compat.v1.placeholder(output_dtype(tf, nodes, name), shape)


def output_dtype(tf: Any, nodes: Mapping[str, Any], name: str) -> Any:
    """Return the dtype of any operation's output, as its definition says.

    Raises:
        GraphError: if TensorFlow does not know the operation, or it has fewer outputs.
    """
    node_name, index = split_tensor(name)
    node = nodes[node_name]
    try:
        definition = tf.compat.v1.get_default_graph().op_def_for_type(node.op)
    except (tf.errors.NotFoundError, RuntimeError) as error:  # 2.21 raises the second
        raise GraphError(f"{name} cannot be fed: this TensorFlow does not know its operation {node.op}") from error
    dtypes: list[Any] = []
    for output in definition.output_arg:
        if output.type_list_attr:
            dtypes += node.attr[output.type_list_attr].list.type
            continue
        count = node.attr[output.number_attr].i if output.number_attr else 1
        dtypes += [output.type or node.attr[output.type_attr].type] * count
    if index >= len(dtypes):
        raise GraphError(f"{name} cannot be fed: {node_name} ({node.op}) has {len(dtypes)} outputs")
    return dtypes[index]


def tensor_spec(name: str, tensor: Any) -> TensorSpec:
    """Describe a tensor of an imported graph."""
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorSpec(name, tensor.dtype.base_dtype.name, shape)


def load_libraries(tf: Any, paths: Sequence[str]) -> None:
    """Load libraries of custom operations.

    Raises:
        GraphError: if one is not there or was built for another TensorFlow.
    """
    for path in paths:
        if not Path(path).is_file():
            raise GraphError(f"--op-library {path}: no such file on this node")
        try:
            tf.load_op_library(path)
        except (tf.errors.OpError, RuntimeError, OSError) as error:
            raise GraphError(
                f"--op-library {path}: TensorFlow {tf.__version__} cannot load it ({one_line(str(error))}); "
                "build it against this version"
            ) from error


@contextlib.contextmanager
def refused_at_load() -> Iterator[None]:
    """A value refused while loading (by an init op) is a mistake of the model, not of a row."""
    try:
        yield
    except DataError as error:
        raise GraphError(f"the graph cannot be loaded: {error}") from error
    except MemoryError as error:
        raise GraphError(f"this node has no room for the graph: {error}") from error


@functools.lru_cache(maxsize=64)
def one_line(message: str) -> str:
    """Return what TensorFlow says without where in Python the graph was made, which nobody here can look up."""
    message = re.sub(r"\x1b\[[0-9;]*m|\{\{[^}]*\}\}", "", message.partition("Arguments received by")[0])
    noise = ("Graph execution error", "Detected at node", "File ", "[[", "Node: '")
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(noise)) or message.strip()


class translated:
    """Turns TensorFlow's errors into ours, around calls of it; ResourceExhaustedError is the caller's.

    A class, for a batch of 256 rows of an MLP takes 50 us, of which a generator's context manager would be 6.
    """

    def __init__(self, tf: Any, given: str = "") -> None:
        """Take the module, and the model's path for messages."""
        self._tf, self._where = tf, f"{given}: " if given else ""

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise ours from theirs."""
        errors = self._tf.errors
        if error is None or isinstance(error, (EngineError, errors.ResourceExhaustedError)):
            return
        if isinstance(error, (errors.InvalidArgumentError, errors.OutOfRangeError)):
            cause = explain(error.message)
            if cause:
                raise GraphError(self._where + cause) from error
            reason = type(error).__name__.removesuffix("Error")
            raise DataError(f"the graph refuses these values: {one_line(error.message)}", reason) from error
        if isinstance(error, errors.OpError):
            fallback = f"TensorFlow cannot run this graph: {type(error).__name__}: {one_line(error.message)}"
            raise GraphError(self._where + (explain(error.message) or fallback)) from error
        if isinstance(error, UnicodeDecodeError):  # TensorFlow 2.21 quotes the bytes that it refuses, as they are
            said = error.object.decode(errors="replace")
            raise DataError(f"the graph refuses these values: {one_line(said)}", "InvalidArgument") from error
        if isinstance(error, (ValueError, TypeError, KeyError)):
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            fallback = f"TensorFlow cannot load or feed this graph: {one_line(message)}"
            raise GraphError(self._where + (explain(message) or fallback)) from error


# What TensorFlow says, and what it means; in what it means, {0}, {1} are the groups of what it says.
RIDDLES = (
    (
        r"GraphDef min consumer version (\d+) above current version (\d+)",
        "the graph was written by a newer TensorFlow: it asks for GraphDef version {0}, this one reads up to {1}",
    ),
    (
        r"GraphDef producer version (\d+) below min producer (\d+)",
        "the graph was written by a TensorFlow too old for this one: GraphDef version {0}, this one reads from {1} on",
    ),
    (
        r"[Ii]nput (\d+) of node (\S+) was passed (\w+) from (\S+) incompatible with expected (\w+_ref|resource)",
        "{1} wants a variable where freezing left a constant ({3}): a training form (batch norm) was frozen as it is; "
        "icefloe freeze THIS.pb MENDED.pb --outputs NAME mends it",
    ),
    (
        r"Table not initialized",
        "a lookup table was not filled; name its initialiser with --init-op (icefloe describe lists them), or freeze "
        "the model again with icefloe freeze, which keeps it",
    ),
    (
        r"uninitialized value (\S+)|Could not find variable (\S+?)\.? |Container localhost does not exist",
        "the graph still has variables, and nothing gives them values; freeze it from its checkpoint (icefloe freeze)",
    ),
    (
        r"only supports? (?:the )?NHWC|NHWC tensor format on the CPU|[Cc]onv\w*BackpropInputOp only supports NHWC",
        "the graph keeps channels first (NCHW), which runs on GPUs, and on CPUs only with oneDNN; "
        "unset TF_ENABLE_ONEDNN_OPTS=0, or ask for a GPU",
    ),
    (
        r"No OpKernel was registered to support Op '(\w+)'",
        "this TensorFlow has no kernel of the operation {0} for these types on this device; some are for GPUs alone "
        "(--gpus-per-actor), others for another build of TensorFlow",
    ),
    (
        r"could not create a primitive",
        "oneDNN, which TensorFlow computes with on this CPU, has no convolution for these shapes; the graph may want "
        "batches of one size (--batch-size N), or TF_ENABLE_ONEDNN_OPTS=0 in the environment of the actors",
    ),
    (
        r"You must feed a value for placeholder tensor '([^']+)' with dtype (\w+)",
        "{0}:0 ({1}) has to be fed; type --feed {0}:0=COLUMN, or --set {0}:0=VALUE for a constant",
    ),
)


@functools.lru_cache(maxsize=64)  # rows that a graph refuses come in numbers, and with one message
def explain(message: str) -> str:
    """Say in plain words what TensorFlow complains of, and what to do; empty where nothing more is known."""
    unknown = re.search(r"Op type not registered '([^']+)'", message)
    if unknown:
        hint = hint_for(unknown[1])
        return (
            f"this TensorFlow does not know the operation {unknown[1]}; {hint + '; ' if hint else ''}"
            "give the library that defines it with --op-library PATH"
        )
    for pattern, meaning in RIDDLES:
        found = re.search(pattern, message)
        if found:
            return meaning.format(*found.groups())
    return ""
