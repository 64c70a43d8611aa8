"""The whole story of a job: describe the model, bind columns, plan shards, run them, commit.

Mistakes end in `prepare`, before Ray is touched; nothing here imports TensorFlow. Start at `score`.
"""

import time

from engine.config import JobConfig
from engine.data.ledger import Ledger, ManifestRow
from engine.errors import JobFailedError, Mistake, PlanError
from engine.prepare import Job, prepare
from engine.run.actor import LoadReport
from engine.run.outcome import PoolRun, Watcher
from engine.run.plan import explain_changes
from engine.run.pool import size_pool
from engine.run.shard import ScoringSpec, ShardResult
from engine.run.summary import Summary, add_phases, find_bottleneck
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
    started = time.monotonic()
    view = view or ProgressView()
    job = prepare(config)
    ledger = Ledger(job.config.output)
    done = resume_or_start(job, ledger)
    if len(done) == len(job.part_names) and ledger.is_finished:
        return summarise(job, ledger.read_manifest(), PoolRun(), time.monotonic() - started)
    ledger.unfinish()
    view.start(len(job.part_names), len(done))
    try:
        run = run_missing(job, ledger, done, view)
    finally:
        view.close()
    manifest = [*ledger.describe_parts(sorted(done)), *(manifest_row(run, result) for result in run.results.values())]
    manifest.sort(key=lambda row: row.shard_id)
    summary = summarise(job, manifest, run, time.monotonic() - started)
    ledger.finish(manifest, summary.to_json())
    return summary


def resume_or_start(job: Job, ledger: Ledger) -> set[str]:
    """Make the output folder this job's own, and return the parts that it holds already.

    Raises:
        PlanError: if it belongs to something else, or to a job that differs, naming the differences.
    """
    earlier = ledger.read_plan()
    if earlier is not None and (job.config.overwrite or earlier.get("discarding")):
        ledger.discard(earlier)
        earlier = None
    if earlier is None:
        document = {
            "plan_id": job.plan.plan_id,
            "settings": job.plan.settings,
            "config": job.config.model_dump(mode="json"),
            "num_shards": len(job.plan.shards),
            "num_inputs": len(job.plan.files),
            "versions": installed_versions(),
        }
        ledger.start(document, job.plan.files)
        return set()
    changes = explain_changes(earlier["settings"], job.plan.settings, ledger.read_inputs(), job.plan.files)
    if changes or earlier["plan_id"] != job.plan.plan_id:
        raise PlanError(
            f"--output {job.config.output} holds a job that differs: {'; '.join(changes)}; "
            "name another folder, or type --overwrite to discard it"
        )
    ledger.write_inputs(job.plan.files)
    ledger.clear_temporaries()
    return ledger.find_parts(job.part_names)


def run_missing(job: Job, ledger: Ledger, done: set[str], view: ProgressView) -> PoolRun:
    """Score the shards whose parts are not there.

    Raises:
        EngineError: the first cause, if the job could not go on.
    """
    missing = [job.plan.shards[shard_id] for name, shard_id in job.part_names.items() if name not in done]
    if not missing:
        return PoolRun()
    # Ray takes 0.4 s to import, which a mistake or a finished job need not wait for.
    from engine.run.cluster import Cluster, run_shards

    def begin(report: LoadReport) -> None:
        ledger.write_schema(report.schema)
        view.stage("scoring")

    config = job.config
    cluster = Cluster(config.address)
    cluster.check_address()
    view.stage("starting Ray" if cluster.is_local else "joining the Ray cluster")
    watcher = Watcher(begin, lambda result: view.advance(result.rows_out), view.notice, view.tick)
    with cluster:
        shares = config.actors, config.cpus_per_actor, config.gpus_per_actor
        pool = size_pool(*shares, cluster.nodes(), len(missing), can_grow=not cluster.is_local)
        view.stage(f"loading the model on {pool}")
        run = run_shards(scoring_spec(job), job.graph.data, missing, pool, watcher)
        run.ray_start_seconds = cluster.start_seconds
    if isinstance(run.error, Mistake) and run.results:
        raise JobFailedError(str(run.error)) from run.error  # rows were scored: no mere mistake any more
    if run.error is not None:
        raise run.error
    return run


def scoring_spec(job: Job) -> ScoringSpec:
    """Return what an actor needs to know of the job."""
    return ScoringSpec(
        plan_id=job.plan.plan_id,
        output=job.config.output,
        num_shards=len(job.plan.shards),
        feeds=tuple(job.config.feed.items()),
        fetches=tuple(job.config.fetch.items()),
        constants=job.config.set,
        init_ops=job.config.init_op,
        read_schema=job.read_schema,
        keep=job.keep,
        batch_rows=job.plan.batch_rows,
        samples=tuple(job.plan.whole_file(file) for file in job.plan.files[:NUM_SAMPLES]),
        versions=installed_versions(),
    )


def manifest_row(run: PoolRun, result: ShardResult) -> ManifestRow:
    """Return the manifest's row of a part of this run."""
    return ManifestRow(
        result.part, result.shard_id, result.sources, result.rows_in, result.rows_out, result.num_bytes,
        result.sha256, run.attempts[result.shard_id], result.seconds["total"],
    )  # fmt: skip


def summarise(job: Job, manifest: list[ManifestRow], run: PoolRun, seconds_total: float) -> Summary:
    """Add up the job's figures."""
    phases = add_phases([result.seconds for result in run.results.values()])
    rows_now = sum(result.rows_out for result in run.results.values())
    actor_seconds = len(run.reports) * run.scoring_seconds
    halved = run.batches_halved
    unstable = [f"random operation {name}" for name in job.random_operations[:1]]
    unstable += [f"{halved} batches halved: the device ran out of memory"] if halved else []
    return Summary(
        plan_id=job.plan.plan_id,
        output=job.config.output,
        rows_in=sum(row.rows_in for row in manifest),
        rows_out=sum(row.rows for row in manifest),
        rows_quarantined=0,
        rows_filtered=0,
        parts=len(manifest),
        parts_earlier=len(manifest) - len(run.results),
        seconds_total=seconds_total,
        seconds_ray_start=run.ray_start_seconds,
        seconds_load=run.load_seconds,
        scoring_seconds=run.scoring_seconds,
        rows_per_second=rows_now / run.scoring_seconds if run.scoring_seconds else 0.0,
        session_share=min(1.0, phases["session"] / actor_seconds) if actor_seconds else 0.0,
        bottleneck=find_bottleneck(phases),
        phase_seconds=phases,
        attempts=run.num_attempts,
        actors=len(run.reports),
        actors_lost=run.actors_lost,
        devices=tuple(report.device_facts() for report in run.reports),
        model_load_bytes=max((report.peak_bytes for report in run.reports), default=0),
        batch_size=job.plan.batch_rows,
        batches_halved=halved,
        bytes_stable=not unstable,
        bytes_stable_reason="; ".join(unstable),
        versions=installed_versions(),
    )
