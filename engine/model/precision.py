"""Fewer bits than a graph says: which of TensorFlow's rewriters lowers it on which device, and whether it really does.

Imports no TensorFlow: it is handed in. A rewriter that finds nothing that suits it says nothing, so the device is tried
with a product of its own before a graph is imported. Start at `lower_precision`.
"""

from typing import Any

import numpy as np

from engine.errors import ConfigError

REWRITERS = {
    ("bfloat16", "CPU"): "auto_mixed_precision_onednn_bfloat16",
    ("float16", "GPU"): "auto_mixed_precision",
}
# There is `auto_mixed_precision_cpu` (float16, CPU), too: it rounds the values of every operation and computes in
# float32, 0.6 to 0.9 times as fast as without; and nothing for bfloat16 on GPUs (TensorFlow 2.21).
REFUSALS = {
    ("float16", "CPU"): "computes float16 on CPUs only by rounding to it, which is slower than float32; type "
    "--precision bfloat16, or leave --precision out",
    ("bfloat16", "GPU"): "lowers graphs to float16 alone on GPUs; type --precision float16, or leave --precision out",
}
MISSING = {
    "bfloat16": "it takes a CPU with AVX-512 and oneDNN, which TF_ENABLE_ONEDNN_OPTS=0 turns off",
    "float16": "it takes a GPU of compute capability 7.0 or newer",
}
# What float32 (and the TF32 of GPUs) holds, bfloat16 rounds and float16 makes infinite.
TELLING = {"bfloat16": 1 + 2.0**-9, "float16": 2.0**17}
SIDE = 16


def device_kind(tf: Any, gpu_share: float) -> str:
    """Return what a session with that share computes on: GPU or CPU."""
    return "GPU" if gpu_share and tf.config.list_physical_devices("GPU") else "CPU"


def lower_precision(tf: Any, config: Any, precision: str, kind: str) -> None:
    """Make sessions of `config` compute in `precision` where TensorFlow holds that to be safe.

    Args:
        tf: TensorFlow.
        config: the ConfigProto to change; nothing is to be done for float32.
        precision: float32, bfloat16 or float16.
        kind: CPU or GPU.

    Raises:
        ConfigError: if this device does not compute in it, with what to type instead.
    """
    if precision == "float32":
        return
    rewriter, where = REWRITERS.get((precision, kind)), f"--precision {precision}: TensorFlow {tf.__version__}"
    if rewriter is None:
        raise ConfigError(f"{where} {REFUSALS[precision, kind]}")
    options = config.graph_options.rewrite_options
    setattr(options, rewriter, type(options).ON)
    options.min_graph_nodes = -1  # by default a graph of up to four nodes is left as it is
    if not _is_lowered(tf, config, TELLING[precision]):
        raise ConfigError(
            f"{where} does not compute in {precision} on this {kind}: {MISSING[precision]}; leave --precision out"
        )


def _is_lowered(tf: Any, config: Any, value: float) -> bool:
    """Whether a product in a session of `config` differs from what float32 gives exactly."""
    rows = np.full((SIDE, SIDE), value, np.float32)
    with tf.Graph().as_default() as graph:
        fed = tf.compat.v1.placeholder(tf.float32, [None, SIDE])
        product = tf.nn.relu(tf.matmul(fed, tf.ones([SIDE, SIDE])))
    with tf.compat.v1.Session(graph=graph, config=config) as session:
        return bool((session.run(product, {fed: rows}) != rows.sum(axis=1, keepdims=True)).any())
