"""What of a graph belongs to training, and whether it lies between inputs and outputs.

Outside it is pruned when the graph is loaded and does no harm; inside it changes what is predicted. Pure. Start at
`training_kind` and `find_leftovers`.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.model.graphdef import INITIALISERS, VARIABLES, is_random

OPTIMIZER = "optimizer"
GRADIENTS = "gradients"
SAVING = "saving and restoring"
SUMMARIES = "summaries"
PIPELINE = "queues and readers"
ASSIGNMENTS = "assignments"
LOSSES = "losses"
DROPOUT = "dropout"
BATCH_NORM = "batch norm in training form"
SPARE_VARIABLES = "variables"
# What no graph made for prediction holds.
SIGNS_OF_TRAINING = (OPTIMIZER, GRADIENTS, SAVING, SUMMARIES, ASSIGNMENTS)

SAVER_OPERATIONS = re.compile(r"((Save|Restore)(V2|Slices?)?|Sharded(Filename|Filespec)|MergeV2Checkpoints)$")
SAVER_SCOPE = re.compile(r"save(_\d+)?(/|$)|saver_filename$")
OPTIMIZER_OPERATIONS = re.compile(r"(Resource)?(Sparse)?Apply[A-Z]|.*ConditionalAccumulator|AccumulatorApplyGradient")
SUMMARY_OPERATIONS = re.compile(r"\w*Summary(V2|Writer)?$|MergeSummary|WriteRawProtoSummary")
PIPELINE_OPERATIONS = re.compile(r"\w*(Queue|Dataset|Iterator)\w*$|\w*Reader(V2)?$|Reader\w+|Barrier\w*|(Uns|S)tage$")
UPDATES = re.compile(r"Assign\w*|(Resource)?Scatter(Nd)?(Update|Add|Sub|Mul|Div|Min|Max)$|(Resource)?CountUpTo")
LOSS_OPERATIONS = re.compile(r"(Sparse)?SoftmaxCrossEntropyWithLogits|L2Loss|CTCLoss(V2)?$")
GRADIENT_SCOPE = re.compile(r"(^|/)(gradients(_\d+)?|gradient_tape)(/|$)")
GRADIENT_OPERATIONS = re.compile(r"\w+Grad(V\d)?$|\w+BackpropFilter(V2)?$|\w+GradGrad\w*$")
PATTERNS = (
    (OPTIMIZER_OPERATIONS, OPTIMIZER),
    (SAVER_OPERATIONS, SAVING),
    (SUMMARY_OPERATIONS, SUMMARIES),
    (GRADIENT_OPERATIONS, GRADIENTS),
    (PIPELINE_OPERATIONS, PIPELINE),
    (UPDATES, ASSIGNMENTS),
    (LOSS_OPERATIONS, LOSSES),
)
BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


@dataclass(frozen=True, slots=True)
class Leftover:
    """One kind of operations that training left in a graph."""

    kind: str
    """What they are for: `optimizer`, `gradients`, ..."""
    num_inside: int
    """How many lie between inputs and outputs, where they matter."""
    num_outside: int
    """How many are pruned when the graph is loaded."""
    example: str
    """One of them, inside if any is: `save/SaveV2 (SaveV2)`."""


def training_kind(node: Any) -> str:
    """Return what a node is there for in training; empty for one that predicts, as far as name and operation tell."""
    kind = _kind_of_operation(node.op)
    if kind == OPTIMIZER:
        return kind
    if SAVER_SCOPE.match(node.name):
        return SAVING
    if GRADIENT_SCOPE.search(node.name):
        return GRADIENTS
    # The attribute's default is true, so an absent one means training.
    if kind == BATCH_NORM and "is_training" in node.attr and not node.attr["is_training"].b:
        return ""
    return "" if kind == DROPOUT and "dropout" not in node.name.lower() else kind


@functools.lru_cache(maxsize=4096)
def _kind_of_operation(operation: str) -> str:
    if operation in BATCH_NORMS:
        return BATCH_NORM
    if operation.startswith(INITIALISERS):  # of lookup tables, InitializeTableFromDataset among them
        return ""
    found = next((kind for pattern, kind in PATTERNS if pattern.match(operation)), "")
    return found or (DROPOUT if is_random(operation) else "")


def find_leftovers(inside: Iterable[Any], outside: Iterable[Any]) -> tuple[Leftover, ...]:
    """Count what training left, by kind, what matters first.

    Args:
        inside: nodes between inputs and outputs, bodies of functions among them.
        outside: all others.
    """
    found: dict[str, list[Any]] = {}
    for nodes, index in ((inside, 0), (outside, 1)):
        for node in nodes:
            kind = training_kind(node)
            if not kind and index and node.op in VARIABLES:
                kind = SPARE_VARIABLES
            if kind:
                entry = found.setdefault(kind, [0, 0, f"{node.name} ({node.op})"])
                entry[index] += 1
    leftovers = [Leftover(kind, *entry) for kind, entry in found.items()]
    return tuple(sorted(leftovers, key=lambda each: (each.num_inside == 0, -each.num_inside - each.num_outside)))
