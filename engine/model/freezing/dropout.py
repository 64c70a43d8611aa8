"""Dropout that was saved switched on, of a fixed rate: left out. Pure rewriting. Start at `drop_dropouts`.

A rate that is fed or has a default stays as it is, for it can be set; one that is 0 for good is as good as fixed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.model.closure import split_tensor
from engine.model.freezing.bodies import Body
from engine.model.freezing.rewriting import Rewriting

RANDOM = ("RandomUniform", "StatelessRandomUniform", "StatelessRandomUniformV2")
COMPARISONS = ("GreaterEqual", "Greater", "Less", "LessEqual")
ARITHMETIC = ("Sub", "Add", "AddV2", "RealDiv", "Div", "Mul", "Identity", "Cast")
SCALING = ("Add", "AddV2", "Mul", "Identity", "Cast")
MAX_DEPTH = 16


def drop_dropouts(graph: Rewriting) -> None:
    """Let the value pass where a fixed share of it would be dropped, and the rest be scaled up.

    Three forms were written over the years: `x / keep * floor(keep + uniform)`, `x * scale * cast(uniform >= rate)`
    and `select(uniform >= rate, x * scale, 0)`.
    """
    settled = dict.fromkeys((edge for name in graph.switches for edge in (name, split_tensor(name)[0])), True)
    dropped = _drop(graph.body, graph.needed, graph.is_switched, settled)
    for function in graph.straight_functions():
        dropped += _drop(Body(function.node_def, function), function.node_def, lambda edge: False)
    if dropped:
        graph.notes.append("1 dropout of a fixed rate was left out" if dropped == 1 else
                           f"{dropped} dropouts of a fixed rate were left out")  # fmt: skip


def become_identity(node: Any, edge: str) -> None:
    """Let a node pass on what `edge` brings."""
    dtype = node.attr["T"].type
    controls = [each for each in node.input if each.startswith("^")]
    node.op = "Identity"
    del node.input[:]
    node.input.extend([edge, *controls])
    node.attr.clear()
    node.attr["T"].type = dtype


def _drop(
    body: Body, nodes: Iterable[Any], is_switched: Callable[[str], bool], settled: Mapping[str, bool] | None = None
) -> int:
    draws = _Draws(body, dict(settled or {}))
    dropped = 0
    for node in nodes:
        if node.op not in ("Mul", "SelectV2", "Select"):
            continue
        first, second = node.input[0], node.input[1]
        sides = [(first, second), (second, first)] if node.op == "Mul" else [(second, first)]
        value = next((each for scaled, mask in sides if (each := draws.undropped(scaled, mask))), None)
        if value is not None and not is_switched(value):
            become_identity(node, value)
            body.rename_output(node.name, "output")
            dropped += 1
    return dropped


@dataclass(slots=True)
class _Draws:
    """What of a body is drawn at random, and what is fixed."""

    body: Body
    fixed: dict[str, bool] = field(default_factory=dict)
    """Whether the value of an edge follows from constants alone, as far as it was asked."""

    def undropped(self, scaled: str, mask: str) -> str | None:
        """Return what a dropout drops from, if `scaled` and `mask` are the two sides of one of a fixed rate."""
        drawn = self.body.trace(mask, ("Cast", "Identity", "Floor"))
        if drawn is None or drawn.op not in ("Add", "AddV2", *COMPARISONS):
            return None
        is_random = [self.is_uniform(edge) for edge in drawn.input[:2]]
        scale = self.body.node_of(scaled)
        if (
            sorted(is_random) != [False, True]
            or not self.is_fixed(drawn.input[is_random.index(False)])
            or scale is None
        ):
            return None
        if scale.op in ("RealDiv", "Div", "Mul") and self.is_fixed(scale.input[1]):
            return str(scale.input[0])
        if scale.op == "Mul" and self.is_fixed(scale.input[0]):
            return str(scale.input[1])
        return None

    def is_uniform(self, edge: str) -> bool:
        """Say whether a value is drawn evenly: a random operation, scaled and shifted by constants."""
        for _ in range(MAX_DEPTH):
            node = self.body.node_of(edge)
            if node is None or node.op in RANDOM:
                return node is not None
            others = [each for each in node.input if not (each.startswith("^") or self.is_fixed(each))]
            if node.op not in SCALING or len(others) != 1:
                return False
            edge = others[0]
        return False

    def is_fixed(self, edge: str, depth: int = 0) -> bool:
        """Say whether a value follows from constants alone."""
        if edge not in self.fixed:
            node = self.body.node_of(edge)
            edges = [] if node is None else [each for each in node.input if not each.startswith("^")]
            is_sum = node is not None and node.op in ARITHMETIC and depth < MAX_DEPTH
            is_constant = node is not None and node.op == "Const"
            self.fixed[edge] = is_constant or is_sum and all(self.is_fixed(each, depth + 1) for each in edges)
        return self.fixed[edge]
