"""What stands in the way of scoring with a model, or may surprise, and what to do about it: a sentence each.

Pure. Start at `notes_on`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engine.model.describing.description import Description, Kind
from engine.model.describing.training import ASSIGNMENTS, BATCH_NORM, DROPOUT, PIPELINE, Leftover
from engine.model.keras_file import KerasFile

MEND = "icefloe freeze mends it"
EXPORT = "export a SavedModel where the model is built (model.export)"
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Ailments:
    """What was found in a graph beside what its description holds."""

    remark: str = ""
    """Why ports that lie beside it are not used."""
    missing: tuple[str, ...] = ()
    """Nodes that are read inside and are not there."""
    twice: tuple[str, ...] = ()
    """Names that several nodes have."""
    unfilled_tables: tuple[str, ...] = ()
    """Lookup tables inside that nothing in the graph fills."""
    channels_first: str = ""
    """A layer inside that keeps channels first; empty where none does."""
    has_values: bool = False
    """Whether the values of its variables lie beside it."""


def notes_on(description: Description, ailments: Ailments) -> tuple[str, ...]:
    """Return what to know before scoring, the gravest first."""
    if description.keras is not None:
        return tuple(_keras_notes(description.keras))
    return (*_graph_notes(description, ailments), *_training_notes(description), *_small_notes(description, ailments))


def _keras_notes(keras: KerasFile) -> Iterator[str]:
    if not keras.class_name:
        yield f"it holds weights without a model; save the whole model, or {EXPORT}"
    if keras.code:
        yield f"it holds Python code (Lambda layers: {_some(keras.code)}), which is never run from a file; {EXPORT}"
    if keras.custom_classes:
        yield f"it needs classes of its makers' own ({_some(keras.custom_classes)}); {EXPORT}"


def _graph_notes(description: Description, ailments: Ailments) -> Iterator[str]:
    if ailments.missing:
        yield f"it was cut short: its operations read {_some(ailments.missing)}, which is not there; copy it again"
    if ailments.twice:
        yield f"TensorFlow refuses it, for two nodes have one name: {_some(ailments.twice)}"
    if description.variables and not ailments.has_values:
        named = f"variables: {_some(description.variables)}"
        what = {
            Kind.SAVED_MODEL: "its folder 'variables' is not beside it; copy the whole folder",
            Kind.META_GRAPH: "the checkpoint's values are not beside it; copy them, then freeze the checkpoint",
        }.get(description.kind, "freeze the checkpoint that it was saved with (icefloe freeze)")
        yield f"it is not frozen ({named}), and holds no values: {what}"
    for table in ailments.unfilled_tables[:SHOWN]:
        yield f"nothing in it fills the lookup table {table}; freeze the SavedModel or checkpoint that it comes from"
    if not description.outputs:
        why = "it has no signature" if description.kind is Kind.SAVED_MODEL else "everything in it is read by something"
        yield f"no output could be told, for {why}; any tensor can be fetched by its name"
    if not description.inputs:
        yield "it has no placeholder that the outputs need; any tensor can be fed by its name (--feed TENSOR=COLUMN)"
    if ailments.remark:
        yield ailments.remark


MATTERS = {
    BATCH_NORM: f"normalises each row by the others of its batch, where no switch turns that off (is_training); {MEND}",
    DROPOUT: f"changes predictions by chance, where no switch turns it off (keep_prob); {MEND} if its rate is fixed",
    ASSIGNMENTS: f"changes variables whenever the graph runs; {MEND} if these are moving averages",
    PIPELINE: "reads rows by itself; feed what it hands over instead (--feed TENSOR=COLUMN)",
}


def _training_notes(description: Description) -> Iterator[str]:
    for leftover in description.leftovers:
        if leftover.num_inside and leftover.kind in MATTERS:
            yield f"{_counted(leftover)} between inputs and outputs {MATTERS[leftover.kind]}"


def _counted(leftover: Leftover) -> str:
    return f"{leftover.kind} ({leftover.num_inside}, {leftover.example})"


def _small_notes(description: Description, ailments: Ailments) -> Iterator[str]:
    fed = [spec.name for spec in description.inputs if "GetNext" in spec.name or "Dequeue" in spec.name]
    if fed and description.ports_from == "guess":
        yield f"its rows come from an input pipeline; {_some(fed)} can be fed in its place"
    if description.inputs and all(spec.shape == () for spec in description.inputs):
        yield f"its inputs have no batch axis ({description.inputs[0]}): it takes one row a call (--unbatched)"
    if ailments.channels_first:
        yield (
            f"it keeps channels first (NCHW, {ailments.channels_first}), which runs on GPUs, and on CPUs only while "
            "oneDNN is on (TF_ENABLE_ONEDNN_OPTS)"
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
