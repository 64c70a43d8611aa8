"""Two commands at the same time on one output: one is refused and told who holds it, the other ends well."""

import uuid

import pytest
from chaos.scripts import Given, Jobs, Output, check_output
from object_store import ObjectStore

pytestmark = [pytest.mark.ray, pytest.mark.tf]
# A lease is renewed every 20 s, and one that is renewed is held.
REFUSED_SECONDS = 45.0


def test_a_second_job_is_refused(given: Given, jobs: Jobs, output: Output) -> None:
    check_second_is_refused(given, jobs, output)


@pytest.mark.chaos
def test_a_second_job_is_refused_over_s3(given: Given, jobs: Jobs, store: ObjectStore) -> None:
    check_second_is_refused(given, jobs, Output.stored(store, f"out-{uuid.uuid4().hex}"))


def check_second_is_refused(given: Given, jobs: Jobs, output: Output) -> None:
    first = jobs.start(given.command(output, "--actors", "1"), "part unpublished", 3)
    first.wait_for_point()
    for options in ([], ["--overwrite"]):
        second = jobs.start(given.command(output, *options)).wait_for_end(REFUSED_SECONDS)
        second.check_refusal(2, rf"another job is writing to it \(process {first.process.pid} on ")
    first.release()
    first.wait()
    check_output(output, given.quiet)
