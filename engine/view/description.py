"""What a person is shown of a model. Start at `print_description`.

Names come from the model's file, which may hold anything: what would steer a terminal is shown escaped.
"""

from collections.abc import Iterator, Sequence
from typing import TextIO

from engine.model.describing.description import Description, Kind, SignatureDescription
from engine.model.keras_file import KerasFile
from engine.model.operations import tensorflow_version
from engine.model.tensor import shape_text
from engine.view.commands import command_to_paste
from engine.view.tables import bytes_text, print_table

Row = tuple[str, str]

SHOWN = 8
MAX_ROWS = 20
MAX_TEXT = 2000
KINDS = {
    Kind.FROZEN_GRAPH: "frozen graph",
    Kind.UNFROZEN_GRAPH: "graph with variables, not frozen",
    Kind.SAVED_MODEL: "SavedModel",
    Kind.META_GRAPH: "MetaGraph (.meta) without the checkpoint's values",
    Kind.CHECKPOINT: "checkpoint with its graph",
    Kind.KERAS: "Keras model",
}


def print_description(description: Description, stream: TextIO) -> None:
    """Print what a model is, what ails it, and what to type."""
    rows = list(_rows(description))
    command = ("to freeze" if description.is_source else "to score", command_to_paste(description))
    shown = [(_printable(name, MAX_TEXT), _printable(text, MAX_TEXT)) for name, text in rows]
    print_table("Model", [*shown, *([(command[0], _printable(command[1], None))] if command[1] else [])], stream)


def _printable(text: str, most: int | None) -> str:
    text = text if most is None or len(text) <= most else f"{text[:most]}..."
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _rows(description: Description) -> Iterator[Row]:
    kind = KINDS[description.kind] + (", as text" if description.is_text else "")
    by = f", written by TensorFlow {description.tensorflow_version}" if description.tensorflow_version else ""
    yield "model", description.path
    yield "kind", kind + by
    yield "size", bytes_text(description.size_bytes)
    if description.keras is not None:
        yield from _keras_rows(description.keras)
    else:
        yield from _graph_rows(description)
    yield from _capped("note", description.notes)


def _keras_rows(keras: KerasFile) -> Iterator[Row]:
    yield "class", f"{keras.class_name or 'none'}, in {keras.container}"
    yield "Keras", keras.keras_version or "version unknown"
    if keras.layers:
        yield "layers", _counts(keras.layers)
    for spec in keras.inputs:
        yield "input", f"{spec.name} ({spec.dtype or 'dtype unknown'} {shape_text(spec.shape)})"
    for name in keras.outputs:
        yield "output layer", name


def _graph_rows(description: Description) -> Iterator[Row]:
    yield "parameters", f"{description.parameters:,} ({bytes_text(description.parameter_bytes)})"
    for layer in description.layers:
        tensors = f"{layer.num_tensors:,} tensor{'s' if layer.num_tensors != 1 else ''}"
        yield f"  {layer.operation}", f"{layer.parameters:,} in {tensors}, {bytes_text(layer.num_bytes)}"
    if description.outside_parameters:
        outside = f"{description.outside_parameters:,} more ({bytes_text(description.outside_bytes)})"
        yield "  outside", f"{outside} that the outputs do not need, pruned when loaded"
    functions = f"{description.num_functions:,} function{'s' if description.num_functions != 1 else ''}"
    inner = f" ({description.num_function_nodes:,} of them in {functions})" if description.num_functions else ""
    total = f"{description.num_nodes:,}{inner}"
    yield "operations", f"{total}: {_counts(description.operations)}"
    yield "producer", str(description.producer)
    yield from _port_rows(description)
    for found in description.leftovers[:MAX_ROWS]:
        places = [f"{found.num_inside:,} between inputs and outputs"] if found.num_inside else []
        places += [f"{found.num_outside:,} outside, pruned when loaded"] if found.num_outside else []
        yield "from training", f"{found.kind}: {'; '.join(places)}, such as {found.example}"
    yield from _capped("random", [f"{each}; reruns give other bytes" for each in description.random_operations])
    version = ".".join(tensorflow_version().split(".")[:2])
    for unknown in description.unknown_operations[:MAX_ROWS]:
        where = "between inputs and outputs" if unknown.is_inside else "outside, pruned when loaded"
        hint = f"; {unknown.hint}" if unknown.hint else ""
        text = f"{unknown.operation} x{unknown.count} ({unknown.example}), {where}{hint}"
        yield f"not in TensorFlow {version}", text
    acting = [finding for finding in description.findings if not finding.is_foreign]
    yield from _capped("does more", [f"{finding}; needs --allow-op {finding.operation}" for finding in acting])
    if description.num_findings_outside:
        yield "does more", f"{description.num_findings_outside:,} operations outside, which are pruned when loaded"
    yield from _loaded_rows(description)


def _port_rows(description: Description) -> Iterator[Row]:
    optional = set(description.optional_inputs)
    inputs = [f"{spec}{', has a default' if spec.name in optional else ''}" for spec in description.inputs]
    yield from _capped("input", inputs)
    yield from _capped("input not needed", list(map(str, description.unused_inputs)))
    name = "likely output" if description.ports_from == "guess" else "output"
    yield from _capped(name, list(map(str, description.outputs)))
    if description.other_outputs:
        others, more = description.other_outputs[:SHOWN], len(description.other_outputs) - SHOWN
        yield "read by nothing", ", ".join(others) + (f" and {more:,} more" if more > 0 else "")
    if description.ports_from == "ports":
        yield "ports", "kept beside the graph; score takes them by itself"
    for signature in description.signatures[:MAX_ROWS]:
        yield "signature", f"{signature.name}: {_signature_text(signature)}"
    yield from _capped("fills a table", [f"{name} (--init-op)" for name in description.init_ops])


def _signature_text(signature: SignatureDescription) -> str:
    sides = (
        ", ".join(f"{entry.key}={entry.tensor}" if entry.tensor.name else f"{entry.key} (sparse)" for entry in entries)
        for entries in (signature.inputs, signature.outputs)
    )
    return " -> ".join(side or "nothing" for side in sides)


def _loaded_rows(description: Description) -> Iterator[Row]:
    loaded = description.loaded
    if loaded is None:
        return
    name = f"in TensorFlow {loaded.tensorflow}".rstrip()
    if loaded.refusal:
        yield name if loaded.tensorflow else "not loaded", loaded.refusal
        return
    yield from _capped(name, [f"takes {spec}" for spec in loaded.inputs])
    yield from _capped(name, [f"gives {spec}" for spec in loaded.outputs])
    least = f", at least: {loaded.at_least}" if loaded.at_least else ""
    yield "multiply-adds", f"{loaded.multiply_adds:,} a row{least}"


def _counts(pairs: Sequence[tuple[str, int]]) -> str:
    more = f" and {len(pairs) - SHOWN} other types" if len(pairs) > SHOWN else ""
    return ", ".join(f"{name} x{count}" for name, count in pairs[:SHOWN]) + more


def _capped(name: str, texts: Sequence[str]) -> Iterator[Row]:
    yield from ((name, text) for text in texts[:MAX_ROWS])
    if len(texts) > MAX_ROWS:
        yield name, f"and {len(texts) - MAX_ROWS:,} more"
