"""Makes one model in many forms below the folder it is given, for tests; a process of its own, for it needs eager mode.

A linear model as a checkpoint and a TensorFlow 1 SavedModel, a Keras model as SavedModel, `.keras` and `.h5`, one
with a Lambda layer; and what they predict for `rows.npy`.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from engine.model.checkpoint import save_checkpoint


def plain(folder: Path, rows: np.ndarray) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 4], name="inputs")
        start = v1.constant_initializer(np.arange(12).reshape(4, 3) / 12)
        w = v1.get_variable("w", [4, 3], initializer=start, use_resource=False)
        b = v1.get_variable("b", [3], initializer=v1.constant_initializer([1, 2, 3]), use_resource=True)
        prediction = tf.nn.softmax(x @ w + b, name="prediction")
        session.run(v1.global_variables_initializer())
        np.save(folder / "plain.npy", session.run(prediction, {x: rows}))
        save_checkpoint(session, str(folder / "checkpoint" / "model"))
        (folder / "checkpoint" / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model"\n')
        v1.saved_model.simple_save(session, str(folder / "saved1"), {"pixels": x}, {"probabilities": prediction})


def deep(folder: Path, rows: np.ndarray) -> None:
    keras.utils.set_random_seed(4)
    layers = keras.layers
    stack = [layers.Input((4,), name="pixels"), layers.Dense(8, activation="relu"), layers.BatchNormalization()]
    model = keras.Sequential([*stack, layers.Dropout(0.5), layers.Dense(3, activation="softmax")])
    np.save(folder / "keras.npy", model(rows).numpy())
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.export(folder / "saved2", verbose=False)
    coded = keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: x * 2)])
    coded.save(folder / "lambda.keras")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    plain(target, np.load(target / "rows.npy"))
    deep(target, np.load(target / "rows.npy"))
