"""`icefloe freeze`: a checkpoint, SavedModel or Keras file becomes a frozen graph."""

import dataclasses
import sys
from typing import Annotated

from cyclopts import Parameter

from engine.config import FreezeConfig
from jobs.command_line import print_json, run_app, with_freeze_options
from jobs.help import Moment, new_app
from jobs.native_logs import quiet_tensorflow


def freeze(
    source: Annotated[str, Parameter(help="Checkpoint (prefix, folder), SavedModel, Keras file, or a .pb to mend.")],
    dest: Annotated[str, Parameter(help="File to write (.pb); its ports go beside it (.json).")],
    config: FreezeConfig,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print what was made as JSON.", negative="", show_default=False)] = False,
) -> None:
    """Freeze a model: variables become constants, and the graph is pruned, compared with its source and written."""
    from engine.freezing import Sample, freeze_to_file
    from engine.model.freezing.plan import FreezeOptions
    from engine.model.sidecar import sidecar_path
    from engine.view.freezing import print_frozen

    options = FreezeOptions(
        config.outputs, config.inputs, config.signature, config.set, config.init_op, config.allow_op, config.op_library
    )
    sample = None if config.sample is None else Sample(config.sample, config.feed)
    with quiet_tensorflow():
        frozen = freeze_to_file(source, dest, options, sample)
    if json:
        document = {name: value for name, value in dataclasses.asdict(frozen).items() if name != "data"}
        print_json({"model": dest, "ports": str(sidecar_path(dest)), "sha256": frozen.sha256, **document})
    else:
        print_frozen(dest, frozen, config.allow_op, config.op_library, sys.stdout)


app = new_app(
    "freeze",
    Moment.BEFORE,
    "SOURCE DEST.pb [OPTIONS]",
    "icefloe freeze run/model-1000 model.pb --outputs prediction",
    "icefloe freeze saved_model/ model.pb",
)
app.default(with_freeze_options(freeze))

if __name__ == "__main__":
    run_app(app)
