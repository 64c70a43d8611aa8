import contextlib
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EngineError, GraphError
from engine.model import keras_file
from engine.model.describing.describe import describe_model, open_model
from engine.model.describing.description import Kind
from engine.model.filetype import ModelKind, ModelPath
from engine.model.keras_file import KerasFile, read_keras_file
from engine.model.tensor import TensorSpec


def layer(class_name: str, name: str, **config: Any) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, **config},
        "registered_name": None,
    }


def input_layer(name: str, shape: list[int | None], dtype: Any = "float32") -> dict[str, Any]:
    return layer("InputLayer", name, batch_shape=shape, dtype=dtype)


LAMBDA = layer("Lambda", "shift", function={"class_name": "__lambda__", "config": {"code": "4wEAAAA="}})
FUNCTIONAL = {
    "module": "keras.src.models.functional",
    "class_name": "Functional",
    "config": {
        "name": "net",
        "layers": [
            input_layer("image", [None, 8, 8, 3], {"class_name": "DTypePolicy", "config": {"name": "float16"}}),
            input_layer("words", [None, None], "int32"),
            layer("Bidirectional", "both", layer=layer("LSTM", "fwd"), backward_layer=layer("LSTM", "back")),
            layer("Sequential", "inner", layers=[input_layer("inner_input", [None, 3]), layer("Dense", "d1"), LAMBDA]),
            {"module": None, "class_name": "Own", "config": {"name": "own"}, "registered_name": "mine>Own"},
            layer(
                "Dense",
                "score",
                kernel_initializer={"module": "keras.initializers", "class_name": "Zeros", "config": {}},
            ),
        ],
        "input_layers": [["image", 0, 0], ["words", 0, 0]],
        "output_layers": [["score", 0, 0], ["own", 0, 0]],
    },
}


def write_zip(path: Path, config: Any, **others: Any) -> ModelPath:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config if isinstance(config, bytes) else json.dumps(config))
        for name, value in others.items():
            archive.writestr(f"{name}.json", json.dumps(value))
        archive.writestr("model.weights.h5", b"\x89HDF")
    return ModelPath(ModelKind.KERAS, str(path), str(path))


def write_hdf5(path: Path, **attributes: Any) -> ModelPath:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
    return ModelPath(ModelKind.KERAS, str(path), str(path))


def test_a_functional_model(tmp_path: Path) -> None:
    model = write_zip(tmp_path / "m.keras", FUNCTIONAL, metadata={"keras_version": "3.15.1"})
    assert read_keras_file(model) == KerasFile(
        container="zip",
        class_name="Functional",
        keras_version="3.15.1",
        layers=(
            *(("InputLayer", 3), ("LSTM", 2), ("Dense", 2), ("Bidirectional", 1), ("Sequential", 1), ("Lambda", 1)),
            ("Own", 1),
        ),
        inputs=(TensorSpec("image", "float16", (None, 8, 8, 3)), TensorSpec("words", "int32", (None, None))),
        outputs=("score", "own"),
        code=("shift",),
        custom_classes=("mine>Own",),
    )


def test_the_same_in_hdf5(tmp_path: Path) -> None:
    for value in (json.dumps(FUNCTIONAL), json.dumps(FUNCTIONAL).encode()):
        model = write_hdf5(tmp_path / "m.h5", model_config=value, keras_version=b"2.4.0")
        found = read_keras_file(model)
        assert (found.container, found.class_name, found.keras_version) == ("HDF5", "Functional", "2.4.0")
        assert [spec.name for spec in found.inputs] == ["image", "words"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"layers": [layer("Dense", "d", batch_input_shape=[None, 5], dtype="float32")]},
            TensorSpec("d", "float32", (None, 5)),
        ),
        ({"layers": [layer("Dense", "d")]}, None),
        ({"layers": [input_layer("x", [None, -1])]}, TensorSpec("x", "float32", None)),
        ({"layers": [input_layer("x", "text", 5)]}, TensorSpec("x", None, None)),  # type: ignore[arg-type]
    ],
)
def test_inputs_of_a_sequential_model(tmp_path: Path, config: dict[str, Any], expected: TensorSpec | None) -> None:
    model = write_zip(tmp_path / "m.keras", {"class_name": "Sequential", "config": config})
    assert read_keras_file(model).inputs == (() if expected is None else (expected,))


def test_a_class_of_its_own_tells_what_it_was_built_for(tmp_path: Path) -> None:
    config = {
        "module": "net",
        "class_name": "Net",
        "registered_name": "Net",
        "config": {},
        "build_config": {"input_shape": [1, 3]},
    }
    found = read_keras_file(write_zip(tmp_path / "m.keras", config))
    assert (found.class_name, found.custom_classes, found.layers) == ("Net", ("Net",), ())
    assert found.inputs == (TensorSpec("inputs", None, (1, 3)),)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {**FUNCTIONAL},
            ["it holds Python code (Lambda layers: shift)", "it needs classes of its makers' own (mine>Own)"],
        ),
        ({"class_name": "Sequential", "config": {"layers": []}}, []),
        ({}, ["it holds weights without a model"]),
    ],
)
def test_what_a_keras_file_is_described_as(tmp_path: Path, config: dict[str, Any], expected: list[str]) -> None:
    model = write_zip(tmp_path / "m.keras", config)
    found = describe_model(open_model(model.path))
    assert (found.kind, found.size_bytes) == (Kind.KERAS, Path(model.path).stat().st_size)
    assert [note.partition(",")[0].partition(";")[0] for note in found.notes] == expected


def test_weights_alone(tmp_path: Path) -> None:
    found = describe_model(open_model(write_hdf5(tmp_path / "w.h5").path))
    assert found.keras is not None
    assert found.keras.class_name == ""
    assert found.notes[0].startswith("it holds weights without a model")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (b"{", "is no JSON"),
        (b"[1]", "is no JSON object"),
        (b"[" * 100_000, "is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
    ],
)
def test_a_configuration_that_is_none(tmp_path: Path, config: bytes, expected: str) -> None:
    with pytest.raises(GraphError, match=expected):
        read_keras_file(write_zip(tmp_path / "m.keras", config))


def test_a_configuration_of_any_form_is_described(tmp_path: Path) -> None:
    odd: list[Any] = [
        None,
        5,
        "a",
        [],
        {},
        [[]],
        [{"class_name": 7}],
        {"layers": [3, {"class_name": "X", "config": 8}]},
    ]
    for value in odd:
        for key in ("config", "class_name", "build_config", "registered_name"):
            config = {"class_name": "Functional", "config": {"layers": value, "output_layers": value}, key: value}
            found = read_keras_file(write_zip(tmp_path / "m.keras", config, metadata={"keras_version": value}))
            assert isinstance(found.class_name, str)


def test_deep_and_wide_configurations_end(tmp_path: Path) -> None:
    deep: Any = {}
    for _ in range(300):
        deep = layer("TimeDistributed", "t", layer=deep)
    found = read_keras_file(write_zip(tmp_path / "m.keras", {"class_name": "S", "config": {"layers": [deep] * 3}}))
    assert found.layers == (("TimeDistributed", 900),)


def test_a_configuration_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras_file, "MAX_CONFIG_BYTES", 100)
    with pytest.raises(GraphError, match="larger than 100 bytes"):
        read_keras_file(write_zip(tmp_path / "m.keras", FUNCTIONAL))


def test_damaged_archives_are_described_or_refused(tmp_path: Path) -> None:
    model = write_zip(tmp_path / "m.keras", FUNCTIONAL, metadata={"keras_version": "3"})
    whole = Path(model.path).read_bytes()
    chance = random.Random(0)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 10])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.choice([len(data), len(data), chance.randrange(len(data))]) :]
        Path(model.path).write_bytes(data)
        with contextlib.suppress(EngineError):  # anything else ends the test
            read_keras_file(model)


def test_damaged_hdf5_is_refused(tmp_path: Path) -> None:
    model = write_hdf5(tmp_path / "m.h5", model_config=json.dumps(FUNCTIONAL))
    Path(model.path).write_bytes(Path(model.path).read_bytes()[:600])
    with pytest.raises(GraphError, match="an HDF5 file that is damaged or was cut short"):
        read_keras_file(model)


def test_hdf5_that_keeps_its_reader_busy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_hdf5(tmp_path / "m.h5")
    monkeypatch.setattr(keras_file, "READ_HDF5", "import time; time.sleep(60)")
    monkeypatch.setattr(keras_file, "HDF5_SECONDS", 0.2)
    with pytest.raises(GraphError, match="reading it takes more than"):
        read_keras_file(model)


def test_hdf5_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_hdf5(tmp_path / "m.h5")
    monkeypatch.setattr(keras_file, "READ_HDF5", "raise SystemExit(3)")
    with pytest.raises(GraphError, match="pip install h5py"):
        read_keras_file(model)


@pytest.mark.tf
@pytest.mark.parametrize("name", ["m.keras", "m.h5"])
@pytest.mark.filterwarnings("ignore")
def test_files_that_keras_wrote(tmp_path: Path, name: str) -> None:
    import keras

    rows = keras.Input((4,), name="rows")
    hidden = keras.layers.Dense(3, name="hidden")(rows)
    keras.Model(rows, keras.layers.Dense(1, name="score")(hidden)).save(tmp_path / name)
    found = read_keras_file(ModelPath(ModelKind.KERAS, str(tmp_path / name), name))
    assert (found.class_name, found.keras_version) == ("Functional", keras.__version__)
    assert found.layers == (("Dense", 2), ("InputLayer", 1))
    assert found.inputs == (TensorSpec("rows", "float32", (None, 4)),)
    assert found.outputs == ("score",)
    assert (found.code, found.custom_classes) == ((), ())
