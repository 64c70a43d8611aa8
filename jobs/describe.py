"""`icefloe describe`: what a frozen graph holds, without TensorFlow."""

import dataclasses
import sys
from typing import Annotated

from cyclopts import Parameter

from jobs.command_line import new_app, print_json, run_app


def describe(
    model: str,
    /,
    *,
    json: Annotated[bool, Parameter(help="Print it as JSON.", negative="", show_default=False)] = False,
) -> None:
    """Show inputs, outputs, dtypes, shapes, parameters and size of a model, and a command to paste."""
    from engine.model.describe import describe_graph
    from engine.model.graphdef import read_graph
    from engine.view.tables import command_to_paste, print_description

    description = describe_graph(read_graph(model))
    if json:
        document = {**dataclasses.asdict(description), "command": command_to_paste(model, description)}
        print_json(document)
    else:
        print_description(model, description, sys.stdout)


app = new_app()
app.default(describe)

if __name__ == "__main__":
    run_app(app)
