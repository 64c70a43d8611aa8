"""`icefloe score`: score Parquet with a frozen graph."""

import contextlib
import os
import sys
from typing import Annotated

from cyclopts import Parameter

from engine.config import JobConfig
from jobs.command_line import print_json, run_app, with_job_options
from jobs.help import Moment, new_app
from jobs.init import init_job_file
from jobs.logs import LogLevel, start_logging


def score(
    config: JobConfig,
    *,
    json: Annotated[bool, Parameter(help="Print the summary as JSON.", negative="", show_default=False)] = False,
    quiet: Annotated[bool, Parameter(help="Show no progress.", negative="", show_default=False)] = False,
    verbose: Annotated[bool, Parameter(help="Show each actor, too.", negative="", show_default=False)] = False,
    log_level: LogLevel = None,
) -> None:
    """Score every row of the input, once; the same command again scores only what is missing."""
    import engine.job
    from engine.view.progress import make_progress
    from engine.view.tables import print_summary

    start_logging(log_level)
    with open(os.devnull, "w") as unwanted, contextlib.redirect_stdout(unwanted):
        # Ray prints there what it has to say of nodes that die, and results are all that belongs there.
        summary = engine.job.score(config, make_progress(sys.stderr, quiet, verbose))
    if json:
        print_json(summary.to_json())
    else:
        print_summary(summary, sys.stdout)


app = new_app(
    "score",
    Moment.SCORE,
    "--model PATH --input PATH... --output PATH [OPTIONS]",
    "icefloe score --model model.pb --input data/ --output out/",
    "icefloe score --init --model model.pb --input data/ --output out/",
    "icefloe score --config job.toml",
)
app.default(with_job_options(score, init_job_file))

if __name__ == "__main__":
    run_app(app)
