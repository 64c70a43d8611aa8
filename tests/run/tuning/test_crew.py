import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bench_calls
import pytest
from conftest import wait_for

from engine.errors import GraphError, JobFailedError, WorkerLostError
from engine.run.tuning.crew import ROOT, Crew, OutOfTimeError, cause

TESTS = Path(bench_calls.__file__).parent
PATH = {"PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}"}


def soon(seconds: float = 60.0) -> float:
    return time.monotonic() + seconds


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def crew() -> Iterator[Crew]:
    with contextlib.closing(Crew([PATH, {**PATH, "CUDA_VISIBLE_DEVICES": "3"}])) as made:
        yield made


def test_a_crew_is_told_together_and_alone(crew: Crew) -> None:
    (one, first), (other, second) = crew.each(soon(), bench_calls.echo, [("a",), ("b",)])
    assert (one, other) == ("a", "b")
    assert len({first, second, os.getpid()}) == 3
    assert crew.all(soon(), bench_calls.echo, 7) == [(7, first), (7, second)]
    assert crew.first(soon(), bench_calls.echo, 8) == (8, first)
    assert crew.all(soon(), bench_calls.variable, "CUDA_VISIBLE_DEVICES")[1] == "3"


def test_errors_are_answers(crew: Crew) -> None:
    with pytest.raises(GraphError, match="no such tensor"):
        crew.first(soon(), bench_calls.refuse, "no such tensor")
    with pytest.raises(JobFailedError, match="ZeroDivisionError: by nothing") as caught:
        crew.first(soon(), bench_calls.stumble)
    assert cause(caught.value) == "ZeroDivisionError: by nothing"


def test_a_process_that_is_killed_is_told_so(crew: Crew) -> None:
    with pytest.raises(WorkerLostError, match="SIGKILL.*when no memory is left"):
        crew.first(soon(), bench_calls.die, 0)


def test_the_last_words_of_a_process_are_told(crew: Crew) -> None:
    with pytest.raises(WorkerLostError, match="exit code 3, and had said: no such thing"):
        crew.first(soon(), bench_calls.leave, 3)
    with pytest.raises(WorkerLostError, match="exit code 3"):  # and again when it is told more
        crew.first(soon(), bench_calls.echo, 1)


def test_a_signal_is_told_by_its_name(crew: Crew) -> None:
    with pytest.raises(WorkerLostError, match="ended by SIGTERM"):
        crew.first(soon(), bench_calls.die, signal.SIGTERM)


def test_who_does_not_answer_is_not_waited_for() -> None:
    with contextlib.closing(Crew([PATH])) as crew:
        _, pid = crew.first(soon(), bench_calls.echo, 0)
        started = time.monotonic()
        with pytest.raises(OutOfTimeError, match="not done within the time"):
            crew.first(soon(0.2), bench_calls.sleep, 30)
        assert time.monotonic() - started < 5
    assert not is_there(pid)


def test_no_process_outlives_whoever_started_it() -> None:
    code = (
        "import sys, time, bench_calls; from engine.run.tuning.crew import Crew\n"
        f"crew = Crew([{PATH!r}]); print(crew.first(time.monotonic() + 60, bench_calls.echo, 0)[1], flush=True)\n"
        "crew.first(time.monotonic() + 60, bench_calls.sleep, 60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **PATH}, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not is_there(pid))
