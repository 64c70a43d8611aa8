"""A whole job killed at scripted points while its output lies on S3, and run again at once.

The parts have the bytes of those that an undisturbed job writes to a local folder. What is killed in the middle of an
upload is stopped there by a proxy before the store, which the job that comes after does not go through.
"""

import os
import signal
import time
import uuid

import pytest
from chaos.scripts import BAD, GOOD, NUM_SHARDS, Given, Jobs, Output, Quiet, check_output, wait_until
from object_store import Action, Fault, FaultyProxy, ObjectStore

pytestmark = [pytest.mark.ray, pytest.mark.tf]
chaos = pytest.mark.chaos
# What a test here has shown, and the engine does not hold yet.
HELD_SECONDS = 60.0
# A lease that is not renewed is watched for 60 s.
TAKEOVER_SECONDS = 150.0


@pytest.fixture
def output(store: ObjectStore) -> Output:
    return Output.stored(store, f"out-{uuid.uuid4().hex}")


def run_again(given: Given, jobs: Jobs, output: Output, inputs: str | None = None) -> int:
    """Run a job again whose driver has just died, and return how many parts it found."""
    again = jobs.start(given.command(output, inputs=inputs))
    summary = again.wait()
    assert "watching for up to" not in again.told(), "it did not see that its predecessor is dead"
    check_output(output, given.quiet)
    return summary["parts_earlier"]


@pytest.mark.parametrize(
    ("point", "nth", "num_parts"),
    [
        pytest.param("after the plan", 1, range(1), marks=chaos),
        pytest.param("in a read", 9, range(NUM_SHARDS), marks=chaos),
        ("part unpublished", 3, range(NUM_SHARDS)),
        pytest.param("quarantine published", 3, range(NUM_SHARDS), marks=chaos),
        pytest.param("before _SUCCESS", 1, range(NUM_SHARDS, NUM_SHARDS + 1), marks=chaos),
    ],
)
def test_a_job_killed_at_a_point(
    given: Given, jobs: Jobs, store: ObjectStore, output: Output, point: str, nth: int, num_parts: range
) -> None:
    inputs = None
    if point == "in a read":  # of the store, too
        folder = f"in-{uuid.uuid4().hex}"
        for path in given.inputs.iterdir():
            store.put(f"{folder}/{path.name}", path.read_bytes())
        inputs = store.uri(path=folder)
    job = jobs.start(given.command(output, inputs=inputs), point, nth)
    job.wait_for_point()
    job.kill()
    found = output.parts()
    assert len(found) in num_parts
    assert not output.exists("_SUCCESS")
    assert run_again(given, jobs, output, inputs) == len(found)


@chaos
@pytest.mark.parametrize(
    ("action", "path"),
    [
        ("hold", "/part-00011-of-"),
        ("hold_response", "/part-00011-of-"),
        ("hold", "/quarantine/bad-00009-of-"),
        ("hold", "/_icefloe/manifest.parquet"),
    ],
)
def test_a_job_killed_in_the_middle_of_an_upload(
    given: Given, jobs: Jobs, store: ObjectStore, output: Output, action: Action, path: str
) -> None:
    name = path.rpartition("/")[2]
    with FaultyProxy(store, [Fault(action, "PUT", path)]) as proxy:
        behind = Output.stored(store, output.path.partition("/")[2], proxy.address)
        job = jobs.start(given.command(behind))
        proxy.wait_until_held(seconds=HELD_SECONDS)
        job.kill()
    found = output.parts()
    assert any(name in each for each in output.names()) == (action == "hold_response")
    assert run_again(given, jobs, output) == len(found)


@chaos
@pytest.mark.parametrize("point", ["part unpublished", "quarantine published"])
def test_actors_live_on_for_a_moment_while_the_job_runs_again(
    given: Given, jobs: Jobs, output: Output, point: str
) -> None:
    job = jobs.start(given.command(output), point, 3)
    actor = job.wait_for_point()
    job.kill_driver()
    again = jobs.start(given.command(output))
    assert actor in job.processes()
    time.sleep(1.5)
    job.kill()
    again.wait()
    assert "watching for up to" not in again.told()
    check_output(output, given.quiet)


@chaos
def test_a_late_actor_of_a_discarded_job_publishes_nothing(given: Given, jobs: Jobs, output: Output) -> None:
    """The driver stands still for so long that its lease is taken over, and then goes on, as its actors do."""
    job = jobs.start(given.command(output), "part unpublished", 3)
    late = job.wait_for_point()
    os.kill(job.process.pid, signal.SIGSTOP)
    options = ["--overwrite", "--batch-size", "32", "--actors", "1"]
    again = jobs.start(given.command(output, *options)).wait_for_end(TAKEOVER_SECONDS)
    assert again.code == 0, again.told
    assert "watching for up to" in again.told
    settled = Quiet(output.names(), output.hashes(), GOOD, BAD)
    assert late in job.processes()
    job.release()
    time.sleep(2)  # the actor asks for its plan, and would publish
    check_output(output, settled)
    os.kill(job.process.pid, signal.SIGCONT)
    job.wait_for_end(HELD_SECONDS).check_refusal(1, "was taken over by another job|belongs to another job now")
    check_output(output, settled)


@chaos
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--batch-size", "32"]),  # parts of the same size
        ["--compression", "none"],
    ],
)
def test_an_upload_of_a_discarded_job_arrives_late(
    given: Given, jobs: Jobs, store: ObjectStore, output: Output, options: list[str]
) -> None:
    """What was under way when its job was discarded replaces a part of the same name; a job that still runs sees it."""
    with FaultyProxy(store, [Fault("hold", "PUT", "/part-00011-of-")]) as proxy:
        behind = Output.stored(store, output.path.partition("/")[2], proxy.address)
        job = jobs.start(given.command(behind))
        proxy.wait_until_held(seconds=HELD_SECONDS)
        job.kill()
        again = jobs.start(given.command(output, "--overwrite", *options), "before the manifest")
        again.wait_for_point()
        before = output.hashes()
        arrive(proxy)
    again.release()
    ended = again.wait_for_end()
    if ended.code:
        ended.check_refusal(1, "part-00011-of-.*: changed or gone since it was published; rerun to score it again")
        jobs.start(given.command(output, *options)).wait()
    check_output(output, Quiet(output.names(), before, GOOD, BAD))


def arrive(proxy: FaultyProxy) -> None:
    """Let an upload go on that its sender has not lived to see the end of."""
    proxy.release()
    wait_until(lambda: any(each.status for each in proxy.requests if each.fault), 10, "the upload")
