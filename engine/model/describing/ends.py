"""Where rows go into a model and predictions come out: as the ports beside it tell, its signature, or a guess.

Pure. Start at `find_ends`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.model.closure import needed_nodes
from engine.model.describing.description import SignatureDescription, SignatureEntry
from engine.model.describing.likely import find_placeholders, likely_inputs, likely_outputs
from engine.model.graphdef import Graph, describe_tensor, dtype_name, read_shape
from engine.model.infer import infer_tensor
from engine.model.metagraph import DEFAULT_SIGNATURE, MetaGraph
from engine.model.sidecar import Ports
from engine.model.tensor import TensorSpec

OPTIONAL = "PlaceholderWithDefault"
INNER_SIGNATURES = "__saved_model_"  # of TensorFlow's own: initialisation, training
MAX_OUTPUTS = 1000  # whose shapes are inferred; a graph with more unread tensors was cut to pieces


@dataclass(frozen=True, slots=True)
class Ends:
    """Inputs and outputs of a model."""

    inputs: tuple[TensorSpec, ...]
    """What the outputs need and the graph does not compute."""
    outputs: tuple[TensorSpec, ...]
    """Outputs, or likely ones, best first."""
    other_outputs: tuple[str, ...] = ()
    """Tensors that may be outputs as well."""
    init_ops: tuple[str, ...] = ()
    """Operations to run first, where the ports beside the model name them."""
    told_by: str = "guess"
    """What tells them: `ports`, `signature` or `guess`."""
    signature: str = ""
    """The signature that tells them."""

    def feeds(self, graph: Graph) -> list[str]:
        """Return the inputs that need a value."""
        optional = optional_inputs(graph, self.inputs)
        return [spec.name for spec in self.inputs if spec.name not in optional]


def optional_inputs(graph: Graph, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """Return the inputs that can be left at their default value, unless the rows would have no other way in."""
    known = [(spec, graph.nodes.get(spec.name.removesuffix(":0"))) for spec in inputs]
    defaults = [spec for spec, node in known if node is not None and node.op == OPTIONAL]
    takes_rows = any(spec.shape != () for spec, _ in known if spec not in defaults)
    return tuple(spec.name for spec in defaults if takes_rows or spec.shape == ())


def find_ends(graph: Graph, ports: Ports | None, signatures: Sequence[SignatureDescription]) -> Ends:
    """Settle inputs and outputs of a graph.

    Args:
        graph: the graph.
        ports: what was kept beside it, which wins.
        signatures: the model's signatures; of several, the default one or the first tells.
    """
    if ports is not None:
        return Ends(ports.inputs, ports.outputs, init_ops=ports.init_ops, told_by="ports")
    usable = [each for each in signatures if any(entry.tensor.name for entry in each.outputs)]
    chosen = next((each for each in usable if each.name == DEFAULT_SIGNATURE), usable[0] if usable else None)
    if chosen is not None:
        # Two names may mean one tensor; a sparse or composite one has no name.
        named, outputs = (
            tuple({entry.tensor.name: entry.tensor for entry in entries if entry.tensor.name}.values())
            for entries in (chosen.inputs, chosen.outputs)
        )
        return Ends((*named, *_unnamed(graph, named, outputs)), outputs, told_by="signature", signature=chosen.name)
    found = likely_outputs(graph.graph_def)
    inputs = likely_inputs(graph, found.likely)
    outputs = tuple(infer_tensor(graph, name) for name in found.likely[:MAX_OUTPUTS])
    return Ends(inputs, outputs, (*found.likely[MAX_OUTPUTS:], *found.others))


def _unnamed(graph: Graph, named: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the placeholders that a signature's outputs need and it does not name: keep_prob and its like."""
    needed = needed_nodes(graph.nodes, [spec.name for spec in named], [spec.name for spec in outputs])
    known = {spec.name for spec in named}
    return tuple(
        describe_tensor(graph, name)
        for name in find_placeholders(graph)
        if name not in known and name[:-2] in needed and graph.nodes[name[:-2]].op != OPTIONAL
    )


def unused_inputs(
    graph: Graph, inputs: Sequence[TensorSpec], signatures: Sequence[SignatureDescription]
) -> tuple[TensorSpec, ...]:
    """Return the placeholders that are no inputs, those of savers and of other signatures left out."""
    known = {spec.name for spec in inputs} | {entry.tensor.name for each in signatures for entry in each.inputs}
    return tuple(describe_tensor(graph, name) for name in find_placeholders(graph) if name not in known)


def describe_signatures(meta: MetaGraph | None) -> tuple[SignatureDescription, ...]:
    """Return the signatures of a model, by name, those of TensorFlow's own left out."""
    found = [] if meta is None else sorted(meta.meta.signature_def.items())
    return tuple(
        SignatureDescription(str(name), _entries(each.inputs), _entries(each.outputs))
        for name, each in found
        if not name.startswith(INNER_SIGNATURES)
    )


def _entries(infos: Mapping[str, Any]) -> tuple[SignatureEntry, ...]:
    return tuple(
        SignatureEntry(
            str(key),
            TensorSpec(
                str(info.name),
                dtype_name(info.dtype),
                read_shape(info.tensor_shape) if info.HasField("tensor_shape") else None,
            ),
        )
        for key, info in sorted(infos.items())
    )
