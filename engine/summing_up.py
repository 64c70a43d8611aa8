"""A run that is over: whether every row is accounted for, whether the bad ones are too many, and its figures.

Start at `judge` and `summarise`.
"""

from collections.abc import Sequence

from engine.data.ledger import Ledger
from engine.data.manifest import ManifestRow, RowCounts, manifest_row
from engine.data.parts import part_generation
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.data.storage.places import below, place_of
from engine.errors import DataError, JobFailedError, Mistake
from engine.preparing.prepare import Job
from engine.preparing.resuming import scored_sha256
from engine.run.budget import BadRowTally, read_budget
from engine.run.outcome import PoolRun
from engine.run.spec import ShardResult
from engine.run.summary import Summary, add_odd_values, add_phases, find_bottleneck, share_out
from engine.run.versions import installed_versions


def check_run(run: PoolRun) -> PoolRun:
    """Return a run that came to its end.

    Raises:
        EngineError: the first cause, if the job could not go on.
    """
    if isinstance(run.error, Mistake) and run.results:
        raise JobFailedError(str(run.error)) from run.error  # rows were scored: no mere mistake any more
    if run.error is not None:
        raise run.error
    return run


def judge(job: Job, manifest: list[ManifestRow], shown: Sequence[str]) -> None:
    """Check that every input row is accounted for, and that the bad ones are within what the call puts up with.

    The budget is for the rows of the job's own generation.

    Raises:
        DataError: if there are more bad rows, or nothing else.
        JobFailedError: if a row is missing.
    """
    mine = [row for row in manifest if part_generation(row.part) == job.plan.generation]
    counts = sum((row.counts for row in mine), RowCounts())
    odd = [row.part for row in manifest if not row.counts.is_complete]
    if odd:
        raise JobFailedError(f"{odd[0]}: not every input row is in the part, in quarantine or filtered ({counts})")
    tally = bad_row_tally(job)
    tally.add(counts.rows_quarantined, shown)
    if counts.rows_quarantined > 1 and not counts.rows:
        first = f"; {shown[0]}" if shown else f"; see {tally.folder}"
        raise DataError(f"not one of {counts.rows_quarantined} rows could be scored, whatever the budget{first}")
    num_tried = counts.rows + counts.rows_quarantined
    tally.budget.check_share(counts.rows_quarantined, num_tried, tally.shown, tally.folder)


def bad_row_tally(job: Job) -> BadRowTally:
    """Return a count of bad rows that ends the job when there are too many."""
    return BadRowTally(read_budget(job.config.max_bad_rows), below(place_of(job.config.output), QUARANTINE_FOLDER))


def describe_result(run: PoolRun, result: ShardResult) -> ManifestRow:
    """Return the manifest's row of a part of this run."""
    attempts, seconds = run.attempts[result.facts.shard_id], result.seconds["total"]
    return manifest_row(result.part, result.facts, result.published, attempts, seconds)


def summarise(job: Job, ledger: Ledger, manifest: list[ManifestRow], run: PoolRun, seconds_total: float) -> Summary:
    """Add up the job's figures."""
    phases = share_out(add_phases([result.seconds for result in run.results.values()]), run.ready_seconds)
    rows_now = sum(result.facts.counts.rows for result in run.results.values())
    counts = sum((row.counts for row in manifest), RowCounts())
    halved, drifts = run.batches_halved, (result.drift for result in run.results.values())
    unstable = [f"random operation {name}" for name in job.model.random_operations[:1]]
    unstable += [f"batches halved because the device ran out of memory: {halved}"] if halved else []
    unstable += ["XLA compiles each shape of rows when it has come twice"] if job.compiles_as_it_goes else []
    names = sorted(name or kind for kind, name in run.devices)
    unstable += [f"actors computed on different devices: {', '.join(names)}"] if len(names) > 1 else []
    return Summary(
        plan_id=job.plan.plan_id,
        model_sha256=scored_sha256(job, ledger),
        output=ledger.folder.place,
        rows_in=counts.rows_in,
        rows_out=counts.rows,
        rows_quarantined=counts.rows_quarantined,
        rows_filtered=counts.rows_filtered,
        files_pruned=job.inputs.num_pruned,
        nan_values=add_odd_values([row.odd_values for row in manifest], 0),
        inf_values=add_odd_values([row.odd_values for row in manifest], 1),
        parts=len(manifest),
        parts_earlier=len(manifest) - len(run.results),
        seconds_total=seconds_total,
        seconds_ray_start=run.ray_start_seconds,
        seconds_load=run.load_seconds,
        scoring_seconds=run.scoring_seconds,
        rows_per_second=rows_now / run.scoring_seconds if run.scoring_seconds else 0.0,
        rows_per_actor_second=rows_now / run.ready_seconds if run.ready_seconds else 0.0,
        session_share=min(1.0, run.busy_seconds / run.ready_seconds) if run.ready_seconds else 0.0,
        bottleneck=find_bottleneck(phases),
        phase_seconds=phases,
        attempts=run.num_attempts,
        second_attempts=run.num_backups,
        actors=len(run.actors),
        actors_lost=run.actors_lost,
        devices=tuple(actor.facts() for actor in run.actors.values()),
        model_load_bytes=max((actor.report.peak_bytes for actor in run.actors.values()), default=0),
        batch_size=job.plan.batch_rows,
        precision=job.config.precision,
        xla=job.config.xla,
        drift=next((drift for drift in drifts if drift), {}),
        batches_split=sum(result.batches_split for result in run.results.values()),
        batches_halved=halved,
        bytes_stable=not unstable,
        bytes_stable_reason="; ".join(unstable),
        versions=installed_versions(),
    )
