"""The command `icefloe`, and `python -m jobs`: every verb under one name."""

from jobs.command_line import new_app, run_app, with_freeze_options, with_job_options, with_tune_options
from jobs.describe import describe
from jobs.freeze import freeze
from jobs.plan import plan
from jobs.report import report
from jobs.score import score
from jobs.status import status
from jobs.tune import tune
from jobs.verify import verify

app = new_app()
app.command(with_job_options(score))
app.command(with_job_options(plan))
app.command(describe)
app.command(with_freeze_options(freeze))
app.command(verify)
app.command(status)
app.command(report)
app.command(with_tune_options(tune))


def main() -> None:
    """Run the command line's words."""
    run_app(app)


if __name__ == "__main__":
    main()
