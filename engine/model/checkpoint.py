"""Saves a session's variables as a checkpoint, and freezes a checkpoint to a GraphDef.

Beside `session.py` the only room that imports TensorFlow, and only when called. Start at `save_checkpoint` and
`freeze_checkpoint`.
"""

import os
from collections.abc import Sequence
from typing import Any

from engine.errors import GraphError
from engine.model.closure import split_tensor
from engine.model.graphdef import VARIABLES
from engine.model.session import import_tensorflow


def save_checkpoint(session: Any, prefix: str) -> str:
    """Save the variables of a `tf.compat.v1.Session` and its graph (`PREFIX.meta`); return the prefix."""
    tf = import_tensorflow(gpu_share=0)
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    with session.graph.as_default():
        return str(tf.compat.v1.train.Saver().save(session, prefix))


def freeze_checkpoint(prefix: str, outputs: Sequence[str]) -> bytes:
    """Return the graph of the checkpoint `prefix` as a serialised GraphDef, its variables turned into constants.

    Args:
        prefix: path as `save_checkpoint` returned it, with `.meta` and `.index` beside it.
        outputs: tensors to keep; what they do not need is left out.

    Raises:
        GraphError: if the checkpoint lacks an output, or holds a variable that cannot be turned into a constant.
    """
    tf = import_tensorflow(gpu_share=0)
    from tensorflow.python.framework import convert_to_constants

    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        try:
            saver = tf.compat.v1.train.import_meta_graph(prefix + ".meta", clear_devices=True)
            if saver is None:
                raise GraphError(f"{prefix}: this checkpoint holds no variables")
            saver.restore(session, prefix)
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise GraphError(f"{prefix}: cannot restore this checkpoint: {error}") from error
        nodes = [split_tensor(name)[0] for name in outputs]
        names = {node.name for node in graph.as_graph_def().node}
        missing = [node for node in nodes if node not in names]
        if missing:
            raise GraphError(f"{prefix} has no tensor {missing[0]}:0 to freeze to")
        frozen = convert_to_constants.convert_variables_to_constants_from_session_graph(
            session, graph.as_graph_def(), nodes
        )
    # The stock call passes over the oldest op, Variable, in silence; the graph would fail when it is run.
    left = [node.name for node in frozen.node if node.op in VARIABLES]
    if left:
        raise GraphError(f"{prefix}: {left[0]} is a variable of a kind that could not be turned into a constant")
    return bytes(frozen.SerializeToString())
