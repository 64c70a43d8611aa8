"""A frozen graph in its own Graph and Session: feeds in, fetches out.

The only room beside `checkpoint.py` that imports TensorFlow, and it does so when an actor loads a model. It
knows nothing of columns, files or Ray. Start at `load_session`.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from engine.errors import DataError, EngineError, GraphError
from engine.model.closure import prune_graph, split_tensor
from engine.model.constants import read_constant
from engine.model.graphdef import PLACEHOLDERS
from engine.model.tensor import TensorSpec

Array = npt.NDArray[Any]

# Room that CUDA's context and libraries take beside TensorFlow's own pool when several actors share a GPU.
GPU_SHARE_FOR_TENSORFLOW = 0.9


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session may use its machine."""

    threads: int = 1
    """Threads inside one operation and across operations; at least 1 (0 would mean every core)."""
    gpu_share: float = 0.0
    """GPUs of this actor; 0 hides all of them, a fraction bounds the memory, whole ones grow as needed."""


def import_tensorflow(gpu_share: float) -> Any:
    """Import TensorFlow, with every GPU hidden from an actor without a share.

    Ray 2.60 leaves the GPUs visible to actors of num_gpus=0, and a session would fill them.
    """
    if not gpu_share:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    return tf


class ModelSession:
    """One graph, imported once, in one session; safe to call from several threads."""

    def __init__(self, tf: Any, session: Any, feeds: Mapping[str, Any], fetches: Sequence[Any], constants: Any) -> None:
        """Keep the session; use `load_session` to make one."""
        self._tf = tf
        self._session = session
        self._call = _make_call(session, [*feeds.values(), *constants], fetches)
        self._constants = list(constants.values())
        self._lock = threading.Lock()
        self.inputs = tuple(_spec(name, tensor) for name, tensor in feeds.items())
        """The fed tensors as the imported graph has them."""
        self.outputs = tuple(_spec(tensor.name, tensor) for tensor in fetches)
        """The fetched tensors as the imported graph has them."""
        self.max_rows: int | None = None
        """Rows that the device has room for, once it ran out of memory; None until then."""
        self.batches_halved = 0
        """Times that a batch was halved because the device ran out of memory."""
        self.busy_seconds = 0.0
        """Seconds that at least one call was inside TensorFlow."""
        self._num_inside, self._inside_since = 0, 0.0

    @property
    def device(self) -> str:
        """Type of the device that the session computes on: CPU or GPU."""
        types = {device.device_type for device in self._session.list_devices()}
        return "GPU" if "GPU" in types else "CPU"

    def run(self, batch: Mapping[str, Array]) -> list[Array]:
        """Score one batch.

        Args:
            batch: an array for each fed tensor, rows on the first axis; C-contiguous arrays of the exact dtype
                at a 64-byte boundary are not copied.

        Returns:
            One array a fetch, in the order of the fetches.

        Raises:
            DataError: if the graph refuses these values.
            GraphError: if the graph cannot run at all.
        """
        num_rows = min((len(array) for array in batch.values()), default=0)
        if self.max_rows is not None and num_rows > self.max_rows:
            return self._run_halves(batch, num_rows)
        try:
            with _translated(self._tf), self._timed():
                values = self._call(*(batch[tensor.name] for tensor in self.inputs), *self._constants)
                return [np.asarray(value) for value in values]
        except self._tf.errors.ResourceExhaustedError as error:
            is_fixed = any(tensor.shape and tensor.shape[0] is not None for tensor in self.inputs)
            if num_rows <= 1 or is_fixed:
                raise GraphError(f"the device has no room for a batch of {num_rows} rows: {error.message}") from error
            with self._lock:
                self.max_rows = min(self.max_rows or num_rows, num_rows // 2)
                self.batches_halved += 1
            return self._run_halves(batch, num_rows)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the time once, however many threads are inside."""
        with self._lock:
            self._num_inside += 1
            if self._num_inside == 1:
                self._inside_since = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                if self._num_inside == 0:
                    self.busy_seconds += time.perf_counter() - self._inside_since

    def _run_halves(self, batch: Mapping[str, Array], num_rows: int) -> list[Array]:
        middle = (num_rows + 1) // 2
        halves = [
            self.run({name: array[start:stop] for name, array in batch.items()})
            for start, stop in ((0, middle), (middle, num_rows))
        ]
        return [np.concatenate(pair) for pair in zip(*halves, strict=True)]

    def close(self) -> None:
        """Free what the session holds, short of the process's GPU memory."""
        self._session.close()


def _make_call(session: Any, feeds: Sequence[Any], fetches: Sequence[Any]) -> Callable[..., list[Any]]:
    """Return a function from an array for each feed, in order, to the fetches' values.

    `Session.run` costs 86 us of Python a call, a callable made once 22 us; it is not public, so it may go one day.
    Making it prunes and optimises the graph, which the first `run` would do otherwise.
    """
    make = getattr(session, "_make_callable_from_options", None)
    if make is None or any(fetch is feed for fetch in fetches for feed in feeds):  # a fed tensor, fetched again
        return lambda *arrays: list(session.run(list(fetches), dict(zip(feeds, arrays, strict=True))))
    from tensorflow.core.protobuf import config_pb2

    names = {"feed": [tensor.name for tensor in feeds], "fetch": [tensor.name for tensor in fetches]}
    call: Callable[..., list[Any]] = make(config_pb2.CallableOptions(**names))
    return call


def load_session(
    data: bytes,
    feeds: Sequence[str],
    fetches: Sequence[str],
    constants: Mapping[str, Any],
    init_ops: Sequence[str] = (),
    options: SessionOptions = SessionOptions(),
) -> ModelSession:
    """Import what lies between feeds and fetches of the GraphDef `data` into a graph of its own and open a session.

    Args:
        data: a serialised GraphDef.
        feeds: names of the tensors that batches will be given for.
        fetches: names of the tensors to compute.
        constants: values fed with every batch, by tensor name.
        init_ops: operations run once, here.
        options: threads and GPU share.

    Raises:
        GraphError: if TensorFlow refuses the graph, a name or a constant.
    """
    tf = import_tensorflow(options.gpu_share)
    graph = tf.Graph()
    with _refused_at_load(), _translated(tf), graph.as_default():
        tensors = _import(tf, data, [*feeds, *constants], fetches, init_ops)
        session = tf.compat.v1.Session(graph=graph, config=_session_config(tf, options))
        values = {tensors[name]: read_constant(value, _spec(name, tensors[name])) for name, value in constants.items()}
        for name in init_ops:
            session.run(graph.get_operation_by_name(split_tensor(name)[0]), values)
        graph.finalize()
        fed, fetched = {name: tensors[name] for name in feeds}, [tensors[name] for name in fetches]
        return ModelSession(tf, session, fed, fetched, values)


def _import(
    tf: Any, data: bytes, feeds: Sequence[str], fetches: Sequence[str], init_ops: Sequence[str]
) -> dict[str, Any]:
    """Import what lies between feeds and targets, and return the fed and fetched tensors by name.

    A fed tensor that is no placeholder gets one to stand in for it, so that nothing before it is imported.
    """
    try:
        graph_def = tf.compat.v1.GraphDef.FromString(data)
    except DecodeError as error:
        raise GraphError(f"these {len(data)} bytes are no GraphDef: {error}") from error
    nodes = {node.name: node for node in graph_def.node}
    inner = [name for name in feeds if nodes[split_tensor(name)[0]].op not in PLACEHOLDERS]
    stand_ins = {name: tf.compat.v1.placeholder(_output_dtype(nodes, name)) for name in inner}
    fed = {split_tensor(name)[0] for name in feeds if name not in stand_ins}
    pruned = prune_graph(graph_def, feeds, [*fetches, *init_ops], fed)
    read = {split_tensor(edge) for node in pruned.node for edge in node.input}
    used = {name: tensor for name, tensor in stand_ins.items() if split_tensor(name) in read}
    tf.graph_util.import_graph_def(pruned, input_map=used, name="")
    graph = tf.compat.v1.get_default_graph()
    others = [name for name in (*feeds, *fetches) if name not in stand_ins]
    return stand_ins | {name: graph.get_tensor_by_name(name) for name in others}


def _output_dtype(nodes: Mapping[str, Any], name: str) -> Any:
    """Return the dtype of any operation's output, as its definition says."""
    from tensorflow.python.framework import op_def_registry

    node_name, index = split_tensor(name)
    node = nodes[node_name]
    definition = op_def_registry.get(node.op)
    if definition is None:
        raise GraphError(f"{name} cannot be fed: this TensorFlow does not know its operation {node.op}")
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


def _session_config(tf: Any, options: SessionOptions) -> Any:
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.threads,
        inter_op_parallelism_threads=options.threads,
        allow_soft_placement=True,
    )
    if not options.gpu_share:
        config.device_count["GPU"] = 0
    config.gpu_options.allow_growth = True
    if 0 < options.gpu_share < 1:
        config.gpu_options.per_process_gpu_memory_fraction = options.gpu_share * GPU_SHARE_FOR_TENSORFLOW
    return config


def _spec(name: str, tensor: Any) -> TensorSpec:
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    return TensorSpec(name, tensor.dtype.base_dtype.name, shape)


@contextlib.contextmanager
def _refused_at_load() -> Iterator[None]:
    """A value refused while loading (by an init op) is a mistake of the model, not of a row."""
    try:
        yield
    except DataError as error:
        raise GraphError(f"the graph cannot be loaded: {error}") from error
    except MemoryError as error:
        raise GraphError(f"this node has no room for the graph: {error}") from error


def _one_line(message: str) -> str:
    """Return what TensorFlow says without where in Python the graph was made, which nobody here can look up."""
    noise = ("Graph execution error", "Detected at node", "File ", "[[")
    return " ".join(line for each in message.splitlines() if (line := each.strip()) and not line.startswith(noise))


@contextlib.contextmanager
def _translated(tf: Any) -> Iterator[None]:
    """Turn TensorFlow's errors into ours; ResourceExhaustedError is the caller's, who halves the batch."""
    try:
        yield
    except EngineError:
        raise
    except tf.errors.ResourceExhaustedError:
        raise
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        raise DataError(f"the graph refused the batch: {_one_line(error.message)}") from error
    except tf.errors.OpError as error:
        raise GraphError(
            f"TensorFlow cannot run this graph: {type(error).__name__}: {_one_line(error.message)}"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise GraphError(f"TensorFlow cannot load or feed this graph: {error}") from error
