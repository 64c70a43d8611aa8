"""A job followed by the files that its run writes, from the first sign of life to the last."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine import following
from engine.data.status import DONE, FAILED, INTERRUPTED, SCORING, RunStatus, write_status
from engine.data.storage.local_folder import LocalFolder
from engine.data.storage.processes import machine, start_time
from engine.errors import JobFailedError, JobInterrupted, PlanError
from engine.following import check_end, check_life, find_output, follow, look
from tests.test_telling import Seen

RUNNING = RunStatus(
    "plan", SCORING, "scoring", socket.gethostname(), os.getpid(), machine(), start_time(os.getpid()), 1.0, 2.0,
    shards=4, shards_done=1,
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    folder = LocalFolder(str(tmp_path / "out"))
    folder.make()
    folder.write("_icefloe/plan.json", json.dumps({"plan_id": "plan"}).encode())
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.01)


@pytest.fixture
def gone() -> int:
    """The id of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_job_is_followed_to_its_end(folder: LocalFolder) -> None:
    write_status(folder, RUNNING)
    view = Seen()

    def go_on() -> None:
        for done in (2, 3):
            time.sleep(0.1)
            status = replace(RUNNING, shards_done=done, updated=2.0 + done, notice="an actor was lost")
            write_status(folder, status)
        time.sleep(0.1)
        write_status(folder, replace(RUNNING, state=DONE, shards_done=4, updated=9.0))

    thread = threading.Thread(target=go_on)
    thread.start()
    ended = follow(folder, view)
    thread.join()
    assert (ended.state, ended.shards_done) == (DONE, 4)
    assert sorted({status.shards_done for status in view.shown}) == [1, 2, 3]
    assert view.notices == ["an actor was lost"]
    assert view.ended == [ended]
    check_end(ended, "out")


def test_a_process_that_was_killed_is_noticed(folder: LocalFolder, gone: int) -> None:
    write_status(folder, replace(RUNNING, pid=gone))
    with pytest.raises(JobFailedError, match=rf"its process {gone} is gone .*; the same command resumes"):
        follow(folder, Seen())


def test_a_process_that_told_its_end_and_went_is_none_that_was_killed(
    folder: LocalFolder, gone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.3)
    write_status(folder, RUNNING)
    ended = replace(RUNNING, state=INTERRUPTED, pid=gone, updated=3.0)
    timer = threading.Timer(0.1, write_status, (folder, ended))  # while the follower sleeps
    timer.start()
    assert follow(folder, Seen()) == ended


def test_a_process_that_is_gone_is_looked_at_once_more(folder: LocalFolder, gone: int) -> None:
    write_status(folder, replace(RUNNING, pid=gone))
    view = Seen()
    view.show = lambda _: write_status(folder, replace(RUNNING, state=DONE, pid=gone))  # type: ignore[method-assign]
    assert follow(folder, view).state == DONE


def test_one_look_tells_of_a_process_that_is_gone(folder: LocalFolder, gone: int) -> None:
    check_life(RUNNING, "out")
    check_life(replace(RUNNING, state=DONE, pid=gone), "out")
    check_life(replace(RUNNING, machine="another", pid=gone), "out")
    with pytest.raises(JobFailedError, match="is gone"):
        check_life(replace(RUNNING, pid=gone), "out")


def test_silence_of_another_machine_is_noticed(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENCE_SECONDS", 0.2)
    write_status(folder, replace(RUNNING, host="another", pid=3, machine="another"))
    with pytest.raises(JobFailedError, match=r"no sign of life for 0 s; process 3 on another ran it"):
        follow(folder, Seen())


@pytest.mark.parametrize("state", [SCORING, FAILED, INTERRUPTED])
def test_a_mark_of_success_says_more_than_an_old_status(folder: LocalFolder, state: str) -> None:
    write_status(folder, replace(RUNNING, state=state))
    folder.write("_SUCCESS", b"")
    assert look(folder).state == DONE


@pytest.mark.parametrize(
    ("state", "error", "kind", "code"),
    [
        (FAILED, "the first cause", JobFailedError, 1),
        (INTERRUPTED, "interrupted by SIGTERM; the same command resumes", JobInterrupted, 130),
    ],
)
def test_it_ends_as_the_job_does(state: str, error: str, kind: type[JobFailedError], code: int) -> None:
    with pytest.raises(kind, match=error) as caught:
        check_end(replace(RUNNING, state=state, error=error), "out")
    assert caught.value.exit_code == code


def test_a_folder_without_a_job_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"is no output of icefloe: no _icefloe/plan.json is in it; name the folder"):
        find_output(str(tmp_path))


def test_a_job_that_is_starting_has_told_nothing_yet(folder: LocalFolder) -> None:
    folder.remove("_icefloe/plan.json")
    folder.write("_icefloe/lock", b"{}")
    with pytest.raises(PlanError, match="a job is starting there and has told nothing yet; type this again in a while"):
        find_output(folder.place)


@pytest.mark.parametrize(("success", "advice"), [(True, "it is done"), (False, "rerun its command, which resumes")])
def test_an_output_that_tells_nothing(folder: LocalFolder, success: bool, advice: str) -> None:
    if success:
        folder.write("_SUCCESS", b"")
    with pytest.raises(PlanError, match=f"no run has told how far it is, .*; {advice}"):
        look(find_output(folder.place))
