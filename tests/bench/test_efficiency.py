"""Scoring costs little more CPU than decoding, the graph and encoding alone do: ratios, for machines differ.

One scorer without Ray and with one session thread, against the machine's limit as bench/limit.py measures it, right
before and right after, in this process. CPU seconds, the least of some, so that a busy machine does not fail it.
"""

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # its modules import each other by their names

import limit
import workloads

from engine import JobConfig
from engine.data.ledger import Ledger
from engine.job import scoring_spec
from engine.model.session import SessionOptions, load_session
from engine.preparing.prepare import Job, prepare
from engine.preparing.resuming import claim_output
from engine.run.attempt import Attempt
from engine.run.freezing import scored_model
from engine.run.shard import Scorer

pytestmark = [pytest.mark.tf, pytest.mark.measured]
NUM_PASSES = 4


def make_scorer(model: Path, rows: Path, feed: str, output: Path) -> tuple[Job, Scorer]:
    job = prepare(JobConfig(model=str(model), input=str(rows), output=str(output), feed={"inputs:0": feed}))
    scored = scored_model(job.model, {})
    assert scored is not None
    ledger = Ledger(job.config.output)
    ledger.folder.make()
    claim_output(job, ledger, None, scored.sha256)
    spec = scoring_spec(job, scored)
    feeds, fetches = [name for name, _ in spec.feeds], [name for name, _ in spec.fetches]
    session = load_session(model.read_bytes(), feeds, fetches, {}, options=SessionOptions(threads=1))
    return job, Scorer(spec, session)


def cpu_seconds(job: Job, scorer: Scorer, num_rows: int) -> float:
    found = []
    for _ in range(NUM_PASSES):
        for part in Path(job.config.output).glob("part-*"):
            part.unlink()
        started = time.process_time()
        results = [scorer.score(shard, Attempt()) for shard in job.plan.shards]
        found.append(time.process_time() - started)
        assert sum(result.facts.counts.rows for result in results) == num_rows
    return min(found)


# Usual is 1.20 and 1.40 (two cores of a shared machine, with and without others at work); half as much again fails.
@pytest.mark.parametrize(("name", "scale", "most"), [("tabular", 0.25, 1.8), ("wide", 0.2, 2.1)])
def test_scoring_costs_little_more_than_its_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scale: float, most: float
) -> None:
    monkeypatch.setattr(limit, "SECONDS", 0.3)
    workload = workloads.WORKLOADS[name]
    model, rows, num_rows = workloads.prepare(workload, tmp_path / "data", scale)
    job, scorer = make_scorer(model, rows, workload.feed, tmp_path / "out")
    before = limit.measure_limit(model, rows, workload.feed, workload.batches, tmp_path)
    ours = cpu_seconds(job, scorer, num_rows)
    after = limit.measure_limit(model, rows, workload.feed, workload.batches, tmp_path)
    least = min(before.seconds(1), after.seconds(1))
    assert ours < most * least, f"{ours:.3f} s of CPU where its pieces take {least:.3f} s"
