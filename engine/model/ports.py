"""The ports of a graph: which tensors rows go in at and predictions come out of, and under which names.

Pure. Whatever a model calls its tensors, once it is frozen a lone input is `inputs:0` and a lone output
`prediction:0`, unless its own graph or the caller names them. Start at `choose_inputs` and `choose_outputs`.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import GraphError
from engine.model.closure import split_tensor
from engine.model.describing.likely import likely_outputs
from engine.model.graphdef import dtype_name, read_shape
from engine.model.metagraph import Signature
from engine.model.tensor import TensorSpec

SHOWN = 8
INPUT, OUTPUT = "inputs", "prediction"
MAX_DIGITS = 9
NODE_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


@dataclass(frozen=True, slots=True)
class Port:
    """A tensor of the source, and the name that it gets in the frozen graph."""

    name: str
    """Name of the node in the frozen graph, whose output 0 is the port."""
    tensor: str
    """Tensor of the source, with output index."""
    spec: TensorSpec | None = None
    """Dtype and shape, where a signature tells them."""


def choose_outputs(given: str, graph_def: Any, signature: Signature, outputs: Sequence[str]) -> tuple[Port, ...]:
    """Settle which tensors a graph is frozen to.

    Args:
        given: the model's path, for messages.
        graph_def: the graph.
        signature: names that the model itself gives its ports.
        outputs: what the caller asks for: names of the signature, tensors, or `NEW=EITHER`. `prediction` is
            also the only output of a signature. Empty: all that the signature has.

    Raises:
        GraphError: for a name that the model lacks, or if nothing says what its outputs are.
    """
    nodes = {node.name for node in graph_def.node}
    only = next(iter(signature.outputs)) if len(signature.outputs) == 1 else None
    wanted = [entry.partition("=")[::2] if "=" in entry else ("", entry) for entry in outputs]
    if not outputs:
        wanted = [(OUTPUT, only)] if only else [(key, key) for key in sorted(signature.outputs, key=_natural)]
    if not wanted:
        likely = ", ".join(likely_outputs(graph_def).likely[:SHOWN]) or "none"
        raise GraphError(f"{given}: --outputs is missing: which tensors to freeze to? Likely ones are {likely}")
    ports = []
    for new, source in wanted:
        key = source.removesuffix(":0")
        if key in signature.outputs:
            port = _signature_port(given, new or key, key, signature.outputs)
        elif split_tensor(source)[0] in nodes:
            port = Port(new or _own_name(source), source if ":" in source else f"{source}:0")
        elif only and not new and key == OUTPUT:
            port = _signature_port(given, key, only, signature.outputs)
        else:
            known = [f"{name} (of the signature)" for name in sorted(signature.outputs)]
            near = [f"{name}:0" for name in difflib.get_close_matches(source, nodes, n=3, cutoff=0.5)]
            names = dict.fromkeys([*known, *near, *likely_outputs(graph_def).likely])
            hint = ", ".join(list(names)[:SHOWN]) or "none"
            raise GraphError(
                f"{given} has no tensor {source} to freeze to (--outputs, or --fetch of score); "
                f"what comes near is {hint}"
            )
        ports.append(port)
    return tuple(ports)


def _natural(name: str) -> list[str]:
    """Sort by this, and output_2 comes before output_10."""
    return [part.rjust(MAX_DIGITS, "0") if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _signature_port(given: str, name: str, key: str, infos: Mapping[str, Any]) -> Port:
    return Port(name, _info_name(given, key, infos[key]), _info_spec(name, infos[key]))


def _own_name(tensor: str) -> str:
    """A second output of a node, `split:1`, needs a name of its own; all others keep theirs."""
    node, index = split_tensor(tensor)
    return node if index == 0 else f"{node}_{index}"


def choose_inputs(given: str, signature: Signature, inputs: Sequence[str]) -> tuple[Port, ...]:
    """Settle the input ports: the signature's, under their names, a lone one as `inputs`; and what the caller renames.

    Args:
        given: the model's path, for messages.
        signature: names that the model itself gives its ports.
        inputs: `NEW=TENSOR` or `NEW=KEY` of the signature.

    Raises:
        GraphError: for an entry of another form.
    """
    renamed: dict[str, Port] = {}
    for entry in inputs:
        name, _, source = entry.partition("=")
        if not (name and source):
            raise GraphError(f"{given}: --inputs takes NEW=TENSOR, as in inputs=serving_default_x:0, found {entry}")
        tensor = find_port(given, signature, source)
        if tensor in renamed:
            raise GraphError(f"{given}: --inputs names {tensor} twice, {renamed[tensor].name} and {name}")
        info = next((each for each in signature.inputs.values() if each.name == tensor), None)
        renamed[tensor] = Port(name, tensor, None if info is None else _info_spec(name, info))
    ports = []
    for key, info in sorted(signature.inputs.items(), key=lambda item: _natural(item[0])):
        tensor = _info_name(given, key, info)
        if tensor not in renamed:
            name = INPUT if len(signature.inputs) == 1 else key
            ports.append(Port(name, tensor, _info_spec(name, info)))
    return (*renamed.values(), *ports)


def find_port(given: str, signature: Signature, name: str) -> str:
    """Return the tensor that an input of the signature is, or a tensor's own name with its output index."""
    key = name.removesuffix(":0")
    if key in signature.inputs:
        return _info_name(given, key, signature.inputs[key])
    return name if ":" in name else f"{name}:0"


def check_names(given: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> None:
    """Check that no two ports would get one name.

    Raises:
        GraphError: if two would, with what to type.
    """
    ports = [*inputs, *outputs]
    for number, port in enumerate(ports):
        if not NODE_NAME.fullmatch(port.name):
            raise GraphError(
                f"{given}: {port.name} is no name for a tensor; name it with --outputs or --inputs NEW=TENSOR"
            )
        # An input may be an output as it is.
        is_output = number >= len(inputs)
        others = [each for each in inputs if each.tensor != port.tensor] if is_output else ports[:number]
        others += ports[len(inputs) : number]
        other = next((each for each in others if each.name == port.name), None)
        if other is not None:
            raise GraphError(
                f"{given}: two ports would be called {port.name} ({other.tensor} and {port.tensor}); "
                "name them apart with --outputs NEW=TENSOR or --inputs NEW=TENSOR"
            )


def rename_nodes(graph_def: Any, names: Mapping[str, str]) -> dict[str, str]:
    """Rename nodes of a GraphDef, in place; nodes that have one of the new names make room for it.

    Args:
        graph_def: the graph.
        names: new name by old name.

    Returns:
        The new name of each node that has got one.
    """
    wanted = set(names.values())
    taken = {node.name for node in graph_def.node} | wanted
    renamed = {old: new for old, new in names.items() if old != new}
    for name in sorted(wanted & {node.name for node in graph_def.node} - set(names)):
        renamed[name] = next(each for i in itertools.count(1) if (each := f"{name}_{i}") not in taken)
        taken.add(renamed[name])
    for node in graph_def.node if renamed else ():
        node.name = renamed.get(node.name, node.name)
        for i, edge in enumerate(node.input):
            source = split_tensor(edge)[0]
            if source in renamed:
                sign, end = "^" if edge.startswith("^") else "", edge.removeprefix("^")[len(source) :]
                node.input[i] = f"{sign}{renamed[source]}{end}"
    return renamed


def _info_name(given: str, key: str, info: Any) -> str:
    if not info.name:
        raise GraphError(
            f"{given}: the signature's {key} is no plain tensor (sparse or composite); name tensors instead"
        )
    return str(info.name)


def _info_spec(name: str, info: Any) -> TensorSpec:
    return TensorSpec(f"{name}:0", dtype_name(info.dtype), read_shape(info.tensor_shape))


def default_columns(tensors: Sequence[str]) -> dict[str, str]:
    """Name a column for each tensor: the last word of its name, or the whole where two would be the same."""
    words = [name.partition(":")[0].rpartition("/")[2] for name in tensors]
    whole = [name.removesuffix(":0").replace("/", "_").replace(":", "_") for name in tensors]
    columns: dict[str, str] = {}
    for name, word, full in zip(tensors, words, whole, strict=True):
        column = word if words.count(word) == 1 else full
        while column in columns.values():  # a/b and a_b
            column += "_"
        columns[name] = column
    return columns
