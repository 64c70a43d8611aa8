"""The loop of a run against actors that follow a script: no Ray, no waiting for anything but a stall of a second."""

import dataclasses
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from engine.data.manifest import PartFacts, RowCounts
from engine.data.storage.folder import PublishedPart
from engine.errors import (
    ClusterError,
    DataError,
    EngineError,
    GraphError,
    JobFailedError,
    JobInterrupted,
    StorageError,
    WorkerLostError,
)
from engine.model.devices import Device
from engine.run import driver, places
from engine.run.actor import LOADING, LoadReport
from engine.run.cluster import LOAD, NODES, PLACE, PROGRESS, SCORE, Answer
from engine.run.driver import RunRules, run_shards
from engine.run.interrupt import interruptible
from engine.run.logbook import Logbook
from engine.run.outcome import PoolRun, Watcher
from engine.run.plan import Shard
from engine.run.pool import NodeSize, PoolSize
from engine.run.spec import ShardResult
from engine.run.stalls import Progress

SECONDS = dict.fromkeys(("read", "bind", "session", "write", "total"), 0.0)
TWO = PoolSize(2, 2, 1.0, 0.0)
CPU = (Device("CPU", "", 0),)


def result(shard_id: int) -> ShardResult:
    facts = PartFacts("plan", shard_id, "[]", RowCounts(1, 1, 0, 0))
    return ShardResult(f"part-{shard_id}", facts, PublishedPart(1, ""), (), 0, SECONDS, 0, 0.5)


def report(name: str = "id") -> LoadReport:
    return LoadReport("here", 1, CPU, "", 1, pa.schema([(name, pa.int64())]), 0.1, 1)


class ScriptedActors:
    """Answers as scripted: by shard, what becomes of its attempts one after another, and of loads likewise."""

    def __init__(self, shards: dict[int, list[Any]] | None = None, loads: Sequence[Any] = ()) -> None:
        self._shards = {shard: deque(outcomes) for shard, outcomes in (shards or {}).items()}
        self._loads = deque(loads)
        self._queue: deque[Answer] = deque()
        self.calls: Counter[str] = Counter()
        self.living: set[int] = set()
        self.progress: dict[int, Progress] = {}

    def start(self, worker_id: int, avoid_nodes: Sequence[str]) -> None:
        self.calls["start"] += 1
        self.living.add(worker_id)
        load = self._loads.popleft() if self._loads else report()
        if load == "no place":
            return
        self._queue.append(Answer(worker_id, PLACE, -1, "node"))
        self._answer(worker_id, LOAD, -1, load)

    def score(self, worker_id: int, shard: Shard) -> None:
        self.calls["score"] += 1
        outcomes = self._shards.get(shard.shard_id)
        self._answer(worker_id, SCORE, shard.shard_id, outcomes.popleft() if outcomes else result(shard.shard_id))

    def _answer(self, worker_id: int, call: str, shard_id: int, outcome: Any) -> None:
        if outcome == "lost":
            self._queue.append(Answer(worker_id, call, shard_id, lost="ActorDiedError: killed"))
        elif outcome != "hang":
            self._queue.append(Answer(worker_id, call, shard_id, outcome))

    def ask_progress(self, worker_id: int) -> None:
        self.calls["progress"] += 1
        self._queue.append(Answer(worker_id, PROGRESS, -1, {LOADING: Progress(0, "start"), **self.progress}))

    def cancel(self, worker_id: int, shard_id: int) -> None:
        self.calls["cancel"] += 1
        self._queue.append(Answer(worker_id, SCORE, shard_id, JobFailedError("cancelled")))

    def stop(self, worker_id: int) -> None:
        self.living.discard(worker_id)

    def answers(self, timeout_seconds: float) -> Iterator[Answer]:
        if not self._queue:
            time.sleep(min(timeout_seconds, 0.02))
        for _ in range(len(self._queue)):
            yield self._queue.popleft()

    def ask_nodes(self) -> None:
        self._queue.append(Answer(-1, NODES, -1, value=([NodeSize(2.0, 0.0, "node")], "2 CPU, 0 GPU")))

    def close(self) -> None:
        self.living.clear()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(driver, "WAIT_SECONDS", 0.01)


class Heard:
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.done: list[int] = []
        self.loaded = 0
        self.logbook = Logbook("plan", 0.0, time.monotonic())
        self.refuse: EngineError | None = None
        self.on_tick = lambda: None

    def take(self, each: ShardResult) -> None:
        self.done.append(each.facts.shard_id)
        if self.refuse:
            raise self.refuse

    def watcher(self) -> Watcher:
        def load(_: LoadReport) -> None:
            self.loaded += 1

        def tick() -> None:
            self.on_tick()

        return Watcher(load, self.take, self.notices.append, tick, self.logbook)


def run(
    actors: ScriptedActors, num_shards: int, heard: Heard | None = None, size: PoolSize = TWO,
    stall_seconds: float = 60.0, max_attempts: int = 4, can_back_up: bool = True,
) -> PoolRun:  # fmt: skip
    shards = [Shard(i, "", ()) for i in range(num_shards)]
    rules = RunRules(max_attempts, stall_seconds, can_back_up)
    done = run_shards(actors, shards, size, rules, (heard or Heard()).watcher())
    assert not actors.living, "actors are left"
    return done


def test_every_shard_is_scored_and_counted_once() -> None:
    heard = Heard()
    done = run(ScriptedActors(), 20, heard)
    assert done.error is None
    assert sorted(heard.done) == sorted(done.results) == list(range(20))
    assert set(done.attempts.values()) == {1}
    assert (done.num_attempts, done.actors_lost, done.num_backups, heard.loaded, len(done.actors)) == (20, 0, 0, 1, 2)
    assert done.ready_seconds > 0
    assert heard.notices == []


def test_a_lost_actor_is_replaced_and_its_shards_are_scored() -> None:
    heard, actors = Heard(), ScriptedActors({1: ["lost"]})
    done = run(actors, 6, heard)
    assert done.error is None
    assert sorted(heard.done) == list(range(6))
    assert done.actors_lost == 1
    assert done.attempts[1] == 2
    assert actors.calls["start"] >= 2
    assert heard.notices == ["lost an actor (1 so far): ActorDiedError: killed; its shards are scored again"]


def test_a_shard_that_kills_is_set_aside_and_the_rest_goes_on() -> None:
    heard = Heard()
    done = run(ScriptedActors({2: ["lost"] * 9}), 8, heard)
    assert sorted(done.results) == [0, 1, 3, 4, 5, 6, 7]
    assert isinstance(done.error, JobFailedError)
    assert "shard 2 lost 3 actors while it ran alone: ActorDiedError: killed" in str(done.error)
    assert any("shard 2" in text and "the others go on" in text for text in heard.notices)


@pytest.mark.parametrize("error", [StorageError("away"), WorkerLostError("gone")])
def test_a_load_that_failed_for_now_is_tried_again(error: EngineError) -> None:
    done = run(ScriptedActors(loads=[error, error]), 4)
    assert done.error is None
    assert done.actors_lost == 2


def test_a_load_that_failed_on_every_actor_ends_with_its_own_message_at_once() -> None:
    started = time.monotonic()
    done = run(ScriptedActors(loads=[ClusterError("node a does not see /data")] * 50), 4)
    assert isinstance(done.error, ClusterError)
    assert str(done.error) == "node a does not see /data"
    assert time.monotonic() - started < 2


def test_a_node_that_cannot_load_does_not_stop_the_others() -> None:
    heard = Heard()
    done = run(ScriptedActors(loads=[report(), ClusterError("node b does not see /data")]), 4, heard)
    assert done.error is None
    assert heard.notices == ["node b does not see /data; the job goes on without this node"]


def test_a_graph_that_no_node_can_load_ends_it_at_once() -> None:
    done = run(ScriptedActors(loads=["hang", GraphError("no such tensor")]), 4)
    assert isinstance(done.error, GraphError)


def test_another_schema_is_no_part_of_the_job() -> None:
    done = run(ScriptedActors(loads=[report("id"), report("other")]), 4)
    assert done.error is None
    assert len(done.actors) == 1


def test_what_the_watcher_refuses_ends_the_run() -> None:
    heard = Heard()
    heard.refuse = DataError("too many bad rows")
    done = run(ScriptedActors(), 9, heard)
    assert done.error is heard.refuse
    assert len(heard.done) == 1


def test_an_actor_that_hangs_is_replaced() -> None:
    heard, actors = Heard(), ScriptedActors({0: ["hang"]})
    actors.progress = {0: Progress(4, "session")}
    done = run(actors, 5, heard, stall_seconds=0.3)
    assert done.error is None
    assert sorted(heard.done) == list(range(5))
    assert done.actors_lost == 1
    assert actors.calls["progress"] >= 3
    stalled = "stalled: shard 0 finished no batch and changed no phase for 0 s; the last was 'session'"
    assert heard.notices == [f"replacing an actor: {stalled}"]


def test_a_shard_that_hangs_everywhere_is_set_aside() -> None:
    done = run(ScriptedActors({0: ["hang"] * 9}), 3, stall_seconds=0.1)
    assert sorted(done.results) == [1, 2]
    assert "shard 0 lost 3 actors while it ran alone: stalled" in str(done.error)


def test_a_load_that_hangs_is_replaced() -> None:
    done = run(ScriptedActors(loads=["hang"]), 3, size=PoolSize(1, 1, 1.0, 0.0), stall_seconds=0.2)
    assert done.error is None
    assert done.actors_lost == 1


def test_a_straggler_gets_a_second_attempt_and_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run.scheduling.stragglers.FLOOR_SECONDS", 0.2)
    heard, actors = Heard(), ScriptedActors({0: ["hang"]})
    done = run(actors, 9, heard)
    assert done.error is None
    assert sorted(heard.done) == list(range(9))
    assert (done.num_backups, done.attempts[0], done.actors_lost) == (1, 2, 0)


def test_both_attempts_that_are_done_count_once() -> None:
    actors = ScriptedActors()
    real = actors.score

    def twice(worker_id: int, shard: Shard) -> None:
        real(worker_id, shard)
        actors._queue.append(Answer(worker_id, SCORE, shard.shard_id, result(shard.shard_id)))

    actors.score = twice
    heard = Heard()
    assert run(actors, 5, heard).error is None
    assert sorted(heard.done) == list(range(5))


def test_no_actor_in_time_ends_it_with_what_was_asked_and_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACE_SECONDS", 0.5)
    monkeypatch.setattr(places, "NOTICE_SECONDS", 0.1)
    heard = Heard()
    done = run(ScriptedActors(loads=["no place"] * 9), 3, heard)
    assert isinstance(done.error, ClusterError)
    has = "the cluster has 1 node with 2 CPUs and 0 GPUs in all, room for 2 such actors, and free 2 CPU, 0 GPU"
    assert str(done.error) == f"no actor got a place within 0 s: asked were 2 actors of 1 CPU; {has}"
    assert heard.notices[0].startswith("2 of 2 actors wait for a place for 0 s: asked were 2 actors of 1 CPU; the")
    assert heard.notices[0].endswith("; given up after 0 s")


def test_actors_that_wait_are_told_while_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "NOTICE_SECONDS", 0.05)
    heard, actors = Heard(), ScriptedActors({7: ["hang"]}, loads=[report(), "no place"])

    def finish_once_told() -> None:
        if heard.notices:
            actors._queue.append(Answer(0, SCORE, 7, result(7)))

    heard.on_tick = finish_once_told
    assert run(actors, 8, heard).error is None
    assert heard.notices[0].startswith("1 of 2 actors wait for a place for 0 s: asked were 2 actors of 1 CPU; the")
    assert heard.notices[0].endswith("; the others go on meanwhile")


def test_a_signal_ends_it_and_its_actors() -> None:
    heard, actors = Heard(), ScriptedActors({0: ["hang"], 1: ["hang"]})
    count = iter(range(10**9))
    heard.on_tick = lambda: os.kill(os.getpid(), signal.SIGINT) if next(count) == 5 else None
    started = time.monotonic()
    with interruptible():
        done = run(actors, 3, heard)
    assert isinstance(done.error, JobInterrupted)
    assert time.monotonic() - started < 2


def test_a_place_that_is_told_after_the_load_does_not_stall() -> None:
    actors = ScriptedActors({0: ["hang"]})
    real, beats = actors.start, iter(range(10**9))

    def start(worker_id: int, avoid_nodes: Sequence[str]) -> None:
        real(worker_id, avoid_nodes)
        actors._queue.reverse()

    def beat() -> None:
        actors.progress = {0: Progress(next(beats), "batch")}
        if actors.progress[0].marks > 60:  # three times as long as a stall, with signs of life all along
            actors._queue.append(Answer(0, SCORE, 0, result(0)))

    actors.start = start
    heard = Heard()
    heard.on_tick = beat
    done = run(actors, 3, heard, size=PoolSize(1, 1, 1.0, 0.0), stall_seconds=0.3)
    assert done.error is None
    assert (done.actors_lost, heard.notices) == (0, [])


def test_a_load_that_hangs_on_every_actor_ends_it_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACE_SECONDS", 0.1)
    monkeypatch.setattr("engine.run.scheduling.fleet.FIRST_BACKOFF_SECONDS", 0.01)
    done = run(ScriptedActors(loads=["hang"] * 9), 3, stall_seconds=0.2)
    assert "3 actors in a row were lost while loading the model: stalled: loading the model" in str(done.error)


def test_a_cluster_that_went_away_is_told_with_the_loss_that_began_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PLACE_SECONDS", 0.2)
    shards = {i: ["lost"] for i in range(6)}
    done = run(ScriptedActors(shards, loads=[report(), report(), *["no place"] * 9]), 6)
    assert str(done.error).endswith("; before that, actors were lost: ActorDiedError: killed")


def test_actors_whose_bytes_differ_do_not_back_each_other_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run.scheduling.stragglers.FLOOR_SECONDS", 0.05)
    mixed = [report(), dataclasses.replace(report(), devices=(Device("GPU", "NVIDIA H100", 1),))]
    heard, actors = Heard(), ScriptedActors({0: ["hang"]}, loads=mixed)
    beats = iter(range(10**9))

    def beat() -> None:
        if next(beats) == 60:
            actors._queue.append(Answer(0, SCORE, 0, result(0)))

    heard.on_tick = beat
    done = run(actors, 9, heard)
    assert done.error is None
    assert done.num_backups == 0
    assert done.devices == {("CPU", ""), ("GPU", "NVIDIA H100")}


def test_no_second_attempts_once_a_batch_was_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run.scheduling.stragglers.FLOOR_SECONDS", 0.05)
    heard, actors = Heard(), ScriptedActors({0: ["hang"], 1: [dataclasses.replace(result(1), batches_halved=1)]})
    beats = iter(range(10**9))

    def beat() -> None:
        if next(beats) == 60:
            actors._queue.append(Answer(0, SCORE, 0, result(0)))

    heard.on_tick = beat
    done = run(actors, 9, heard)
    assert (done.error, done.num_backups, done.batches_halved) == (None, 0, 1)
