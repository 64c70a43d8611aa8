"""What a run tells of itself: files that another shell reads while it goes on, and how it ended."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for

from engine import telling
from engine.data.ledger import SUCCESS
from engine.data.status import DONE, FAILED, INTERRUPTED, SCORING, STARTING, RunStatus, read_status
from engine.data.storage.folder import TEMPORARY_PREFIX
from engine.data.storage.local_folder import LocalFolder
from engine.data.timeline import TIMELINE, read_timeline
from engine.errors import JobFailedError, JobInterrupted, StorageError
from engine.run.interrupt import interruptible
from engine.run.logbook import Logbook
from engine.run.plan import Cut, Plan
from engine.run.scheduling.events import AssignAttempt, StartWorker, WorkerReady
from engine.telling import Teller, told_if_slow
from engine.view.progress import ProgressView
from tests.run.test_logbook import result, shard

PLAN = Plan("plan", {}, (), Cut, 32, 1000)


class Seen(ProgressView):
    shows = True

    def __init__(self) -> None:
        self.shown: list[RunStatus] = []
        self.notices: list[str] = []
        self.ended: list[RunStatus] = []

    def show(self, status: RunStatus) -> None:
        self.shown.append(status)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def close(self, status: RunStatus) -> None:
        self.ended.append(status)


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    folder = LocalFolder(str(tmp_path / "out"))
    folder.make()
    folder.write("_icefloe/plan.json", json.dumps({"plan_id": "plan"}).encode())
    return folder


def held() -> None:
    """The output folder is still this job's."""


def teller_of(view: Seen, folder: LocalFolder, **more: Any) -> Teller:
    logbook = Logbook("plan", time.time(), time.monotonic(), rows_per_byte=1.0)
    return Teller(view, folder, PLAN, logbook, **{"check_lock": held, **more})


def tell(view: Seen, folder: LocalFolder, error: BaseException | None = None, **more: Any) -> None:
    """A run that scores one of two shards."""
    with teller_of(view, folder, **more) as teller:
        teller.stage("starting Ray")
        teller.begin({0: shard(0), 1: shard(1)}, 2)
        teller.stage("scoring")
        now = time.monotonic()
        for event in (StartWorker(0), AssignAttempt(0, 0, 1)):
            teller.logbook.note(event, now)
        teller.logbook.hear(WorkerReady(0), now)
        teller.logbook.keep(0, result(0, 500, bad=2), now + 0.01)
        teller.notice("one actor is slow: s3://key:secret@b/x?token=secret")
        teller.tick()
        if error:
            raise error
        teller.logbook.end(now + 0.02)


def test_a_run_that_ended_well(folder: LocalFolder) -> None:
    view = Seen()
    tell(view, folder)
    assert [status.stage for status in view.shown][:2] == ["starting Ray", "scoring"]
    assert [status.state for status in view.shown][:1] == [STARTING]
    (ended,) = view.ended
    assert (ended.state, ended.rows, ended.rows_quarantined, ended.error, ended.seconds_left) == (
        DONE,
        500,
        2,
        "",
        None,
    )
    found = read_status(folder)
    assert found == ended
    assert "secret" not in found.notice
    assert [(span.kind, span.outcome) for span in read_timeline(folder)] == [
        ("run", "done"), ("load", "done"), ("attempt", "done"), ("ready", "done"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (JobFailedError("the first cause, s3://key:secret@b/x"), FAILED),
        (JobInterrupted("by SIGTERM"), INTERRUPTED),
        (KeyboardInterrupt(), INTERRUPTED),
        (ZeroDivisionError("nobody foresaw this"), FAILED),
    ],
)
def test_a_run_that_did_not(folder: LocalFolder, error: BaseException, state: str) -> None:
    view = Seen()
    with pytest.raises(type(error)):
        tell(view, folder, error)
    found = read_status(folder)
    assert found is not None
    assert (found.state, found.rows) == (state, 500)
    assert str(error).partition(",")[0] in found.error
    assert "secret" not in found.error
    spans = read_timeline(folder)
    assert (spans[0].kind, spans[0].outcome, spans[0].message) == ("run", state, found.error)


def test_nothing_is_written_before_the_output_is_the_jobs(folder: LocalFolder) -> None:
    with teller_of(Seen(), folder) as teller:
        teller.stage("starting Ray")
    assert folder.children("_icefloe") == ["plan.json"]


def test_nothing_is_written_to_what_another_job_took_over(folder: LocalFolder) -> None:
    with teller_of(Seen(), folder) as teller:
        teller.begin({}, 2)
        folder.write("_icefloe/plan.json", json.dumps({"plan_id": "another"}).encode())
    assert folder.children("_icefloe") == ["plan.json"]


def test_it_is_told_while_it_goes_on(folder: LocalFolder) -> None:
    with teller_of(Seen(), folder) as teller:
        teller.begin({0: shard(0)}, 1)
        teller.logbook.note(StartWorker(0), time.monotonic())
        teller.logbook.note(AssignAttempt(0, 0, 1), time.monotonic())
        teller.tick()
        deadline = time.monotonic() + 10
        while (found := read_status(folder)) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert found is not None
        assert (found.state, found.actors[0].shards) == (SCORING, (0,))


def test_another_one_may_listen_for_a_while(folder: LocalFolder) -> None:
    heard: list[RunStatus] = []
    with teller_of(Seen(), folder) as teller:
        teller.begin({0: shard(0)}, 3)
        with teller.heard_by(heard.append):
            teller.tick()
            teller.tick()
        teller.tick()
    assert [(status.shards, status.shards_done) for status in heard] == [(3, 2)]


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, []), (0.2, ["looking"])])
def test_what_comes_before_a_run_is_told_where_it_is_slow(
    seconds: float, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "SLOW_SECONDS", 0.05)
    view = Seen()
    with pytest.raises(JobFailedError), told_if_slow(view, "looking"):
        _fail_after(seconds)
    assert [status.stage for status in view.shown] == shown
    assert len(view.ended) == 1


def test_what_was_slow_and_went_well_is_shown_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "SLOW_SECONDS", 0.05)
    view = Seen()
    with told_if_slow(view, "looking"):
        time.sleep(0.2)
    assert ([status.stage for status in view.shown], len(view.ended)) == (["looking"], 1)


def _fail_after(seconds: float) -> None:
    time.sleep(seconds)
    raise JobFailedError("no such bucket")


def test_something_long_at_the_end_is_told_of(folder: LocalFolder) -> None:
    with teller_of(Seen(), folder) as teller:
        teller.begin({}, 1)
        with teller.meanwhile("recording"):
            deadline = time.monotonic() + 20
            seen: set[float] = set()
            while len(seen) < 2 and time.monotonic() < deadline:
                found = read_status(folder)
                seen |= {found.updated} if found and found.stage == "recording" else set()
                time.sleep(0.05)
        assert len(seen) == 2


def test_runs_are_kept_one_after_another(folder: LocalFolder) -> None:
    for error in (JobInterrupted("by SIGINT"), None):
        with contextlib.suppress(JobInterrupted):
            tell(Seen(), folder, error)
        time.sleep(0.01)
    runs = [span for span in read_timeline(folder) if span.kind == "run"]
    assert [run.outcome for run in runs] == ["interrupted", "done"]
    assert runs[0].run < runs[1].run


class Sulking(LocalFolder):
    """A folder that takes no more files."""

    def write(self, name: str, data: bytes) -> None:
        raise StorageError(f"{name}: no space is left")


def test_a_folder_that_takes_nothing_is_told_once_and_ends_no_run(folder: LocalFolder) -> None:
    view = Seen()
    with teller_of(view, Sulking(folder.place)) as teller:
        teller.begin({}, 1)
        for _ in range(3):
            teller.tick()
            time.sleep(0.05)
    assert view.notices == [
        "what tells of the job cannot be written: _icefloe/status.json: no space is left; the job goes on",
        "no report was written (StorageError: _icefloe/report.html: no space is left); "
        f"icefloe report {folder.place} tries again",
    ]


class Slow(LocalFolder):
    """A store that takes a minute to answer."""

    def write(self, name: str, data: bytes) -> None:
        time.sleep(60)


def test_a_slow_store_does_not_hold_up_an_interruption(folder: LocalFolder) -> None:
    began = time.monotonic()
    with pytest.raises(JobInterrupted):
        tell(Seen(), Slow(folder.place), JobInterrupted("by SIGTERM"))
    assert time.monotonic() - began < 2.0  # what an interruption may take


def test_a_job_that_was_taken_over_tells_nothing_more(folder: LocalFolder) -> None:
    tell(Seen(), folder)
    before = read_status(folder)

    def lost() -> None:
        raise JobFailedError("out was taken over by another job")

    with pytest.raises(JobFailedError):
        tell(Seen(), folder, JobFailedError("out was taken over"), check_lock=lost)
    assert read_status(folder) == before


class Blocked(LocalFolder):
    """A store of which the first answer waits until it may come."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.may_answer, self.num_asked = threading.Event(), 0

    def write(self, name: str, data: bytes) -> None:
        self.num_asked += 1
        if self.num_asked == 1:
            self.may_answer.wait(30)
        super().write(name, data)


def test_what_is_late_does_not_replace_the_last_word(folder: LocalFolder) -> None:
    blocked = Blocked(folder.place)
    with pytest.raises(JobInterrupted):
        tell(Seen(), blocked, JobInterrupted("by SIGTERM"))
    assert read_status(folder) is None
    blocked.may_answer.set()
    wait_for(lambda: (found := read_status(folder)) is not None and found.state == INTERRUPTED)
    wait_for(lambda: bool(read_timeline(folder)))


def test_a_signal_at_the_end_hides_no_error(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, view = Blocked(folder.place), Seen()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(JobFailedError, match="part 3 is damaged"), interruptible():
        tell(view, blocked, JobFailedError("part 3 is damaged"))
    assert time.monotonic() - began < 10  # it does not wait for the store any more
    assert len(view.ended) == 1
    blocked.may_answer.set()


def test_a_signal_while_the_report_is_written_is_not_lost(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Teller, "_write_report", lambda _: os.kill(os.getpid(), signal.SIGINT))
    view = Seen()
    with pytest.raises(JobInterrupted), interruptible():
        tell(view, folder)
    assert [status.state for status in view.ended] == [DONE]
    found = read_status(folder)
    assert found is not None
    assert found.state == DONE


def test_a_run_that_another_one_follows_is_no_end(folder: LocalFolder) -> None:
    tell(Seen(), folder, has_more=True)
    found = read_status(folder)
    assert found is not None
    assert (found.state, found.stage) == (STARTING, "going on with the files that came since")
    assert "report.html" not in folder.children("_icefloe")


def test_what_a_killed_driver_was_writing_goes(folder: LocalFolder) -> None:
    folder.write(f"_icefloe/{TEMPORARY_PREFIX}status.json-1", b"{")
    tell(Seen(), folder)
    assert not any(name.startswith(".") for name in folder.children("_icefloe"))


def test_a_name_that_is_no_text_is_told(folder: LocalFolder) -> None:
    with pytest.raises(JobFailedError):
        tell(Seen(), folder, JobFailedError("in/\udcff.parquet is damaged"))
    assert read_timeline(folder)[0].message == "in/\\udcff.parquet is damaged"


def test_a_damaged_timeline_of_earlier_runs_is_replaced(folder: LocalFolder) -> None:
    folder.write(TIMELINE, b"PAR1 this is none")
    tell(Seen(), folder)
    assert [span.kind for span in read_timeline(folder)][:1] == ["run"]
    assert SUCCESS not in folder.children()
