"""A run as its logbook tells it, from the events and actions of its scheduler; seconds are counted by hand."""

import pytest

from engine.data.manifest import PartFacts, RowCounts
from engine.data.pieces import Piece
from engine.data.status import LOADING, SCORING, STARTING
from engine.data.storage.folder import PublishedPart
from engine.data.timeline import Span
from engine.errors import ClusterError, StorageError
from engine.run.logbook import MAX_LOST_SHOWN, Logbook
from engine.run.plan import Shard
from engine.run.scheduling.events import (
    AssignAttempt,
    CancelAttempt,
    LoadFailed,
    ShardFailed,
    StartWorker,
    StopWorker,
    WorkerLost,
    WorkerPlaced,
    WorkerReady,
)
from engine.run.spec import ShardResult
from engine.run.stalls import WAITING, Progress

START = 100.0
EPOCH = 1.7e9
PHASES = {"read": 1.0, "wait": 0.5, "bind": 0.25, "session": 2.0, "write": 0.125, "total": 3.5}


def shard(shard_id: int, num_bytes: int = 1000) -> Shard:
    return Shard(shard_id, "", (Piece("/in/a", "a", num_bytes, 0, 0, num_bytes, None),))


def result(shard_id: int, rows: int, bad: int = 0) -> ShardResult:
    facts = PartFacts("plan", shard_id, "[]", RowCounts(rows + bad, rows, bad, 0))
    return ShardResult(f"part-{shard_id}", facts, PublishedPart(1, ""), (), 0, PHASES, 0, 0.5)


def logbook(num_missing: int = 4, num_shards: int = 6, rows_per_byte: float = 0.0) -> Logbook:
    book = Logbook("plan", EPOCH, START, rows_per_byte)
    book.plan({i: shard(i) for i in range(num_missing)}, num_shards)
    return book


def ready(book: Logbook, *worker_ids: int, now: float = START) -> None:
    for worker_id in worker_ids:
        book.note(StartWorker(worker_id), now)
        book.hear(WorkerPlaced(worker_id, "node-id"), now + 1)
        book.name(worker_id, f"host-{worker_id}")
        book.hear(WorkerReady(worker_id), now + 2)


def facts(span: Span) -> tuple[object, ...]:
    return (span.kind, span.worker_id, span.shard_id, span.start_seconds, span.stop_seconds, span.outcome)


def test_a_run_that_has_not_begun() -> None:
    status = logbook().status(START + 5)
    assert (status.state, status.seconds, status.shards, status.shards_done) == (STARTING, 5.0, 6, 2)
    assert (status.bytes, status.bytes_done, status.rows, status.seconds_left) == (4000, 0, 0, None)
    assert (status.started, status.updated) == (EPOCH, EPOCH + 5)


def test_actors_are_asked_for_load_work_and_idle() -> None:
    book = logbook()
    for worker_id in range(3):
        book.note(StartWorker(worker_id), START)
    book.hear(WorkerPlaced(0, "a"), START)
    found = book.status(START + 1)
    assert (found.state, found.actors_asked, found.actors_loading, found.actors_idle) == (LOADING, 2, 1, 0)
    book.hear(WorkerReady(0), START + 2)
    book.hear(WorkerReady(1), START + 2)
    book.note(AssignAttempt(0, 3, 1), START + 2)
    found = book.status(START + 3)
    assert (found.state, found.actors_asked, found.actors_idle, found.actors_working) == (SCORING, 1, 1, 1)
    assert book.working == [0]


def test_what_is_done_adds_up() -> None:
    book = logbook()
    ready(book, 0)
    for shard_id in (0, 1):
        book.note(AssignAttempt(0, shard_id, 1), START + 2)
    book.keep(0, result(0, 500, bad=3), START + 12)
    found = book.status(START + 12)
    assert (found.shards_done, found.shards_earlier, found.bytes_done) == (3, 2, 1000)
    assert (found.rows, found.rows_quarantined, found.attempts, found.retries) == (500, 3, 2, 0)
    assert (found.rows_per_second, found.scoring_seconds) == (50.0, 10.0)
    assert found.seconds_left == 30.0


def test_rows_of_shards_in_hand_count_and_tell_their_bytes() -> None:
    book = logbook(rows_per_byte=0.5)
    ready(book, 0)
    book.note(AssignAttempt(0, 0, 1), START + 2)
    book.see(0, {0: Progress(3, "batch", 100), 9: Progress(1, "read", 7)})
    found = book.status(START + 12, with_actors=True)
    assert (found.rows, found.bytes_done) == (100, 200)  # by the guess
    assert (found.actors[0].phase, found.actors[0].rows, found.actors[0].node) == ("session", 100, "host-0")
    book.see(0, {0: Progress(3, "batch", 100_000)})
    assert book.status(START + 12).bytes_done == 1000  # and no more than the shard has
    book.keep(0, result(0, 250), START + 13)
    book.note(AssignAttempt(0, 1, 1), START + 13)
    book.see(0, {1: Progress(3, WAITING, 100)})
    found = book.status(START + 14, with_actors=True)
    assert (found.rows, found.bytes_done) == (350, 1400)  # by what was seen
    assert found.actors[0].phase == "wait"


def test_of_two_attempts_in_hand_the_better_counts() -> None:
    book = logbook(rows_per_byte=1.0)
    ready(book, 0, 1)
    for worker_id, rows in ((0, 30), (1, 50)):
        book.note(AssignAttempt(worker_id, 2, worker_id + 1), START + 2)
        book.see(worker_id, {2: Progress(1, "batch", rows)})
    found = book.status(START + 3)
    assert (found.rows, found.attempts, found.second_attempts, found.retries) == (50, 2, 1, 0)


def test_rates_are_those_of_the_last_half_minute() -> None:
    book = logbook(num_missing=200)
    ready(book, 0)
    now = START + 2
    for shard_id in range(100):  # ten rows a second, then a hundred
        book.note(AssignAttempt(0, shard_id, 1), now)
        now += 1
        book.keep(0, result(shard_id, 10 if shard_id < 60 else 100), now)
        book.status(now)
    found = book.status(now)
    assert found.rows_per_second == pytest.approx(100.0, rel=0.05)
    assert found.seconds_left == pytest.approx(100.0, rel=0.05)


def test_a_lost_actor_loses_what_it_had_in_hand() -> None:
    book = logbook()
    ready(book, 0, 1)
    book.note(AssignAttempt(0, 0, 1), START + 2)
    book.note(AssignAttempt(1, 1, 1), START + 2)
    book.hear(WorkerLost(0, "killed s3://user:secret@b/x?key=secret"), START + 5)
    book.note(StopWorker(0), START + 5)
    book.note(AssignAttempt(1, 0, 2), START + 6)
    found = book.status(START + 7, with_actors=True)
    assert (found.actors_lost, found.retries, found.actors_working) == (1, 1, 1)
    lost = found.actors[-1]
    assert (lost.state, lost.node, lost.shards) == ("lost", "host-0", ())
    assert "secret" not in lost.reason
    spans = [facts(span) for span in book.spans(START + 8)]
    assert spans == [
        ("run", -1, -1, 0.0, 8.0, "running"),
        ("load", 0, -1, 0.0, 2.0, "done"),
        ("load", 1, -1, 0.0, 2.0, "done"),
        ("attempt", 0, 0, 2.0, 5.0, "lost"),
        ("ready", 0, -1, 2.0, 5.0, "lost"),
        ("ready", 1, -1, 2.0, 8.0, "running"),
        ("attempt", 1, 1, 2.0, 8.0, "running"),
        ("attempt", 1, 0, 6.0, 8.0, "running"),
    ]
    assert not any("secret" in span.message for span in book.spans(START + 8))


def test_only_the_last_lost_actors_are_shown() -> None:
    book = logbook()
    for worker_id in range(20):
        book.note(StartWorker(worker_id), START)
        book.hear(WorkerLost(worker_id, "gone"), START)
    found = book.status(START, with_actors=True)
    assert found.actors_lost == 20
    assert [actor.worker_id for actor in found.actors] == list(range(20 - MAX_LOST_SHOWN, 20))


def test_failures_and_losers_of_a_race_are_told_apart() -> None:
    book = logbook()
    ready(book, 0, 1)
    book.note(AssignAttempt(0, 0, 1), START + 2)
    book.hear(ShardFailed(0, 0, StorageError("the store is asleep")), START + 3)
    book.note(AssignAttempt(0, 0, 2), START + 4)
    book.note(AssignAttempt(1, 0, 3), START + 5)
    book.keep(1, result(0, 7), START + 6)
    book.note(CancelAttempt(0, 0), START + 6)
    book.keep(0, result(0, 7), START + 7)  # the loser ends late, and counts for nothing
    found = book.status(START + 8)
    assert (found.rows, found.retries, found.second_attempts) == (7, 1, 1)
    spans = [span for span in book.spans(START + 8) if span.kind == "attempt"]
    assert [(span.attempt, span.is_backup, span.outcome, span.message) for span in spans] == [
        (1, False, "failed", "the store is asleep"),
        (3, True, "done", ""),
        (2, False, "cancelled", ""),
    ]
    done = spans[1]
    assert (done.rows, done.bytes, done.node, done.plan_id, done.run) == (7, 1000, "host-1", "plan", EPOCH)
    phases = (done.read_seconds, done.wait_seconds, done.bind_seconds, done.session_seconds, done.write_seconds)
    assert phases == (1.0, 0.5, 0.25, 2.0, 0.125)


def test_an_actor_that_cannot_load_is_told_and_one_that_is_not_needed_is_not() -> None:
    book = logbook()
    for worker_id in (0, 1):
        book.note(StartWorker(worker_id), START)
    book.hear(LoadFailed(0, ClusterError("node a does not see /in")), START + 4)
    book.note(StopWorker(1), START + 5)
    spans = [span for span in book.spans(START + 5) if span.kind != "run"]
    assert [(span.kind, span.outcome, span.message) for span in spans] == [
        ("load", "failed", "node a does not see /in")
    ]
    assert book.status(START + 5).actors_lost == 0


def test_the_end_of_a_run() -> None:
    book = logbook()
    ready(book, 0)
    book.note(AssignAttempt(0, 0, 1), START + 2)
    book.end(START + 6)
    spans = [facts(span) for span in book.spans(START + 60, "interrupted", "by SIGTERM")]
    assert spans[0] == ("run", -1, -1, 0.0, 60.0, "interrupted")
    assert spans[-2:] == [("attempt", 0, 0, 2.0, 6.0, "interrupted"), ("ready", 0, -1, 2.0, 6.0, "done")]
    assert book.status(START + 60).scoring_seconds == 4.0
