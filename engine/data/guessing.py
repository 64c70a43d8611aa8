"""Guesses which columns of a file are meant for which tensors, by names, then by types and counts of values.

Pure; a guess is for a person to look at, and nothing is scored by one. Start at `guess_feeds`.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.data.binding import bind_feed
from engine.data.columns import FeedSource, InputSchema, all_paths, resolve_feed
from engine.data.leaves import is_binary, is_number, is_text, peel_type
from engine.errors import SchemaError
from engine.model.tensor import TensorSpec

# Names below this likeness (of difflib, 0 to 1) have nothing to do with each other.
ALIKE = 0.6
SHOWN = 5

Score = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Guess:
    """What may fill a tensor."""

    tensor: TensorSpec
    """The tensor."""
    column: str
    """Column, columns or glob as --feed takes them; empty where nothing fits."""
    others: tuple[str, ...]
    """Others that fit, the likeliest first."""


def guess_feeds(
    columns: InputSchema, tensors: Sequence[TensorSpec], names: Mapping[str, str], is_unbatched: bool
) -> tuple[Guess, ...]:
    """Guess what fills each tensor; no column fills two.

    Args:
        columns: the columns of the first file.
        tensors: the tensors that take rows.
        names: the name that each tensor would like its column to have.
        is_unbatched: whether the graph takes one row at a time.
    """
    texts = list(dict.fromkeys(_texts(columns)))
    found: dict[str, dict[str, Score]] = {spec.name: {} for spec in tensors}
    for spec in tensors:
        for text in texts:
            source = _fitting(columns, text, spec, is_unbatched)
            if source is not None:
                found[spec.name][text] = (_likeness(text, spec, names[spec.name]), _aptness(source, spec))
    chosen: dict[str, str] = {}
    pairs = [(score, name, text) for name, scores in found.items() for text, score in scores.items()]
    for _, name, text in sorted(pairs, key=lambda pair: pair[0], reverse=True):
        if name not in chosen and text not in chosen.values():
            chosen[name] = text
    return tuple(
        Guess(spec, chosen.get(spec.name, ""), _others(found[spec.name], chosen.get(spec.name, ""))) for spec in tensors
    )


def _others(scores: Mapping[str, Score], chosen: str) -> tuple[str, ...]:
    ranked = sorted(scores, key=lambda text: scores[text], reverse=True)
    return tuple(text for text in ranked if text != chosen)[:SHOWN]


def _texts(columns: InputSchema) -> Iterator[str]:
    """Yield what may be fed: every column and struct field, and scalar columns that may be meant to be stacked."""
    paths = list(all_paths(columns.schema))
    names = [str(path) for path in paths]
    yield from (name for name in names if names.count(name) == 1 and not set(name) & set("*?[],"))
    numbers = [str(path) for path in paths if len(path.names) == 1 and is_number(path.type)]
    floats = [str(path) for path in paths if len(path.names) == 1 and pa.types.is_floating(path.type)]
    for stem in dict.fromkeys(re.sub(r"\d+$", "", name) for name in numbers):
        numbered = [name for name in numbers if re.fullmatch(re.escape(stem) + r"\d+", name)]
        if len(numbered) > 1 and numbered == [name for name in names if name.startswith(stem)]:
            yield f"{stem}*"
    yield from (",".join(group) for group in (numbers, floats) if len(group) > 1)


def _fitting(columns: InputSchema, text: str, tensor: TensorSpec, is_unbatched: bool) -> FeedSource | None:
    try:
        source = resolve_feed(columns, text)
        bind_feed(source, tensor, {}, is_unbatched)
    except SchemaError:
        return None
    return source


def _likeness(text: str, tensor: TensorSpec, wanted: str) -> float:
    """Say how much a column is called as a tensor: 3 the same, 2 but for case and signs, 1 in part, less if alike."""
    names = {wanted, tensor.name.removesuffix(":0"), tensor.name.partition(":")[0].rpartition("/")[2]}
    if text in names:
        return 3.0
    plain = _plain(text)
    if not plain:
        return 0.0
    wanted_plain = [each for each in map(_plain, names) if each]
    if plain in wanted_plain:
        return 2.0
    if any(plain in each or each in plain for each in wanted_plain if min(len(each), len(plain)) > 1):
        return 1.0
    ratio = max((difflib.SequenceMatcher(None, plain, each).ratio() for each in wanted_plain), default=0.0)
    return ratio if ratio >= ALIKE else 0.0


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.rpartition(".")[2]).lower()


def _aptness(source: FeedSource, tensor: TensorSpec) -> float:
    """Say how well the type fits: first lists of the very length, then the tensor's own kind of numbers."""
    extents, leaf = peel_type(source.columns[0].type)
    row_rank = None if tensor.shape is None else len(tensor.shape) - 1
    is_shaped = source.is_stacked or (bool(extents) and None not in extents) or (not extents and row_rank == 0)
    if tensor.dtype == "string":
        return 1.0 * is_shaped + (1.0 if is_text(leaf) else 0.5)
    if is_binary(leaf):
        return 0.5
    own = "float" if pa.types.is_floating(leaf) else "int"
    return 2.0 * is_shaped + 1.0 * (own in str(tensor.dtype)) - 0.5 * source.is_stacked
