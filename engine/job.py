"""The whole story of a job: describe the model, bind columns, plan shards, run them, commit.

Mistakes end in `prepare`, before Ray is touched; nothing here imports TensorFlow. Start at `score`.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.config import JobConfig
from engine.data.ledger import Ledger
from engine.data.manifest import ManifestRow, RowCounts, manifest_row
from engine.data.parts import count_quarantined, part_generation
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.data.storage.locking import lock_output
from engine.data.storage.places import below, place_of
from engine.errors import DataError, JobFailedError, Mistake
from engine.preparing.prepare import Job, encoding_rules, expects_gpu, prepare
from engine.preparing.resuming import Done, claim_output, describe_earlier, find_done
from engine.run.actor import LoadReport
from engine.run.budget import BadRowTally, read_budget
from engine.run.freezing import ScoredModel, freeze_on_worker, scored_model
from engine.run.interrupt import interruptible
from engine.run.outcome import PoolRun, Watcher
from engine.run.pool import size_pool
from engine.run.spec import RowRules, ScoringSpec, ShardResult
from engine.run.summary import Summary, add_odd_values, add_phases, find_bottleneck, share_out
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
    started, view = time.monotonic(), view or ProgressView()
    with interruptible():
        job, summary = _score(config, view, started)
        while job.target.has_more:  # a generation that was cut off is done; now for the files that came since
            job, summary = _score(config, view, started)
        return summary


def _score(config: JobConfig, view: ProgressView, started: float) -> tuple[Job, Summary]:
    job = prepare(config)
    ledger = Ledger(job.config.output)
    done = find_done(job, ledger)
    if done is not None and done.is_finished:
        manifest = ledger.read_manifest()
        ledger.check_sizes(manifest, done.files)
        judge(job, manifest, ())
        return job, summarise(job, ledger, manifest, PoolRun(), time.monotonic() - started)
    with lock_output(ledger.folder, view.notice) as check_lock:
        done = find_done(job, ledger)  # another job may have ended just now
        if job.model.known.remark:
            view.notice(job.model.known.remark)
        try:
            run = run_missing(job, ledger, done, view, check_lock)
        finally:
            view.close()
        scored = [describe_result(run, result) for result in run.results.values()]
        manifest = [*scored, *describe_earlier(job, ledger, [row.part for row in scored])]
        manifest.sort(key=lambda row: (part_generation(row.part), row.shard_id))
        summary = summarise(job, ledger, manifest, run, time.monotonic() - started)
        ledger.record(job.plan.plan_id, job.plan.generation, manifest, summary.to_json())
        judge(job, manifest, [row for result in run.results.values() for row in result.bad_rows])
        if not job.target.has_gaps:
            ledger.succeed()
    return job, summary


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


def run_missing(
    job: Job, ledger: Ledger, done: Done | None, view: ProgressView, check_lock: Callable[[], None]
) -> PoolRun:
    """Score the shards whose parts are not there; the output folder is touched once the cluster has room for them.

    Raises:
        EngineError: the first cause, if the job could not go on.
    """
    parts = None if done is None else done.parts
    if parts is not None and len(parts) == len(job.part_names):
        parts = frozenset(claim_output(job, ledger, parts, scored_sha256(job, ledger)))
        if len(parts) == len(job.part_names):
            return PoolRun()
    # Ray takes 0.4 s to import, which a mistake or a finished job need not wait for.
    from engine.run.cluster import ActorPool, Cluster
    from engine.run.driver import RunRules, run_shards

    def begin(report: LoadReport) -> None:
        ledger.write_schema(report.schema)
        if report.devices[0].kind == "GPU" and config.batch_size == "auto" and not expects_gpu(config):
            view.notice(
                f"batches of {job.plan.batch_rows} rows are sized for CPUs, and the actors have GPUs: --gpus-per-actor "
                "with --overwrite sizes them for GPUs"
            )
        view.stage("scoring")

    config, bad = job.config, bad_row_tally(job)

    def take(result: ShardResult) -> None:
        view.advance(result.facts.counts.rows)
        bad.add(result.facts.counts.rows_quarantined, result.bad_rows)

    def tick() -> None:
        view.tick()
        check_lock()

    cluster = Cluster(config.address)
    cluster.check_address()
    view.stage("starting Ray" if cluster.is_local else "joining the Ray cluster")
    watcher = Watcher(begin, take, view.notice, tick)
    with cluster:
        view.start(len(job.part_names), len(parts or ()))
        shares = config.actors, config.cpus_per_actor, config.gpus_per_actor
        num_missing = len(job.part_names) - len(parts or ())
        model = scored_model(job.model, config.set)
        model_bytes = 0 if model is None else len(model.data)
        pool = size_pool(*shares, cluster.nodes(), num_missing, not cluster.is_local, model_bytes)
        if model is None:
            view.stage("freezing the model on a worker")
            model = freeze_on_worker(functools.partial(cluster.call, on_tick=tick), job.model, config.model)
            for note in model.notes:
                view.notice(f"frozen {place_of(config.model)}: {note}")
        mine = claim_output(job, ledger, parts, model.sha256)
        bad.add(count_quarantined(ledger.folder, mine, ledger.find_files()))
        view.stage(f"loading the model on {pool}")
        missing = [job.plan.shards[shard_id] for name, shard_id in job.part_names.items() if name not in mine]
        spec = scoring_spec(job, model)
        if not spec.is_plain:
            spec = replace(spec, drift_shard=min(shard.shard_id for shard in missing))
        actors = ActorPool(spec, model.data, pool, config.allow_cpu)
        # Where two attempts may differ in values, or in which rows are bad for them, there must be one alone.
        can_back_up = not (job.model.random_operations or config.nan_is_bad or job.compiles_as_it_goes)
        rules = RunRules(config.max_attempts, config.stall_timeout, can_back_up)
        run = run_shards(actors, missing, pool, rules, watcher)
        run.ray_start_seconds = cluster.start_seconds
    if isinstance(run.error, Mistake) and run.results:
        raise JobFailedError(str(run.error)) from run.error  # rows were scored: no mere mistake any more
    if run.error is not None:
        raise run.error
    return run


def scored_sha256(job: Job, ledger: Ledger) -> str:
    """Return the hash of the graph that the job's parts were scored with; empty where none were."""
    return str((ledger.read_plan(job.plan.generation) or {}).get("scored_sha256", ""))


def scoring_spec(job: Job, model: ScoredModel) -> ScoringSpec:
    """Return what an actor needs to know of the job."""
    at_hand = [file for file in job.plan.files if file.path not in job.target.gone]
    return ScoringSpec(
        plan_id=job.plan.plan_id,
        generation=job.plan.generation,
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
        encoding=encoding_rules(job.config),
        batch_rows=job.plan.batch_rows,
        precision=job.config.precision,
        xla=job.config.xla,
        samples=tuple(job.plan.whole_file(file) for file in at_hand[:NUM_SAMPLES]),
        versions=installed_versions(),
    )


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
