"""The whole story of a job: describe the model, bind columns, plan shards, run them, commit.

Mistakes end in `prepare`, before Ray is touched; nothing here imports TensorFlow. Start at `score`.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace

from engine.config import JobConfig
from engine.data.ledger import Ledger
from engine.data.parts import count_quarantined, part_generation
from engine.data.storage.locking import lock_output
from engine.data.storage.places import place_of
from engine.preparing.prepare import Job, expects_gpu, prepare
from engine.preparing.resuming import Done, claim_output, describe_earlier, find_done, scored_sha256
from engine.preparing.scoring import scoring_spec
from engine.run.actor import LoadReport
from engine.run.freezing import freeze_on_worker, scored_model
from engine.run.interrupt import interruptible
from engine.run.logbook import Logbook
from engine.run.outcome import PoolRun, Watcher
from engine.run.pool import size_pool
from engine.run.spec import ShardResult
from engine.run.summary import Summary
from engine.summing_up import bad_row_tally, check_run, describe_result, judge, summarise
from engine.telling import Teller, told_if_slow
from engine.view.progress import ProgressView


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
            job, summary = _score(config, view, time.monotonic())
        return summary


def _score(config: JobConfig, view: ProgressView, started: float) -> tuple[Job, Summary]:
    with told_if_slow(view, "looking at the model and the input"):
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
        began = time.time() - (time.monotonic() - started)
        logbook = Logbook(job.plan.plan_id, began, started, job.inputs.rows_per_byte)
        with Teller(view, ledger.folder, job.plan, logbook, check_lock, job.target.has_more) as teller:
            if done is not None:
                teller.keep()
            if job.model.known.remark:
                teller.notice(job.model.known.remark)
            run = run_missing(job, ledger, done, teller, check_lock)
            with teller.meanwhile("recording what was scored"):
                scored = [describe_result(run, result) for result in run.results.values()]
                manifest = [*scored, *describe_earlier(job, ledger, [row.part for row in scored])]
                manifest.sort(key=lambda row: (part_generation(row.part), row.shard_id))
                summary = summarise(job, ledger, manifest, run, time.monotonic() - started)
                ledger.record(job.plan.plan_id, job.plan.generation, manifest, summary.to_json())
                judge(job, manifest, [row for result in run.results.values() for row in result.bad_rows])
                if not job.target.has_gaps:
                    ledger.succeed()
    return job, summary


def run_missing(job: Job, ledger: Ledger, done: Done | None, teller: Teller, check_lock: Callable[[], None]) -> PoolRun:
    """Score the shards whose parts are not there; the output folder is touched once the cluster has room for them.

    Raises:
        EngineError: the first cause, if the job could not go on.
    """
    parts = None if done is None else done.parts
    if parts is not None and len(parts) == len(job.part_names):
        parts = frozenset(claim_output(job, ledger, parts, scored_sha256(job, ledger)))
        if len(parts) == len(job.part_names):
            teller.begin({}, len(parts))
            return PoolRun()
    # Ray takes 0.4 s to import, which a mistake or a finished job need not wait for.
    from engine.run.cluster import ActorPool, Cluster
    from engine.run.driver import RunRules, run_shards
    from engine.view.metrics import DriverMetrics, make_actor_metrics

    def begin(report: LoadReport) -> None:
        ledger.write_schema(report.schema)
        if report.devices[0].kind == "GPU" and config.batch_size == "auto" and not expects_gpu(config):
            teller.notice(
                f"batches of {job.plan.batch_rows} rows are sized for CPUs, and the actors have GPUs: --gpus-per-actor "
                "with --overwrite sizes them for GPUs"
            )
        teller.stage("scoring")

    config, bad = job.config, bad_row_tally(job)

    def take(result: ShardResult) -> None:
        bad.add(result.facts.counts.rows_quarantined, result.bad_rows)

    def tick() -> None:
        teller.tick()
        check_lock()

    cluster = Cluster(config.address)
    cluster.check_address()
    teller.stage("starting Ray" if cluster.is_local else "joining the Ray cluster")
    watcher = Watcher(begin, take, teller.notice, tick, teller.logbook)
    with cluster:
        shares = config.actors, config.cpus_per_actor, config.gpus_per_actor
        num_missing = len(job.part_names) - len(parts or ())
        model = scored_model(job.model, config.set)
        model_bytes = 0 if model is None else len(model.data)
        pool = size_pool(*shares, cluster.nodes(), num_missing, not cluster.is_local, model_bytes)
        if model is None:
            teller.stage("freezing the model on a worker")
            model = freeze_on_worker(functools.partial(cluster.call, on_tick=tick), job.model, config.model)
            for note in model.notes:
                teller.notice(f"frozen {place_of(config.model)}: {note}")
        mine = claim_output(job, ledger, parts, model.sha256)
        bad.add(count_quarantined(ledger.folder, mine, ledger.find_files()))
        missing = [job.plan.shards[shard_id] for name, shard_id in job.part_names.items() if name not in mine]
        teller.begin({shard.shard_id: shard for shard in missing}, len(job.part_names))
        teller.stage(f"loading the model on {pool}")
        spec = scoring_spec(job, model)
        if not spec.is_plain:
            spec = replace(spec, drift_shard=min(shard.shard_id for shard in missing))
        actors = ActorPool(spec, model.data, pool, config.allow_cpu, make_meter=make_actor_metrics(config.model))
        # Where two attempts may differ in values, or in which rows are bad for them, there must be one alone.
        rules = RunRules(
            config.max_attempts, config.stall_timeout,
            can_back_up=not (job.model.random_operations or config.nan_is_bad or job.compiles_as_it_goes),
        )  # fmt: skip
        with teller.heard_by(DriverMetrics(config.model).update):
            run = run_shards(actors, missing, pool, rules, watcher)
        run.ray_start_seconds = cluster.start_seconds
    return check_run(run)
