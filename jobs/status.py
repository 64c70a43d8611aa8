"""`icefloe status`: how far a job is, from another shell or machine; follows it to its end."""

import sys
import time
from typing import Annotated

from cyclopts import Parameter

from jobs.command_line import print_json, run_app
from jobs.help import Moment, new_app


def status(
    output: Annotated[str, Parameter(help="Output folder of a job: a path or URI.")],
    /,
    *,
    once: Annotated[bool, Parameter(help="Tell it once and end.", negative="", show_default=False)] = False,
    json: Annotated[bool, Parameter(help="Print it once, as JSON.", negative="", show_default=False)] = False,
    quiet: Annotated[bool, Parameter(help="Show no progress.", negative="", show_default=False)] = False,
    verbose: Annotated[bool, Parameter(help="Show each actor, too.", negative="", show_default=False)] = False,
) -> None:
    """Follow a job to its end; exits as the job does: 0 done, 1 failed or without a sign of life, 130 interrupted."""
    import engine.following
    from engine.view.progress import make_progress
    from engine.view.status import print_status

    folder = engine.following.find_output(output)
    if once or json:
        found = engine.following.look(folder)
    else:
        found = engine.following.follow(folder, make_progress(sys.stderr, quiet, verbose))
    if json:
        print_json(found.to_json())
    else:
        print_status(found, folder.place, sys.stdout, time.time(), verbose)
    if once or json:
        engine.following.check_life(found, folder.place)
    else:
        engine.following.check_end(found, folder.place)


app = new_app("status", Moment.AFTER, "OUTPUT [OPTIONS]", "icefloe status out/", "icefloe status out/ --once --json")
app.default(status)

if __name__ == "__main__":
    run_app(app)
