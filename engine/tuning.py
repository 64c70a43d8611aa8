"""A model measured on this machine, on rows of its own input: which settings a job should have (`icefloe tune`).

Imports neither TensorFlow nor Ray: what is measured runs in processes of its own. Start at `tune`, then
`write_results`.
"""

import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.config import JobConfig, TuneConfig
from engine.data.ledger import Ledger
from engine.data.row_groups import read_row_groups
from engine.data.storage.places import is_local, place_of
from engine.errors import ConfigError, DataError, JobFailedError, JobInterrupted, system_text
from engine.preparing.call import job_settings
from engine.preparing.prepare import Job, prepare
from engine.preparing.resuming import claim_output
from engine.preparing.scoring import scoring_spec
from engine.run.freezing import ScoredModel, scored_model
from engine.run.interrupt import interruptible
from engine.run.memory import free_bytes
from engine.run.tuning.bench import Bench, Work
from engine.run.tuning.candidates import default_layout, list_layouts, list_variants
from engine.run.tuning.choice import Tuning, best_plain
from engine.run.tuning.crew import Crew
from engine.run.tuning.job_file import job_file
from engine.run.tuning.machine import find_machine
from engine.run.tuning.sample import Sample, choose_rows, read_sample
from engine.run.tuning.search import Bounds, Search
from engine.run.tuning.settings import Failure, Layout, Machine, Measurement
from engine.run.tuning.workshop import Workshop, window_seconds
from engine.run.versions import installed_versions

JOB_FILE, DOCUMENT, PICTURE = "job.toml", "tune.json", "tune.svg"
# What one batch size takes beside its window: first calls, a pilot, the session alone, and shards that end late.
STEP_WINDOWS = 2.0
# These are found out, or left for the job itself to decide.
MEASURED_WITH: Mapping[str, Any] = {
    **{"precision": "float32", "xla": False, "batch_size": "auto", "actors": "auto", "shard_size": "auto"},
    **{"add": False, "overwrite": False, "max_bad_rows": "100%"},
}

Notice = Callable[[str], None]


def tune(config: JobConfig, options: TuneConfig, notice: Notice = lambda _: None) -> Tuning:
    """Measure a job's model on this machine.

    Args:
        config: the job; its output is not touched.
        options: the sample, the budget and the candidates.
        notice: is told what goes on, a line each.

    Raises:
        Mistake: as a job would; nothing was measured.
        JobFailedError: if nothing could be measured, or it was interrupted.
    """
    started = time.monotonic()
    check_folder(options)
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix=".icefloe-tune-") as scratch:
            return _tune(config, options, notice, scratch, started)
    except JobInterrupted as error:
        raise JobInterrupted(f"{str(error).partition(';')[0]}; nothing was written") from error


def _tune(config: JobConfig, options: TuneConfig, notice: Notice, scratch: str, started: float) -> Tuning:
    stop = started + options.seconds
    job = prepare(config.model_copy(update={**MEASURED_WITH, "output": f"{scratch}/out"}))
    sample = _sample(job, options)
    model = _model(job, stop, notice)
    work = _work(job, model, sample, scratch)
    machine = find_machine(None if config.gpus_per_actor is None else config.gpus_per_actor > 0)
    layouts = list_layouts(machine, config.gpus_per_actor or None, config.cpus_per_actor)
    variants = list_variants(options.precision, [word == "on" for word in options.xla])
    window, auto_rows = window_seconds(options.seconds), job.plan.batch_rows
    is_fixed = config.unbatched or any(feed.fixed_rows is not None for feed in job.feeds)
    bounds = Bounds(
        started, stop, window * STEP_WINDOWS, auto_rows, max(auto_rows, sample.num_rows), is_fixed, free_bytes()
    )
    search = Search(layouts, variants, bounds)
    with contextlib.closing(Workshop(work, window, auto_rows, config.allow_cpu)) as shop:
        while (step := search.next(time.monotonic())) is not None:
            outcome = shop.measure(step)
            search.take(outcome)
            notice(_progress(outcome))
    return _result(job, search, shop, sample, machine, default_layout(layouts), time.monotonic() - started)


def _result(
    job: Job, search: Search, shop: Workshop, sample: Sample, machine: Machine, default: Layout, seconds: float
) -> Tuning:
    if best_plain(search.measurements) is None:
        reason = search.failures[0].reason if search.failures else "no time was left"
        raise JobFailedError(f"{job.model.known.found.given}: no setting could be measured: {reason} (--seconds)")
    notes = []
    if shop.bad_share:
        notes.append(f"{shop.bad_share:.2%} of the rows went to quarantine, which takes time of its own")
    return Tuning(
        model=job.model.known.found.given,
        machine=machine,
        sample_rows=sample.num_rows,
        sample_files=len(sample.pieces),
        auto_rows=job.plan.batch_rows,
        default=default,
        measurements=tuple(search.measurements),
        failures=tuple(search.failures),
        left_out=tuple(search.left_out),
        notes=tuple(notes),
        costs=shop.costs,
        seconds=seconds,
        versions=installed_versions(),
    )


def _progress(outcome: Measurement | Failure) -> str:
    batch = "" if outcome.batch_rows is None else f", batches of {outcome.batch_rows:,}"
    found = f"{outcome.rows_per_second:,.0f} rows/s" if isinstance(outcome, Measurement) else outcome.reason
    return f"{outcome.setting}{batch}: {found}"


def _sample(job: Job, options: TuneConfig) -> Sample:
    """Return the first rows of the input."""
    inputs = job.inputs
    groups = read_row_groups(inputs.metadata, inputs.selection.columns)
    row_bytes = sum(group.num_bytes for group in groups) / max(1, inputs.metadata.num_rows)
    num_rows = min(options.rows or choose_rows(row_bytes), job.config.limit or 2**53)
    sample = read_sample(job.plan.files, inputs.selection, num_rows)
    if not sample.num_rows:
        raise DataError(f"the first {len(job.plan.files[:16])} input files hold no row to measure with")
    return sample


def _model(job: Job, stop: float, notice: Notice) -> ScoredModel:
    """Return the graph to measure, frozen in a process of its own where it has to be."""
    model = scored_model(job.model, job.config.set)
    if model is not None:
        return model
    notice("freezing the model")
    slim = dataclasses.replace(job.model, known=dataclasses.replace(job.model.known, meta=None))
    with contextlib.closing(Crew([{}])) as crew:
        model = crew.first(stop, Bench.freeze, slim, job.config.model)
    for note in model.notes:
        notice(f"frozen {place_of(job.config.model)}: {note}")
    return model


def _work(job: Job, model: ScoredModel, sample: Sample, scratch: str) -> Work:
    """Make an output folder for what is measured, and put the model where all processes read it."""
    ledger = Ledger(job.config.output)
    ledger.folder.make()
    claim_output(job, ledger, None, model.sha256)
    path = Path(scratch, "model.pb")
    path.write_bytes(model.data)
    return Work(scoring_spec(job, model), str(path), sample, f"{scratch}/reference.pickle")


def check_folder(options: TuneConfig) -> None:
    """Check that the results can be written.

    Raises:
        ConfigError: if the folder is none, or holds such files already.
    """
    folder = Path(options.output)
    if not is_local(options.output) or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"--output {place_of(options.output)}: expected a folder of this machine for {JOB_FILE}")
    there = [name for name in (JOB_FILE, DOCUMENT, PICTURE) if (folder / name).exists()]
    if there and not options.overwrite:
        raise ConfigError(f"--output {folder}: {', '.join(there)} would be replaced; name another, or type --overwrite")


def write_results(tuning: Tuning, config: JobConfig, options: TuneConfig) -> list[Path]:
    """Write the job file, the document and the picture; return where they are.

    Raises:
        ConfigError: if the folder cannot be written to.
    """
    from engine.view.tuning_picture import draw_tuning  # matplotlib takes a second

    folder = Path(options.output)
    is_named = bool({"precision", "xla"} & options.model_fields_set)
    texts = {
        JOB_FILE: job_file(tuning, job_settings(config), is_named),
        DOCUMENT: json.dumps(tuning.to_json(), indent=1) + "\n",
        PICTURE: draw_tuning(tuning),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            draft = folder / f".{name}.{os.getpid()}"
            draft.write_text(text, encoding="utf-8")
            draft.replace(folder / name)
    except OSError as error:
        raise ConfigError(f"--output {folder}: {system_text(error)}") from error
    return [folder / name for name in texts]
