"""Describes a frozen graph from its file alone, for `icefloe describe`. Start at `describe_graph`."""

import math
from collections import Counter
from dataclasses import dataclass

from engine.model.graphdef import VARIABLES, Graph, describe_tensor, dtype_name, find_inputs, find_outputs
from engine.model.infer import infer_tensor
from engine.model.tensor import TensorSpec


@dataclass(frozen=True, slots=True)
class GraphDescription:
    """What a frozen graph holds, as `icefloe describe` shows it."""

    inputs: tuple[TensorSpec, ...]
    """Placeholders, in file order."""
    outputs: tuple[TensorSpec, ...]
    """Tensors that no other node reads, constants and no-ops left out."""
    parameters: int
    """Numbers held in floating-point constants of one axis or more."""
    size_bytes: int
    """Size of the file."""
    operations: tuple[tuple[str, int], ...]
    """Operation types with their counts, most frequent first."""
    producer: int
    """GraphDef version of the TensorFlow that wrote the file."""
    variables: tuple[str, ...]
    """Variables left in the file; a frozen graph has none."""


def describe_graph(graph: Graph) -> GraphDescription:
    """Describe the graph from its file alone."""
    nodes = graph.graph_def.node
    weights = [node.attr["value"].tensor for node in nodes if node.op == "Const"]
    parameters = sum(
        math.prod(dim.size for dim in weight.tensor_shape.dim)
        for weight in weights
        if weight.tensor_shape.dim and "float" in dtype_name(weight.dtype)
    )
    return GraphDescription(
        inputs=tuple(describe_tensor(graph, name) for name in find_inputs(graph)),
        outputs=tuple(infer_tensor(graph, name) for name in find_outputs(graph)),
        parameters=parameters,
        size_bytes=len(graph.data),
        operations=tuple(Counter(node.op for node in nodes).most_common()),
        producer=graph.graph_def.versions.producer,
        variables=tuple(node.name for node in nodes if node.op in VARIABLES),
    )
