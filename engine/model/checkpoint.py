"""Checkpoints: a session's variables saved with its graph, and brought back into a Graph and Session of their own.

Beside `session.py` the only room that imports TensorFlow, and only when called. Start at `save_checkpoint` and
`restore_checkpoint`; freezing one is `engine.model.freezing.freeze`.
"""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from google.protobuf.message import DecodeError

from engine.errors import GraphError
from engine.model.audit import audit_everything, audit_graph, check_audit
from engine.model.closure import split_tensor
from engine.model.filetype import ModelKind, locate_model
from engine.model.loading import one_line, refused_at_load, translated
from engine.model.metagraph import DEFAULT_SIGNATURE, MetaGraph, read_meta_graph
from engine.model.restoring import fill_variables
from engine.model.session import import_tensorflow

# What savers are made of; they write and read the files of checkpoints.
SAVER_OPERATIONS = (
    *("Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints"),
    *("Restore", "RestoreSlice", "RestoreV2"),
)
SAVER_SCOPE = re.compile(r"(^|/)save(_\d+)?/")


@dataclass(slots=True)
class RestoredModel:
    """A checkpoint in a Graph and Session of its own; infer by tensor name, or train on and save again."""

    session: Any
    """The `tf.compat.v1.Session`, whose `run` takes tensor names and operations as well."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Tensor of each input, by the name under which it was saved; empty where none was."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Tensor of each output, by the name under which it was saved."""
    saver: Any = None
    """The `tf.compat.v1.train.Saver` that the variables came back by; None for a graph without any."""

    @property
    def graph(self) -> Any:
        """The `tf.Graph` of the session."""
        return self.session.graph

    def run(self, fetches: str | Sequence[str], feeds: Mapping[str, Any]) -> Any:
        """Infer by name: `model.run("prediction", {"inputs": rows})`; `:0` may be left out.

        Args:
            fetches: one tensor or several; names under which outputs were saved, or tensors of the graph.
            feeds: arrays by tensor, likewise.

        Returns:
            An array, or a list of them where `fetches` is one.

        Raises:
            GraphError: if the graph lacks a tensor, or cannot run.
            DataError: if it refuses these values.
        """
        values = {self._find(name, self.inputs): value for name, value in feeds.items()}
        names = [fetches] if isinstance(fetches, str) else list(fetches)
        tensors = [self._find(name, self.outputs) for name in names]
        with translated(import_tensorflow(gpu_share=0)):
            found = self.session.run(tensors, values)
        return found[0] if isinstance(fetches, str) else found

    def save(self, prefix: str) -> str:
        """Save the variables as they are now; return the prefix."""
        return save_checkpoint(self.session, prefix, self.inputs, self.outputs, self.saver)

    def _find(self, name: str, ports: Mapping[str, str]) -> Any:
        return _find_tensor(self.graph, ports.get(name) or ports.get(name.removesuffix(":0")) or name)

    def __enter__(self) -> Self:
        """Return the model; leaving the context closes its session."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.session.close()


def save_checkpoint(
    session: Any,
    prefix: str,
    inputs: Sequence[Any] | Mapping[str, Any] = (),
    outputs: Sequence[Any] | Mapping[str, Any] = (),
    saver: Any = None,
) -> str:
    """Save the variables of a session as `PREFIX.index` and `.data-...`, and its graph as `PREFIX.meta`.

    Args:
        session: a `tf.compat.v1.Session`.
        prefix: path without ending; its folder is made.
        inputs: tensors that the model takes, found again by name: tensors (or their names), or such by a name of your
            choice. They are kept in the meta graph as its signature.
        outputs: tensors that it gives, likewise.
        saver: the saver to use; without one, all variables are saved, and operations for it are added to the graph.

    Returns:
        The prefix.

    Raises:
        GraphError: if the graph lacks a tensor, or there is nothing to save.
    """
    tf = import_tensorflow(gpu_share=0)
    graph = session.graph
    ports = [_named_tensors(graph, names) for names in (inputs, outputs)]
    os.makedirs(os.path.dirname(os.path.abspath(prefix)), exist_ok=True)
    with graph.as_default():
        try:
            saver = saver or tf.compat.v1.train.Saver()
            saver.save(session, prefix, write_meta_graph=False)
        except (ValueError, RuntimeError, tf.errors.OpError) as error:
            raise GraphError(f"{prefix}: cannot save this session: {one_line(str(error))}") from error
        meta = saver.export_meta_graph()
        info = tf.compat.v1.saved_model.build_tensor_info
        infos = [{name: info(tensor) for name, tensor in port.items()} for port in ports]
    if any(infos):
        signature = tf.compat.v1.saved_model.build_signature_def(*infos, "predict")
        meta.signature_def[DEFAULT_SIGNATURE].CopyFrom(signature)
    temporary = Path(f"{prefix}.meta.tmp{os.getpid()}")
    temporary.write_bytes(meta.SerializeToString())
    temporary.replace(f"{prefix}.meta")
    return prefix


def _named_tensors(graph: Any, names: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(names, Mapping):
        return {str(name): _find_tensor(graph, given) for name, given in names.items()}
    return {split_tensor(getattr(each, "name", each))[0]: _find_tensor(graph, each) for each in names}


def _find_tensor(graph: Any, given: Any) -> Any:
    """Return a tensor of the graph by its name, whose `:0` may be left out, or as it is."""
    name = f"{given}:0" if isinstance(given, str) and ":" not in given else given
    try:
        return graph.as_graph_element(name, allow_tensor=True, allow_operation=False)
    except (KeyError, ValueError, TypeError) as error:
        raise GraphError(f"the session's graph has no tensor {given}") from error


def restore_checkpoint(path: str, allow_ops: Sequence[str] = ()) -> RestoredModel:
    """Bring a checkpoint back into its own Graph and Session.

    Args:
        path: the prefix, any of its files, or the folder with its `checkpoint` file; format V1 or V2.
        allow_ops: operations that reach files, network or Python (input pipelines, summaries) to let through.

    Raises:
        GraphError: if it is no checkpoint, if a part is missing or damaged, or if its graph reaches outside.
    """
    found = locate_model(path)
    if found.kind not in (ModelKind.CHECKPOINT, ModelKind.META_GRAPH):
        raise GraphError(f"{path}: expected a checkpoint, found a {found.kind}")
    meta = read_meta_graph(found)
    if not meta.prefix:
        raise GraphError(f"{path}: a graph without values; copy the checkpoint's other files beside it")
    _audit(meta, allow_ops)
    tf = import_tensorflow(gpu_share=0)
    message = tf.compat.v1.MetaGraphDef.FromString(meta.meta.SerializeToString())
    # The version of who wrote it decides nothing here, and one that is none, "0.12.head", would be refused.
    message.meta_info_def.tensorflow_version = ""
    if message.HasField("saver_def"):
        message.saver_def.max_to_keep = 0  # else the sixth save would delete the first
    session = tf.compat.v1.Session(graph=tf.Graph())
    with contextlib.ExitStack() as undo:
        undo.callback(session.close)
        with refused_at_load(), translated(tf, path), session.graph.as_default():
            try:
                saver = tf.compat.v1.train.import_meta_graph(message, clear_devices=True)
            except DecodeError as error:  # of the messages within the message
                raise GraphError(f"{path}: {found.path}.meta is damaged ({error}); copy it again") from error
            fill_variables(tf, session, meta)
        undo.pop_all()
    signature = meta.signature(None)
    ports = [{name: str(info.name) for name, info in each.items()} for each in (signature.inputs, signature.outputs)]
    return RestoredModel(session, ports[0], ports[1], saver)


def _audit(meta: MetaGraph, allow_ops: Sequence[str]) -> None:
    """Refuse a graph that reaches outside; its savers may write and read, if nothing else depends on them."""
    scope = str(meta.meta.saver_def.save_tensor_name).rpartition("/")[0]
    others = [
        node.name
        for node in meta.graph_def.node
        if not SAVER_SCOPE.search(node.name) and not (scope and node.name.startswith(f"{scope}/"))
    ]
    signatures = meta.meta.signature_def.values()
    ports = [info.name for each in signatures for info in (*each.inputs.values(), *each.outputs.values())]
    check_audit(meta.given, audit_graph(meta.graph_def, [], [*others, *ports]), allow_ops, has_library=False)
    findings = audit_everything(meta.graph_def)
    check_audit(meta.given, findings, (*SAVER_OPERATIONS, *allow_ops), has_library=False)
