"""`icefloe report`: the HTML report of a job that is done, goes on, failed or was interrupted."""

import sys
from typing import Annotated

from cyclopts import Parameter

from jobs.command_line import run_app
from jobs.help import Moment, new_app


def report(output: Annotated[str, Parameter(help="Output folder of a job: a path or URI.")], /) -> None:
    """Write OUTPUT/_icefloe/report.html, of a finished or running job, and print where it is."""
    from engine.data.storage.opening import open_folder, whole_path
    from engine.view.report import write_report

    place = write_report(open_folder(whole_path(output)))
    sys.stdout.write(place + "\n")


app = new_app("report", Moment.AFTER, "OUTPUT", "icefloe report out/")
app.default(report)

if __name__ == "__main__":
    run_app(app)
