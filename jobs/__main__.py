"""The command `icefloe`, and `python -m jobs`: every verb under one name."""

from jobs import describe, freeze, plan, report, score, status, tune, verify
from jobs.command_line import run_app
from jobs.help import new_app

app = new_app()
for verb in (score, describe, plan, freeze, tune, status, report, verify):
    app.command(verb.app)


def main() -> None:
    """Run the command line's words."""
    run_app(app)


if __name__ == "__main__":
    main()
