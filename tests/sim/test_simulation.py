"""The real scheduler on a simulated cluster, at a size that takes a few seconds in all."""

import random
from collections import Counter
from typing import Any

import pytest

from engine.errors import JobFailedError, StorageError
from engine.run.schedule import MAX_ATTEMPTS, Scheduler
from engine.run.scheduling.events import (
    AssignAttempt,
    CancelAttempt,
    Event,
    ShardDone,
    StartWorker,
    StopWorker,
    WorkerLost,
)
from engine.run.scheduling.fleet import SHARDS_PER_WORKER
from engine.run.scheduling.staffing import PoolLimits
from engine.run.simulating import simulation
from engine.run.simulating.simulation import simulate
from engine.run.simulating.world import Simulated, World

FAULTS: dict[str, Any] = {"slow_share": 0.05, "slow_factor": 10.0, "lost_per_hour": 0.01}


class Watched(Scheduler):
    """The scheduler, with its promises checked from outside at every step."""

    def __init__(self, shard_ids: Any, limits: PoolLimits, **more: Any) -> None:
        super().__init__(shard_ids, limits, **more)
        self.limits, self.held = limits, set[int]()
        self.running = Counter[int]()
        self.on: dict[int, set[int]] = {}
        self.commits = Counter[int]()

    def start(self, now: float = 0.0) -> Any:
        return self.watch(super().start(now))

    def handle(self, event: Event, now: float) -> Any:
        before = self.num_left
        actions = super().handle(event, now)
        if isinstance(event, WorkerLost):
            self.leave(event.worker_id)
        elif hasattr(event, "shard_id"):
            assert event.shard_id in self.on[event.worker_id]
            self.on[event.worker_id].remove(event.shard_id)
            self.running[event.shard_id] -= 1
        if isinstance(event, ShardDone):
            self.commits[event.shard_id] += before - self.num_left
        else:
            assert self.num_left == before
        return self.watch(actions)

    def leave(self, worker_id: int) -> None:
        self.held.discard(worker_id)
        self.running.subtract(self.on.pop(worker_id, ()))

    def watch(self, actions: Any) -> Any:
        for action in actions:
            match action:
                case StartWorker(worker_id):
                    assert worker_id not in self.on
                    self.held.add(worker_id)
                    self.on[worker_id] = set()
                case StopWorker(worker_id):
                    self.leave(worker_id)
                case AssignAttempt(worker_id, shard_id, _):
                    assert not self.commits[shard_id]
                    assert shard_id not in self.on[worker_id]
                    self.on[worker_id].add(shard_id)
                    self.running[shard_id] += 1
                    assert len(self.on[worker_id]) <= SHARDS_PER_WORKER
                    assert self.running[shard_id] <= 2
                case CancelAttempt(worker_id, shard_id):
                    assert shard_id in self.on[worker_id]
        assert len(self.held) <= self.limits.max_workers
        return actions


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Watched]:
    """Every scheduler of a simulated run, checked at every step."""
    made: list[Watched] = []

    def make(*given: Any) -> Watched:
        made.append(Watched(*given))
        return made[-1]

    monkeypatch.setattr(simulation, "Scheduler", make)
    return made


def run(num_actors: int, num_shards: int, least: int | None = None, seconds: float = 60.0, **world: Any) -> Simulated:
    """A run in which every shard is committed, on nodes of ten actors that have room for all unless it is said."""
    limits = PoolLimits(num_actors if least is None else least, num_actors)
    settings = {"num_nodes": -(-num_actors // 10), "actors_per_node": 10, **world}
    found = simulate(World(**settings), [seconds] * num_shards, limits)
    assert (found.error, found.num_committed) == (None, num_shards)
    return found


def commits_once(watched: list[Watched], num_shards: int) -> bool:
    (scheduler,) = watched
    return scheduler.commits == dict.fromkeys(range(num_shards), 1)


@pytest.mark.parametrize(("spread", "share", "most"), [(0.0, 0.99, 1.003), (0.1, 0.99, 1.03)])
def test_even_shards_keep_actors_at_work(watched: list[Watched], spread: float, share: float, most: float) -> None:
    found = run(100, 10_000, spread=spread)
    assert found.utilisation >= share
    assert 6_000 < found.wall_seconds <= 6_000 * most
    assert (found.attempts, found.backups, found.workers_lost) == (10_000, 0, 0)
    assert found.num_ready_most == 100
    assert commits_once(watched, 10_000)


def test_slow_attempts_and_lost_actors_cost_little(watched: list[Watched]) -> None:
    found = run(100, 10_000, **FAULTS)
    assert found.utilisation >= 0.95
    assert found.backups > 10
    assert found.wall_seconds <= 6_000 * 1.45 * 1.08  # 5 % of the attempts are ten times as long
    assert commits_once(watched, 10_000)


def test_backups_shorten_the_end_of_a_run() -> None:
    slow = {"slow_share": 0.01, "slow_factor": 50.0, "seed": 3}
    found = run(100, 1_000, **slow)
    assert found.backups
    assert found.wall_seconds < 50 * 60  # no slow attempt that began alone was waited for


def test_failures_that_a_retry_mends(watched: list[Watched]) -> None:
    found = run(50, 2_000, failed_share=0.02)
    assert found.attempts > 2_000
    assert found.utilisation > 0.95
    assert commits_once(watched, 2_000)


def test_failures_beyond_the_attempts_end_the_run() -> None:
    found = simulate(World(1, failed_share=1.0), [1.0] * 20, PoolLimits(4, 4))
    assert isinstance(found.error, StorageError)
    assert found.num_committed == 0
    assert found.attempts >= MAX_ATTEMPTS


def test_a_pool_grows_as_nodes_come_in_one_by_one(watched: list[Watched]) -> None:
    comings = tuple((120.0 * i, 1) for i in range(1, 10))
    found = run(100, 5_000, least=10, num_nodes=1, node_changes=comings)
    assert found.num_ready_most == 100
    assert found.utilisation >= 0.975  # in the last minute some have nothing to do any more
    ideal = 12 + 1_080 + (5_000 * 60 - 120 * 10 * (1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9)) / 100
    assert ideal - 1 <= found.wall_seconds <= 1.03 * ideal
    assert commits_once(watched, 5_000)


def test_a_pool_shrinks_at_the_end() -> None:
    seconds = [1.0] * 2_000 + [600.0]
    found = simulate(World(10, 10), seconds, PoolLimits(1, 100))
    assert found.num_committed == len(seconds)
    assert found.ready_seconds < 0.1 * 100 * 600  # the last shard keeps two actors, not a hundred


def test_all_nodes_go_and_come_back(watched: list[Watched]) -> None:
    found = run(100, 3_000, node_changes=((700.0, -10), (4_000.0, 5), (4_300.0, 5)))
    assert found.workers_lost == 100
    assert 4_000 < found.wall_seconds < 4_000 + 1_800
    assert found.utilisation > 0.9  # what was in flight is lost
    assert commits_once(watched, 3_000)


def test_no_node_ever_is_waited_for_and_not_for_ever_here() -> None:
    found = simulate(World(0), [60.0] * 10, PoolLimits(4, 4))
    assert (found.error, found.num_committed, found.attempts, found.utilisation) == (None, 0, 0, 0.0)


def test_a_spot_storm(watched: list[Watched]) -> None:
    """Every minute a fifth of the nodes goes, and as many come: an actor lives for five minutes, three shards one."""
    changes = tuple((60.0 * i + 30 * (sign > 0), 2 * sign) for i in range(1, 60) for sign in (-1, 1))
    found = run(100, 3_000, seconds=20.0, node_changes=changes, spread=0.1)
    assert found.workers_lost > 100
    assert found.wall_seconds < 4 * 3_000 * 20 / 100
    assert commits_once(watched, 3_000)


def test_a_storm_of_lost_actors_ends_the_run_or_gets_through(watched: list[Watched]) -> None:
    found = simulate(World(10, 10, lost_per_hour=20.0, spread=0.1), [10.0] * 2_000, PoolLimits(100, 100))
    assert found.num_committed == 2_000 or isinstance(found.error, JobFailedError)
    assert max(watched[0].commits.values()) == 1


@pytest.mark.parametrize("seed", range(12))
def test_every_run_ends_with_every_shard_committed_once(watched: list[Watched], seed: int) -> None:
    draw = random.Random(seed)
    num_actors, num_shards = draw.choice([1, 3, 17, 60]), draw.choice([1, 2, 50, 400])
    changes = [(draw.uniform(0, 900), draw.choice([-3, -1, 1, 2])) for _ in range(draw.randrange(8))]
    world = World(
        num_nodes=draw.randrange(4),
        actors_per_node=draw.choice([1, 4, 20]),
        node_changes=(*changes, (1_000.0, 3)),
        spread=draw.choice([0.0, 0.5]),
        slow_share=draw.choice([0.0, 0.2]),
        failed_share=draw.choice([0.0, 0.02]),
        lost_per_hour=draw.choice([0.0, 0.2]),
        seed=seed,
    )
    seconds = [draw.choice([0.0, 1.0, 60.0]) for _ in range(num_shards)]
    found = simulate(world, seconds, PoolLimits(draw.randint(1, num_actors), num_actors))
    assert found.error is None
    assert commits_once(watched, num_shards)


def test_the_same_seed_is_the_same_run() -> None:
    first, again, other = (run(20, 500, spread=0.2, seed=seed, **FAULTS) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_nothing_to_do() -> None:
    found = run(4, 0)
    assert (found.wall_seconds, found.utilisation, found.num_steps) == (0.0, 0.0, 0)


def test_an_actor_shares_its_time_among_its_shards() -> None:
    found = simulate(World(1, place_seconds=0, load_seconds=5), [30.0, 20.0, 10.0, 60.0], PoolLimits(1, 1))
    assert found.wall_seconds == pytest.approx(5 + 120)
    assert found.utilisation == pytest.approx(1.0)


def test_a_clock_measures_the_steps() -> None:
    ticks = iter(range(10_000))
    found = simulate(World(1), [1.0] * 5, PoolLimits(2, 2), lambda: float(next(ticks)))
    done = found.steps["ShardDone"]
    assert (done.num_steps, done.seconds, done.worst_seconds) == (5, 5.0, 1.0)
    assert found.num_steps == sum(cost.num_steps for cost in found.steps.values())


def test_a_long_quiet_time_takes_few_ticks() -> None:
    found = simulate(World(1), [1e8], PoolLimits(1, 1))
    assert found.num_committed == 1
    assert found.steps["Tick"].num_steps < 200


def test_a_storm_asks_for_no_more_than_was_lost(monkeypatch: pytest.MonkeyPatch, watched: list[Watched]) -> None:
    """That many nodes go bad at once must not make every actor that waits for a place be asked for again each time."""
    asked = 0

    def count(self: Watched, actions: Any) -> Any:
        nonlocal asked
        asked += sum(isinstance(action, StartWorker) for action in actions)
        return watch(self, actions)

    watch = Watched.watch
    monkeypatch.setattr(Watched, "watch", count)
    found = run(500, 5_000, node_changes=((300.0, -40), (900.0, 40)))
    assert found.workers_lost == 400
    assert asked <= 500 + 400 + 2 * 400


@pytest.mark.parametrize(("num_shards", "rounds"), [(64, 1), (40, 1), (100, 2), (150, 3)])
def test_few_shards_are_shared_out_fairly(watched: list[Watched], num_shards: int, rounds: int) -> None:
    """The first actor that is ready takes no three shards where there is no more than one for each."""
    found = run(64, num_shards)
    assert found.wall_seconds == pytest.approx(2 + 10 + 60 * rounds)
    assert commits_once(watched, num_shards)
