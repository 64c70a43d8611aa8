"""Keras files: loaded in safe mode, where nothing is unpickled and no code runs, and exported as a SavedModel.

Takes the imported TensorFlow as an argument, so that nothing here imports it. Start at `export_keras`.
"""

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.compare import Run
from engine.model.filetype import ModelKind, ModelPath
from engine.model.ports import INPUT

Array = npt.NDArray[Any]


def export_keras(tf: Any, model: ModelPath, folder: str) -> tuple[ModelPath, Run | None]:
    """Export the Keras file `model` as a SavedModel below `folder`.

    Returns:
        The SavedModel, and what the Keras model itself answers, to compare with; None where its inputs have no names.

    Raises:
        GraphError: if the file holds code (Lambda layers), custom classes, weights alone, or cannot be loaded.
    """
    target = str(Path(folder) / "exported")
    with contextlib.redirect_stdout(io.StringIO()):  # Keras reports where it wrote
        try:
            loaded = tf.keras.models.load_model(model.path, compile=False, safe_mode=True)
            loaded.export(target, format="tf_saved_model", verbose=False)
        except Exception as error:  # Keras raises whatever its layers raise
            raise GraphError(f"{model.given}: {_reason(tf, str(error))}") from error
    return ModelPath(ModelKind.SAVED_MODEL, f"{target}/saved_model.pb", model.given), _reference(loaded)


def _reason(tf: Any, message: str) -> str:
    """Say in plain words why Keras does not load a file."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "no reason given")
    if re.search(r"safe_mode|[Ll]ambda", message):
        return (
            "holds a Lambda layer, which is Python code, and code from a file is not run; "
            "export a SavedModel where the model is built (model.export), which needs none"
        )
    if re.search(r"Could not locate class|Unknown (layer|object)|custom_objects|register_keras_serializable", message):
        return f"holds a class of its own ({line[:200]}); export a SavedModel where the model is built (model.export)"
    if re.search(r"No model config found|model_config", message):
        return "holds weights without a model; save the whole model, or export a SavedModel"
    return (
        f"Keras {tf.keras.__version__} cannot load this file ({line[:300]}); "
        "export a SavedModel (model.export) with the Keras that wrote it"
    )


def _reference(loaded: Any) -> Run | None:
    """Return the Keras model as a function from arrays by input tensor to arrays in the order of its outputs' names."""
    inputs = list(getattr(loaded, "inputs", None) or [])
    outputs = list(getattr(loaded, "outputs", None) or [])
    if len(outputs) != 1 or not inputs:
        return None
    names = [INPUT] if len(inputs) == 1 else [tensor.name for tensor in inputs]

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        arrays = [feeds[f"{name}:0"] for name in names]
        return [np.asarray(loaded(arrays[0] if len(arrays) == 1 else arrays, training=False))]

    return run
