"""`icefloe describe`: what a model is, what ails it and what to type, without TensorFlow."""

import dataclasses
import sys
from typing import Annotated

from cyclopts import Parameter

from engine.config import Theme
from jobs.command_line import print_json, run_app
from jobs.help import Moment, group_of, new_app

MODEL = (
    "Frozen graph (.pb, .pbtxt), checkpoint (prefix, any of its files, folder), MetaGraph, SavedModel or Keras file."
)
LOAD = "Ask TensorFlow for true dtypes and shapes, and count the multiply-adds of a row."
LOOKED_AT = group_of(Theme.LOOKED_AT)
TENSORBOARD = "Folder to write the graph to, without its weights, for TensorBoard."


def describe(
    model: Annotated[str, Parameter(help=MODEL)],
    /,
    *,
    load: Annotated[bool, Parameter(help=LOAD, group=LOOKED_AT, negative="", show_default=False)] = False,
    tensorboard: Annotated[
        str | None, Parameter(help=TENSORBOARD, group=LOOKED_AT, metavar="PATH", show_default=False)
    ] = None,
    json: Annotated[bool, Parameter(help="Print it as JSON.", negative="", show_default=False)] = False,
) -> None:
    """Show what a model is: ports, weights, operations, what stands in the way of scoring, and a command to paste."""
    from engine.data.storage.copying import local_copy
    from engine.data.storage.places import is_local, place_of
    from engine.model.describing.describe import describe_model, open_model
    from engine.view.commands import command_to_paste
    from engine.view.description import print_description

    with local_copy(model) as path:
        opened = open_model(path)
        description = describe_model(opened)
    if not is_local(model):
        description = dataclasses.replace(description, path=place_of(model))
    if tensorboard is not None:
        from engine.model.describing.tensorboard_log import write_graph_log

        write_graph_log(opened.graph, tensorboard)
        sys.stderr.write(f"the graph is in {tensorboard}; tensorboard --logdir shows it\n")
    if load:
        from engine.model.describing.cost import load_graph
        from jobs.native_logs import quiet_tensorflow

        with quiet_tensorflow():
            loaded = load_graph(opened.graph, description)
        description = dataclasses.replace(description, loaded=loaded)
    if json:
        print_json({**dataclasses.asdict(description), "command": command_to_paste(description)})
    else:
        print_description(description, sys.stdout)


app = new_app(
    "describe", Moment.BEFORE, "MODEL [OPTIONS]", "icefloe describe model.pb", "icefloe describe saved_model/ --json"
)
app.default(describe)

if __name__ == "__main__":
    run_app(app)
