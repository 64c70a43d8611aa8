"""A frozen graph in its own Graph and Session: feeds in, fetches out.

The only room beside `checkpoint.py` that imports TensorFlow, and it does so when an actor loads a model. It
knows nothing of columns, files or Ray. Start at `load_session`.
"""

import functools
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.closure import split_tensor
from engine.model.constants import read_constant
from engine.model.devices import check_gpus, list_devices
from engine.model.loading import import_between, load_libraries, refused_at_load, tensor_spec, translated
from engine.model.precision import device_kind, lower_precision
from engine.model.xla import mark_compiled

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
    allow_cpu: bool = False
    """Whether to go on where TensorFlow sees fewer GPUs than the share."""
    precision: str = "float32"
    """What is computed in where TensorFlow holds it to be safe: float32 (as the graph says), bfloat16 or float16."""
    xla: bool = False
    """Whether what XLA can compile of the graph is compiled; batches should then be of one size."""


def import_tensorflow(gpu_share: float) -> Any:
    """Import TensorFlow, with every GPU hidden from a process without a share.

    Ray 2.60 leaves the GPUs visible to actors of num_gpus=0, and a session would fill them. Where TensorFlow is
    there already, in somebody's training, the environment is left as it is.
    """
    if not gpu_share and "tensorflow" not in sys.modules:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    was_enabled = gc.isenabled()
    gc.disable()  # 2.4 s instead of 3.0: nothing of what an import makes is garbage
    try:
        import tensorflow as tf
    finally:
        if was_enabled:
            gc.enable()

    tf.get_logger().setLevel("ERROR")
    return tf


class BusyClock:
    """Measures the time in which at least one thread is inside; counts it once, however many there are."""

    def __init__(self) -> None:
        """Start with nobody inside."""
        self._lock = threading.Lock()
        self._num_inside, self._since = 0, 0.0
        self.seconds = 0.0
        """Seconds so far."""

    def __enter__(self) -> None:
        """Count one more inside."""
        with self._lock:
            self._num_inside += 1
            if self._num_inside == 1:
                self._since = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count one less."""
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                self.seconds += time.perf_counter() - self._since


class ModelSession:
    """One graph, imported once, in one session; safe to call from several threads."""

    def __init__(
        self,
        tf: Any,
        session: Any,
        feeds: Mapping[str, Any],
        fetches: Sequence[Any],
        constants: Mapping[Any, Array | None],
        threads: int,
    ) -> None:
        """Keep the session; use `load_session` to make one."""
        self._tf = tf
        self._session = session
        self._translated = translated(tf)
        self.devices = list_devices(tf, session)
        """The GPUs that the session computes on, or one CPU."""
        self.threads = threads
        """Threads inside one operation and across operations."""
        is_inline = threads == 1 and self.device == "CPU"
        self._call = _make_call(session, [*feeds.values(), *constants], fetches, is_inline)
        self._constants = list(constants.values())
        self._lock = threading.Lock()
        self.inputs = tuple(tensor_spec(name, tensor) for name, tensor in feeds.items())
        """The fed tensors as the imported graph has them."""
        self.outputs = tuple(tensor_spec(tensor.name, tensor) for tensor in fetches)
        """The fetched tensors as the imported graph has them."""
        self.max_rows: int | None = None
        """Rows that the device has room for, once it ran out of memory; None until then."""
        self.batches_halved = 0
        """Times that a batch was halved because the device ran out of memory."""
        self._busy = BusyClock()

    @property
    def busy_seconds(self) -> float:
        """Seconds that at least one call was inside TensorFlow."""
        return self._busy.seconds

    @property
    def device(self) -> str:
        """Type of the device that the session computes on: CPU or GPU."""
        return self.devices[0].kind

    def run(self, batch: Mapping[str, Array], can_halve: bool = True) -> list[Array]:
        """Score one batch.

        Args:
            batch: an array for each fed tensor, rows on the first axis; C-contiguous arrays of the exact dtype
                at a 64-byte boundary are not copied.
            can_halve: whether the first axis is that of the rows, so that a batch without room can be halved.

        Returns:
            One array a fetch, in the order of the fetches.

        Raises:
            DataError: if the graph refuses these values.
            GraphError: if the graph cannot run at all.
        """
        num_rows = min((len(array) for array in batch.values() if array.ndim), default=0)
        if can_halve and self.max_rows is not None and num_rows > self.max_rows:
            return self._run_halves(batch, num_rows)
        try:
            with self._translated, self._busy:
                values = self._call(*(batch[tensor.name] for tensor in self.inputs), *self._constants)
                return [np.asarray(value) for value in values]
        except self._tf.errors.ResourceExhaustedError as error:
            is_fixed = any(tensor.shape and tensor.shape[0] is not None for tensor in self.inputs)
            if num_rows <= 1 or is_fixed or not can_halve:
                raise GraphError(f"the device has no room for a batch of {num_rows} rows: {error.message}") from error
            with self._lock:
                self.max_rows = min(self.max_rows or num_rows, num_rows // 2)
                self.batches_halved += 1
            return self._run_halves(batch, num_rows)

    def _run_halves(self, batch: Mapping[str, Array], num_rows: int) -> list[Array]:
        middle = (num_rows + 1) // 2
        halves = [
            self.run({name: array[start:stop] if array.ndim else array for name, array in batch.items()})
            for start, stop in ((0, middle), (middle, num_rows))
        ]
        return [np.concatenate(pair) for pair in zip(*halves, strict=True)]

    def close(self) -> None:
        """Free what the session holds, short of the process's GPU memory."""
        self._session.close()


def _make_call(session: Any, feeds: Sequence[Any], fetches: Sequence[Any], is_inline: bool) -> Callable[..., list[Any]]:
    """Return a function from an array for each feed, in order, to the fetches' values.

    `Session.run` costs 86 us of Python a call, a callable made once 22 us; it is not public, so it may go one day.
    Making it prunes and optimises the graph, which the first `run` would do otherwise. With `is_inline` the graph runs
    in the thread that calls: an MLP on batches of 256 rows is scored 1.4 times as fast, and four times where calls
    are smaller still, for nobody waits until another thread wakes up (2 cores, TensorFlow 2.21).
    """
    make = getattr(session, "_make_callable_from_options", None)
    if make is None or any(fetch is feed for fetch in fetches for feed in feeds):  # a fed tensor, fetched again
        return lambda *arrays: list(session.run(list(fetches), dict(zip(feeds, arrays, strict=True))))
    from tensorflow.core.protobuf import config_pb2

    names = {"feed": [tensor.name for tensor in feeds], "fetch": [tensor.name for tensor in fetches]}
    options = config_pb2.CallableOptions(**names)
    if is_inline:
        options.run_options.inter_op_thread_pool = -1
    call: Callable[..., list[Any]] = make(options)
    return call


def load_session(
    data: bytes | memoryview,
    feeds: Sequence[str],
    fetches: Sequence[str],
    constants: Mapping[str, Any],
    init_ops: Sequence[str] = (),
    options: SessionOptions = SessionOptions(),
    op_libraries: Sequence[str] = (),
) -> ModelSession:
    """Import what lies between feeds and fetches of the GraphDef `data` into a graph of its own and open a session.

    Args:
        data: a serialised GraphDef; read where it lies, as in the memory that a node's actors share.
        feeds: names of the tensors that batches will be given for.
        fetches: names of the tensors to compute.
        constants: values fed with every batch, by tensor name.
        init_ops: operations run once, here.
        options: threads and GPU share, and whether it has to be seen; precision and XLA.
        op_libraries: paths of libraries of custom operations, loaded first.

    Raises:
        ConfigError: if TensorFlow does not see the GPU share, or does not compute in the precision there, before the
            graph is imported; or if XLA has nothing to compile.
        GraphError: if TensorFlow refuses the graph, a name or a constant.
    """
    tf = import_tensorflow(options.gpu_share)
    if not options.allow_cpu:
        check_gpus(tf, options.gpu_share)
    kind = device_kind(tf, options.gpu_share)
    config = _session_config(tf, options)
    lower_precision(tf, config, options.precision, kind)
    load_libraries(tf, op_libraries)
    graph = tf.Graph()
    amend: Callable[[Any], object] = _leave
    if options.xla:
        amend = functools.partial(mark_compiled, kind=kind, precision=options.precision)
    with refused_at_load(), translated(tf), graph.as_default():
        tensors = import_between(tf, data, [*feeds, *constants], fetches, init_ops, amend)
        session = tf.compat.v1.Session(graph=graph, config=config)
        values = {
            tensors[name]: read_constant(value, tensor_spec(name, tensors[name])) for name, value in constants.items()
        }
        for name in init_ops:
            session.run(graph.get_operation_by_name(split_tensor(name)[0]), values)
        graph.finalize()
        fed, fetched = {name: tensors[name] for name in feeds}, [tensors[name] for name in fetches]
        return ModelSession(tf, session, fed, fetched, values, options.threads)


def _leave(graph_def: Any) -> None:
    """Change nothing."""


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
