from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import DataError, GraphError
from engine.model.closure import prune_graph
from engine.model.freezing.freeze import FrozenModel, freeze_model, freeze_session
from engine.model.freezing.plan import FreezeOptions
from engine.model.restoring import variable_values
from engine.model.session import load_session

pytestmark = pytest.mark.tf

EPSILON = 1e-3
PIXELS = np.random.default_rng(1).normal(2.0, 3.0, size=(6, 2, 2, 3)).astype(np.float32)
ROWS = np.random.default_rng(2).normal(2.0, 3.0, size=(6, 3)).astype(np.float32)


def run(frozen: FrozenModel, **feeds: Any) -> np.ndarray:
    return trained.score(frozen, feeds)[0]


def operations(frozen: FrozenModel) -> list[str]:
    return [node.op for node in GraphDef.FromString(frozen.data).node]


def fused(x: Any, averages: list[Any], version: str, is_training: bool = True) -> Any:
    tf = trained.tensorflow()
    gamma, beta, mean, variance = averages
    empty = tf.constant([])
    norm = getattr(tf.raw_ops, f"FusedBatchNorm{version}")
    return norm(
        x=x, scale=gamma, offset=beta, mean=empty if is_training else mean,
        variance=empty if is_training else variance, epsilon=EPSILON, is_training=is_training, name="FusedBatchNorm",
    )  # fmt: skip


RESOURCE = pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])


@RESOURCE
@pytest.mark.parametrize("version", ["", "V2", "V3"])
@pytest.mark.parametrize("is_updated", [False, True], ids=["bare", "updated on the way"])
def test_a_fused_batch_norm_in_training_form_takes_its_averages(
    use_resource: bool, version: str, is_updated: bool
) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 2, 2, 3], name="inputs")
        averages = trained.moving_averages("bn", 3, use_resource)
        with tf.name_scope("bn"):
            y, mean, variance = fused(x, averages, version)[:3]
            updates = trained.update_averages(averages[2:], [mean, variance])
        with v1.control_dependencies(updates if is_updated else []):
            tf.identity(y, name="prediction")
        session.run(v1.global_variables_initializer())
        values = session.run([each.read_value() for each in averages])
        frozen = freeze_session(session, ["prediction"])
    np.testing.assert_allclose(run(frozen, inputs=PIXELS), trained.normalised(PIXELS, values, EPSILON), 1e-5, 1e-5)
    assert frozen.notes[0] == "1 batch norms in training form take their moving averages now"
    assert len(frozen.notes) == 1 + is_updated
    assert "AssignSub" not in operations(frozen)


@RESOURCE
@pytest.mark.parametrize("keepdims", [False, True])
def test_a_batch_norm_of_plain_operations_takes_its_averages(use_resource: bool, keepdims: bool) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        gamma, beta, *averages = trained.moving_averages("bn", 3, use_resource)
        with tf.name_scope("bn"):
            axes = tf.constant([0], tf.int64) if keepdims else [0]
            batch = tf.nn.moments(x, axes, keepdims=keepdims, name="moments")
            updates = trained.update_averages(averages, [tf.reshape(each, [3]) for each in batch])
            with v1.control_dependencies(updates):
                y = tf.nn.batch_normalization(x, *batch, beta, gamma, EPSILON)
        tf.identity(y, name="prediction")
        session.run(v1.global_variables_initializer())
        values = session.run([each.read_value() for each in (gamma, beta, *averages)])
        frozen = freeze_session(session, ["prediction"])
    np.testing.assert_allclose(run(frozen, inputs=ROWS), trained.normalised(ROWS, values, EPSILON), 1e-5, 1e-5)
    assert len(frozen.notes) == 2


@pytest.mark.parametrize("axes", [np.array([1], np.int32), np.array([1], np.int64), np.array([-1])])
def test_a_layer_norm_is_left_alone(axes: np.ndarray) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        gamma, beta, *_ = trained.moving_averages("norm", 3, use_resource=True)
        with tf.name_scope("norm"):
            batch = tf.nn.moments(x, tf.constant(axes), keepdims=True, name="moments")
            tf.identity(tf.nn.batch_normalization(x, *batch, beta, gamma, EPSILON), name="prediction")
        session.run(v1.global_variables_initializer())
        expected = session.run("norm/prediction:0", {"inputs:0": ROWS})
        frozen = freeze_session(session, ["prediction=norm/prediction"])
    np.testing.assert_allclose(run(frozen, inputs=ROWS), expected, 1e-6)
    assert frozen.notes == ()


@pytest.mark.parametrize("form", ["fused", "plain"])
def test_a_batch_norm_without_averages_is_refused(form: str) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 2, 2, 3], name="inputs")
        gamma, beta, *_ = trained.moving_averages("elsewhere", 3, use_resource=True)
        with tf.name_scope("bn"):
            if form == "fused":
                ones = tf.ones([3])
                y = fused(x, [ones, ones, None, None], "V3")[0]
            else:
                batch = tf.nn.moments(x, [0, 1, 2], name="moments")
                y = tf.nn.batch_normalization(x, *batch, beta, gamma, EPSILON)
        tf.identity(y, name="prediction")
        session.run(v1.global_variables_initializer())
        with pytest.raises(GraphError, match="batch norm in training form.*moving averages are not in the graph; save"):
            freeze_session(session, ["prediction"])


def switched(session: Any, tf: Any, v1: Any, use_resource: bool, is_training: Any) -> list[np.ndarray]:
    """A batch norm that a predicate switches, updates of its averages inside of the branch, as many wrote it."""
    x = v1.placeholder(tf.float32, [None, 3], name="inputs")
    gamma, beta, *averages = trained.moving_averages("bn", 3, use_resource)
    with tf.name_scope("bn"):
        batch = tf.nn.moments(x, [0], name="moments")

        def update() -> list[Any]:
            with v1.control_dependencies(trained.update_averages(averages, batch)):
                return [tf.identity(each) for each in batch]

        chosen = tf.cond(is_training, update, lambda: [tf.identity(each) for each in averages])
        y = tf.nn.batch_normalization(x, *chosen, beta, gamma, EPSILON)
    tf.identity(y, name="prediction")
    session.run(v1.global_variables_initializer())
    return session.run([each.read_value() for each in (gamma, beta, *averages)])


# The control flow of TensorFlow 2 takes no references into a branch.
@pytest.mark.parametrize(("use_resource", "control_flow"), [(False, "v1"), (True, "v1"), (True, "v2")])
def test_a_switched_batch_norm_stays_switched(use_resource: bool, control_flow: str) -> None:
    with trained.control_flow(control_flow), trained.session() as opened:
        tf, v1, session = opened
        is_training = v1.placeholder(tf.bool, [], name="is_training")
        values = switched(session, tf, v1, use_resource, is_training)
        frozen = freeze_session(session, ["prediction"])
        fixed = freeze_session(session, ["prediction"], FreezeOptions(constants={"is_training": False}))
    expected = trained.normalised(ROWS, values, EPSILON)
    assert [spec.name for spec in frozen.inputs] == ["is_training:0", "inputs:0"]
    assert [spec.name for spec in fixed.inputs] == ["inputs:0"]
    np.testing.assert_allclose(run(frozen, inputs=ROWS, is_training=False), expected, 1e-5, 1e-5)
    np.testing.assert_allclose(run(fixed, inputs=ROWS), expected, 1e-5, 1e-5)
    batch = [*values[:2], ROWS.mean(0), ROWS.var(0)]
    trained_form = trained.normalised(ROWS, batch, EPSILON)
    np.testing.assert_allclose(run(frozen, inputs=ROWS, is_training=True), trained_form, 1e-4, 1e-4)
    assert frozen.notes == ("2 updates of moving averages no longer change anything",)
    assert "compared on 4 random rows" in frozen.comparison


@RESOURCE
@pytest.mark.parametrize("default", [True, None])
def test_a_switch_that_is_always_on_counts_as_none(use_resource: bool, default: bool | None) -> None:
    with trained.control_flow("v1"), trained.session() as (tf, v1, session):
        is_training = v1.placeholder(tf.bool, [], name="is_training")
        if default is not None:
            is_training = v1.placeholder_with_default(default, [], name="is_trained")
        with tf.name_scope("bn"):
            x = v1.placeholder(tf.float32, [None, 2, 2, 3], name="inputs")
        averages = trained.moving_averages("bn", 3, use_resource)
        with tf.name_scope("bn"):
            y = tf.cond(
                is_training, lambda: fused(x, averages, "V3")[0], lambda: fused(x, averages, "V3", is_training=False)[0]
            )
        tf.identity(y, name="prediction")
        session.run(v1.global_variables_initializer())
        values = session.run([each.read_value() for each in averages])
        frozen = freeze_session(session, ["prediction"], FreezeOptions(inputs=("inputs=bn/inputs",)))
    rows = {"inputs": PIXELS} | ({} if default else {"is_training": False})
    np.testing.assert_allclose(run(frozen, **rows), trained.normalised(PIXELS, values, EPSILON), 1e-5, 1e-5)
    assert len(frozen.notes) == bool(default)
    if not default:
        batch = [*values[:2], PIXELS.mean((0, 1, 2)), PIXELS.var((0, 1, 2))]
        found = run(frozen, inputs=PIXELS, is_training=True)
        np.testing.assert_allclose(found, trained.normalised(PIXELS, batch, EPSILON), 1e-3, 1e-3)


@RESOURCE
def test_averages_that_a_recipe_of_old_made(use_resource: bool) -> None:
    """tf.train.ExponentialMovingAverage of the batch's moments, inside of a condition."""
    with trained.control_flow("v1"), trained.session() as (tf, v1, session):
        is_training = v1.placeholder(tf.bool, [], name="is_training")
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        v1.get_variable_scope().set_use_resource(use_resource)
        with v1.variable_scope("bn"):
            batch = tf.nn.moments(x, [0], name="moments")
            average = v1.train.ExponentialMovingAverage(0.5)

            def update() -> list[Any]:
                with v1.control_dependencies([average.apply(batch)]):
                    return [tf.identity(each) for each in batch]

            chosen = tf.cond(is_training, update, lambda: [average.average(each) for each in batch])
            y = tf.nn.batch_normalization(x, *chosen, None, None, EPSILON)
        tf.identity(y, name="prediction")
        session.run(v1.global_variables_initializer())
        for _ in range(3):
            session.run("prediction:0", {"inputs:0": ROWS, "is_training:0": True})
        averages = session.run([average.average(each) for each in batch])
        frozen = freeze_session(session, ["prediction"])
    expected = trained.normalised(ROWS, [np.ones(3), np.zeros(3), *averages], EPSILON)
    np.testing.assert_allclose(run(frozen, inputs=ROWS, is_training=False), expected, 1e-5, 1e-5)
    assert frozen.notes == ("2 updates of moving averages no longer change anything",)


def test_a_batch_norm_in_a_function_is_refused() -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 2, 2, 3], name="inputs")
        averages = trained.moving_averages("bn", 3, use_resource=True)
        inner = tf.function(lambda x: fused(x, averages, "V3")[0], autograph=False)
        tf.identity(tf.function(lambda x: inner(x) + 1.0, autograph=False)(x), name="prediction")
        session.run(v1.global_variables_initializer())
        with pytest.raises(
            GraphError, match="FusedBatchNormV3. is a batch norm in training form, .* in function .*ambda"
        ):
            freeze_session(session, ["prediction"])


def test_dropout_in_a_function_is_left_out() -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        for form in (old_dropout, cast_dropout, select_dropout, today):
            inner = tf.function(lambda x, form=form: form(tf, x, 0.4), autograph=False)
            x = tf.function(lambda x, inner=inner: inner(x) * 2.0, autograph=False)(x)
        tf.identity(x, name="prediction")
        frozen = freeze_session(session, ["prediction"])
    np.testing.assert_allclose(run(frozen, inputs=ROWS), ROWS * 16, 1e-6)
    assert frozen.notes == ("4 dropouts of a fixed rate were left out",)


@pytest.mark.parametrize("flow", ["v1", "v2"])
def test_dropout_that_is_switched_stays_switched(flow: str) -> None:
    with (
        trained.control_flow(flow),
        trained.session() as (tf, v1, session),
    ):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        is_training = v1.placeholder(tf.bool, [], name="is_training")
        tf.identity(tf.cond(is_training, lambda: today(tf, x, 0.4), lambda: x), name="prediction")
        frozen = freeze_session(session, ["prediction"])
    assert frozen.notes == ()
    np.testing.assert_allclose(run(frozen, inputs=ROWS, is_training=False), ROWS, 1e-6)
    assert (run(frozen, inputs=ROWS + 10, is_training=True) == 0).any()


def test_what_is_random_by_design_stays_random() -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        tf.add(x, v1.random_normal(tf.shape(x)), name="prediction")
        frozen = freeze_session(session, ["prediction"])
    assert frozen.notes == ()
    assert frozen.comparison.startswith("not compared: the model gives other values each time")


def old_dropout(tf: Any, x: Any, keep: Any) -> Any:
    """As TensorFlow 1.0 to 1.12 wrote it."""
    with tf.name_scope("dropout"):
        uniform = tf.compat.v1.random_uniform(tf.shape(x), 0.0, 1.0)
        return tf.multiply(tf.divide(x, keep), tf.floor(tf.add(keep, uniform)), name="mul")


def cast_dropout(tf: Any, x: Any, rate: Any) -> Any:
    """As TensorFlow 1.13 to 2.3 wrote it."""
    with tf.name_scope("dropout"):
        kept = tf.greater_equal(tf.compat.v1.random_uniform(tf.shape(x), 0.0, 1.0), rate)
        return tf.multiply(tf.multiply(x, 1.0 / (1.0 - rate)), tf.cast(kept, tf.float32), name="mul_1")


def select_dropout(tf: Any, x: Any, rate: Any) -> Any:
    """As TensorFlow writes it since 2.4."""
    with tf.name_scope("dropout"):
        kept = tf.greater_equal(tf.compat.v1.random_uniform(tf.shape(x), 0.0, 1.0), rate)
        return tf.where(kept, tf.multiply(x, 1.0 / (1.0 - rate)), 0.0)


def today(tf: Any, x: Any, rate: Any) -> Any:
    return tf.nn.dropout(x, rate=rate)


FORMS = pytest.mark.parametrize("form", [old_dropout, cast_dropout, select_dropout, today])


@FORMS
@pytest.mark.parametrize("kind", ["number", "constant"])
def test_dropout_of_a_fixed_rate_is_left_out(form: Callable[..., Any], kind: str) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        rate = 0.4 if kind == "number" else tf.constant(0.4, name="rate")
        tf.multiply(form(tf, tf.add(x, 1.0), rate), 3.0, name="prediction")
        frozen = freeze_session(session, ["prediction"])
    np.testing.assert_allclose(run(frozen, inputs=ROWS), (ROWS + 1) * 3, 1e-6)
    assert frozen.notes == ("1 dropout of a fixed rate was left out",)
    assert "RandomUniform" not in operations(frozen)


@FORMS
def test_dropout_whose_rate_is_fed_can_be_set(form: Callable[..., Any]) -> None:
    off = 1.0 if form is old_dropout else 0.0
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None, 3], name="inputs")
        rate = v1.placeholder(tf.float32, [], name="rate")
        tf.multiply(form(tf, tf.add(x, 1.0), rate), 3.0, name="prediction")
        frozen = freeze_session(session, ["prediction"])
        fixed = freeze_session(session, ["prediction"], FreezeOptions(constants={"rate:0": off}))
    assert frozen.notes == ()
    assert fixed.notes == ("1 dropout of a fixed rate was left out",)
    np.testing.assert_allclose(run(frozen, inputs=ROWS, rate=np.float32(off)), (ROWS + 1) * 3, 1e-6)
    np.testing.assert_allclose(run(fixed, inputs=ROWS), (ROWS + 1) * 3, 1e-6)


@RESOURCE
def test_what_changes_another_variable_is_refused(use_resource: bool) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None], name="inputs")
        counter = v1.get_variable("counter", [], initializer=v1.zeros_initializer(), use_resource=use_resource)
        with v1.control_dependencies([v1.assign_add(counter, 1.0)]):
            tf.identity(x, name="prediction")
        session.run(v1.global_variables_initializer())
        with pytest.raises(GraphError, match="AssignAdd.*changes the variable counter whenever the graph runs.*--outp"):
            freeze_session(session, ["prediction"])


@RESOURCE
def test_what_scatters_into_a_variable_is_refused(use_resource: bool) -> None:
    with trained.session() as (tf, v1, session):
        x = v1.placeholder(tf.float32, [None], name="inputs")
        memory = v1.get_variable("memory", [4], use_resource=use_resource)
        with v1.control_dependencies([v1.scatter_update(memory, [0], [1.0])]):
            tf.identity(x, name="prediction")
        session.run(v1.global_variables_initializer())
        with pytest.raises(GraphError, match="Scatter.*takes the variable memory for more than its value"):
            freeze_session(session, ["prediction"])


def frozen_badly(session: Any, output: str) -> bytes:
    """Constants in the place of variables, and nothing else changed, as the first tools froze."""
    tf = trained.tensorflow()
    graph_def = session.graph.as_graph_def()
    variables = [node for node in graph_def.node if node.op in ("VariableV2", "VarHandleOp")]
    values = variable_values(tf, session, [node.name for node in variables])
    for node in variables:
        dtype = node.attr["dtype"].type
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = dtype
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values[node.name], dtype))
    return bytes(prune_graph(graph_def, [], [output]).SerializeToString())


def check_mended(path: Path, expected: np.ndarray, rows: dict[str, Any], note: str) -> None:
    data = path.read_bytes()
    with pytest.raises((GraphError, DataError)):
        load_session(data, [f"{name}:0" for name in rows], ["prediction:0"], {})
    frozen = freeze_model(str(path), FreezeOptions(outputs=("prediction",)), {f"{n}:0": v for n, v in rows.items()})
    np.testing.assert_allclose(trained.score(frozen, rows)[0], expected, 1e-5, 1e-5)
    assert note in " ".join(frozen.notes)
    assert frozen.comparison.startswith("compared on")


@pytest.mark.parametrize("use_resource", [False, True])
def test_a_frozen_graph_that_updates_constants_is_mended(use_resource: bool, tmp_path: Path) -> None:
    with trained.control_flow("v1"), trained.session() as (tf, v1, session):
        values = switched(session, tf, v1, use_resource, v1.placeholder(tf.bool, [], name="is_training"))
        (tmp_path / "bad.pb").write_bytes(frozen_badly(session, "prediction"))
    rows = {"inputs": ROWS, "is_training": np.bool_(False)}
    expected = trained.normalised(ROWS, values, EPSILON)
    check_mended(tmp_path / "bad.pb", expected, rows, "2 updates of moving averages no longer change anything")


@pytest.mark.parametrize("place", ["graph", "function", "branch", "loop"])
def test_a_frozen_graph_that_reads_constants_as_variables_is_mended(place: str, tmp_path: Path) -> None:
    with trained.session() as (tf, v1, session):
        table = v1.get_variable("table", [5, 2], use_resource=True)
        ids = v1.placeholder(tf.int32, [None, 2], name="inputs")

        def find() -> Any:
            return tf.gather(table, ids) + tf.gather_nd(table, tf.expand_dims(ids, 2)) + table[0]

        if place == "graph":
            y = find()
        elif place == "function":
            inner = tf.function(find, autograph=False)
            y = tf.function(lambda: inner() + 1.0, autograph=False)() - 1.0
        elif place == "branch":
            y = tf.cond(tf.reduce_sum(ids) > 0, find, lambda: find() + 1.0)
        else:
            y = tf.while_loop(lambda i, total: i < 3, lambda i, total: (i + 1, total + find()), (0, find()))[1]
        tf.identity(y, name="prediction")
        session.run(v1.global_variables_initializer())
        ids_of = np.array([[0, 1], [4, 2]], np.int32)
        expected = session.run("prediction:0", {"inputs:0": ids_of})
        (tmp_path / "bad.pb").write_bytes(frozen_badly(session, "prediction"))
    note = "took a constant for a variable take its value now"
    check_mended(tmp_path / "bad.pb", expected, {"inputs": ids_of}, note)


@FORMS
def test_dropout_that_is_set_to_drop_nothing_is_left_out(form: Callable[..., Any]) -> None:
    keeps = form is old_dropout
    with trained.session() as (tf, v1, session):
        x, share = v1.placeholder(tf.float32, [None, 3], name="inputs"), v1.placeholder(tf.float32, [], name="share")
        tf.multiply(form(tf, x, share), 3.0, name="prediction")
        options = [FreezeOptions(constants={"share": value}) for value in (float(keeps), 0.5)]
        off, on = (freeze_session(session, ["prediction"], each) for each in options)
    np.testing.assert_allclose(run(off, inputs=ROWS), ROWS * 3, 1e-6)
    assert off.notes == ("1 dropout of a fixed rate was left out",)
    assert "RandomUniform" not in operations(off)
    assert on.notes == ()  # somebody wants it
    assert "RandomUniform" in operations(on)


def test_dropout_by_a_share_that_is_kept_is_left_out() -> None:
    with trained.session() as (tf, v1, session):
        x, keep = v1.placeholder(tf.float32, [None, 3], name="inputs"), v1.placeholder(tf.float32, [], name="keep_prob")
        tf.multiply(v1.nn.dropout(x, keep_prob=keep), 3.0, name="prediction")
        frozen = freeze_session(session, ["prediction"], FreezeOptions(constants={"keep_prob": 1.0}))
    np.testing.assert_allclose(run(frozen, inputs=ROWS), ROWS * 3, 1e-6)
    assert "RandomUniform" not in operations(frozen)
