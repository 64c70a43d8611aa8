"""The whole story of a job: describe the model, bind columns, plan shards, run them, commit.

Mistakes end in `prepare`, before Ray is touched; nothing here imports TensorFlow. Start at `score`.
"""

import time
from collections.abc import Sequence

from engine.config import JobConfig
from engine.data.ledger import Ledger
from engine.data.manifest import ManifestRow, RowCounts, manifest_row
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.errors import DataError, JobFailedError, Mistake, PlanError
from engine.prepare import Job, find_changes, prepare
from engine.run.actor import LoadReport
from engine.run.budget import BadRowTally, read_budget
from engine.run.freezing import ScoredModel, freeze_on_worker, scored_model
from engine.run.interrupt import interruptible
from engine.run.outcome import PoolRun, Watcher
from engine.run.pool import size_pool
from engine.run.spec import RowRules, ScoringSpec, ShardResult
from engine.run.summary import Summary, add_odd_values, add_phases, find_bottleneck
from engine.run.versions import installed_versions
from engine.view.progress import ProgressView

NUM_SAMPLES = 16


def score(config: JobConfig, view: ProgressView | None = None) -> Summary:
    """Score every input row once; where an earlier run of the same job was cut off, only what is missing.

    Args:
        config: what to score, with what, to where.
        view: shows the progress; None shows nothing.

    Returns:
        The figures of the job.

    Raises:
        Mistake: if the call, config, model, schema, output folder or cluster is wrong; no row was scored.
        DataError, StorageError, JobFailedError: if the job could not go on; finished parts stay.
    """
    with interruptible():
        return _score(config, view or ProgressView(), time.monotonic())


def _score(config: JobConfig, view: ProgressView, started: float) -> Summary:
    job = prepare(config)
    ledger = Ledger(job.config.output)
    done = find_done(job, ledger)
    if done is not None and len(done) == len(job.part_names) and ledger.is_finished:
        manifest = ledger.read_manifest()
        ledger.check_sizes(manifest)
        judge(job, manifest, ())
        return summarise(job, ledger, manifest, PoolRun(), time.monotonic() - started)
    view.start(len(job.part_names), len(done or ()))
    if job.model.known.remark:
        view.notice(job.model.known.remark)
    try:
        run = run_missing(job, ledger, done, view)
    finally:
        view.close()
    earlier = ledger.describe_parts(sorted(set(job.part_names) - {each.part for each in run.results.values()}))
    manifest = [*earlier, *(describe_result(run, result) for result in run.results.values())]
    manifest.sort(key=lambda row: row.shard_id)
    summary = summarise(job, ledger, manifest, run, time.monotonic() - started)
    ledger.record(job.plan.plan_id, manifest, summary.to_json())
    judge(job, manifest, [row for result in run.results.values() for row in result.bad_rows])
    ledger.succeed()
    return summary


def judge(job: Job, manifest: list[ManifestRow], shown: Sequence[str]) -> None:
    """Check that every input row is accounted for, and that the bad ones are within what the call puts up with.

    Raises:
        DataError: if there are more bad rows, or nothing else.
        JobFailedError: if a row is missing.
    """
    counts = sum((row.counts for row in manifest), RowCounts())
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
    return BadRowTally(read_budget(job.config.max_bad_rows), f"{job.config.output}/{QUARANTINE_FOLDER}")


def find_done(job: Job, ledger: Ledger) -> set[str] | None:
    """Return the parts that the output folder holds already; None where the job has to start anew. Writes nothing.

    Raises:
        PlanError: if the folder belongs to something else, or to a job that differs, naming the differences.
    """
    earlier = ledger.read_plan()
    if earlier is None or earlier.get("discarding") or job.config.overwrite:
        return None
    changes = find_changes(job, ledger, earlier)
    if not changes:
        return ledger.find_parts(job.part_names)
    if not ledger.holds_parts(earlier["num_shards"]):
        return None  # a first try that ended in a mistake; nothing is lost by planning anew
    raise PlanError(
        f"--output {job.config.output} holds a job that differs: {'; '.join(changes)}; "
        "name another folder, or type --overwrite to discard it"
    )


def claim_output(job: Job, ledger: Ledger, done: set[str] | None, model_sha256: str) -> set[str]:
    """Make the output folder this job's own, and return the parts that are its already.

    Raises:
        PlanError: if the model, frozen anew, is not the graph that those parts were scored with.
    """
    earlier = ledger.read_plan()
    if done and earlier is not None and earlier.get("scored_sha256") != model_sha256:
        raise PlanError(
            f"--output {job.config.output}: {job.config.model}, frozen again, gives another graph than the one that "
            "the parts there were scored with; freeze it to a .pb with icefloe freeze, and type --overwrite"
        )
    if done is None:
        if earlier is not None:
            ledger.discard(earlier)
        document = {
            "plan_id": job.plan.plan_id,
            "settings": job.plan.settings,
            "config": job.config.model_dump(mode="json"),
            "scored_sha256": model_sha256,
            "num_shards": len(job.plan.shards),
            "num_inputs": len(job.plan.files),
            "versions": installed_versions(),
        }
        ledger.start(document, job.plan.files)
    ledger.unfinish()
    ledger.write_inputs(job.plan.files)
    ledger.clear_temporaries()
    return ledger.keep_parts(done or (), job.plan.plan_id)


def run_missing(job: Job, ledger: Ledger, done: set[str] | None, view: ProgressView) -> PoolRun:
    """Score the shards whose parts are not there; the output folder is touched once the cluster has room for them.

    Raises:
        EngineError: the first cause, if the job could not go on.
    """
    if done is not None and len(done) == len(job.part_names):
        done = claim_output(job, ledger, done, scored_sha256(ledger))
        if len(done) == len(job.part_names):
            return PoolRun()
    # Ray takes 0.4 s to import, which a mistake or a finished job need not wait for.
    from engine.run.cluster import Cluster, run_shards

    def begin(report: LoadReport) -> None:
        ledger.write_schema(report.schema)
        view.stage("scoring")

    config, bad = job.config, bad_row_tally(job)

    def take(result: ShardResult) -> None:
        view.advance(result.facts.counts.rows)
        bad.add(result.facts.counts.rows_quarantined, result.bad_rows)

    cluster = Cluster(config.address)
    cluster.check_address()
    view.stage("starting Ray" if cluster.is_local else "joining the Ray cluster")
    watcher = Watcher(begin, take, view.notice, view.tick)
    with cluster:
        shares = config.actors, config.cpus_per_actor, config.gpus_per_actor
        num_missing = len(job.part_names) - len(done or ())
        pool = size_pool(*shares, cluster.nodes(), num_missing, can_grow=not cluster.is_local)
        model = scored_model(job.model, config.set)
        if model is None:
            view.stage("freezing the model on a worker")
            model = freeze_on_worker(lambda function, bound: cluster.call(function, bound, view.tick), job.model)
            for note in model.notes:
                view.notice(f"frozen {config.model}: {note}")
        mine = claim_output(job, ledger, done, model.sha256)
        bad.add(ledger.count_quarantined(mine))
        view.stage(f"loading the model on {pool}")
        missing = [job.plan.shards[shard_id] for name, shard_id in job.part_names.items() if name not in mine]
        run = run_shards(scoring_spec(job, model), model.data, missing, pool, watcher)
        run.ray_start_seconds = cluster.start_seconds
    if isinstance(run.error, Mistake) and run.results:
        raise JobFailedError(str(run.error)) from run.error  # rows were scored: no mere mistake any more
    if run.error is not None:
        raise run.error
    return run


def scored_sha256(ledger: Ledger) -> str:
    """Return the hash of the graph that the output folder's parts were scored with; empty where none were."""
    return str((ledger.read_plan() or {}).get("scored_sha256", ""))


def scoring_spec(job: Job, model: ScoredModel) -> ScoringSpec:
    """Return what an actor needs to know of the job."""
    return ScoringSpec(
        plan_id=job.plan.plan_id,
        output=job.config.output,
        num_shards=len(job.plan.shards),
        feeds=tuple((tensor, job.inputs.sources[tensor]) for tensor, _ in model.feeds),
        fetches=model.fetches,
        constants=model.constants,
        init_ops=model.init_ops,
        op_libraries=job.config.op_library,
        selection=job.inputs.selection,
        keep=job.inputs.keep,
        rules=RowRules(
            fills=job.inputs.fills,
            utf8=job.config.utf8,
            provenance=job.config.provenance,
            nan_is_bad=job.config.nan_is_bad,
            unbatched=job.config.unbatched,
            budget=read_budget(job.config.max_bad_rows),
        ),
        batch_rows=job.plan.batch_rows,
        samples=tuple(job.plan.whole_file(file) for file in job.plan.files[:NUM_SAMPLES]),
        versions=installed_versions(),
    )


def describe_result(run: PoolRun, result: ShardResult) -> ManifestRow:
    """Return the manifest's row of a part of this run."""
    attempts, seconds = run.attempts[result.facts.shard_id], result.seconds["total"]
    return manifest_row(result.part, result.facts, result.published, attempts, seconds)


def summarise(job: Job, ledger: Ledger, manifest: list[ManifestRow], run: PoolRun, seconds_total: float) -> Summary:
    """Add up the job's figures."""
    phases = add_phases([result.seconds for result in run.results.values()])
    rows_now = sum(result.facts.counts.rows for result in run.results.values())
    counts = sum((row.counts for row in manifest), RowCounts())
    actor_seconds = len(run.reports) * run.scoring_seconds
    halved = run.batches_halved
    unstable = [f"random operation {name}" for name in job.model.random_operations[:1]]
    unstable += [f"{halved} batches halved: the device ran out of memory"] if halved else []
    return Summary(
        plan_id=job.plan.plan_id,
        model_sha256=scored_sha256(ledger),
        output=job.config.output,
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
        session_share=min(1.0, run.busy_seconds / actor_seconds) if actor_seconds else 0.0,
        bottleneck=find_bottleneck(phases),
        phase_seconds=phases,
        attempts=run.num_attempts,
        actors=len(run.reports),
        actors_lost=run.actors_lost,
        devices=tuple(report.device_facts() for report in run.reports),
        model_load_bytes=max((report.peak_bytes for report in run.reports), default=0),
        batch_size=job.plan.batch_rows,
        batches_split=sum(result.batches_split for result in run.results.values()),
        batches_halved=halved,
        bytes_stable=not unstable,
        bytes_stable_reason="; ".join(unstable),
        versions=installed_versions(),
    )
