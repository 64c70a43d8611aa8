"""`icefloe plan`: what `score` would run; runs nothing."""

import sys
from typing import Annotated

from cyclopts import Parameter

from engine.config import JobConfig, SimulationConfig, build_simulation_config
from engine.errors import PlanError
from jobs.command_line import print_json, run_app, with_job_options
from jobs.help import Moment, new_app, parameter_of

FIELDS = SimulationConfig.model_fields


def plan(
    config: JobConfig,
    *,
    simulate: Annotated[str | None, parameter_of(FIELDS["simulate"])] = None,
    rate: Annotated[str | None, parameter_of(FIELDS["rate"])] = None,
    json: Annotated[bool, Parameter(help="Print the plan as JSON.", negative="", show_default=False)] = False,
) -> None:
    """Show what score would run: shards, binding, data in flight and output; run nothing. Exit 2 if it would refuse."""
    from engine.preview import preview
    from engine.view.tables import print_preview

    simulation = build_simulation_config({"simulate": simulate, "rate": rate})
    found = preview(config, simulate=simulation.simulate, rate=simulation.rate)
    if json:
        print_json(found.to_json())
    else:
        print_preview(found, sys.stdout)
    if found.refusal:
        raise PlanError(found.refusal)


app = new_app(
    "plan",
    Moment.BEFORE,
    "--model PATH --input PATH... --output PATH [OPTIONS]",
    "icefloe plan --model model.pb --input data/ --output out/",
    "icefloe plan --config job.toml --simulate 64 --rate 2000",
)
app.default(with_job_options(plan))

if __name__ == "__main__":
    run_app(app)
