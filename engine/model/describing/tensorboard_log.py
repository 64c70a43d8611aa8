"""Writes a graph where TensorBoard opens it: an event file, without weights and without TensorFlow.

TensorBoard's own writer of event files imports TensorFlow to make a folder; its writer of records does not. Start at
`write_graph_log`.
"""

import os
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from engine.errors import ConfigError, system_text
from engine.model.describing.slim import without_weights
from engine.model.graphdef import Graph


def write_graph_log(graph: Graph | None, folder: str) -> str:
    """Write an event file with the graph into `folder`, which is made if it is not there; return its path.

    Raises:
        ConfigError: if it cannot be written, or if there is no graph, as in a Keras file.
    """
    if graph is None:
        raise ConfigError(f"--tensorboard {folder}: a Keras file holds no graph; freeze it first (icefloe freeze)")
    now = time.time()
    data = without_weights(graph.graph_def).SerializeToString()
    events = (
        Event(wall_time=now, file_version="brain.Event:2"),  # what every reader expects first
        Event(wall_time=now, graph_def=data),
    )
    path = Path(folder) / f"events.out.tfevents.{now:.0f}.{os.getpid()}.icefloe"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
    except OSError as error:
        raise ConfigError(f"--tensorboard {folder}: cannot be written ({system_text(error)})") from error
    return str(path)
