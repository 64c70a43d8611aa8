"""`icefloe verify`: a finished output checked against its manifest and inputs, and some rows scored again."""

import dataclasses
import sys
from typing import Annotated

from cyclopts import Parameter

from engine.config import Theme
from engine.errors import ConfigError, EngineError, JobFailedError
from jobs.command_line import print_json, run_app
from jobs.help import Moment, group_of, new_app
from jobs.native_logs import quiet_tensorflow

SAMPLE = "Score so many random rows again, without Ray, and compare. [default: 0]"


def verify(
    output: Annotated[str, Parameter(help="Output folder of a job: a path or URI.")],
    /,
    *,
    sample: Annotated[
        int, Parameter(help=SAMPLE, group=group_of(Theme.LOOKED_AT), metavar="N", show_default=False)
    ] = 0,
    json: Annotated[bool, Parameter(help="Print what was found as JSON.", negative="", show_default=False)] = False,
) -> None:
    """Check an output: parts against manifest and inputs, every row accounted for; exit 1 where something is wrong."""
    from engine.data.ledger import Ledger
    from engine.data.storage.opening import whole_path
    from engine.run.verify import verify_output
    from engine.view.tables import print_verification

    if sample < 0:
        raise ConfigError(f"--sample {sample}: expected a number of rows")
    ledger = Ledger(whole_path(output))
    found = verify_output(ledger)
    if sample and found.parts:
        from engine.sampling import Resample, score_sample

        try:
            with quiet_tensorflow():
                again = score_sample(ledger, sample)
        except EngineError as error:
            again = Resample(0, (f"rows could not be scored again: {error}",))
        problems, notes = (*found.problems, *again.problems), (*found.notes, *again.notes)
        found = dataclasses.replace(found, problems=problems, notes=notes, rows_sampled=again.num_rows)
    if json:
        print_json(found.to_json())
    else:
        print_verification(found, sys.stdout)
    if found.problems:
        things = "1 thing is" if len(found.problems) == 1 else f"{len(found.problems)} things are"
        raise JobFailedError(f"{found.output}: {things} wrong, as listed")


app = new_app("verify", Moment.AFTER, "OUTPUT [OPTIONS]", "icefloe verify out/", "icefloe verify out/ --sample 1000")
app.default(verify)

if __name__ == "__main__":
    run_app(app)
