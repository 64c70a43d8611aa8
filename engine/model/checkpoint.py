"""Checkpoints: a session's variables saved with its graph, and brought back into a Graph and Session of their own.

Beside `session.py` the only room that imports TensorFlow, and only when called. Start at `save_checkpoint` and
`restore_checkpoint`; freezing one is `engine.model.freeze`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.audit import audit_everything, check_audit
from engine.model.closure import split_tensor
from engine.model.filetype import ModelKind, checkpoint_files, locate_model
from engine.model.freeze_plan import SAVER_OPERATIONS
from engine.model.metagraph import DEFAULT_SIGNATURE, MetaGraph, read_meta_graph
from engine.model.session import import_tensorflow

Array = npt.NDArray[Any]


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
    """The `tf.compat.v1.train.Saver` that the variables came back by."""

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
        """
        values = {_tensor(name, self.inputs): value for name, value in feeds.items()}
        if isinstance(fetches, str):
            return self.session.run(_tensor(fetches, self.outputs), values)
        return self.session.run([_tensor(name, self.outputs) for name in fetches], values)

    def save(self, prefix: str) -> str:
        """Save the variables as they are now; return the prefix."""
        return save_checkpoint(self.session, prefix, self.inputs, self.outputs, self.saver)

    def __enter__(self) -> Self:
        """Return the model; leaving the context closes its session."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.session.close()


def _tensor(name: str, ports: Mapping[str, str]) -> str:
    return ports.get(name) or ports.get(name.removesuffix(":0")) or (name if ":" in name else f"{name}:0")


def save_checkpoint(
    session: Any,
    prefix: str,
    inputs: Sequence[str] | Mapping[str, Any] = (),
    outputs: Sequence[str] | Mapping[str, Any] = (),
    saver: Any = None,
) -> str:
    """Save the variables of a session as `PREFIX.index` and `.data-...`, and its graph as `PREFIX.meta`.

    Args:
        session: a `tf.compat.v1.Session`.
        prefix: path without ending; its folder is made.
        inputs: tensors that the model takes, found again by name: names, or tensors (or their names) by a name of
            your choice. They are kept in the meta graph as its signature.
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
            raise GraphError(f"{prefix}: cannot save this session: {error}") from error
        meta = saver.export_meta_graph()
    infos = [{name: tf.compat.v1.saved_model.build_tensor_info(each) for name, each in port.items()} for port in ports]
    if any(infos):
        signature = tf.compat.v1.saved_model.build_signature_def(*infos, "predict")
        meta.signature_def[DEFAULT_SIGNATURE].CopyFrom(signature)
    temporary = Path(f"{prefix}.meta.tmp{os.getpid()}")
    temporary.write_bytes(meta.SerializeToString())
    temporary.replace(f"{prefix}.meta")
    return prefix


def _named_tensors(graph: Any, names: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    pairs = names.items() if isinstance(names, Mapping) else [(split_tensor(name)[0], name) for name in names]
    found = {}
    for name, given in pairs:
        try:
            tensor = given if not isinstance(given, str) else given if ":" in given else f"{given}:0"
            found[str(name)] = graph.as_graph_element(tensor, allow_tensor=True, allow_operation=False)
        except (KeyError, ValueError, TypeError) as error:
            raise GraphError(f"the session's graph has no tensor {given}") from error
    return found


def restore_checkpoint(path: str, allow_ops: Sequence[str] = ()) -> RestoredModel:
    """Bring a checkpoint back into its own Graph and Session.

    Args:
        path: the prefix, any of its files, or the folder with its `checkpoint` file; format V1 or V2.
        allow_ops: operations that reach files, network or Python (input pipelines, summaries) to let through.

    Raises:
        GraphError: if it is no checkpoint, if a part is missing or damaged, or if its graph reaches outside.
    """
    found = locate_model(path)
    if found.kind is not ModelKind.CHECKPOINT:
        raise GraphError(f"{path}: expected a checkpoint, found a {found.kind}")
    meta = read_meta_graph(found)
    check_audit(path, audit_everything(meta.graph_def), (*SAVER_OPERATIONS, *allow_ops), has_library=False)
    tf = import_tensorflow(gpu_share=0)
    message = tf.compat.v1.MetaGraphDef.FromString(meta.meta.SerializeToString())
    if not message.meta_info_def.tensorflow_version[:1].isdigit() or "head" in message.meta_info_def.tensorflow_version:
        message.meta_info_def.tensorflow_version = ""  # "0.12.head" is no version, and import_meta_graph refuses it
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        try:
            saver = tf.compat.v1.train.import_meta_graph(message, clear_devices=True)
        except (ValueError, KeyError, TypeError, tf.errors.OpError) as error:
            raise GraphError(f"{path}: TensorFlow cannot load the graph of this checkpoint: {error}") from error
        fill_variables(tf, session, meta)
    signature = meta.signature(None)
    ports = [{name: str(info.name) for name, info in each.items()} for each in (signature.inputs, signature.outputs)]
    return RestoredModel(session, ports[0], ports[1], saver)


def fill_variables(tf: Any, session: Any, meta: MetaGraph) -> None:
    """Fill a session's variables from the checkpoint of `meta`, whose graph it holds.

    Raises:
        GraphError: saying which file or variable is missing or wrong.
    """
    if not meta.prefix:
        return
    files = checkpoint_files(meta.prefix)
    _check_shards(meta, files)
    with _restoring(tf, meta):
        if meta.meta.saver_def.restore_op_name:
            is_sharded_v1 = not files[0].endswith(".index") and files[0] != meta.prefix
            # V1 shards are found by a pattern, all other kinds by their prefix.
            name = f"{meta.prefix}-?????-of-{files[0][-5:]}" if is_sharded_v1 else meta.prefix
            saver = meta.meta.saver_def
            session.run(saver.restore_op_name, {saver.filename_tensor_name: name})
        else:
            reader = tf.train.load_checkpoint(meta.prefix)
            names = set(reader.get_variable_to_shape_map())
            variables = [node.name for node in session.graph.as_graph_def().node if node.name in names]
            assign_variables(tf, session, {name: reader.get_tensor(name) for name in variables})


def _check_shards(meta: MetaGraph, files: Sequence[str]) -> None:
    """Check that all files of a checkpoint in several are there, which their names tell."""
    shards = [file for file in files if file[-9:-5] == "-of-"]
    expected = int(shards[0][-5:]) if shards else int(bool(files) and files[0].endswith(".index"))
    if len(shards) != expected:
        name = f"{meta.prefix}.data-00000-of-?????" if not shards else f"{expected - len(shards)} of {expected} files"
        raise GraphError(f"{meta.given}: a part of this checkpoint is missing ({name}); copy all of its files")


def assign_variables(tf: Any, session: Any, values: Mapping[str, Array]) -> None:
    """Set variables of a session's graph, of any kind, by name."""
    graph = session.graph
    feeds, assigns = {}, []
    with graph.as_default():
        for name, value in values.items():
            node = graph.get_operation_by_name(name)
            is_resource = node.type == "VarHandleOp"
            dtype = node.get_attr("dtype")
            holder = tf.compat.v1.placeholder(dtype)
            feeds[holder] = np.asarray(value)
            if is_resource:
                assigns.append(tf.raw_ops.AssignVariableOp(resource=node.outputs[0], value=holder))
            else:
                assigns.append(tf.raw_ops.Assign(ref=node.outputs[0], value=holder, validate_shape=False))
    session.run(assigns, feeds)


def variable_values(session: Any, names: Sequence[str]) -> dict[str, Array]:
    """Return the values of variables of a live session by name.

    Raises:
        GraphError: if one is not initialised.
    """
    tf = import_tensorflow(gpu_share=0)
    graph, reads = session.graph, {}
    with graph.as_default():
        for name in names:
            node = graph.get_operation_by_name(name)
            if node.type != "VarHandleOp":
                reads[name] = node.outputs[0]
                continue
            known = [each for each in node.outputs[0].consumers() if each.type == "ReadVariableOp"]
            read = (
                known[0].outputs[0]
                if known
                else tf.raw_ops.ReadVariableOp(resource=node.outputs[0], dtype=node.get_attr("dtype"))
            )
            reads[name] = read
    try:
        return {name: np.asarray(value) for name, value in session.run(reads).items()}
    except tf.errors.FailedPreconditionError as error:
        raise GraphError(
            f"the session holds a variable without a value; initialise or restore it: {_first_line(error)}"
        ) from error


def replace_variables(session: Any, graph_def: Any, targets: Sequence[str]) -> Any:
    """Return what `targets` (operations) need of a TensorFlow GraphDef, with the session's variables as constants.

    Raises:
        GraphError: if a variable has no value, or stands where no constant can.
    """
    tf = import_tensorflow(gpu_share=0)
    from tensorflow.python.framework import convert_to_constants

    try:
        return convert_to_constants.convert_variables_to_constants_from_session_graph(session, graph_def, list(targets))
    except tf.errors.FailedPreconditionError as error:
        raise GraphError(f"a variable has no value: {_first_line(error)}") from error
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise GraphError(f"a variable stands where no constant can: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _restoring(tf: Any, meta: MetaGraph) -> Iterator[None]:
    """Say in plain words why variables could not be restored."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise GraphError(
            f"{meta.given}: graph and values do not belong together, or a file is missing: {_first_line(error)}"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise GraphError(
            f"{meta.given}: the values are of another model than the graph: {_first_line(error)}"
        ) from error
    except (tf.errors.DataLossError, tf.errors.OutOfRangeError) as error:
        raise GraphError(
            f"{meta.given}: a file of this checkpoint is damaged or cut short: {_first_line(error)}"
        ) from error
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise GraphError(f"{meta.given}: cannot restore this checkpoint: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "message", error)).strip().splitlines()
    return next(
        (line.strip() for line in lines if line.strip() and "Graph execution error" not in line), "no reason given"
    )
