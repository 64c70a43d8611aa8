"""`icefloe plan`: what `score` would run; runs nothing."""

import sys
from typing import Annotated

from cyclopts import Parameter

from engine.config import JobConfig, SimulationConfig, build_simulation_config
from jobs.command_line import new_app, print_json, run_app, with_job_options

FIELDS = SimulationConfig.model_fields


def plan(
    config: JobConfig,
    *,
    simulate: Annotated[str | None, Parameter(help=FIELDS["simulate"].description, show_default=False)] = None,
    rate: Annotated[str | None, Parameter(help=FIELDS["rate"].description, show_default=False)] = None,
    json: Annotated[bool, Parameter(help="Print the plan as JSON.", negative="", show_default=False)] = False,
) -> None:
    """Show what score would run: shards, binding, data in flight and output; run nothing."""
    from engine.preview import preview
    from engine.view.tables import print_preview

    simulation = build_simulation_config({"simulate": simulate, "rate": rate})
    found = preview(config, simulate=simulation.simulate, rate=simulation.rate)
    if json:
        print_json(found.to_json())
    else:
        print_preview(found, sys.stdout)


app = new_app()
app.default(with_job_options(plan))

if __name__ == "__main__":
    run_app(app)
