"""Parses TensorFlow's messages without TensorFlow, binary or text, and tells what does not parse.

The messages come from `tensorboard.compat.proto`, which has all but the SavedModel; that one is put together
here. Start at `parse_message`.
"""

import functools
import os
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from tensorboard.compat.proto import meta_graph_pb2
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.meta_graph_pb2 import MetaGraphDef

from engine.errors import GraphError, system_text
from engine.model.filetype import HEAD_BYTES, MAX_GRAPH_BYTES, explain_bytes, text_field

MAX_QUOTED = 200  # characters of a file's own text in a message
__all__ = ["GraphDef", "MetaGraphDef", "parse_message", "read_bytes", "saved_model_class"]


@functools.cache
def saved_model_class() -> Any:
    """Return the class of SavedModel messages: `saved_model_schema_version` and `meta_graphs`."""
    meta_graph = meta_graph_pb2.MetaGraphDef.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(
        name="icefloe/saved_model.proto", package="icefloe", syntax="proto3", dependency=[meta_graph.file.name]
    )
    message = file.message_type.add(name="SavedModel")
    field = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="saved_model_schema_version", number=1, type=field.TYPE_INT64, label=field.LABEL_OPTIONAL)
    message.field.add(
        name="meta_graphs", number=2, type=field.TYPE_MESSAGE, label=field.LABEL_REPEATED,
        type_name="." + meta_graph.full_name,
    )  # fmt: skip
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("icefloe.SavedModel"))


def read_bytes(path: str) -> bytes:
    """Return the bytes of a model file.

    Raises:
        GraphError: if it cannot be read, or is larger than any protobuf message can be.
    """
    try:
        if os.path.getsize(path) <= MAX_GRAPH_BYTES:
            return Path(path).read_bytes()
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({system_text(error)})") from error
    raise GraphError(
        f"{path}: larger than 2 GiB, which no GraphDef can be (a protobuf message ends there); "
        "freeze the model in parts, or feed its largest table as a column"
    )


def parse_message(message: Any, path: str, data: bytes) -> Any:
    """Parse `data`, in the binary or the text form, into `message` and return it.

    Raises:
        GraphError: saying what the bytes are instead.
    """
    try:
        if text_field(data[:HEAD_BYTES]):
            return text_format.Parse(data.decode("utf-8-sig"), message, allow_unknown_field=True)
        message.ParseFromString(data)
    except UnicodeDecodeError as error:
        raise GraphError(f"{path}: a graph as text that is not UTF-8 ({error})") from error
    except text_format.ParseError as error:
        raise GraphError(f"{path}: text that is no graph, or was cut short: {str(error)[:MAX_QUOTED]}") from error
    except DecodeError as error:
        raise GraphError(f"{path}: expected a model, found {explain_bytes(data)}") from error
    except RecursionError as error:
        raise GraphError(f"{path}: messages within messages, deeper than any graph has") from error
    return message
