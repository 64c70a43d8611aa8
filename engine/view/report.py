"""The report of a job: one HTML file in its output folder that says what happened, and opens without a network.

Of a finished, running, failed or interrupted job alike; what is not known yet is left out. Start at `write_report`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from engine.data.ledger import REPORT
from engine.data.storage.folder import JOB_FOLDER, OutputFolder
from engine.errors import DataError, JobInterrupted
from engine.view.reporting.about import tell_model, tell_rerun, tell_settings
from engine.view.reporting.bad_rows import read_bad_rows
from engine.view.reporting.blocks import Section, Side, told
from engine.view.reporting.headline import Headline, date_text, tell_headline
from engine.view.reporting.over_time import OverTime
from engine.view.reporting.predictions import read_predictions
from engine.view.reporting.reading import FoundJob, read_job
from engine.view.reporting.values import odd_values, tell_predictions, tell_quarantine

Made = TypeVar("Made")
TEMPLATE = "page.html.jinja"


def write_report(folder: OutputFolder) -> str:
    """Write the report of the job in an output folder, and return where it is.

    Raises:
        PlanError: if no job of ours wrote the folder.
        DataError, StorageError, JobFailedError: if it cannot be read or written to.
    """
    job = read_job(folder)
    try:
        page = _make_page(folder, job, time.time())
    except (ArithmeticError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        place = folder.place_of(JOB_FOLDER)
        raise DataError(f"{place}: no report can be made of it: {type(error).__name__}: {error}") from error
    folder.write(REPORT, page.encode("utf-8", "backslashreplace"))
    return folder.place_of(REPORT)


def _make_page(folder: OutputFolder, job: FoundJob, now: float) -> str:
    """Read what the report needs beside the job's own files, and put the page together."""
    summary = job.summary or {}
    over_time = OverTime(job.spans)
    sections: tuple[tuple[str, str, Callable[[], tuple[Side, ...]]], ...] = (
        ("actors", "What the actors did", over_time.tell_actors),
        ("throughput", "Throughput", lambda: over_time.tell_throughput(float(summary.get("rows_per_second", 0.0)))),
        ("shards", "Shard times", over_time.tell_shards),
        ("retries", "Retries and losses", over_time.tell_losses),
        (
            *("quarantine", "Quarantine"),
            lambda: tell_quarantine(read_bad_rows(folder, job.asides), summary.get("rows_quarantined")),
        ),
        ("predictions", "Predictions", lambda: _tell_predictions(folder, job)),
        ("model", "Model", lambda: tell_model(job.plan)),
        ("settings", "Settings and versions", lambda: tell_settings(job)),
        ("rerun", "Run it again", lambda: tell_rerun(job)),
    )
    headline = _or_note(
        "Main figures",
        lambda: tell_headline(job, over_time.occupancy, now),
        lambda note: Headline(job.place, "", job.state, "bad", (note,), (), ()),
    )
    made = tuple(Section(key, title, _or_note(title, make, _note_alone)) for key, title, make in sections)
    return render(headline, made, now)


def _note_alone(note: str) -> tuple[Side, ...]:
    return (Side(texts=(note,)),)


def _or_note(title: str, make: Callable[[], Made], instead: Callable[[str], Made]) -> Made:
    """Make a part of the page, or put a note in its place.

    The boundary of the report, and the only one: what it draws are values of others, of every type and size, and one
    that nobody thought of may cost its own part of the page, but not what the other parts tell. A signal is no such
    value.
    """
    try:
        return make()
    except JobInterrupted:
        raise
    except Exception as error:  # whatever arrow, numpy or matplotlib raise for what they are given
        return instead(told(f"{title}: cannot be drawn: {type(error).__name__}: {error}"))


def _tell_predictions(folder: OutputFolder, job: FoundJob) -> tuple[Side, ...]:
    fetched = [str(each).partition("=")[2] for each in job.plan.get("settings", {}).get("fetch", ())]
    found = read_predictions(folder, job.parts, fetched)
    types = {} if job.schema is None else {field.name: field.type for field in job.schema}
    num_rows = None if job.manifest is None else int(sum(job.manifest["rows"].to_pylist()))
    return tell_predictions(found, types, num_rows, odd_values(job.manifest))


def render(headline: Headline, sections: tuple[Section, ...], now: float) -> str:
    """Return the page; every text in it is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).with_name("reporting"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template(TEMPLATE)
    return page.render(headline=headline, sections=sections, written=date_text(now))
