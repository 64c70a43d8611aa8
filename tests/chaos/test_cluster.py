"""Jobs on a Ray of several nodes whose actors, nodes and drivers die, hang, starve or disagree.

Each is a real command on a real cluster. It ends within bounded time: with the bytes of a job that nothing disturbed,
or with the right error, after which the same command finishes what is left. `nodes.py` has the cluster, and
`faults/sitecustomize.py` what befalls its actors. Pace is what makes time for a fault; no test depends on speed.
"""

import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import graphs
import pytest
from chaos.nodes import ODD, STORE_BYTES, Nodes
from chaos.scripts import (
    BAD,
    GOOD,
    KILL_SECONDS,
    NUM_FEATURES,
    NUM_SHARDS,
    Given,
    Job,
    Jobs,
    Output,
    Quiet,
    command,
    wait_until,
)
from chaos.scripts import check_output as check_bytes

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.chaos]

# Importing TensorFlow takes 4 s on an idle machine and 20 s on a busy one.
SCORING_SECONDS = 100.0
END_SECONDS = 150.0
STALL_SECONDS = 20
# A shard has eight batches, and three are on an actor at once.
SLOW, STILL = 0.5, 20.0

Start = Callable[..., Job]
Check = Callable[[], None]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One cluster for all of these tests."""
    started = Nodes(tmp_path_factory.mktemp("cluster"))
    yield started
    started.end()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The cluster, as if new: two nodes with room for an actor each."""
    cluster.reset()
    return cluster


@pytest.fixture
def start(given: Given, jobs: Jobs, nodes: Nodes, output: Output) -> Start:
    """Start the job of these tests."""
    return lambda *options: jobs.start(given.command(output, "--address", nodes.address, *options))


@pytest.fixture
def check(given: Given, output: Output) -> Check:
    """Check that the output is that of a job that nothing disturbed."""
    return lambda: check_bytes(output, given.quiet)


def wait_for_actors(nodes: Nodes, job: Job, number: int = 2) -> list[int]:
    """Wait until so many living actors have begun shards, and return them."""

    def are_there() -> bool:
        assert job.process.poll() is None, f"ended, exit code {job.process.returncode}: {job.told()[-4000:]}"
        return len(nodes.scoring()) >= number

    wait_until(are_there, SCORING_SECONDS, f"{number} actors that score")
    return nodes.scoring()


def check_counts(summary: dict[str, Any]) -> None:
    assert (summary["rows_out"], summary["rows_quarantined"], summary["parts"]) == (len(GOOD), len(BAD), NUM_SHARDS)


def test_actors_that_are_killed_one_after_another(nodes: Nodes, start: Start, check: Check) -> None:
    chance = random.Random(1)
    nodes.script(pace=SLOW)
    job, num_killed, deadline = start(), 0, time.monotonic() + END_SECONDS
    while job.process.poll() is None:
        assert time.monotonic() < deadline, job.told()
        if not nodes.scoring():  # else all might be lost while they load, which ends a job
            time.sleep(0.1)
            continue
        time.sleep(chance.uniform(2, 4))
        # A shard that loses three actors alone is set aside, and rightly: who tries one again is let live.
        spared = {each.pid for each in nodes.begun() if each.nth >= 3}
        victims = [pid for pid in nodes.actors() if pid not in spared]
        if victims and nodes.scoring():
            num_killed += nodes.signal(chance.choice(victims), signal.SIGKILL)
        if num_killed >= 4:
            nodes.script(pace=SLOW / 10)
    summary = job.wait(END_SECONDS)
    assert num_killed >= 3
    assert summary["actors_lost"] >= 3
    check_counts(summary)
    check()


def test_a_node_that_goes_and_another_that_comes(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(pace=STILL)
    job = start()
    before = wait_for_actors(nodes, job)
    nodes.remove(nodes[0])
    time.sleep(2)
    nodes.add()
    wait_until(lambda: set(nodes.scoring()) - set(before), SCORING_SECONDS, "an actor on the new node")
    nodes.script()
    summary = job.wait(END_SECONDS)
    assert summary["actors"] == 3
    assert summary["actors_lost"] >= 1  # the next may be given a place there before Ray knows of the end
    check()


def test_all_nodes_go_and_others_come(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(pace=SLOW)
    job = start()
    wait_for_actors(nodes, job)
    for node in (nodes[0], nodes[1]):
        nodes.remove(node)
    time.sleep(4)
    assert job.process.poll() is None
    nodes.add(), nodes.add()
    nodes.script()
    summary = job.wait(END_SECONDS)
    assert summary["actors_lost"] >= 2
    check()


def test_an_elastic_job_grows_and_shrinks(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.reset(num_nodes=1)
    nodes.script(pace=STILL)
    job = start("--actors", "1:3")
    wait_for_actors(nodes, job, 1)
    nodes.add(), nodes.add()
    assert len(wait_for_actors(nodes, job, 3)) == 3
    nodes.remove(nodes[0])
    wait_until(lambda: "lost an actor" in job.told(), SCORING_SECONDS, "that the job knows of it")
    nodes.script()
    summary = job.wait(END_SECONDS)
    assert summary["actors"] == 3
    assert summary["actors_lost"] >= 1
    check()


HOLD = """
import sys, time, numpy as np, ray
ray.init(sys.argv[1], log_to_driver=False)
made = ray.put(np.ones(int(sys.argv[2]), np.uint8))  # on the driver's node
held = ray.get(made)  # what is mapped cannot be moved to disk
@ray.remote(num_cpus=0)
class Holder:
    def hold(self, made):
        self.held = made
        return len(made)
holders = [
    Holder.options(label_selector={"ray.io/node-id": node["NodeID"]}).remote()
    for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")
]
assert ray.get([each.hold.remote(made) for each in holders]) == [len(held)] * 2
print("held", flush=True)
time.sleep(3600)
"""


def test_an_object_store_that_is_full(nodes: Nodes, jobs: Jobs, given: Given, tmp_path: Path) -> None:
    """The model is larger than what is left of it on all nodes: Ray maps files on its disk instead."""
    model = graphs.write(tmp_path / "heavy.pb", graphs.heavy(NUM_FEATURES, STORE_BYTES // 2))
    calm, full = Output.local(tmp_path / "calm"), Output.local(tmp_path / "full")
    options = ["--address", nodes.address]
    jobs.start(command(model, given.inputs, calm, *options)).wait(END_SECONDS)
    holder = jobs.start([sys.executable, "-c", HOLD, nodes.address, str(STORE_BYTES * 3 // 4)])
    wait_until(lambda: holder.printed() == "held\n" or holder.process.poll(), SCORING_SECONDS, "a full store")
    assert holder.process.poll() is None, holder.told()
    jobs.start(command(model, given.inputs, full, *options)).wait(END_SECONDS)
    assert holder.process.poll() is None, holder.told()
    check_bytes(full, Quiet(calm.names(), calm.hashes(), GOOD, BAD))


def check_stall(job: Job, words: str) -> None:
    summary = job.wait(END_SECONDS)
    assert re.search(rf"stalled: {words} .* for [0-9]+ s", job.told()), job.told()
    assert summary["actors_lost"] == 1


def test_an_actor_that_stands_still(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(pace=STILL / 4)  # else others do its shards before it counts as stalled
    job = start("--stall-timeout", str(STALL_SECONDS))
    stopped = wait_for_actors(nodes, job)[0]
    nodes.signal(stopped, signal.SIGSTOP)
    wait_until(lambda: "stalled" in job.told(), SCORING_SECONDS, "the end of the actor that stands still")
    nodes.script()
    check_stall(job, "shard [0-9]+ finished no batch")
    wait_until(lambda: not nodes.actors(), KILL_SECONDS, "the end of the actor that stood still")
    check()


def test_a_shard_that_hangs(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(shards={"7": ["hang in read"]})
    job = start("--stall-timeout", str(STALL_SECONDS), "--actors", "1")
    check_stall(job, "shard 7 finished no batch")
    check()


def test_a_load_that_hangs(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(load=["hang"], pace=SLOW)
    job = start("--stall-timeout", str(STALL_SECONDS))
    wait_until(lambda: "stalled" in job.told(), SCORING_SECONDS, "the end of the load that hangs")
    nodes.script()
    check_stall(job, "loading the model finished no batch")
    check()


@pytest.mark.parametrize("outcome", ["exit in write", "segfault in session"])
def test_an_actor_that_dies_at_a_shard(nodes: Nodes, start: Start, check: Check, outcome: str) -> None:
    nodes.script(shards={"7": [outcome]})
    summary = start().wait(END_SECONDS)
    assert [each.nth for each in nodes.begun() if each.shard_id == 7] == [1, 2]
    assert summary["actors_lost"] == 1
    check_counts(summary)
    check()


@pytest.mark.parametrize("outcome", ["no memory in read", "no memory from now on in session"])
def test_an_actor_without_memory(nodes: Nodes, start: Start, check: Check, outcome: str) -> None:
    nodes.script(shards={"7": [outcome]})
    summary = start().wait(END_SECONDS)
    if outcome == "no memory in read":
        assert [each.nth for each in nodes.begun() if each.shard_id == 7] == [1, 2]
    check_counts(summary)
    check()


def test_a_node_whose_memory_ray_finds_full(nodes: Nodes, start: Start, check: Check) -> None:
    """Any memory in use is too much for that one node, so that Ray kills whatever works there."""
    nodes.remove(nodes[0])
    nodes.add(ODD, RAY_memory_usage_threshold="0.001", RAY_memory_monitor_refresh_ms="100")
    nodes.wait_until_seen()
    nodes.script(pace=SLOW)
    job = start()
    wait_until(lambda: "lost an actor" in job.told(), SCORING_SECONDS, "the end of an actor")
    nodes.script()
    summary = job.wait(END_SECONDS)
    assert re.search("lost an actor .*: (OutOfMemoryError|.*memory)", job.told()), job.told()
    assert summary["actors_lost"] >= 1
    check()


def test_a_shard_that_kills_every_actor(nodes: Nodes, start: Start, output: Output, given: Given, check: Check) -> None:
    nodes.script(shards={"7": "segfault in session"})
    ended = start().wait_for_end(END_SECONDS)
    ended.check_refusal(1, "shard 7 lost 3 actors while it ran alone: .*")
    assert [each.nth for each in nodes.begun() if each.shard_id == 7] == [1, 2, 3, 4]
    assert output.parts() == [name for name in given.quiet.hashes if name.startswith("part-") and "00007" not in name]
    assert not output.exists("_SUCCESS")
    nodes.script()
    summary = start().wait(END_SECONDS)
    assert summary["parts_earlier"] == NUM_SHARDS - 1
    check()


def test_a_driver_that_is_killed(nodes: Nodes, start: Start, output: Output, check: Check) -> None:
    nodes.script(pace=SLOW)
    job = start()
    late = wait_for_actors(nodes, job)[0]
    wait_until(output.parts, SCORING_SECONDS, "a part")
    nodes.signal(late, signal.SIGSTOP)  # so that its node cannot end it as soon as the driver is gone
    job.kill_driver()
    again = start()
    wait_for_actors(nodes, again, 1 + (late in nodes.actors()))
    nodes.signal(late, signal.SIGCONT)
    nodes.script()
    summary = again.wait(END_SECONDS)
    assert summary["parts_earlier"] >= 1
    check()


def test_a_straggler_is_overtaken(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(shards={"7": ["sleep 600 in session"]})
    summary = start().wait(END_SECONDS)
    assert (summary["attempts"], summary["second_attempts"]) == (NUM_SHARDS + 1, 1)
    assert summary["actors_lost"] == 0
    check()


@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_nodes_that_do_not_see_a_path(
    nodes: Nodes, start: Start, output: Output, check: Check, what: str, everywhere: bool
) -> None:
    words = r"node \S+ does not see .*elsewhere.*; use a path that all nodes share, or a store"
    nodes.script(ODD, blind=what)
    if everywhere:
        nodes.script(blind=what)
        start().wait_for_end(END_SECONDS).check_refusal(2, words)
        assert not output.parts()
        return
    nodes.remove(nodes[0])
    nodes.add(ODD)
    nodes.wait_until_seen()
    job = start()
    summary = job.wait(END_SECONDS)
    assert re.search(words + ".*; the job goes on without this node", job.told()), job.told()
    assert (summary["actors"], summary["actors_lost"]) == (1, 0)
    check()


def test_nodes_with_other_versions(nodes: Nodes, start: Start, output: Output) -> None:
    nodes.script(versions={"tensorflow": "1.0.0"})
    words = r"node \S+ runs tensorflow 1\.0\.0 where the driver has 2\.\S+ .*; install the same lock"
    start().wait_for_end(END_SECONDS).check_refusal(2, words)
    assert not nodes.begun()
    assert not output.parts()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_interrupted(
    nodes: Nodes, start: Start, output: Output, check: Check, number: signal.Signals
) -> None:
    nodes.script(pace=SLOW)
    job = start()
    wait_for_actors(nodes, job)
    wait_until(output.parts, SCORING_SECONDS, "a part")
    job.process.send_signal(number)
    ended = job.wait_for_end(KILL_SECONDS)
    ended.check_refusal(130, f"interrupted by {number.name}; finished parts stay, the same command resumes")
    assert ended.seconds < 5  # 2 s are promised, of a machine that has nothing else to do
    wait_until(lambda: not nodes.actors(), KILL_SECONDS, "the end of the actors")
    nodes.script()
    summary = start().wait(END_SECONDS)
    assert summary["parts_earlier"] >= 1
    check()


def test_a_second_interrupt_ends_a_job_at_once(nodes: Nodes, start: Start, check: Check) -> None:
    nodes.script(pace=SLOW)
    job = start()
    wait_for_actors(nodes, job)
    job.process.send_signal(signal.SIGINT)
    time.sleep(0.02)
    job.process.send_signal(signal.SIGINT)
    ended = job.wait_for_end(KILL_SECONDS)
    assert ended.code == 130, ended.told
    assert ended.seconds < 2
    assert "Traceback" not in ended.told
    wait_until(lambda: not nodes.actors(), KILL_SECONDS, "the end of the actors")
    nodes.script()
    start().wait(END_SECONDS)
    check()


@pytest.mark.parametrize(("num_failures", "is_fatal"), [(1, False), (2, True)])
def test_a_store_with_hiccups(
    nodes: Nodes, start: Start, output: Output, check: Check, num_failures: int, is_fatal: bool
) -> None:
    nodes.script(shards={"7": ["storage error in read"] * num_failures})
    job = start("--max-attempts", "2")
    if is_fatal:
        job.wait_for_end(END_SECONDS).check_refusal(1, "shard 7: a store that was made to fail")
        assert not output.exists("_SUCCESS")
        job = start("--max-attempts", "2")
    summary = job.wait(END_SECONDS)
    assert [each.nth for each in nodes.begun() if each.shard_id == 7] == [*range(1, num_failures + 2)]
    assert summary["actors_lost"] == 0
    check()
