import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from graphs import constant, graph, identity, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

from engine.errors import ConfigError, DataError, GraphError
from engine.model.devices import Device
from engine.model.session import ModelSession, SessionOptions, _session_config, import_tensorflow, load_session
from engine.model.tensor import TensorSpec

pytestmark = pytest.mark.tf

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
ROWS = np.arange(24, dtype=np.float32).reshape(6, 4)


def load(
    graph_def: GraphDef, feeds: list[str], fetches: list[str], constants: dict[str, Any] | None = None, **more: Any
) -> ModelSession:
    return load_session(graph_def.SerializeToString(), feeds, fetches, constants or {}, **more)


def split(name: str, source: str) -> NodeDef:
    made = node(name, "Unpack", source, T="float32")
    made.attr["num"].i = 2
    made.attr["axis"].i = 1
    return made


def add(*inputs: str, name: str = "y") -> NodeDef:
    return node(name, "AddV2", *inputs, T="float32")


def softmax(values: np.ndarray) -> np.ndarray:
    exponents = np.exp(values - values.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_a_model_is_scored_by_tensor_names() -> None:
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    model = load(linear(4, 3), ["inputs:0"], ["prediction:0"])
    assert model.inputs == (TensorSpec("inputs:0", "float32", (None, 4)),)
    assert model.outputs == (TensorSpec("prediction:0", "float32", (None, 3)),)
    assert (model.device, model.devices) == ("CPU", (Device("CPU"),))
    (found,) = model.run({"inputs:0": ROWS})
    np.testing.assert_allclose(found, softmax(ROWS @ weights), rtol=1e-5)
    model.close()


def test_several_inputs_and_outputs_come_by_name_and_in_order() -> None:
    graph_def = graph(
        placeholder("a", "float32", [None]),
        placeholder("b", "float32", [None]),
        node("difference", "Sub", "a", "b", T="float32"),
        add("a", "b", name="sum"),
    )
    model = load(graph_def, ["b:0", "a:0"], ["sum:0", "difference:0", "a:0"])
    a, b = np.array([5, 7], np.float32), np.array([1, 2], np.float32)
    found = model.run({"a:0": a, "b:0": b})
    np.testing.assert_array_equal(found, [a + b, a - b, a])
    assert [spec.name for spec in model.outputs] == ["sum:0", "difference:0", "a:0"]


@pytest.mark.parametrize("how", ["default", "set", "fed"])
def test_a_placeholder_with_a_default_may_be_left_set_or_fed(how: str) -> None:
    default = node("k", "PlaceholderWithDefault", "one", dtype="float32")
    default.attr["shape"].shape.SetInParent()
    graph_def = graph(
        placeholder("x", "float32", [None]),
        constant("one", np.float32(1)),
        default,
        node("y", "Mul", "x", "k", T="float32"),
    )
    x = np.array([1, 2], np.float32)
    feeds = ["x:0", "k:0"] if how == "fed" else ["x:0"]
    model = load(graph_def, feeds, ["y:0"], {"k:0": 3.0} if how == "set" else {})
    found = model.run({"x:0": x, "k:0": np.float32(5)} if how == "fed" else {"x:0": x})[0]
    np.testing.assert_array_equal(found, x * {"default": 1, "set": 3, "fed": 5}[how])


def test_outputs_beyond_the_first() -> None:
    graph_def = graph(placeholder("x", "float32", [None, 2]), split("parts", "x"))
    model = load(graph_def, ["x:0"], ["parts:1", "parts:0"])
    second, first = model.run({"x:0": np.array([[1, 2], [3, 4]], np.float32)})
    np.testing.assert_array_equal(first, [1, 3])
    np.testing.assert_array_equal(second, [2, 4])


@pytest.mark.parametrize("dtype", ["float64", "int8", "uint16", "int64", "bool", "float16"])
def test_dtypes_pass_unchanged(dtype: str) -> None:
    rows = np.array([[0, 1], [1, 0]], dtype)
    (found,) = load(identity(dtype, [None, 2]), ["inputs:0"], ["prediction:0"]).run({"inputs:0": rows})
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, rows)


def test_strings_come_back_as_bytes() -> None:
    rows = np.array([b"a", b"", b"\x00\xff"], object)
    (found,) = load(identity("string", [None]), ["inputs:0"], ["prediction:0"]).run({"inputs:0": rows})
    assert found.tolist() == rows.tolist()


def test_no_rows_give_no_rows() -> None:
    (found,) = load(linear(), ["inputs:0"], ["prediction:0"]).run({"inputs:0": np.empty((0, 4), np.float32)})
    assert found.shape == (0, 3)


def test_a_dead_branch_is_not_imported() -> None:
    dead = [node("strange", "NoSuchOperation", "inputs"), node("lost", "Identity", "nowhere", T="float32")]
    model = load(graph(*linear().node, *dead), ["inputs:0"], ["prediction:0"])
    assert model.run({"inputs:0": ROWS})[0].shape == (6, 3)


def test_a_colocation_with_a_dead_branch_does_not_matter() -> None:
    y = node("y", "Identity", "x", T="float32")
    y.attr["_class"].list.s.append(b"loc:@dead")
    dead = node("dead", "Placeholder", dtype="float32")
    model = load(graph(placeholder("x", "float32", [None]), dead, y), ["x:0"], ["y:0"])
    np.testing.assert_array_equal(model.run({"x:0": np.ones(2, np.float32)})[0], [1, 1])


def test_a_device_of_the_past_does_not_matter() -> None:
    y = node("y", "Identity", "x", T="float32")
    y.device = "/job:trainer/replica:7/task:3/device:GPU:5"
    model = load(graph(placeholder("x", "float32", [None]), y), ["x:0"], ["y:0"])
    assert model.run({"x:0": np.ones(2, np.float32)})[0].tolist() == [1, 1]


def test_an_inner_tensor_can_be_fed() -> None:
    model = load(linear(), ["logits:0"], ["prediction:0"])
    logits = np.array([[1, 2, 3], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(model.run({"logits:0": logits})[0], softmax(logits), rtol=1e-6)


def test_what_computes_a_fed_tensor_is_not_imported() -> None:
    before = [node("strange", "NoSuchOperation"), node("mid", "Identity", "strange", T="float32")]
    model = load(graph(*before, node("y", "Neg", "mid", T="float32")), ["mid:0"], ["y:0"])
    assert model.run({"mid:0": np.ones(2, np.float32)})[0].tolist() == [-1, -1]


def with_constant(dtype: str, shape: list[int | None] | None) -> GraphDef:
    return graph(
        placeholder("x", "float32", [None]),
        placeholder("k", dtype, shape),
        node("y", "Identity", "x", T="float32"),
        node("echo", "Identity", "k", T=dtype),
    )


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "expected"),
    [
        ("float32", [], 0.5, 0.5),
        ("float32", [], 1, 1.0),
        ("int64", [], 7, 7),
        ("bool", [], False, False),
        ("float32", [2], [1, 2.5], [1.0, 2.5]),
        ("float32", [None, 1], [[1], [2]], [[1.0], [2.0]]),
        ("int32", None, [[1, 2]], [[1, 2]]),
        ("string", [], "é", "é".encode()),
        ("string", [None], ["a", "b"], [b"a", b"b"]),
    ],
)
def test_constants_are_fed_with_every_batch(
    dtype: str, shape: list[int | None] | None, value: object, expected: object
) -> None:
    model = load(with_constant(dtype, shape), ["x:0"], ["y:0", "echo:0"], {"k:0": value})
    for num_rows in (1, 3):
        y, echo = model.run({"x:0": np.ones(num_rows, np.float32)})
        assert len(y) == num_rows
        assert echo.tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("float32", [], [1, 2]),
        ("float32", [2], [1, 2, 3]),
        ("float32", [None], 1.0),
        ("string", [], ["a"]),
        ("float32", [], "word"),
        ("float32", [], {"a": 1}),
        ("float32", None, [[1], [1, 2]]),
        ("uint8", [], 300),
        ("uint8", [], -1),
        ("int64", [], 2**70),
        ("int32", [], 1.7),
        ("bool", [], "false"),
        ("float32", [], None),
        ("float32", [], 1e300),
        ("string", [], 5),
        ("string", [None], ["a", 5]),
    ],
)
def test_a_constant_of_the_wrong_shape_or_dtype_is_named(
    dtype: str, shape: list[int | None] | None, value: object
) -> None:
    with pytest.raises(GraphError, match=r"^--set k:0: "):
        load(with_constant(dtype, shape), ["x:0"], ["y:0", "echo:0"], {"k:0": value})


@pytest.mark.parametrize(
    ("feeds", "fetches", "constants"),
    [
        (["input:0"], ["prediction:0"], {}),
        (["inputs:0"], ["predictions:0"], {}),
        (["inputs:0"], ["prediction:7"], {}),
        (["inputs:0"], ["prediction:word"], {}),
        (["inputs:0"], ["prediction:0"], {"keep_prob:0": 1.0}),
    ],
)
def test_a_name_that_is_not_there_is_a_graph_error(
    feeds: list[str], fetches: list[str], constants: dict[str, float]
) -> None:
    with pytest.raises(GraphError):
        load(linear(), feeds, fetches, constants)


def test_an_init_op_that_is_not_there_is_a_graph_error() -> None:
    with pytest.raises(GraphError, match="init"):
        load(linear(), ["inputs:0"], ["prediction:0"], init_ops=["init"])


def test_an_operation_without_a_kernel_is_a_graph_error() -> None:
    graph_def = graph(placeholder("x", "float32", [None]), node("y", "NoSuchOperation", "x"))
    with pytest.raises(GraphError, match="NoSuchOperation"):
        load(graph_def, ["x:0"], ["y:0"])


def test_edges_of_the_wrong_dtype_are_a_graph_error() -> None:
    graph_def = graph(placeholder("x", "float32", [None]), node("y", "Identity", "x", T="int64"))
    with pytest.raises(GraphError, match="int64"):
        load(graph_def, ["x:0"], ["y:0"])


def test_bytes_that_are_no_graph_are_a_graph_error() -> None:
    with pytest.raises(GraphError):
        load_session(b"\xff\xff", ["x:0"], ["y:0"], {})


def table_graph(keys: list[str]) -> bytes:
    tf = import_tensorflow(gpu_share=0)
    made = tf.Graph()
    with made.as_default():
        words = tf.compat.v1.placeholder(tf.string, [None], name="words")
        table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table")
        values = tf.constant(list(range(len(keys))), tf.int64)
        tf.raw_ops.LookupTableImportV2(table_handle=table, keys=tf.constant(keys), values=values, name="init")
        missing = tf.constant(-1, tf.int64)
        tf.raw_ops.LookupTableFindV2(table_handle=table, keys=words, default_value=missing, name="ids")
    return bytes(made.as_graph_def().SerializeToString())


WORDS = np.array([b"b", b"a", b"z"], object)


@pytest.mark.parametrize("name", ["init", "init:0"])
def test_an_init_op_fills_a_lookup_table_once(name: str) -> None:
    model = load_session(table_graph(["a", "b"]), ["words:0"], ["ids:0"], {}, init_ops=[name])
    for _ in range(2):
        assert model.run({"words:0": WORDS})[0].tolist() == [1, 0, -1]


def test_a_table_that_was_not_initialised_is_a_graph_error() -> None:
    model = load_session(table_graph(["a", "b"]), ["words:0"], ["ids:0"], {})
    with pytest.raises(GraphError, match="a lookup table was not filled; name its initialiser with --init-op"):
        model.run({"words:0": WORDS})


def test_an_init_op_that_is_refused_is_a_mistake_of_the_model() -> None:
    with pytest.raises(GraphError, match="the graph cannot be loaded: .*duplicate|different value"):
        load_session(table_graph(["a", "a"]), ["words:0"], ["ids:0"], {}, init_ops=["init"])


def test_an_init_op_is_given_the_constants() -> None:
    graph_def = graph(
        *linear().node,
        placeholder("limit", "bool", []),
        constant("message", np.int32(7)),
        assertion("init", "limit", "message"),
    )
    load(graph_def, ["inputs:0"], ["prediction:0"], {"limit:0": True}, init_ops=["init"])
    with pytest.raises(GraphError, match="the graph cannot be loaded"):
        load(graph_def, ["inputs:0"], ["prediction:0"], {"limit:0": False}, init_ops=["init"])


def assertion(name: str, condition: str, *data: str) -> NodeDef:
    made = node(name, "Assert", condition, *data)
    made.attr["T"].list.type.extend([3] * len(data))
    return made


def test_values_that_the_graph_refuses_are_bad_data() -> None:
    graph_def = graph(placeholder("x", "string", [None]), node("y", "StringToNumber", "x", out_type="float32"))
    model = load(graph_def, ["x:0"], ["y:0"])
    assert model.run({"x:0": np.array([b"1", b"2.5"], object)})[0].tolist() == [1, 2.5]
    with pytest.raises(DataError, match=r"(?s)the graph refuses these values: .*word"):
        model.run({"x:0": np.array([b"1", b"word"], object)})
    assert model.run({"x:0": np.array([b"3"], object)})[0].tolist() == [3]


def test_a_batch_of_the_wrong_shape_is_an_error_of_ours() -> None:
    model = load(linear(), ["inputs:0"], ["prediction:0"])
    with pytest.raises((DataError, GraphError), match="incompatible|shape"):
        model.run({"inputs:0": np.ones((2, 5), np.float32)})


@pytest.fixture
def device_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """A function that gives every session room for so many rows, and lists the rows of the batches that fitted."""
    tf = import_tensorflow(gpu_share=0)
    real = tf.compat.v1.Session._make_callable_from_options
    room = {"rows": math.inf}
    fitted: list[int] = []

    def make(session: Any, options: Any) -> Any:
        call = real(session, options)

        def limited(*arrays: Any) -> Any:
            num_rows = max(len(array) for array in arrays if np.ndim(array))
            if num_rows > room["rows"]:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
            fitted.append(num_rows)
            return call(*arrays)

        return limited

    def limit(max_rows: int) -> list[int]:
        room["rows"] = max_rows
        fitted.clear()
        return fitted

    monkeypatch.setattr(tf.compat.v1.Session, "_make_callable_from_options", make)
    return limit


def test_without_the_fast_call_a_session_gives_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    tf = import_tensorflow(gpu_share=0)
    rows = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    fast = load(linear(), ["inputs:0"], ["prediction:0"]).run({"inputs:0": rows})
    monkeypatch.delattr(tf.compat.v1.Session.__mro__[1], "_make_callable_from_options")
    slow = load(linear(), ["inputs:0"], ["prediction:0"]).run({"inputs:0": rows})
    np.testing.assert_array_equal(fast[0], slow[0])


@pytest.mark.parametrize("num_rows", [5, 6, 16, 33])
@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_full_device_halves_the_batch_and_gives_the_same_values(
    device_rows: Callable[[int], list[int]], num_rows: int, room: int
) -> None:
    rows = np.random.default_rng(1).normal(size=(num_rows, 4)).astype(np.float32)
    model = load(linear(), ["inputs:0"], ["prediction:0", "logits:0"])
    whole = model.run({"inputs:0": rows})
    assert model.max_rows is None
    assert model.batches_halved == 0
    fitted = device_rows(room)
    halved = model.run({"inputs:0": rows})
    if num_rows <= room:
        assert (model.max_rows, model.batches_halved, fitted) == (None, 0, [num_rows])
    else:
        assert sum(fitted) == num_rows
        assert model.max_rows is not None
        assert 1 <= model.max_rows <= room
        assert model.batches_halved >= 1
    for before, after in zip(whole, halved, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-6)


def test_a_device_s_room_is_remembered(device_rows: Callable[[int], list[int]]) -> None:
    model = load(linear(), ["inputs:0"], ["prediction:0"])
    device_rows(3)
    model.run({"inputs:0": ROWS})
    assert (model.max_rows, model.batches_halved) == (3, 1)
    model.run({"inputs:0": ROWS})
    assert (model.max_rows, model.batches_halved) == (3, 1)
    model.run({"inputs:0": ROWS[:3]})
    assert (model.max_rows, model.batches_halved) == (3, 1)


def test_constants_are_not_halved(device_rows: Callable[[int], list[int]]) -> None:
    graph_def = graph(
        placeholder("x", "float32", [None, 4]), placeholder("offsets", "float32", [4]), add("x", "offsets")
    )
    model = load(graph_def, ["x:0"], ["y:0"], {"offsets:0": [1, 2, 3, 4]})
    device_rows(4)
    np.testing.assert_array_equal(model.run({"x:0": ROWS})[0], ROWS + np.array([1, 2, 3, 4], np.float32))


def test_a_device_without_room_for_one_row_ends_it(device_rows: Callable[[int], list[int]]) -> None:
    model = load(linear(), ["inputs:0"], ["prediction:0"])
    device_rows(0)
    with pytest.raises(GraphError, match="no room for a batch of 1 rows: OOM"):
        model.run({"inputs:0": ROWS})


def test_a_fixed_batch_is_never_halved(device_rows: Callable[[int], list[int]]) -> None:
    model = load(identity("float32", [6, 4]), ["inputs:0"], ["prediction:0"])
    device_rows(5)
    with pytest.raises(GraphError, match="no room for a batch of 6 rows"):
        model.run({"inputs:0": ROWS})
    assert model.batches_halved == 0


@pytest.mark.parametrize(
    ("options", "threads", "num_gpus", "fraction"),
    [
        (SessionOptions(), 1, 0, 0.0),
        (SessionOptions(threads=3), 3, 0, 0.0),
        (SessionOptions(threads=2, gpu_share=0.5), 2, None, 0.45),
        (SessionOptions(gpu_share=0.25, allow_cpu=True), 1, None, 0.225),
        (SessionOptions(gpu_share=1.0), 1, None, 0.0),
        (SessionOptions(gpu_share=4.0), 1, None, 0.0),
    ],
)
def test_options(options: SessionOptions, threads: int, num_gpus: int | None, fraction: float) -> None:
    config = _session_config(import_tensorflow(gpu_share=0), options)
    assert (config.intra_op_parallelism_threads, config.inter_op_parallelism_threads) == (threads, threads)
    assert dict(config.device_count).get("GPU") == num_gpus
    assert config.gpu_options.per_process_gpu_memory_fraction == pytest.approx(fraction)
    assert config.gpu_options.allow_growth
    assert config.gpu_options.visible_device_list == ""
    assert config.allow_soft_placement


@pytest.mark.parametrize(
    ("first", "gpu_share", "visible"),
    [("", 0.0, ""), ("", 0.5, "3"), ("", 2.0, "3"), ("import tensorflow", 0.0, "3")],
    ids=["no share", "a share", "several", "somebody's own process"],
)
def test_gpus_are_hidden_without_a_share(first: str, gpu_share: float, visible: str) -> None:
    ask = f"{first}\nfrom engine.model.session import import_tensorflow as load\nimport os\nload({gpu_share})"
    code = f"{ask}\nprint(os.environ['CUDA_VISIBLE_DEVICES'])"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "3"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == visible


without_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="TensorFlow may see a GPU here")


@without_gpu
@pytest.mark.parametrize(("gpu_share", "given"), [(0.5, "0.5 GPU "), (1.0, "1 GPU "), (2.0, "2 GPUs ")])
def test_a_share_that_is_not_seen_is_told_before_the_graph_is_looked_at(gpu_share: float, given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_session(b"\xff no graph", ["x:0"], ["y:0"], {}, options=SessionOptions(gpu_share=gpu_share))
    assert f"the actor was given {given}" in str(caught.value)
    assert f"TensorFlow {import_tensorflow(gpu_share=0).__version__} sees no GPU" in str(caught.value)
    assert "--allow-cpu" in str(caught.value)


@without_gpu
def test_a_share_that_is_not_seen_may_be_done_without() -> None:
    model = load(linear(), ["inputs:0"], ["prediction:0"], options=SessionOptions(gpu_share=1.0, allow_cpu=True))
    assert (model.device, model.devices) == ("CPU", (Device("CPU"),))
    expected = load(linear(), ["inputs:0"], ["prediction:0"]).run({"inputs:0": ROWS})[0]
    np.testing.assert_allclose(model.run({"inputs:0": ROWS})[0], expected, rtol=1e-6)


def test_the_graph_is_finalized() -> None:
    model = load(linear(), ["inputs:0"], ["prediction:0"])
    assert model._session.graph.finalized
    num_nodes = len(model._session.graph.get_operations())
    model.run({"inputs:0": ROWS})
    assert len(model._session.graph.get_operations()) == num_nodes


def test_only_what_is_needed_is_in_the_graph() -> None:
    spare = [placeholder("spare", "float32", [None]), add("spare", "spare", name="double")]
    model = load(graph(*linear().node, *spare), ["inputs:0"], ["prediction:0"])
    names = {operation.name for operation in model._session.graph.get_operations()}
    assert names == {"inputs", "weights", "logits", "prediction"}


def test_two_models_in_one_process_do_not_meet() -> None:
    first = load(linear(4, 3), ["inputs:0"], ["prediction:0"])
    second = load(linear(4, 2), ["inputs:0"], ["prediction:0"])
    assert first.run({"inputs:0": ROWS})[0].shape == (6, 3)
    assert second.run({"inputs:0": ROWS})[0].shape == (6, 2)


def test_two_threads_run_at_once() -> None:
    model = load(identity("float32", [None, 4]), ["inputs:0"], ["prediction:0"])
    start = Barrier(2)

    def work(number: int) -> bool:
        start.wait()
        batches = [np.full((17, 4), 1000 * number + i, np.float32) for i in range(50)]
        return all(np.array_equal(model.run({"inputs:0": batch})[0], batch) for batch in batches)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (1, 2))) == [True, True]


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize(
    "case",
    [
        "dl4j_lstm_mnist",
        "dl4j_mnist_00",
        "dl4j_primitive_gru_dynamic",
        "made_fixed_batch_ok",
        "mlnet_cifar_variadic",
        "mlnet_types_identity",
        "serving_half_plus_two_frozen",
        "triton_identity_mixed_rank",
        "triton_simple_string",
        "dl4j_awkward_conv_4",
    ],
)
def test_graphs_of_others_give_the_expected_values(case: str) -> None:
    inputs, expected = (np.load(CASES / case / f"{kind}.npz", allow_pickle=True) for kind in ("inputs", "expected"))
    data = (CASES / case / "model.pb").read_bytes()
    model = load_session(data, list(inputs), list(expected), {})
    for name, found in zip(expected, model.run(dict(inputs)), strict=True):
        if found.dtype == object:
            assert found.astype("S").tolist() == expected[name].astype("S").tolist()
        elif case != "dl4j_awkward_conv_4":  # upstream's values differ from TensorFlow 2.21's
            np.testing.assert_allclose(found, expected[name], rtol=1e-3, atol=1e-4)
