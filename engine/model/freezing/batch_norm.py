"""Batch norms in training form, which normalise each row by the others of its batch: repaired, or refused by name.

They take their moving averages instead, which lie beside them under the names that TensorFlow's layers gave them.
Pure rewriting. Start at `mend_batch_norms`.
"""

import re
from typing import Any

from tensorboard.compat.proto.types_pb2 import DataType

from engine.errors import GraphError
from engine.model.closure import split_tensor
from engine.model.freezing.bodies import BRANCHES, LOOPS, SWITCHES
from engine.model.freezing.rewriting import HOLDERS, THROUGH, Rewriting

INT64 = DataType.Value("DT_INT64")
AVERAGES = ("moving_mean", "moving_variance")
# What tf.nn.moments calls its results, with and without the axes that it reduced.
MOMENTS = {"mean": 0, "Squeeze": 0, "variance": 1, "Squeeze_1": 1}
MOMENTS_SCOPE = re.compile(r"(?:(?P<scope>.*)/)?(?P<moments>moments(?:_\d+)?)/(?P<last>[^/]+)")
REFUSAL = (
    "is a batch norm in training form, which normalises each row by the others of its batch, {reason}; "
    "save the graph that was built with training=False"
)


def mend_batch_norms(graph: Rewriting) -> None:
    """Let batch norms that normalise by their batch take their moving averages.

    Raises:
        GraphError: for one whose moving averages are not to be found.
    """
    mended = {node.name for node in graph.needed if _mend_fused(graph, node)}
    for node in graph.needed:
        mended |= {scope for i in range(len(node.input)) if (scope := _mend_plain(graph, node, i)) is not None}
    for function in graph.straight_functions():
        for node in function.node_def:
            if is_training_norm(node):
                reason = f"in function {function.signature.name}, where it is not mended"
                raise GraphError(f"{graph.given}: {node.name} ({node.op}) {REFUSAL.format(reason=reason)}")
    if mended:
        graph.notes.append(f"{len(mended)} batch norms in training form take their moving averages now")


def is_training_norm(node: Any) -> bool:
    """Say whether a node is a fused batch norm in training form."""
    is_norm = node.op in ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
    return is_norm and ("is_training" not in node.attr or node.attr["is_training"].b)  # its default is true


def _mend_fused(graph: Rewriting, node: Any) -> bool:
    if not is_training_norm(node) or graph.is_conditional(node):
        return False
    # Scale and offset lie beside the averages; constants of ones may stand for them.
    sources = [graph.trace(edge, (*THROUGH, *SWITCHES)) for edge in node.input[1:3]]
    scopes = [source.name.rpartition("/")[0] for source in sources if source is not None and source.op in HOLDERS]
    found = [averages for scope in (*scopes, node.name.rpartition("/")[0]) if (averages := _averages(graph, scope))]
    if not found:
        raise _refusal(graph, node)
    node.input[3], node.input[4] = map(graph.value, found[0])
    node.attr["is_training"].b = False
    return True


def _averages(graph: Rewriting, scope: str) -> list[Any]:
    """Return the nodes that hold the moving averages of a scope; none where it has none."""
    found = [graph.body.by_name.get(f"{scope}/{name}" if scope else name) for name in AVERAGES]
    return found if all(each is not None and each.op in HOLDERS for each in found) else []


def _refusal(graph: Rewriting, node: Any) -> GraphError:
    reason = "and its moving averages are not in the graph"
    return GraphError(f"{graph.given}: {node.name} ({node.op}) {REFUSAL.format(reason=reason)}")


def _mend_plain(graph: Rewriting, node: Any, i: int) -> str | None:
    """Let the input `i` of a node be a moving average where it is the batch's own; return the norm's scope."""
    name = split_tensor(node.input[i])[0]
    found = MOMENTS_SCOPE.fullmatch(name)
    if found is None or found["last"] not in MOMENTS or node.input[i].startswith("^"):
        return None
    scope = found["scope"] or ""
    prefix = f"{scope}/" if scope else ""
    is_inside = node.name.startswith(f"{prefix}{found['moments']}/")
    # A condition chooses between both; and what updates the averages is no part of what is computed.
    if is_inside or node.op in (*SWITCHES, "Merge", *BRANCHES, *LOOPS) or "AssignMovingAvg" in node.name:
        return None
    mean = graph.body.by_name.get(f"{prefix}{found['moments']}/mean")
    if mean is None or not _reduces_batch(graph, mean) or graph.is_conditional(mean):
        return None
    averages = _averages(graph, scope)
    if not averages:
        if f"{prefix}batchnorm/" in node.name:
            raise _refusal(graph, node)
        return None
    node.input[i] = graph.value(averages[MOMENTS[found["last"]]])
    return scope


def _reduces_batch(graph: Rewriting, mean: Any) -> bool:
    """Whether a mean is taken across rows; a layer norm takes it within each row."""
    axes = graph.trace(mean.input[1]) if len(mean.input) > 1 else None
    if axes is None or axes.op != "Const":
        return True
    tensor = axes.attr["value"].tensor
    width = 8 if tensor.dtype == INT64 else 4
    packed = [tensor.tensor_content[i : i + width] for i in range(0, len(tensor.tensor_content), width)]
    return 0 in (*tensor.int_val, *tensor.int64_val, *(int.from_bytes(each, "little", signed=True) for each in packed))
