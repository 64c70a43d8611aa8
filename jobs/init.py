"""`icefloe score --init`: a commented job.toml, filled in from a model and its input. Start at `init_job_file`."""

import sys

from engine.config import JobConfig


def init_job_file(config: JobConfig, path: str) -> None:
    """Write the file, and say what was chosen and what to type next.

    Raises:
        Mistake: if the model or the input cannot be read, or the file is there already.
    """
    from engine.drafting import check_job_file, draft_job, write_job_file
    from engine.view.drafting import print_draft

    check_job_file(path, config.overwrite)
    draft = draft_job(config)
    write_job_file(path, draft.text)
    print_draft(draft, path, sys.stdout)
