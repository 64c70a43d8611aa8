"""What a Keras file tells of its model without Keras: class, layers and inputs from its configuration.

The configuration is JSON, in a zip archive or in an attribute of an HDF5 file; code that it may hold is counted, and
neither decoded nor run. Start at `read_keras_file`.
"""

import json
import subprocess
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import GraphError, system_text
from engine.model.filetype import ModelPath
from engine.model.tensor import Shape, TensorSpec

MAX_CONFIG_BYTES = 2**26  # the configuration of the largest models is some MB
MAX_NODES = 10**6
HDF5_SECONDS = 10
HDF5_MAGIC = b"\x89HDF"
LAYER_KEYS = ("layer", "backward_layer", "forward_layer")  # of wrappers such as Bidirectional
CODE_CLASSES = ("Lambda", "__lambda__")


@dataclass(frozen=True, slots=True)
class KerasFile:
    """A Keras model as its file tells it."""

    container: str
    """What the file is: `zip` or `HDF5`."""
    class_name: str
    """Class of the model: `Sequential`, `Functional` or one of its own; empty where the file holds weights alone."""
    keras_version: str
    """Version of the Keras that wrote it; empty where it does not say."""
    layers: tuple[tuple[str, int], ...]
    """Classes of layers with their counts, most frequent first, those inside other layers among them."""
    inputs: tuple[TensorSpec, ...]
    """Input layers by name, as far as the file tells."""
    outputs: tuple[str, ...]
    """Names of the layers that the model ends in; empty where the file does not say."""
    code: tuple[str, ...]
    """Names of the layers that hold Python code (Lambda)."""
    custom_classes: tuple[str, ...]
    """Classes that are not Keras's own, which only their makers' code can load."""


def read_keras_file(model: ModelPath) -> KerasFile:
    """Read the configuration of the Keras file `model`.

    Raises:
        GraphError: if the file is damaged or cut short, or if it is HDF5 and h5py is not installed.
    """
    try:
        with open(model.path, "rb") as file:
            is_hdf5 = file.read(len(HDF5_MAGIC)) == HDF5_MAGIC
    except OSError as error:
        raise GraphError(f"{model.given}: cannot be read ({system_text(error)})") from error
    config, version = (_read_hdf5 if is_hdf5 else _read_zip)(model)
    return _describe("HDF5" if is_hdf5 else "zip", config, version)


def _read_zip(model: ModelPath) -> tuple[Mapping[str, Any], str]:
    try:
        with zipfile.ZipFile(model.path) as archive:
            config = _json(model.given, _member(archive, "config.json"))
            is_told = "metadata.json" in archive.namelist()
            metadata = _json(model.given, _member(archive, "metadata.json")) if is_told else {}
    # What zipfile raises for archives that are damaged, encrypted or packed in a way that it does not know.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise GraphError(f"{model.given}: a Keras file that is damaged or was cut short ({error})") from error
    return config, _text(metadata.get("keras_version"))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ValueError(f"{name} is larger than {MAX_CONFIG_BYTES:,} bytes")
    return data


# Damaged files keep the HDF5 library busy for ever (h5py 3.14), or end its process; so it gets one of its own.
READ_HDF5 = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))  # nor does it outlive a caller that was killed
try:
    import h5py
except ImportError:
    sys.exit(3)
with h5py.File(sys.argv[1], "r") as file:
    found = [file.attrs.get(name, "") for name in ("model_config", "keras_version")]
texts = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in found]
print(json.dumps([text if isinstance(text, str) else "" for text in texts]))
"""
NO_H5PY = 3


def _read_hdf5(model: ModelPath) -> tuple[Mapping[str, Any], str]:
    damaged = f"{model.given}: an HDF5 file that is damaged or was cut short"
    command = [sys.executable, "-c", READ_HDF5, model.path]
    try:
        done = subprocess.run(command, capture_output=True, timeout=HDF5_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise GraphError(f"{damaged} (reading it takes more than {HDF5_SECONDS} s)") from error
    if done.returncode == NO_H5PY:
        raise GraphError(f"{model.given}: a Keras model in HDF5, which h5py reads (pip install h5py)")
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode:
        raise GraphError(f"{damaged} ({lines[-1] if lines else f'its reader ended with {done.returncode}'})")
    config, version = json.loads(done.stdout)
    return _json(model.given, config.encode("utf-8", "replace")) if config else {}, version


def _json(given: str, data: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{given}: a Keras file whose configuration is no JSON ({error})") from error
    if not isinstance(document, dict):
        raise GraphError(f"{given}: a Keras file whose configuration is no JSON object")
    return document


def _describe(container: str, config: Mapping[str, Any], version: str) -> KerasFile:
    layers: Counter[str] = Counter()
    code: dict[str, None] = {}
    custom: dict[str, None] = {}
    for layer, name, is_layer in _walk(config):
        kind = _text(layer["class_name"])
        if is_layer:
            layers[kind] += 1
        if kind in CODE_CLASSES:
            code[name or kind] = None
        registered = _text(layer.get("registered_name"))
        if registered and "module" in layer and not (_text(layer["module"]).startswith("keras")):
            custom[registered] = None
    model = _mapping(config.get("config"))
    return KerasFile(
        container=container,
        class_name=_text(config.get("class_name")),
        keras_version=version,
        layers=tuple(layers.most_common()),
        inputs=_inputs(config, model),
        outputs=tuple(dict.fromkeys(_ends(model.get("output_layers")))),
        code=tuple(code),
        custom_classes=tuple(custom),
    )


def _walk(config: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, bool]]:
    """Yield each object that has a class, the name of the layer that it belongs to, and whether it is a layer."""
    todo: list[tuple[Any, str, bool]] = [(config, "", False)]
    for _ in range(MAX_NODES):
        if not todo:
            return
        value, name, is_layer = todo.pop()
        if isinstance(value, list):
            todo.extend((each, name, is_layer) for each in reversed(value))
        elif isinstance(value, dict):
            if is_layer:
                name = _text(_mapping(value.get("config")).get("name")) or _text(value.get("name")) or name
            if isinstance(value.get("class_name"), str):
                yield value, name, is_layer
            for key, each in reversed(value.items()):
                todo.append((each, name, key in LAYER_KEYS or (key == "layers" and isinstance(each, list))))


def _inputs(config: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    found = model.get("layers")
    layers = [_mapping(each) for each in found] if isinstance(found, list) else []
    given = [_mapping(each.get("config")) for each in layers if each.get("class_name") == "InputLayer"]
    if not given and layers and "batch_input_shape" in _mapping(layers[0].get("config")):  # Sequential of Keras 2
        given = [_mapping(layers[0].get("config"))]
    shapes = [_shape(each.get("batch_shape", each.get("batch_input_shape"))) for each in given]
    specs = [
        TensorSpec(_text(each.get("name")), _dtype(each.get("dtype")), shape)
        for each, shape in zip(given, shapes, strict=True)
    ]
    built = _shape(_mapping(config.get("build_config")).get("input_shape"))
    return tuple(specs) if specs or built is None else (TensorSpec("inputs", None, built),)


def _dtype(value: Any) -> str | None:
    policy = _mapping(_mapping(value).get("config"))  # Keras 3 may write a policy in a dtype's place
    return _text(value) or _text(policy.get("name")) or None


def _shape(value: Any) -> Shape:
    is_shape = isinstance(value, list) and all(n is None or (type(n) is int and n >= 0) for n in value)
    return tuple(value) if is_shape else None


def _ends(value: Any) -> Iterator[str]:
    """Yield the names in `["dense", 0, 0]`, or in a list or mapping of such."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        yield value[0]
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            if isinstance(each, list) and each and isinstance(each[0], str):
                yield each[0]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
