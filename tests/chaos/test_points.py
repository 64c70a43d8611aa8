"""A whole job killed at scripted points, and run again at once: the output is as if nothing had happened.

`faults/sitecustomize.py` says where the points are, `scripts.py` how a job is started, killed and looked at.
"""

import time

import pytest
from chaos.scripts import BAD, FEWER_PARTS, GOOD, NUM_SHARDS, Given, Jobs, Output, Quiet, check_output

pytestmark = [pytest.mark.ray, pytest.mark.tf]
# A few of all that is tried here run with the ordinary tests.
chaos = pytest.mark.chaos
# What a test here has shown, and the engine does not hold yet.
# When a part of a discarded job appears, and what the job after it does: parts of the same names, or of others.
LATE_WINDOWS = [
    ("too late to ask", "after the plan", FEWER_PARTS),
    pytest.param("too late to ask for bad rows", "after the plan", FEWER_PARTS),
    ("too late to ask", "after the plan", ["--batch-size", "32"]),
    ("too late to ask", "before the manifest", FEWER_PARTS),
]


@pytest.mark.parametrize(
    ("point", "nth", "num_parts"),
    [
        pytest.param("before the plan", 1, range(1), marks=chaos),
        pytest.param("after the plan", 1, range(1), marks=chaos),
        pytest.param("before the schema", 1, range(1), marks=chaos),
        pytest.param("in a read", 9, range(1, NUM_SHARDS), marks=chaos),
        ("part unpublished", 3, range(NUM_SHARDS)),
        pytest.param("part published", 3, range(3, NUM_SHARDS), marks=chaos),
        pytest.param("quarantine published", 3, range(NUM_SHARDS), marks=chaos),
        pytest.param("before the manifest", 1, range(NUM_SHARDS, NUM_SHARDS + 1), marks=chaos),
        pytest.param("before _SUCCESS", 1, range(NUM_SHARDS, NUM_SHARDS + 1), marks=chaos),
    ],
)
def test_a_job_killed_at_a_point(
    given: Given, jobs: Jobs, output: Output, point: str, nth: int, num_parts: range
) -> None:
    job = jobs.start(given.command(output), point, nth)
    job.wait_for_point()
    job.kill()
    found = output.parts()
    assert len(found) in num_parts
    assert not output.exists("_SUCCESS")
    summary = jobs.start(given.command(output)).wait()
    assert summary["parts_earlier"] == len(found)
    check_output(output, given.quiet)


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
    check_output(output, given.quiet)


@chaos
def test_a_late_actor_while_the_job_runs_again(given: Given, jobs: Jobs, output: Output) -> None:
    job = jobs.start(given.command(output), "late", 3)
    job.wait_for_point()
    job.kill_driver()
    again = jobs.start(given.command(output), "part published", 2)
    again.wait_for_point()  # its actors score, and one of them waits with a part
    job.release_late()
    again.release()
    again.wait()
    check_output(output, given.quiet)


@pytest.mark.parametrize(
    ("point", "options"),
    [("late", ["--batch-size", "32"]), pytest.param("too late to ask", FEWER_PARTS, marks=chaos)],
)
def test_a_late_actor_of_a_discarded_job_publishes_nothing(
    given: Given, jobs: Jobs, output: Output, point: str, options: list[str]
) -> None:
    job = jobs.start(given.command(output), point, 3)
    late = job.wait_for_point()
    job.kill_driver()
    jobs.start(given.command(output, "--overwrite", "--actors", "1", *options)).wait()
    assert late in job.processes()
    settled = Quiet(output.names(), output.hashes(), GOOD, BAD)
    outcomes = job.release_late()
    assert not any(outcome["published"] for outcome in outcomes), outcomes
    check_output(output, settled)


@chaos
@pytest.mark.parametrize(("late", "point", "options"), LATE_WINDOWS)
def test_a_late_actor_publishes_while_its_job_is_discarded(
    given: Given, jobs: Jobs, output: Output, late: str, point: str, options: list[str]
) -> None:
    job = jobs.start(given.command(output), late, 3)
    job.wait_for_point()
    job.kill_driver()
    again = jobs.start(given.command(output, "--overwrite", *options), point)
    again.wait_for_point()
    job.release_late()
    again.release()
    ended = again.wait_for_end()
    if ended.code:  # it saw what came between, and says so
        ended.check_refusal(1, "changed or gone since it was published; rerun to score it again")
        jobs.start(given.command(output, *options)).wait()
    check_settled(output)


@chaos
def test_a_late_actor_of_a_job_before_the_one_that_is_discarded(given: Given, jobs: Jobs, output: Output) -> None:
    job = jobs.start(given.command(output), "too late to ask", 3)
    job.wait_for_point()
    job.kill_driver()
    second = jobs.start(given.command(output, "--overwrite", "--batch-size", "32"), "after the plan")
    second.wait_for_point()
    job.release_late()  # the second job would find it, had it come to its end
    second.kill()
    jobs.start(given.command(output, "--overwrite", *FEWER_PARTS)).wait()
    check_settled(output)


def check_settled(output: Output) -> None:
    """Check that a finished output holds every row once, in parts and quarantine of one job."""
    check_output(output, Quiet(output.names(), output.hashes(), GOOD, BAD))
    names = [*output.parts(), *output.quarantine()]
    assert {name.rpartition("-of-")[2] for name in names} == {f"{len(output.parts()):05}.parquet"}, names
