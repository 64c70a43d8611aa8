"""Commands to paste: how a model that was described is scored with, or frozen first.

Pure. What the caller has to choose stands in capitals: INPUT, OUTPUT, DEST.pb, VALUE. Start at `command_to_paste`.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from engine.model.describing.description import Description, Kind
from engine.model.metagraph import DEFAULT_SIGNATURE
from engine.model.ports import INPUT, default_columns
from engine.model.tensor import TensorSpec

MAX_FETCHES = 8
# Scalars that switch training on, and what switches it off.
SWITCHES = (
    (re.compile(r"keep_?prob", re.I), "1.0"),
    (re.compile(r"is_?train|phase|train(ing)?_?(mode|flag|phase)|^training$|learning_phase", re.I), "false"),
    (re.compile(r"drop_?(out)?_?(rate|prob)", re.I), "0.0"),
)
# Ends of input pipelines, which are no placeholders and keep no name of their own.
HANDED = re.compile(r"GetNext|[Dd]equeue|Unstage")


def command_to_paste(description: Description) -> str:
    """Return what to type next: to score with a frozen graph, to freeze anything else; empty where nothing would do."""
    keras = description.keras
    if keras is not None and (keras.code or keras.custom_classes or not keras.class_name):
        return ""  # nothing but its makers' code can load it; the notes say so
    words = _freeze_words(description) if description.is_source else _score_words(description)
    for operation in acting_operations(description):
        words += ["--allow-op", operation]
    if any(finding.is_foreign for finding in description.findings):
        words += ["--op-library", "PATH"]
    return shlex.join(words)


def score_settings(description: Description) -> dict[str, Any]:
    """Return what a job has to be told to score with a frozen graph, by option; the values of `set` as flags say them.

    Columns have the names of their tensors.
    """
    needed = needed_inputs(description)
    constants = _constants(needed)
    # An output that is known to follow the rows, if any is: the others may be sums and the like.
    rows = [spec for spec in description.outputs if spec.shape and spec.shape[0] is None]
    fetched = [spec.name for spec in (rows or description.outputs)[:MAX_FETCHES]]
    settings: dict[str, Any] = {
        "feed": default_columns(_fed(needed, constants)),
        "fetch": default_columns(fetched),
        "init_op": description.init_ops,
        "set": constants,
    }
    return settings | ({"unbatched": True} if needed and all(spec.shape == () for spec in needed) else {})


def _score_words(description: Description) -> list[str]:
    words = ["icefloe", "score", "--model", description.path, "--input", "INPUT", "--output", "OUTPUT"]
    settings = score_settings(description)
    if description.ports_from != "ports":  # which score takes by itself
        words += _flags("--feed", settings["feed"]) + _flags("--fetch", settings["fetch"])
        words += [word for name in settings["init_op"] for word in ("--init-op", name)]
    return words + _flags("--set", settings["set"]) + ["--unbatched"] * ("unbatched" in settings)


def _freeze_words(description: Description) -> list[str]:
    is_graph = description.kind in (Kind.UNFROZEN_GRAPH, Kind.META_GRAPH)
    source = "CHECKPOINT" if is_graph and description.variables else description.path
    words = ["icefloe", "freeze", source, "DEST.pb"]
    if description.keras is not None:
        return words
    needed = needed_inputs(description)
    if description.ports_from == "signature":
        has_choice = len(description.signatures) > 1 and description.signature != DEFAULT_SIGNATURE
        words += ["--signature", description.signature] if has_choice else []
        entries = (each.inputs for each in description.signatures if each.name == description.signature)
        named = {entry.tensor.name for inputs in entries for entry in inputs}
        return words + _flags("--set", _constants([spec for spec in needed if spec.name not in named]))
    outputs = [spec.name.removesuffix(":0") for spec in description.outputs[:1]]
    constants = _constants(needed)
    fed = _fed(needed, constants)
    columns = {fed[0]: INPUT} if len(fed) == 1 else default_columns(fed)
    handed = {columns[name]: name for name in fed if HANDED.search(name)}
    return [
        *words, "--outputs", *(outputs or ["NAME"]), *_flags("--inputs", handed), *_flags("--set", constants)
    ]  # fmt: skip


def acting_operations(description: Description) -> list[str]:
    """Return the operations inside that reach outside the graph, which a call has to let through."""
    return list(dict.fromkeys(finding.operation for finding in description.findings if not finding.is_foreign))


def needed_inputs(description: Description) -> list[TensorSpec]:
    """Return the inputs that have no value of their own."""
    return [spec for spec in description.inputs if spec.name not in description.optional_inputs]


def _fed(inputs: Sequence[TensorSpec], constants: Iterable[str]) -> list[str]:
    return [spec.name for spec in inputs if spec.name not in set(constants)]


def _constants(inputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return the inputs that take one value for all rows, with the value for prediction, or VALUE where it is open."""
    found = {}
    is_per_row = all(spec.shape == () for spec in inputs)  # then they are the rows
    for spec in inputs:
        last = spec.name.partition(":")[0].rpartition("/")[2]
        value = next((value for pattern, value in SWITCHES if pattern.search(last)), None)
        if (spec.shape == () and not is_per_row) or (value is not None and not spec.shape):
            found[spec.name] = value or "VALUE"
    return found


def _flags(flag: str, pairs: dict[str, str]) -> list[str]:
    return [word for name, value in pairs.items() for word in (flag, f"{name}={value}")]
