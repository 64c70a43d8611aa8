"""What a person is shown of a model that was frozen. Start at `print_frozen`."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from engine.model.ports import default_columns
from engine.model.sidecar import sidecar_path
from engine.view.tables import bytes_text, print_table

if TYPE_CHECKING:
    from engine.model.freezing.freeze import FrozenModel


def print_frozen(
    destination: str, frozen: "FrozenModel", allow_ops: Sequence[str], libraries: Sequence[str], stream: TextIO
) -> None:
    """Print what was frozen, what was repaired, on what it was compared, and a command to paste."""
    words = ["icefloe", "score", "--model", destination, "--input", "INPUT", "--output", "OUTPUT"]
    for spec in frozen.inputs:
        if spec.shape == ():  # takes one value for all rows
            words += ["--set", f"{spec.name}=VALUE"]
    words += [word for name in allow_ops for word in ("--allow-op", name)]
    words += [word for path in libraries for word in ("--op-library", path)]
    columns = default_columns([spec.name for spec in frozen.inputs if spec.shape != ()])
    rows = [
        ("graph", f"{destination}, {bytes_text(len(frozen.data))}, sha-256 {frozen.sha256}"),
        ("ports", str(sidecar_path(destination))),
        *(
            ("input", f"{spec}" + (f" <- column {columns[spec.name]}" if spec.name in columns else ""))
            for spec in frozen.inputs
        ),
        *(("output", str(spec)) for spec in frozen.outputs),
        *(("--init-op", f"{name} (kept with the ports; score runs it by itself)") for name in frozen.init_ops),
        *(("repaired", note) for note in frozen.notes),
        ("check", frozen.comparison),
        ("to score", shlex.join(words)),
    ]
    print_table("Frozen", rows, stream)
