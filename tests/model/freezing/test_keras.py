import json
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trained
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.errors import GraphError
from engine.model.freezing.freeze import FrozenModel, freeze_model
from engine.model.freezing.plan import FreezeOptions
from engine.model.graphdef import VARIABLES

pytestmark = [
    pytest.mark.tf,
    # Keras 3.15 saves variables in a way that NumPy 2 will not take for ever, and warns of files that it writes.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built:UserWarning"),
]

ROOT = Path(__file__).resolve().parents[3]
ROWS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
PIXELS = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32)
IDS = np.array([[1, 2, 3, 5], [0, 0, 1, 1]], np.int32)
WORDS = np.array([["x"], ["q"], ["z"], ["x"], ["y"]], object)
TEXTS = np.array([["hello big world"], ["x"]], object)


def sequential(keras: Any) -> Any:
    layers = [keras.layers.Dense(4, activation="relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    return keras.Sequential([keras.Input([3]), *layers, keras.layers.Dense(2)])


def convolution(keras: Any) -> Any:
    x = keras.Input([8, 8, 3])
    y = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(0.1)(x)))
    return keras.Model(x, keras.layers.GlobalAveragePooling2D()(keras.layers.DepthwiseConv2D(3)(y)))


def recurrent(keras: Any) -> Any:
    x = keras.Input([3])
    y = keras.layers.Bidirectional(keras.layers.LSTM(2, return_sequences=True))(keras.layers.Reshape([3, 1])(x))
    return keras.Model(x, keras.layers.GRU(2)(y))


def embedding(keras: Any) -> Any:
    x = keras.Input([4], dtype="int32")
    return keras.Model(x, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(6, 3, mask_zero=True)(x)))


def normalisation(keras: Any) -> Any:
    x = keras.Input([3])
    return keras.Model(
        x, keras.layers.LayerNormalization()(keras.layers.Normalization(mean=[1.0, 2, 3], variance=[1.0, 4, 9])(x))
    )


def text(keras: Any) -> Any:
    x = keras.Input([1], dtype="string")
    ids = keras.layers.TextVectorization(vocabulary=["hello", "world"], output_sequence_length=4)(x)
    return keras.Model(x, keras.layers.Embedding(4, 2)(ids))


def twins(keras: Any) -> Any:
    """Two models within a model, whose layers and variables have the same names."""
    x = keras.Input([3])
    parts = [
        keras.Sequential([keras.Input([3]), keras.layers.Dense(3, name="same")], name=f"part{i}") for i in range(2)
    ]
    return keras.Model(x, parts[1](parts[0](x)))


def several(keras: Any) -> Any:
    a, b, word = keras.Input([3], name="a"), keras.Input([2], name="b"), keras.Input([1], dtype="string", name="word")
    known = keras.layers.StringLookup(vocabulary=["x", "y", "z"], output_mode="one_hot")(word)
    joined = keras.layers.Concatenate()([a, b, known])
    return keras.Model(
        [a, b, word], [keras.layers.Dense(2, name="second")(joined), keras.layers.Dense(1, name="first")(joined)]
    )


def by_name(keras: Any) -> Any:
    a, b = keras.Input([3], name="a"), keras.Input([2], name="b")
    joined = keras.layers.Concatenate()([a, b])
    return keras.Model({"b": b, "a": a}, {"u": keras.layers.Dense(2)(a), "v": keras.layers.Dense(2)(joined)})


FORK = {"a": ROWS, "b": ROWS[:, :2]}
MODELS: dict[Callable[[Any], Any], tuple[dict[str, Any], list[str]]] = {
    sequential: ({"inputs": ROWS}, ["prediction"]),
    convolution: ({"inputs": PIXELS}, ["prediction"]),
    recurrent: ({"inputs": ROWS}, ["prediction"]),
    embedding: ({"inputs": IDS}, ["prediction"]),
    normalisation: ({"inputs": ROWS}, ["prediction"]),
    text: ({"inputs": TEXTS}, ["prediction"]),
    twins: ({"inputs": ROWS}, ["prediction"]),
    several: ({**FORK, "word": WORDS}, ["second", "first"]),
    by_name: (FORK, ["u", "v"]),
}
IN_HDF5 = (sequential, convolution, recurrent, several)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, np.ndarray]]]:
    """Every model with numbers of its own as a Keras file, and what it answers by output."""
    folder = tmp_path_factory.mktemp("keras")
    tf = trained.tensorflow()
    tf.keras.utils.set_random_seed(5)
    answers = {}
    for make, (rows, names) in MODELS.items():
        model = make(tf.keras)
        model.set_weights(
            [
                weight + np.abs(np.sin(np.arange(weight.size)).reshape(weight.shape)) / 3
                for weight in model.get_weights()
            ]
        )
        given = [tf.constant(value) for value in rows.values()]
        given = dict(zip(rows, given, strict=True)) if make is by_name else given if len(given) > 1 else given[0]
        values = [np.asarray(value) for value in tf.nest.flatten(model(given, training=False))]
        answers[make.__name__] = dict(zip(names, values, strict=True))
        model.save(folder / f"{make.__name__}.keras")
        if make in IN_HDF5:
            model.save(folder / f"{make.__name__}.h5")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of its own export
            model.export(str(folder / make.__name__), verbose=False)
    return folder, answers


Answers = tuple[Path, dict[str, dict[str, np.ndarray]]]


def check(frozen: FrozenModel, rows: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    graph = GraphDef.FromString(frozen.data)
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    assert not {node.op for node in nodes} & {*VARIABLES, "ReadVariableOp", "ResourceGather"}
    assert {spec.name for spec in frozen.inputs} == {f"{name}:0" for name in rows}
    assert {spec.name for spec in frozen.outputs} == {f"{name}:0" for name in expected}
    for spec, found in zip(frozen.outputs, trained.score(frozen, rows), strict=True):
        np.testing.assert_allclose(found, expected[spec.name.removesuffix(":0")], 1e-5, 1e-5)
    assert frozen.comparison.startswith("compared on")
    assert frozen.notes == ()


def sample(rows: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}:0": value for name, value in rows.items()}


@pytest.mark.parametrize(
    ("make", "ending"), [*((make, ".keras") for make in MODELS), *((make, ".h5") for make in IN_HDF5)]
)
def test_a_keras_file(saved: Answers, make: Callable[..., Any], ending: str) -> None:
    rows, _ = MODELS[make]
    frozen = freeze_model(str(saved[0] / f"{make.__name__}{ending}"), FreezeOptions(), sample(rows))
    check(frozen, rows, saved[1][make.__name__])


@pytest.mark.parametrize("make", MODELS)
def test_a_saved_model_that_keras_exported(saved: Answers, make: Callable[..., Any]) -> None:
    rows, _ = MODELS[make]
    frozen = freeze_model(str(saved[0] / make.__name__), FreezeOptions(), sample(rows))
    expected = saved[1][make.__name__]
    if make is several:  # an export does not keep the names of layers
        expected = {"output_0": expected["second"], "output_1": expected["first"]}
    check(frozen, rows, expected)


def test_an_inner_tensor_of_a_keras_file(saved: Answers) -> None:
    """Keras itself does not answer for it, so its own graph does."""
    path = str(saved[0] / "sequential.keras")
    frozen = freeze_model(path, FreezeOptions(outputs=("hidden=sequential_1/dense_1/Relu",)))
    assert [spec.name for spec in frozen.outputs] == ["hidden:0"]
    assert frozen.comparison.startswith("compared on 4 random rows")
    assert (trained.score(frozen, {"inputs": ROWS})[0] >= 0).all()


def test_variables_keep_their_names(saved: Answers) -> None:
    names = {
        node.name
        for node in GraphDef.FromString(freeze_model(str(saved[0] / "twins.keras"), FreezeOptions()).data).node
    }
    assert {"part0/same/kernel", "part1/same/kernel"} <= names or {"same/kernel", "same/kernel_1"} <= names


def test_the_same_bytes_in_every_process(saved: Answers) -> None:
    """Whatever TensorFlow counted before: functions, tables, layers."""
    paths = [
        str(saved[0] / name) for name in ("recurrent.keras", "several.keras", "twins.keras", "recurrent", "several")
    ]
    code = f"""
from engine.model.freezing.freeze import freeze_model
from engine.model.freezing.plan import FreezeOptions
for path in {paths[::-1]!r}[:3] + {paths!r}:
    print(freeze_model(path, FreezeOptions()).sha256)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    here = [freeze_model(path, FreezeOptions()).sha256 for path in paths]
    assert done.stdout.split()[3:] == here
    assert [freeze_model(path, FreezeOptions()).sha256 for path in paths[:2]] == here[:2]


def test_a_file_is_not_read_inside_of_a_graph(saved: Answers) -> None:
    with trained.session(), pytest.raises(GraphError, match="cannot be read inside of a graph"):
        freeze_model(str(saved[0] / "twins.keras"), FreezeOptions())


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_code_in_a_file_is_never_run(ending: str, tmp_path: Path) -> None:
    keras = trained.tensorflow().keras
    sign = tmp_path / "it-ran"
    code = compile(f"lambda x: (open({str(sign)!r}, 'w').close(), x)[1]", "evil", "eval")
    x = keras.Input([3])
    keras.Model(x, keras.layers.Lambda(eval(code), name="evil")(x)).save(tmp_path / f"model{ending}")
    assert sign.exists()
    sign.unlink()
    with pytest.raises(GraphError, match=r"its layer (evil|Lambda) is Python code \(Lambda\) .*; export a SavedModel"):
        freeze_model(str(tmp_path / f"model{ending}"), FreezeOptions())
    assert not sign.exists()


def with_config(source: Path, target: Path, edit: Callable[[Any], None]) -> str:
    """Copy a Keras file with another configuration."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "config.json":
                config = json.loads(data)
                edit(config)
                data = json.dumps(config).encode()
            new.writestr(name, data)
    return str(target)


def dense(config: Any) -> Any:
    return next(each for each in config["config"]["layers"] if each["class_name"] == "Dense")


@pytest.mark.parametrize("name", ["TorchModuleWrapper", "TFSMLayer", "JaxLayer"])
def test_layers_that_bring_code_are_refused(saved: Answers, name: str, tmp_path: Path) -> None:
    path = with_config(saved[0] / "sequential.keras", tmp_path / "m.keras", lambda c: dense(c).update(class_name=name))
    with pytest.raises(GraphError, match=f"its layer {name} is Python code .*model.export"):
        freeze_model(path, FreezeOptions())


def test_functions_of_any_module_are_not_called(saved: Answers, tmp_path: Path) -> None:
    sign = tmp_path / "it-ran"

    def edit(config: Any) -> None:
        call = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
        dense(config)["config"]["activation"] = call
        dense(config)["config"]["name"] = f"touch {sign}"

    path = with_config(saved[0] / "sequential.keras", tmp_path / "m.keras", edit)
    with pytest.raises(GraphError, match=r"m\.keras: .*export"):
        freeze_model(path, FreezeOptions())
    assert not sign.exists()


def test_a_class_of_its_own_is_refused(tmp_path: Path) -> None:
    keras = trained.tensorflow().keras

    class Mine(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return x + 1

    x = keras.Input([3])
    keras.Model(x, Mine()(x)).save(tmp_path / "model.keras")
    with pytest.raises(GraphError, match=r"model.keras: holds .*Mine.*class that Keras.* does not have.*model.export"):
        freeze_model(str(tmp_path / "model.keras"), FreezeOptions())


def test_weights_alone(tmp_path: Path) -> None:
    model = sequential(trained.tensorflow().keras)
    model.save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(GraphError, match=r"model.weights.h5: holds weights alone; save the whole model"):
        freeze_model(str(tmp_path / "model.weights.h5"), FreezeOptions())


def test_a_model_that_never_saw_its_input(tmp_path: Path) -> None:
    keras = trained.tensorflow().keras
    keras.Sequential([keras.layers.Dense(2)]).save(tmp_path / "model.keras")
    with pytest.raises(GraphError, match="before it knew the shape of its input|cannot load"):
        freeze_model(str(tmp_path / "model.keras"), FreezeOptions())


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short(saved: Answers, ending: str, share: float, tmp_path: Path) -> None:
    data = (saved[0] / f"sequential{ending}").read_bytes()
    path = tmp_path / f"model{ending}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(GraphError, match=f"^{path}: "):
        freeze_model(str(path), FreezeOptions())


def test_a_file_without_its_weights(saved: Answers, tmp_path: Path) -> None:
    with zipfile.ZipFile(saved[0] / "sequential.keras") as old, zipfile.ZipFile(tmp_path / "m.keras", "w") as new:
        new.writestr("config.json", old.read("config.json"))
        new.writestr("metadata.json", old.read("metadata.json"))
    with pytest.raises(GraphError, match=r"m\.keras: Keras .* cannot load this file \(.*export"):
        freeze_model(str(tmp_path / "m.keras"), FreezeOptions())


def test_dropout_that_a_file_left_on_is_off(tmp_path: Path) -> None:
    keras = trained.tensorflow().keras
    x = keras.Input([3])
    keras.Model(x, keras.layers.Dropout(0.5)(x, training=True)).save(tmp_path / "model.keras")
    frozen = freeze_model(str(tmp_path / "model.keras"), FreezeOptions())
    check(frozen, {"inputs": ROWS}, {"prediction": ROWS})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("BatchNormalization", "updates is a batch norm in training form, .* in function .*training=False"),
        ("Dropout", "changes the variable .*seed_generator_state.* whenever the graph runs.*training=False"),
    ],
)
def test_an_export_in_training_form_is_refused(layer: str, message: str, tmp_path: Path) -> None:
    keras = trained.tensorflow().keras
    x = keras.Input([3])
    made = keras.layers.BatchNormalization() if layer == "BatchNormalization" else keras.layers.Dropout(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.Model(x, made(x, training=True)).export(str(tmp_path / "model"), verbose=False)
    with pytest.raises(GraphError, match=message):
        freeze_model(str(tmp_path / "model"), FreezeOptions())
