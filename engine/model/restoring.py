"""Values of variables: brought from a checkpoint's files into a session, set and read by name.

Takes the imported TensorFlow as an argument, so that nothing here imports it. Start at `fill_variables`.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.filetype import checkpoint_files
from engine.model.graphdef import VARIABLES
from engine.model.loading import one_line
from engine.model.metagraph import MetaGraph
from engine.model.tensor import TensorSpec

Array = npt.NDArray[Any]

SAME_SAVE = "graph and values do not belong together; copy all files of one save"
MAX_SHOWN = 6


def fill_variables(tf: Any, session: Any, meta: MetaGraph) -> None:
    """Fill a session's variables from the checkpoint of `meta`, whose graph it holds.

    Raises:
        GraphError: saying which file or variable is missing or wrong.
    """
    if not meta.prefix:
        return
    files = checkpoint_files(meta.prefix)
    _check_files(meta, files)
    is_sharded_v1 = not files[0].endswith(".index") and files[0] != meta.prefix
    # V1 shards are found by a pattern, all other kinds by their prefix.
    name = f"{meta.prefix}-?????-of-{files[0][-5:]}" if is_sharded_v1 else meta.prefix
    saver = meta.meta.saver_def
    with _restoring(tf, meta, files):
        values = tf.train.load_checkpoint(name)
        if saver.restore_op_name:
            _check_values(tf, session, meta, values)
            session.run(saver.restore_op_name, {saver.filename_tensor_name: name})
        else:
            variables = [node.name for node in session.graph.get_operations() if node.type in VARIABLES]
            _check_known(meta, values.get_variable_to_shape_map(), variables)
            assign_variables(tf, session, {name: values.get_tensor(name) for name in variables})


def _check_files(meta: MetaGraph, files: Sequence[str]) -> None:
    """Check that all files of a checkpoint are there, which the names of its shards tell."""
    if not files:
        raise GraphError(
            f"{meta.given}: this checkpoint has a graph but no values: {meta.prefix}.index (or, of format V1, "
            f"{meta.prefix} itself) is missing; copy all of its files"
        )
    shards = [file for file in files if file[-9:-5] == "-of-"]
    count = int(shards[0][-5:]) if shards else 0
    if not shards and files[0].endswith(".index"):
        raise GraphError(f"{meta.given}: {meta.prefix}.data-00000-of-????? is missing; copy all of its files")
    sign = ".data-" if files[0].endswith(".index") else "-"
    names = [f"{meta.prefix}{sign}{number:05}-of-{count:05}" for number in range(count)]
    missing = [name for name in names if name not in shards]
    if missing:
        raise GraphError(f"{meta.given}: {missing[0]} is missing, one of {count} files; copy all of them")


def _check_values(tf: Any, session: Any, meta: MetaGraph, values: Any) -> None:
    """Check that a checkpoint holds each variable that the graph restores, in its shape and dtype."""
    shapes, dtypes = values.get_variable_to_shape_map(), values.get_variable_to_dtype_map()
    restored = list(_restored(tf, session.graph, meta.restore_op))
    _check_known(meta, shapes, [key for key, _, _ in restored])
    for key, part, variable in restored:
        if variable is None:
            continue
        expected, dtype = tf.TensorShape(variable.get_attr("shape")), variable.get_attr("dtype")
        if dtypes[key] != dtype or not (part or expected.is_compatible_with(shapes[key])):
            found = TensorSpec(key, dtypes[key].name, tuple(shapes[key]))
            wanted = TensorSpec(variable.name, dtype.name, None if expected.rank is None else tuple(expected.as_list()))
            raise GraphError(f"{meta.given}: the value {found} is not for the graph's variable {wanted}: {SAME_SAVE}")


def _check_known(meta: MetaGraph, known: Collection[str], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in known]
    if missing:
        shown = ", ".join(sorted(known)[:MAX_SHOWN]) + (", ..." if len(known) > MAX_SHOWN else "")
        raise GraphError(f"{meta.given}: its values lack {missing[0]}, they have {shown or 'nothing'}: {SAME_SAVE}")


def _restored(tf: Any, graph: Any, restore_op: str) -> Iterator[tuple[str, str, Any]]:
    """Yield what a restoring operation reads: key, part of the variable where it is partitioned, and variable."""
    todo, seen = [graph.as_graph_element(restore_op)], set()
    while todo:
        node = getattr(todo[-1], "op", todo[-1])
        todo.pop()
        if node in seen:
            continue
        seen.add(node)
        todo += [*node.inputs, *node.control_inputs]
        if node.type in ("Restore", "RestoreSlice", "RestoreV2"):
            known = [tf.get_static_value(each) for each in node.inputs[1:3]]
            keys, parts = np.ravel(known[0]), np.ravel(known[1]) if len(known) > 1 else [b""]
            for key, part, value in zip(keys, parts, node.outputs, strict=False):
                if isinstance(key, bytes) and isinstance(part, bytes):  # else they are computed
                    yield key.decode(), part.decode(), _assigned(value)


def _assigned(value: Any) -> Any:
    """Return the variable that a restored value is assigned to; None where that is not told."""
    for reader in value.consumers():
        if reader.type in ("Assign", "AssignVariableOp"):
            variable = reader.inputs[0].op
            return variable if variable.type in VARIABLES else None
        if reader.type == "Identity":
            return _assigned(reader.outputs[0])
    return None


def assign_variables(tf: Any, session: Any, values: Mapping[str, Array]) -> None:
    """Set variables of a session's graph, of any kind, by name."""
    graph = session.graph
    feeds, assigns = {}, []
    with graph.as_default():
        for name, value in values.items():
            node = graph.get_operation_by_name(name)
            holder = tf.compat.v1.placeholder(node.get_attr("dtype"))
            feeds[holder] = np.asarray(value)
            if node.type == "VarHandleOp":
                assigns.append(tf.raw_ops.AssignVariableOp(resource=node.outputs[0], value=holder))
            else:
                assigns.append(tf.raw_ops.Assign(ref=node.outputs[0], value=holder, validate_shape=False))
    session.run(assigns, feeds)


def variable_values(tf: Any, session: Any, names: Sequence[str]) -> dict[str, Array]:
    """Return the values of a session's variables by name, and change nothing.

    Raises:
        GraphError: if one has no value.
    """
    try:
        reads = {name: _read(tf, session.graph, name) for name in names}
        return {name: np.asarray(value) for name, value in session.run(reads).items()}
    except tf.errors.FailedPreconditionError as error:
        raise GraphError(
            f"a variable has no value; initialise or restore it first: {one_line(error.message)}"
        ) from error
    except RuntimeError as error:  # a finalized graph takes no operation more
        raise GraphError(f"a variable cannot be read: {error}; save a checkpoint, and freeze that") from error


def _read(tf: Any, graph: Any, name: str) -> Any:
    """Return a tensor that is the variable's value and nothing else: no update comes before it."""
    node = graph.get_operation_by_name(name)
    if node.type != "VarHandleOp":
        return node.outputs[0]
    for reader in node.outputs[0].consumers():
        if reader.type == "ReadVariableOp" and not reader.control_inputs and reader._control_flow_context is None:
            return reader.outputs[0]
    with graph.as_default(), graph.control_dependencies(None):
        return tf.raw_ops.ReadVariableOp(resource=node.outputs[0], dtype=node.get_attr("dtype"))


@contextlib.contextmanager
def _restoring(tf: Any, meta: MetaGraph, files: Sequence[str]) -> Iterator[None]:
    """Say in plain words why variables could not be restored: names, shapes and dtypes fit, so the files do not."""
    try:
        yield
    except (tf.errors.OpError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = one_line(str(getattr(error, "message", error)))
        names = ", ".join(Path(file).name for file in files[:MAX_SHOWN])
        raise GraphError(
            f"{meta.given}: this checkpoint cannot be restored ({reason}): one of its files ({names}) is damaged or "
            "was cut short; copy them again, or take an earlier checkpoint"
        ) from error
