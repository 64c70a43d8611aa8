"""`icefloe tune`: a model measured on this machine, on rows of its own input."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from engine.config import TuneConfig, build_config
from jobs.command_line import NO_OUTPUT, print_json, run_app, with_tune_options
from jobs.help import Moment, new_app


def tune(
    settings: dict[str, Any],
    config: TuneConfig,
    /,
    model: Annotated[str | None, Parameter(help="Model to measure; else that of --config.", show_default=False)] = None,
    *,
    json: Annotated[bool, Parameter(help="Print what was measured as JSON.", negative="", show_default=False)] = False,
    quiet: Annotated[bool, Parameter(help="Show no progress.", negative="", show_default=False)] = False,
) -> None:
    """Measure batch sizes, actors and threads, precision and XLA on this machine; write a job.toml to score with."""
    from engine.tuning import tune as measure
    from engine.tuning import write_results
    from engine.view.tuning import print_tuning

    given = settings if model is None else {**settings, "model": model}
    job = build_config({"output": NO_OUTPUT, **given})

    def notice(text: str) -> None:
        if not quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    tuning = measure(job, config, notice)
    paths = write_results(tuning, job, config)
    if json:
        print_json(tuning.to_json())
    else:
        print_tuning(tuning, paths, sys.stdout)


app = new_app(
    "tune",
    Moment.BEFORE,
    "MODEL --input PATH... [OPTIONS]",
    "icefloe tune model.pb --input data/",
    "icefloe tune --config job.toml --seconds 60 --output tuned",
)
app.default(with_tune_options(tune))

if __name__ == "__main__":
    run_app(app)
