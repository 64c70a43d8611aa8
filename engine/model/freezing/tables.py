"""Lookup tables of a graph that is being frozen: they keep their initialisers, or their contents are taken over.

An initialiser that needs a file, a function or a saver would not do in a graph on its own; one that holds the
contents as constants does. Start at `settle_tables`, then `take_tables`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.audit import Finding, audit_graph
from engine.model.closure import called_functions, needed_nodes, split_tensor
from engine.model.graphdef import INITIALISERS
from engine.model.metagraph import MetaGraph

Array = npt.NDArray[Any]

# Tables that are filled once, then those that can be changed.
FILLERS = (*INITIALISERS, "LookupTableInsert")
STATIC = ("HashTable", "HashTableV2")
DENSE = "MutableDenseHashTable"
MUTABLE = tuple(
    f"{name}{version}" for name in ("MutableHashTable", "MutableHashTableOfTensors", DENSE) for version in ("", "V2")
)
# Made anew by each call of the session, so that what one call fills the next one does not see.
ANONYMOUS = "Anonymous"


def settle_tables(
    meta: MetaGraph, graph_def: Any, feeds: Sequence[str], needed: set[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the initialisers to keep, and the tables whose contents have to be taken over.

    Args:
        meta: the source.
        graph_def: its graph, repaired.
        feeds: tensors that values will be given for.
        needed: names of the nodes that the outputs need.

    Raises:
        GraphError: for a table that nothing fills.
    """
    nodes = {node.name: node for node in graph_def.node}
    filled = needed_nodes(nodes, [], [name for name in (meta.restore_op, *meta.init_ops) if name])
    kept, taken = [], []
    for table in (node for node in graph_def.node if node.name in needed):
        if table.op.startswith(ANONYMOUS) and "Table" in table.op:
            raise GraphError(
                f"{meta.given}: the lookup table {table.name} ({table.op}) has no name, so that a session forgets it "
                "after each call; build it with experimental_is_anonymous=False"
            )
        if table.op not in (*STATIC, *MUTABLE):
            continue
        # What may have changed since it was filled is taken as it is, where that can be had.
        is_held = meta.session is not None or table.name in filled
        is_asked = table.op in STATIC or not is_held
        initialiser = _find_initialiser(graph_def, nodes, feeds, table.name) if is_asked else None
        if initialiser is not None:
            kept.append(initialiser)
        elif is_held:
            taken.append(table.name)
        else:
            raise GraphError(
                f"{meta.given}: nothing in it fills the lookup table {table.name} ({table.op}); "
                "freeze the SavedModel or checkpoint that it comes from"
            )
    return tuple(kept), tuple(taken)


def _find_initialiser(graph_def: Any, nodes: dict[str, Any], feeds: Sequence[str], table: str) -> str | None:
    """Return an initialiser of the table that needs constants and variables alone."""
    for node in graph_def.node:
        if not (node.input and node.op.startswith(FILLERS) and split_tensor(node.input[0])[0] == table):
            continue
        closure = needed_nodes(nodes, [], [node.name])
        is_fed = any(name not in nodes or nodes[name].op.startswith("Placeholder") for name in closure)
        if not is_fed and not audit_graph(graph_def, feeds, [node.name]):
            return str(node.name)
    return None


def reads_own_file(meta: MetaGraph, graph_def: Any, finding: Finding) -> bool:
    """Whether the audit found a table that is filled from a file of the model's own, whose path is fed when it is."""
    if not finding.operation.startswith("InitializeTableFromTextFile"):
        return False
    nodes = {node.name: node for node in graph_def.node}
    assets = {split_tensor(name) for name in meta.asset_files}
    edges = [nodes[finding.node].input[1]] if not finding.place else _passed(graph_def, finding)
    return bool(edges) and all(_is_fed(nodes, edge, assets) for edge in edges)


def _passed(graph_def: Any, finding: Finding) -> list[str]:
    """Return what the graph passes to a function for the file that a node in it reads; empty where that is not told."""
    library = {f"function {function.signature.name}": function for function in graph_def.library.function}
    function = library.get(finding.place)
    node = next((each for each in function.node_def if each.name == finding.node), None) if function else None
    arguments = [argument.name for argument in function.signature.input_arg] if function else []
    if function is None or node is None or node.input[1] not in arguments:
        return []
    name = function.signature.name
    if any(name in called_functions(each) for other in library.values() for each in other.node_def):
        return []
    callers = [each for each in graph_def.node if name in called_functions(each)]
    if not all(each.op.endswith("PartitionedCall") for each in callers):
        return []
    return [each.input[arguments.index(node.input[1])] for each in callers]


def _is_fed(nodes: Mapping[str, Any], edge: str, assets: Collection[tuple[str, int]]) -> bool:
    """Whether an edge brings the path of an asset: itself, or by a variable that nothing else is assigned to."""
    source = split_tensor(edge)
    if source in assets:
        return True
    node = nodes.get(source[0])
    if node is None or node.op != "ReadVariableOp":
        return False
    variable = node.input[0]
    readers = [each for each in nodes.values() if split_tensor(variable) in map(split_tensor, each.input)]
    values = [each.input[1] for each in readers if each.op == "AssignVariableOp"]
    is_plain = all(each.op in ("AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp") for each in readers)
    return is_plain and bool(values) and all(split_tensor(value) in assets for value in values)


def take_tables(tf: Any, session: Any, source: Any, given: str, tables: Sequence[str]) -> list[str]:
    """Add initialisers that hold the contents of tables, in the order of their keys, and return their names.

    Args:
        tf: TensorFlow.
        session: session of the graph to be frozen, whose graph gets the initialisers.
        source: session whose tables are filled; perhaps the same.
        given: the model's path, for messages.
        tables: names of the tables.

    Raises:
        GraphError: if a table was not filled, or its contents cannot be read.
    """
    added = []
    for name in tables:
        contents = sorted_contents(*_contents(tf, source, given, name))
        table = session.graph.get_operation_by_name(name)
        # What a dense table exports and imports are its buckets, and their order is that of its hashes.
        load = "LookupTableInsert" if table.type.startswith(DENSE) else "LookupTableImport"
        with session.graph.as_default():
            dtypes = table.get_attr("key_dtype"), table.get_attr("value_dtype")
            keys, values = (tf.constant(array, dtype) for array, dtype in zip(contents, dtypes, strict=True))
            run = getattr(tf.raw_ops, load + _version(tf, table))
            added.append(run(table_handle=table.outputs[0], keys=keys, values=values, name=f"{name}/fill").name)
    return added


def sorted_contents(keys: Array, values: Array) -> tuple[Array, Array]:
    """Return a table's keys and values in the order of the keys; memory has them in another one in each process."""
    order = sorted(range(len(keys)), key=lambda i: np.asarray(keys[i]).tolist())
    return keys[order], values[order]


def _contents(tf: Any, session: Any, given: str, name: str) -> tuple[Array, Array]:
    """Return keys and values of a table, in the order in which its memory has them."""
    table = session.graph.get_operation_by_name(name)
    try:
        with session.graph.as_default():
            export = getattr(tf.raw_ops, "LookupTableExport" + _version(tf, table))
            dtypes = {"Tkeys": table.get_attr("key_dtype"), "Tvalues": table.get_attr("value_dtype")}
            keys, values = session.run(export(table_handle=table.outputs[0], **dtypes))
            unused = session.run(list(table.inputs)) if table.type.startswith(DENSE) else []
            unused = [np.asarray(key, object) if isinstance(key, bytes) else key for key in unused]
    except (tf.errors.FailedPreconditionError, tf.errors.AbortedError) as error:
        raise GraphError(f"{given}: nothing in it fills the lookup table {name}; run its initialiser first") from error
    except RuntimeError as error:  # a finalized graph takes no operation more
        raise GraphError(
            f"{given}: the lookup table {name} cannot be read ({error}); save a checkpoint, and freeze that"
        ) from error
    if not unused:
        return keys, values
    keys = keys.reshape(len(keys), *unused[0].shape)
    is_used = np.all([(keys != key).reshape(len(keys), -1).any(axis=1) for key in unused], axis=0)
    return keys[is_used], values[is_used].reshape(-1, *tf.TensorShape(table.get_attr("value_shape")))


def _version(tf: Any, table: Any) -> str:
    """Return the end of the names of a table's operations; before TensorFlow 1.3 it was known by a reference."""
    return "" if table.outputs[0].dtype.base_dtype == tf.string else "V2"
