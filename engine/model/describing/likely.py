"""Guesses where rows go into a graph and where predictions come out, from names, operations and edges.

A graph made for prediction ends in its outputs. One saved whole from training ends in losses, summaries and savers
as well, and its prediction is read by them; there the names decide. Pure. Start at `likely_outputs`, then
`likely_inputs`.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.model.closure import CONTROL, needed_nodes, split_tensor
from engine.model.describing.training import (
    ASSIGNMENTS,
    LOSSES,
    OPTIMIZER,
    PIPELINE,
    SAVING,
    SIGNS_OF_TRAINING,
    training_kind,
)
from engine.model.graphdef import (
    INITIALISERS,
    NO_OUTPUTS,
    PLACEHOLDERS,
    TABLES,
    VARIABLES,
    Graph,
    describe_tensor,
    dtype_name,
    read_shape,
)
from engine.model.tensor import TensorSpec

# Words of a name, best first, that say "prediction"; and words that say that it is none.
GOOD_WORDS = (
    *("prediction", "predictions", "predict", "predicted", "pred", "preds", "probabilities", "probability", "probs"),
    *("prob", "proba", "softmax", "output", "outputs", "result", "logits", "scores", "score", "sigmoid", "classes"),
)
BAD_WORDS = {
    *("loss", "losses", "cost", "accuracy", "acc", "error", "metric", "metrics", "precision", "recall", "auc", "mse"),
    *("entropy", "xentropy", "xent", "regularization", "regularizer", "step", "rate", "lr", "decay", "summary", "eval"),
    *("correct", "label", "labels", "target", "targets"),
}
GOOD, OTHER, BAD = range(3)  # ranks
NODE_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")
BRANCHES = ("While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase")
REDUCTIONS = ("Mean", "Sum", "Prod", "All", "Any")
# Operations that hand rows over from an input pipeline; what they give can be fed in their place.
HANDOVERS = re.compile(
    r"(Iterator|MultiDeviceIterator)GetNext(Sync|FromShard)?$|QueueDequeue(Many|UpTo)?(V2)?$|Unstage$"
)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Tensors that may be a graph's predictions."""

    likely: tuple[str, ...]
    """The likely ones, best first."""
    others: tuple[str, ...]
    """What else nobody reads in a graph saved from training: losses, metrics and the like."""


def likely_outputs(graph_def: Any) -> Outputs:
    """Guess the outputs: what nobody reads, savers, optimizer, summaries and the like left out; good names first."""
    kinds = {node.name: training_kind(node) for node in graph_def.node}
    ahead = [node for node in graph_def.node if kinds[node.name] not in (*SIGNS_OF_TRAINING, PIPELINE)]
    read = {source for node in ahead if node.op != "Assert" for source in _sources(node)}
    leaves = [node for node in ahead if node.name not in read and _gives_values(node)]
    branches = {node.name for node in ahead if node.op in BRANCHES}
    leaves = [node for node in leaves if not _is_left_by_loop(node, branches)] or leaves
    sources = [node.name for node in graph_def.node if node.op in PLACEHOLDERS or HANDOVERS.match(node.op)]
    following = _followers(ahead, sources)
    if not any(kind in SIGNS_OF_TRAINING for kind in kinds.values()):  # what no input changes comes last
        return Outputs(_tensors(sorted(leaves, key=lambda node: (node.name not in following, _rank(node)))), ())
    updates = [node for node in graph_def.node if kinds[node.name] in (ASSIGNMENTS, OPTIMIZER)]
    updating = {source for node in updates for source in _sources(node)}
    leaves = [node for node in leaves if node.name not in updating]
    weighted = _followers(ahead, [node.name for node in graph_def.node if node.op in VARIABLES]) & following
    return _choose(ahead, leaves, following, weighted or following)


def _choose(ahead: Sequence[Any], leaves: Sequence[Any], following: set[str], weighted: set[str]) -> Outputs:
    """Choose the predictions of a graph saved from training, which losses and metrics read.

    Args:
        ahead: nodes that do not belong to training.
        leaves: those that nobody reads.
        following: names of nodes that depend on inputs.
        weighted: names of nodes that depend on variables as well.
    """
    nodes = {node.name: node for node in ahead}
    values = {node.name: node for node in ahead if _gives_values(node) and node.name in weighted}
    good = [node for node in ahead if node.name in following and _gives_values(node) and _rank(node)[0] == GOOD]
    bad = [node for node in ahead if _is_bad(node)]
    scored = [values[source] for node in bad for source in _sources(node) if source in values]
    compared = [values[source] for source in _compared(ahead, following, weighted) if source in values]
    ends = [node for node in leaves if node.name in weighted]
    tiers = (
        _last(nodes, [node for node in good if node.name in weighted] or good),
        [node for node in scored if not _is_bad(node)],
        _last(nodes, [*compared, *(node for node in ends if not _is_bad(node) and node.op not in REDUCTIONS)]),
        ends or leaves,
    )
    likely = next((_tensors(sorted(tier, key=_rank)) for tier in tiers if tier), ())
    chosen = set(likely)
    return Outputs(likely, tuple(name for name in _tensors(ends) if name not in chosen))


def _is_left_by_loop(node: Any, branches: Collection[str]) -> bool:
    """Whether a node is what a loop or a condition of TensorFlow 2 leaves behind: lists, and counters that it made."""
    if node.op.startswith("TensorList") and node.op not in ("TensorListStack", "TensorListConcatV2"):
        return True
    source = next(_sources(node), "")
    return node.op == "Identity" and source in branches and node.name.startswith(f"{source}/Identity")


def _is_bad(node: Any) -> bool:
    return training_kind(node) == LOSSES or _rank(node)[0] == BAD


def _compared(nodes: Iterable[Any], following: set[str], weighted: set[str]) -> Iterator[str]:
    """Yield names of what is set against an input that no variable touches: predictions against labels."""
    for node in nodes:
        sources = list(_sources(node))
        if any(source in following and source not in weighted for source in sources):
            yield from (source for source in sources if source in weighted)


def _last(nodes: Mapping[str, Any], candidates: Iterable[Any]) -> list[Any]:
    """Return the candidates that no other one depends on; all of them where they go round in a loop."""
    candidates = list({node.name: node for node in candidates}.values())
    before = needed_nodes(nodes, [], [source for node in candidates for source in _sources(node)])
    return [node for node in candidates if node.name not in before] or candidates


def _sources(node: Any) -> Iterator[str]:
    """Yield the nodes whose values a node reads."""
    return (split_tensor(edge)[0] for edge in node.input if not edge.startswith("^"))


def _gives_values(node: Any) -> bool:
    return is_node_name(node.name) and node.op not in (*NO_OUTPUTS, *TABLES) and not node.op.startswith(INITIALISERS)


def _tensors(nodes: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{node.name}:0" for node in nodes))


def _rank(node: Any) -> tuple[int, int]:
    """Return how likely a name is that of a prediction, the smaller the likelier; the last word weighs most."""
    scopes = [_words(part) for part in node.name.split("/")]
    if any(word in BAD_WORDS for words in scopes for word in words):
        return BAD, 0
    for distance, words in enumerate(reversed(scopes)):
        places = [GOOD_WORDS.index(word) for word in words if word in GOOD_WORDS]
        if places:
            return GOOD, min(places) + distance * len(GOOD_WORDS)
    return OTHER, 0


def _words(name: str) -> list[str]:
    """Split `final_result`, `OUTPUT0` and `BiasAdd_1` into words."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _followers(nodes: Sequence[Any], sources: Iterable[str]) -> set[str]:
    """Return the names of the nodes that depend on `sources`, these included."""
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for source in _sources(node):
            readers.setdefault(source, []).append(node.name)
    seen: set[str] = set()
    todo = list(sources)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(readers.get(name, ()))
    return seen


def likely_inputs(graph: Graph, outputs: Collection[str]) -> tuple[TensorSpec, ...]:
    """Return the tensors that rows go in at, of those that `outputs` need; all there are where no output is known.

    They are the placeholders, and what an input pipeline hands over, such as `IteratorGetNext:1`.
    """
    placeholders, handed = find_placeholders(graph), _handed_over(graph)
    if not outputs:
        return tuple(describe_input(graph, name) for name in placeholders)
    fed = [*placeholders, *handed]
    needed = needed_nodes(graph.nodes, fed, outputs)
    edges = (split_tensor(edge) for name in needed if name in graph.nodes for edge in graph.nodes[name].input)
    read = {(node, max(index, 0)) for node, index in edges} | {split_tensor(name) for name in outputs}
    return tuple(describe_input(graph, name) for name in fed if split_tensor(name) in read)


def find_placeholders(graph: Graph) -> list[str]:
    """Return the placeholders in file order, those of savers left out."""
    nodes = (node for node in graph.graph_def.node if node.op in PLACEHOLDERS and is_node_name(node.name))
    return list(dict.fromkeys(f"{node.name}:0" for node in nodes if training_kind(node) != SAVING))


def is_node_name(name: str) -> bool:
    """Say whether TensorFlow takes a name for a node; a tensor's name cannot be made of any other."""
    return NODE_NAME.fullmatch(name) is not None


def _handed_over(graph: Graph) -> list[str]:
    """Return the tensors read from an input pipeline's end, in the order of its outputs."""
    ends = {node.name for node in graph.graph_def.node if HANDOVERS.match(node.op) and is_node_name(node.name)}
    edges = (split_tensor(edge) for node in graph.graph_def.node for edge in node.input) if ends else ()
    return [f"{node}:{index}" for node, index in sorted({e for e in edges if e[0] in ends and e[1] != CONTROL})]


def describe_input(graph: Graph, name: str) -> TensorSpec:
    """Return what the file says of an input, an output of a pipeline's end among them."""
    node_name, index = split_tensor(name)
    node = graph.nodes[node_name]
    if node.op in PLACEHOLDERS:
        return describe_tensor(graph, name)
    types, shapes = (
        _listed(node, names) for names in (("output_types", "component_types", "dtypes"), ("output_shapes",))
    )
    dtype = dtype_name(types.type[index]) if types is not None and index < len(types.type) else None
    shape = read_shape(shapes.shape[index]) if shapes is not None and index < len(shapes.shape) else None
    return TensorSpec(name, dtype, shape)


def _listed(node: Any, names: Sequence[str]) -> Any:
    return next((node.attr[name].list for name in names if name in node.attr), None)
