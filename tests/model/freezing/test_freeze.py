import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import trained
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import GraphError
from engine.model.freezing.freeze import FrozenModel, freeze_model, freeze_session
from engine.model.freezing.plan import FreezeOptions
from engine.model.graphdef import VARIABLES
from engine.model.session import load_session

pytestmark = pytest.mark.tf

ROOT = Path(__file__).resolve().parents[3]
CASES = ROOT.parent / "shared" / "cases"
ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IDS = np.array([[0, 3], [4, 1]], np.int32)
PREDICTION = FreezeOptions(outputs=("prediction",))


def weights(shape: list[int], use_resource: bool, name: str = "w", **options: Any) -> Any:
    v1 = trained.tensorflow().compat.v1
    return v1.get_variable(
        name, shape, initializer=v1.random_normal_initializer(seed=4), use_resource=use_resource, **options
    )


def plain(tf: Any, v1: Any, use_resource: bool) -> Any:
    return tf.matmul(v1.placeholder(tf.float32, [None, 3], name="inputs"), weights([3, 2], use_resource))


def partitioned(tf: Any, v1: Any, use_resource: bool) -> Any:
    w = weights([3, 4], use_resource, partitioner=v1.fixed_size_partitioner(2))
    return tf.matmul(v1.placeholder(tf.float32, [None, 3], name="inputs"), tf.convert_to_tensor(w))


def branch(tf: Any, v1: Any, use_resource: bool) -> Any:
    x = v1.placeholder(tf.float32, [None, 3], name="inputs")
    w, b = weights([3, 3], use_resource), weights([3], use_resource, "b")
    return tf.cond(tf.reduce_sum(x) > 0, lambda: tf.matmul(x, w) + b, lambda: x - b)


def loop(tf: Any, v1: Any, use_resource: bool) -> Any:
    x = v1.placeholder(tf.float32, [None, 3], name="inputs")
    w, b = weights([3, 3], use_resource), weights([3], use_resource, "b")
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, tf.tanh(tf.matmul(y, w) + b)), (0, x))[1]


def branch_in_loop(tf: Any, v1: Any, use_resource: bool) -> Any:
    x = v1.placeholder(tf.float32, [None, 3], name="inputs")
    w = weights([3, 3], use_resource)

    def step(i: Any, y: Any) -> Any:
        return i + 1, tf.cond(tf.equal(i % 2, 0), lambda: tf.matmul(y, w), lambda: y + w[0])

    return tf.while_loop(lambda i, y: i < 3, step, (0, x))[1]


class Cell:
    """An LSTM cell by hand, for those that came with TensorFlow 1 are gone."""

    state_size, output_size = (4, 4), 4

    def __init__(self, kernel: Any, bias: Any) -> None:
        self.kernel, self.bias = kernel, bias

    def __call__(self, x: Any, state: Any, scope: Any = None) -> Any:
        tf = trained.tensorflow()
        cell, hidden = state
        i, j, f, o = tf.split(tf.matmul(tf.concat([x, hidden], 1), self.kernel) + self.bias, 4, 1)
        cell = cell * tf.sigmoid(f) + tf.sigmoid(i) * tf.tanh(j)
        hidden = tf.tanh(cell) * tf.sigmoid(o)
        return hidden, (cell, hidden)

    def zero_state(self, batch: Any, dtype: Any) -> Any:
        tf = trained.tensorflow()
        return tf.zeros([batch, 4], dtype), tf.zeros([batch, 4], dtype)


def cell_of(x: Any, use_resource: bool) -> Cell:
    return Cell(weights([x.shape[-1] + 4, 16], use_resource, "kernel"), weights([16], use_resource, "bias"))


def dynamic_lstm(tf: Any, v1: Any, use_resource: bool) -> Any:
    x = tf.expand_dims(v1.placeholder(tf.float32, [None, 3], name="inputs"), 2)
    cell = cell_of(x, use_resource)
    steps = tf.TensorArray(tf.float32, 3, element_shape=[None, 1]).unstack(tf.transpose(x, [1, 0, 2]))

    def step(i: Any, state: Any, outputs: Any) -> Any:
        output, state = cell(steps.read(i), state)
        return i + 1, state, outputs.write(i, output)

    start = (0, cell.zero_state(tf.shape(x)[0], tf.float32), tf.TensorArray(tf.float32, 3, element_shape=[None, 4]))
    shapes = (tf.TensorShape([]), (tf.TensorShape([None, 4]),) * 2, tf.TensorShape(None))
    outputs = tf.while_loop(lambda i, *_: i < 3, step, start, shape_invariants=shapes)[2]
    return tf.transpose(outputs.stack(), [1, 0, 2])


def static_lstm(tf: Any, v1: Any, use_resource: bool) -> Any:
    x = tf.expand_dims(v1.placeholder(tf.float32, [None, 3], name="inputs"), 2)
    cell = cell_of(x, use_resource)
    state, outputs = cell.zero_state(tf.shape(x)[0], tf.float32), []
    for step in tf.unstack(x, axis=1):
        output, state = cell(step, state)
        outputs.append(output)
    return tf.concat(outputs, 1)


def function(tf: Any, v1: Any, use_resource: bool) -> Any:
    x = v1.placeholder(tf.float32, [None, 3], name="inputs")
    w = weights([3, 3], use_resource)

    def add(y: Any) -> Any:
        with tf.device("/gpu:3"):
            return tf.matmul(y, w) + tf.gather(w, [0])

    inner = tf.function(add, autograph=False)
    outer = tf.function(lambda y: inner(inner(y)) + tf.cast(tf.shape(w)[0], tf.float32), autograph=False)
    return outer(x)


MODELS = (plain, partitioned, branch, loop, branch_in_loop, dynamic_lstm, static_lstm, function)
# References to variables go neither into functions nor into the control flow of TensorFlow 2.
KINDS = [
    *((model, True, flow) for model in MODELS for flow in ("v1", "v2")),
    *((model, False, "v1") for model in MODELS if model is not function),
]


@pytest.mark.parametrize(("model", "use_resource", "flow"), KINDS)
def test_a_live_session_and_its_checkpoint_freeze_alike(
    model: Callable[..., Any], use_resource: bool, flow: str, tmp_path: Path
) -> None:
    with (
        trained.control_flow(flow),
        trained.session() as (tf, v1, session),
    ):
        tf.identity(model(tf, v1, use_resource), name="prediction")
        session.run(v1.global_variables_initializer())
        expected = session.run("prediction:0", {"inputs:0": ROWS})
        live = freeze_session(session, ["prediction"])
        prefix = trained.save(session, tmp_path / "model")
    kept = freeze_model(prefix, PREDICTION)
    np.testing.assert_array_equal(*(trained.score(each, {"inputs": ROWS})[0] for each in (live, kept)))
    assert live.data == kept.data or GraphDef.FromString(kept.data).library.function
    check(kept, {"inputs": ROWS}, expected)
    assert kept.comparison.startswith("compared on 4 random rows: largest difference ")
    assert kept.notes == ()


def check(frozen: FrozenModel, rows: dict[str, Any], expected: Any) -> None:
    """A frozen model has no variables, devices or colocation, and gives what is expected, in a session of ours too."""
    graph = GraphDef.FromString(frozen.data)
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    assert not {node.op for node in nodes} & {*VARIABLES, "ReadVariableOp", "ResourceGather"}
    assert not any(node.device or "_class" in node.attr for node in nodes)
    np.testing.assert_allclose(trained.score(frozen, rows)[0], expected, 1e-5, 1e-6)
    names = [spec.name for spec in frozen.inputs]
    model = load_session(frozen.data, names, [frozen.outputs[0].name], {}, frozen.init_ops)
    found = model.run({name: rows[name.removesuffix(":0")] for name in names})[0]
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


DTYPES = {
    "float64": [[1.5, 2.5]],
    "float16": [[1.5, 2.5]],
    "bfloat16": [[1.5, 2.5]],
    "int8": [[1, -2]],
    "uint8": [[1, 200]],
    "int32": [[1, -2]],
    "int64": [[1, 2**40]],
    "complex64": [[1 + 2j, 3]],
    "bool": [[True, False]],
    "string": [[b"a", b"\xff\x00"]],
}


@pytest.mark.parametrize("use_resource", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_variables_of_every_dtype(dtype: str, use_resource: bool, tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.int32, [None], name="inputs")
        start = tf.constant(DTYPES[dtype], dtype)
        w = v1.get_variable("w", initializer=start, use_resource=use_resource)
        tf.gather(tf.tile(w, [2, 1]), x, name="prediction")
        session.run(v1.global_variables_initializer())
        rows = np.array([1, 0], np.int32)
        expected = session.run("prediction:0", {"inputs:0": rows})
        prefix = trained.save(session, tmp_path / "model")
    frozen = freeze_model(prefix, PREDICTION, {"inputs:0": rows})
    found = trained.score(frozen, {"inputs": rows})[0]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert frozen.comparison.startswith("compared on 2 rows of the sample")
    unsampled = freeze_model(prefix, PREDICTION)
    assert unsampled.data == frozen.data
    assert unsampled.comparison.startswith("not compared: inputs:0 (int32 [?]) takes whole numbers")


def test_variables_without_a_shape(tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        start = v1.placeholder_with_default(np.ones([3, 2], np.float32), None)
        w = v1.get_variable("w", initializer=start, validate_shape=False, use_resource=False)
        tf.matmul(v1.placeholder(tf.float32, [None, 3], name="inputs"), w, name="prediction")
        session.run(v1.global_variables_initializer())
        prefix = trained.save(session, tmp_path / "model")
    check(freeze_model(prefix, PREDICTION), {"inputs": ROWS}, ROWS @ np.ones([3, 2]))


@pytest.mark.parametrize("place", ["graph", "function"])
def test_lookups_by_batch(place: str) -> None:
    table = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    with trained.session() as (tf, v1, session):
        w = v1.get_variable("w", initializer=table, use_resource=True)
        ids = v1.placeholder(tf.int32, [None, 2], name="inputs")

        def find(ids: Any) -> Any:
            return tf.raw_ops.ResourceGather(resource=w.handle, indices=ids, dtype=tf.float32, batch_dims=1)

        found = find(ids) if place == "graph" else tf.function(find, autograph=False)(ids)
        tf.identity(found, name="prediction")
        session.run(v1.global_variables_initializer())
        frozen = freeze_session(session, ["prediction"], rows={"inputs:0": IDS % 4})
    check(frozen, {"inputs": IDS % 4}, np.take_along_axis(table, (IDS % 4)[..., None], 1))


def test_the_oldest_variables(tmp_path: Path) -> None:
    with trained.session() as (_, v1, session):
        trained.regression(use_resource=False)
        session.run(v1.global_variables_initializer())
        trained.train(session, 3)
        expected = session.run("prediction:0", {"inputs:0": trained.ROWS})
        prefix = trained.save(session, tmp_path / "model", write_version=1)

    def age(meta: Any) -> None:
        for node in meta.graph_def.node:
            node.op = {"VariableV2": "Variable"}.get(node.op, node.op)

    check(freeze_model(trained.edit_meta(prefix, age), PREDICTION), {"inputs": trained.ROWS}, expected)


def test_shadows_of_variables_that_moved_along(tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        trained.regression()
        average = v1.train.ExponentialMovingAverage(0.5)
        apply = average.apply(v1.trainable_variables())
        session.run(v1.global_variables_initializer())
        for _ in range(5):
            trained.train(session, 1)
            session.run(apply)
        w, b = (session.run(average.average(each)) for each in v1.trainable_variables())
        prefix = trained.save(session, tmp_path / "all")
        saver = v1.train.Saver(average.variables_to_restore())
        meta = saver.export_meta_graph()
    Path(f"{prefix}.meta").write_bytes(meta.SerializeToString())
    check(freeze_model(prefix, PREDICTION), {"inputs": trained.ROWS}, trained.ROWS @ w + b)


def test_a_live_session_stays_as_it_is() -> None:
    with trained.session() as (tf, v1, session):
        trained.regression()
        session.run(v1.global_variables_initializer())
        before = session.graph.as_graph_def().SerializeToString(deterministic=True)
        values = session.run(v1.global_variables())
        session.graph.finalize()
        frozen = freeze_session(session, ["score=prediction"], FreezeOptions(inputs=("rows=inputs",)))
        assert session.graph.as_graph_def().SerializeToString(deterministic=True) == before
        np.testing.assert_equal(session.run(v1.global_variables()), values)
    assert [str(spec) for spec in (*frozen.inputs, *frozen.outputs)] == [
        "rows:0 (float32 [?, 2])",
        "score:0 (float32 [?, 1])",
    ]


def test_a_live_session_without_values() -> None:
    with trained.session() as (_, _, session):
        trained.regression()
        with pytest.raises(GraphError, match="^this session: a variable has no value; initialise or restore it first"):
            freeze_session(session, ["prediction"])


def test_a_finalized_session_whose_variable_nothing_reads() -> None:
    with trained.session() as (tf, v1, session):
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[3, 2], shared_name="w")
        session.run(tf.raw_ops.AssignVariableOp(resource=handle, value=tf.ones([3, 2])))
        x = v1.placeholder(tf.int32, [None], name="inputs")
        tf.raw_ops.ResourceGather(resource=handle, indices=x, dtype=tf.float32, name="prediction")
        session.graph.finalize()
        with pytest.raises(GraphError, match="a variable cannot be read: .*finalized.*; save a checkpoint, and freeze"):
            freeze_session(session, ["prediction"])


def test_reading_a_live_session_runs_no_update() -> None:
    with trained.session() as (tf, v1, session):
        w = v1.get_variable("w", [3], initializer=v1.zeros_initializer(), use_resource=True)
        read = w.op.outputs[0].consumers()
        with v1.control_dependencies([v1.assign_add(w, [1.0, 1.0, 1.0])]):
            tf.raw_ops.ReadVariableOp(resource=w.handle, dtype=tf.float32)
        tf.add(v1.placeholder(tf.float32, [None, 3], name="inputs"), w, name="prediction")
        session.run(v1.global_variables_initializer())
        freeze_session(session, ["prediction"])
        assert read
        np.testing.assert_array_equal(session.run(w), [0, 0, 0])


WORDS = np.array([b"a", b"c", b"zz", b"b"], object)


def old_table(tf: Any, v1: Any) -> tuple[Any, Any]:
    """A table known by a reference to its name, as before TensorFlow 1.3."""
    table = tf.raw_ops.HashTable(key_dtype=tf.string, value_dtype=tf.int64, name="table")
    words, ids = tf.constant(["a", "b", "c"]), tf.constant([7, 8, 9], tf.int64)
    fill = tf.raw_ops.InitializeTable(table_handle=table, keys=words, values=ids, name="fill_it")
    return table, fill


def table(tf: Any, v1: Any) -> tuple[Any, Any]:
    handle = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table", shared_name="t")
    words, ids = tf.constant(["a", "b", "c"]), tf.constant([7, 8, 9], tf.int64)
    fill = tf.raw_ops.InitializeTableV2(table_handle=handle, keys=words, values=ids, name="fill_it")
    return handle, fill


def old_mutable_table(tf: Any, v1: Any) -> tuple[Any, Any]:
    table = tf.raw_ops.MutableHashTable(key_dtype=tf.string, value_dtype=tf.int64, name="table")
    words, ids = tf.constant(["c", "a", "b"]), tf.constant([9, 7, 8], tf.int64)
    return table, tf.raw_ops.LookupTableInsert(table_handle=table, keys=words, values=ids, name="fill_it")


def mutable_table(tf: Any, v1: Any) -> tuple[Any, Any]:
    handle = tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table", shared_name="t")
    words, ids = tf.constant(["c", "a", "b"]), tf.constant([9, 7, 8], tf.int64)
    return handle, tf.raw_ops.LookupTableInsertV2(table_handle=handle, keys=words, values=ids, name="fill_it")


TABLES = pytest.mark.parametrize("make", [old_table, table, old_mutable_table, mutable_table])


def look_up(tf: Any, v1: Any, handle: Any) -> None:
    words = v1.placeholder(tf.string, [None], name="inputs")
    find = tf.raw_ops.LookupTableFind if handle.dtype.base_dtype == tf.string else tf.raw_ops.LookupTableFindV2
    found = find(table_handle=handle, keys=words, default_value=tf.constant(-1, tf.int64))
    tf.identity(found, name="prediction")


@TABLES
def test_a_lookup_table_of_a_live_session(make: Callable[..., Any]) -> None:
    with trained.session() as (tf, v1, session):
        handle, fill = make(tf, v1)
        look_up(tf, v1, handle)
        session.run(fill)
        frozen = freeze_session(session, ["prediction"], rows={"inputs:0": WORDS})
    check(frozen, {"inputs": WORDS}, [7, 9, -1, 8])
    is_kept = make in (old_table, table)
    assert frozen.init_ops == (("fill_it",) if is_kept else ("table/fill",))
    assert frozen.comparison.startswith("compared on 4 rows of the sample")


@TABLES
def test_a_frozen_graph_with_a_table_freezes_again(make: Callable[..., Any], tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        handle, fill = make(tf, v1)
        look_up(tf, v1, handle)
        session.run(fill)
        frozen = freeze_session(session, ["prediction"])
    (tmp_path / "model.pb").write_bytes(frozen.data)
    again = freeze_model(str(tmp_path / "model.pb"), PREDICTION, {"inputs:0": WORDS})
    assert (again.data, again.init_ops) == (frozen.data, frozen.init_ops)
    check(again, {"inputs": WORDS}, [7, 9, -1, 8])


def test_a_lookup_table_that_nothing_filled() -> None:
    with trained.session() as (tf, v1, session):
        look_up(tf, v1, mutable_table(tf, v1)[0])
        frozen = freeze_session(session, ["prediction"], rows={"inputs:0": WORDS})  # it is empty, and that is a state
        check(frozen, {"inputs": WORDS}, [-1, -1, -1, -1])
    with trained.session() as (tf, v1, session):
        look_up(tf, v1, tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, name="table"))
        with pytest.raises(GraphError, match="^this session: nothing in it fills the lookup table table; run its init"):
            freeze_session(session, ["prediction"])


def test_tables_of_a_checkpoint(tmp_path: Path) -> None:
    """One has its contents in the graph, one in the checkpoint."""
    with trained.session() as (tf, v1, session):
        fixed = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), -1.0)
        changing = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, -1.0)
        dense = tf.lookup.experimental.DenseHashTable(tf.string, tf.float32, -1.0, empty_key="", deleted_key="?")
        words = v1.placeholder(tf.string, [None], name="inputs")
        found = [each.lookup(words) for each in (fixed, changing, dense)]
        tf.stack(found, 1, name="prediction")
        session.run(v1.tables_initializer())
        session.run([changing.insert(["c", "a"], [4.0, 3.0]), dense.insert(["b", "zz"], [6.0, 5.0])])
        expected = session.run("prediction:0", {words: WORDS})
        session.run(v1.get_variable("w", [1]).initializer)
        prefix = trained.save(session, tmp_path / "model")
    frozen = freeze_model(prefix, PREDICTION, {"inputs:0": WORDS})
    check(frozen, {"inputs": WORDS}, expected)
    assert len(frozen.init_ops) == 3
    assert frozen.data == freeze_model(prefix, PREDICTION).data


def test_a_table_that_the_checkpoint_does_not_hold(tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        handle, fill = mutable_table(tf, v1)
        look_up(tf, v1, handle)
        session.run([fill, v1.get_variable("w", [1]).initializer])
        prefix = trained.save(session, tmp_path / "model")
    frozen = freeze_model(prefix, PREDICTION, {"inputs:0": WORDS})  # but its graph does
    check(frozen, {"inputs": WORDS}, [7, 9, -1, 8])
    assert frozen.init_ops == ("fill_it",)

    def take_away(meta: Any) -> None:
        kept = [node for node in meta.graph_def.node if node.name != "fill_it"]
        del meta.graph_def.node[:]
        meta.graph_def.node.extend(kept)

    with pytest.raises(GraphError, match=r"nothing in it fills the lookup table table \(MutableHashTableV2\)"):
        freeze_model(trained.edit_meta(prefix, take_away), PREDICTION)


def test_a_table_read_from_a_file_of_the_trainer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\nb\nc\n")
    with trained.session() as (tf, v1, session):
        reader = tf.lookup.TextFileInitializer(
            str(tmp_path / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )  # fmt: skip
        words = v1.placeholder(tf.string, [None], name="inputs")
        tf.identity(tf.lookup.StaticHashTable(reader, -1).lookup(words), name="prediction")
        session.run([v1.get_variable("w", [1]).initializer, v1.tables_initializer()])
        prefix = trained.save(session, tmp_path / "model")
        live = freeze_session(session, ["prediction"], rows={"inputs:0": WORDS})
    check(live, {"inputs": WORDS}, [0, 2, -1, 1])  # the session read it already
    with pytest.raises(GraphError, match=r"InitializeTableFromTextFileV2\) reads files; .*--allow-op Init"):
        freeze_model(prefix, PREDICTION)
    allowed = FreezeOptions(outputs=("prediction",), allow_ops=("InitializeTableFromTextFileV2",))
    frozen = freeze_model(prefix, allowed)
    (tmp_path / "words.txt").unlink()
    check(frozen, {"inputs": WORDS}, [0, 2, -1, 1])


@pytest.fixture(scope="module")
def session_with_all() -> Any:
    """A graph with a bit of everything, in a session that stays open."""
    tf = trained.tensorflow()
    v1 = tf.compat.v1
    session = v1.Session(graph=tf.Graph(), config=v1.ConfigProto(allow_soft_placement=True))
    with session.graph.as_default():
        x = v1.placeholder(tf.float32, [None, 3], name="x")
        keep = v1.placeholder(tf.float32, [], name="keep")
        with tf.device("/gpu:1"):
            y = tf.multiply(tf.matmul(x, weights([3, 2], True)), keep, name="y")
        tf.split(y, 2, axis=1, name="halves")
        tf.identity(y, name="prediction/more")
        tf.add(y, 1.0, name="inputs")
        tf.add(y, 2.0, name="outputs")
        session.run(v1.global_variables_initializer())
    yield session
    session.close()


def test_ports_get_the_names_that_were_asked_for(session_with_all: Any) -> None:
    """Even where nodes on the way have such names."""
    wanted = ["inputs_plus=inputs", "outputs=prediction/more:0", "halves:1", "left=halves"]
    frozen = freeze_session(session_with_all, wanted, FreezeOptions(inputs=("inputs=x",)))
    assert [spec.name for spec in frozen.inputs] == ["inputs:0", "keep:0"]
    assert [spec.name for spec in frozen.outputs] == ["inputs_plus:0", "outputs:0", "halves_1:0", "left:0"]
    rows = {"inputs": ROWS, "keep": np.float32(0.5)}
    expected = session_with_all.run(
        ["inputs:0", "y:0", "halves:1", "halves:0"], {"x:0": ROWS, "keep:0": np.float32(0.5)}
    )
    for a, b in zip(trained.score(frozen, rows), expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-6)
    names = [node.name for node in GraphDef.FromString(frozen.data).node]
    assert len(names) == len(set(names))
    assert "labels" not in names


def test_a_constant_goes_into_the_graph(session_with_all: Any) -> None:
    frozen = freeze_session(session_with_all, ["y"], FreezeOptions(constants={"keep": 0.5}))
    assert [str(spec) for spec in frozen.inputs] == ["x:0 (float32 [?, 3])"]
    expected = session_with_all.run("y:0", {"x:0": ROWS, "keep:0": 0.5})
    np.testing.assert_allclose(trained.score(frozen, {"x": ROWS})[0], expected, 1e-6)
    for value in ("much", [0.5], None):
        with pytest.raises(GraphError, match="^this session: --set keep:0: "):
            freeze_session(session_with_all, ["y"], FreezeOptions(constants={"keep": value}))


def test_an_inner_tensor_can_be_an_input(session_with_all: Any) -> None:
    frozen = freeze_session(session_with_all, ["inputs_plus=inputs"], FreezeOptions(inputs=("y=y:0",)))
    rows = ROWS[:, :2]
    assert [spec.name for spec in frozen.inputs] == ["y:0"]
    np.testing.assert_allclose(trained.score(frozen, {"y": rows})[0], rows + 1)


def test_an_input_can_be_an_output(session_with_all: Any) -> None:
    frozen = freeze_session(session_with_all, ["x", "again=x"])
    a, b = trained.score(frozen, {"x": ROWS})
    np.testing.assert_array_equal(a, ROWS)
    np.testing.assert_array_equal(b, ROWS)


@pytest.mark.parametrize(
    ("outputs", "inputs", "message"),
    [
        (["z"], (), r"^this session has no tensor z to freeze to \(--outputs.*\); what comes near is .*"),
        (["y"], ("rows=z",), "^this session has no z:0"),
        (["y"], ("rows",), "^this session: --inputs takes NEW=TENSOR, as in .*, found rows$"),
        (["y"], ("rows=x", "r=x:0"), "--inputs names x:0 twice, rows and r"),
        (["keep"], ("rows=x",), "the outputs do not depend on x:0"),
        (["a=y", "a=inputs"], (), "two ports would be called a .y:0 and inputs:0."),
        (["y"], ("y=x",), "two ports would be called y .x:0 and y:0."),
        (["a b=y"], (), "a b is no name for a tensor"),
        (["halves:7"], (), "^this session: "),
        ([], (), "--outputs is missing: which tensors to freeze to?"),
    ],
)
def test_ports_that_cannot_be(session_with_all: Any, outputs: list[str], inputs: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        freeze_session(session_with_all, outputs, FreezeOptions(inputs=inputs))


def test_caller_rows_that_do_not_fit(session_with_all: Any) -> None:
    for rows, message in (
        ({"x:0": ROWS}, "rows to compare on lack keep:0; the model takes x:0"),
        ({"x:0": ROWS[:, :2], "keep:0": np.float32(1)}, "the model refuses the rows of --sample"),
    ):
        with pytest.raises(GraphError, match=message):
            freeze_session(session_with_all, ["y"], rows=rows)


def test_a_graph_whose_rows_come_from_a_pipeline() -> None:
    with trained.session() as (tf, v1, session):
        rows = tf.raw_ops.IteratorGetNext(
            iterator=tf.raw_ops.Iterator(
                shared_name="", container="", output_types=[tf.float32], output_shapes=[[None, 3]]
            ),
            output_types=[tf.float32], output_shapes=[[None, 3]], name="rows",
        )  # fmt: skip
        tf.matmul(rows[0], weights([3, 2], True), name="prediction")
        session.run(v1.global_variables_initializer())
        with pytest.raises(GraphError, match=r"rows come from rows \(IteratorGetNext\); .* --inputs inputs=rows:0"):
            freeze_session(session, ["prediction"])
        frozen = freeze_session(session, ["prediction"], FreezeOptions(inputs=("inputs=rows:0",)))
        w = session.run("w/Read/ReadVariableOp:0")
    check(frozen, {"inputs": ROWS}, ROWS @ w)


def test_a_graph_that_is_frozen_stays_what_it_is(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "model.pb", graphs.linear(3, 2))
    frozen = freeze_model(path, PREDICTION)
    again = tmp_path / "again.pb"
    again.write_bytes(frozen.data)
    assert freeze_model(str(again), PREDICTION).data == frozen.data
    with pytest.raises(GraphError, match=r"--outputs is missing.*Likely ones are prediction:0"):
        freeze_model(path, FreezeOptions())


def test_a_graph_with_variables_and_no_values(tmp_path: Path) -> None:
    with trained.session() as (_, _, session):
        trained.regression()
        (tmp_path / "model.pb").write_bytes(session.graph.as_graph_def().SerializeToString())
    with pytest.raises(
        GraphError, match=r"model.pb holds variables without values \(b, VarHandleOp\): freeze the check"
    ):
        freeze_model(str(tmp_path / "model.pb"), PREDICTION)


@pytest.mark.parametrize("sizes", [[2**29 + 1], [2**28, 2**28]], ids=["one", "the sum"])
def test_past_2_gib_is_refused_before_anything_is_allocated(sizes: list[int], tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None], name="inputs")
        small = v1.get_variable("small", [1])
        session.run(small.initializer)
        prefix = trained.save(session, tmp_path / "model")
        rows = [tf.gather(v1.get_variable(f"w{i}", [size]), [0]) for i, size in enumerate(sizes)]
        tf.add_n([x, *rows], name="prediction")
        with pytest.raises(GraphError, match="^this session: frozen, this would be 2,147,48.* ends at 2 GiB"):
            freeze_session(session, ["prediction"])
        v1.train.export_meta_graph(f"{prefix}.meta")
    with pytest.raises(GraphError, match=f"^{prefix}: frozen, .* ends at 2 GiB .*freeze the model in parts"):
        freeze_model(prefix, PREDICTION)


def test_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        tf.identity(branch_in_loop(tf, v1, True))
        table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        words = v1.placeholder(tf.string, [None], name="words")
        tf.identity(table.lookup(words), name="ids")
        session.run(v1.global_variables_initializer())
        session.run(table.insert([str(i) for i in range(100)], list(range(100))))
        prefix = trained.save(session, tmp_path / "model")
    code = f"""
import sys
from engine.model.freezing.freeze import freeze_model
from engine.model.freezing.plan import FreezeOptions
print(freeze_model({prefix!r}, FreezeOptions(outputs=("Identity", "ids"))).sha256)
"""
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(1)
    }
    hashes |= {freeze_model(prefix, FreezeOptions(outputs=("Identity", "ids"))).sha256 for _ in range(2)}
    assert len(hashes) == 1


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside this checkout")
def test_a_graph_of_others_that_assigns_whenever_it_runs() -> None:
    path = str(CASES / "tf2onnx_unfrozen_assign" / "model.pb")
    with pytest.raises(GraphError, match="changes the variable Variable whenever the graph runs"):
        freeze_model(path, FreezeOptions(outputs=("output",)))


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not beside this checkout")
@pytest.mark.parametrize(
    ("case", "comparison"),
    [
        ("tf2onnx_lstm", "compared on 4 random rows: largest difference 0"),
        ("tf2onnx_gru_keep_prob_unfed", "not compared: the model refuses random input"),  # the file says no shape
        ("dl4j_lstm_mnist", "compared on 4 random rows: largest difference 0"),
        ("mlnet_types_identity", "compared on 4 random rows: largest difference 0"),
    ],
)
def test_frozen_graphs_of_others_stay_what_they_are(case: str, comparison: str) -> None:
    path = CASES / case / "model.pb"
    about = next(each for each in json.loads((CASES / "index.json").read_text()) if each["case"] == case)
    frozen = freeze_model(str(path), FreezeOptions(outputs=tuple(each["name"] for each in about["outputs"])))
    assert frozen.notes == ()
    assert frozen.comparison.startswith(comparison)
    assert {spec.name for spec in frozen.inputs} <= {each["name"] for each in about["placeholders"]}
    if (path.parent / "expected.npz").exists():
        rows = {name.removesuffix(":0"): value for name, value in np.load(path.parent / "inputs.npz").items()}
        expected = np.load(path.parent / "expected.npz")
        for spec, value in zip(frozen.outputs, trained.score(frozen, rows), strict=True):
            np.testing.assert_allclose(value, expected[spec.name], about["rtol"], about["atol"])
