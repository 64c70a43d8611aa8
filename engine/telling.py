"""Tells of a job while it goes on, and keeps what is told: on a person's screen, in `status.json`, in the timeline.

A store that answers slowly must not hold up a run, nor a full disk end it: another thread writes, and what goes wrong
there is told once. Start at `Teller`.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from engine.data.ledger import read_plan_id
from engine.data.parts import is_temporary
from engine.data.status import DONE, FAILED, INTERRUPTED, STARTING, RunStatus, write_status
from engine.data.storage.folder import JOB_FOLDER, OutputFolder
from engine.data.storage.places import shown_text
from engine.data.storage.processes import machine, start_time
from engine.data.timeline import Span, read_timeline_table, write_timeline
from engine.errors import EngineError, JobFailedError, JobInterrupted
from engine.run.interrupt import deferred_interrupts
from engine.run.logbook import Logbook
from engine.run.plan import Plan, Shard
from engine.view.progress import ProgressView

# A view shows each; files follow less often, and the less the longer they take to write.
SHOW_SECONDS, STATUS_SECONDS, TIMELINE_SECONDS = 0.2, (2.0, 30.0), (30.0, 600.0)
PAUSE_PER_SECOND_OF_WRITING = 20.0
LISTEN_SECONDS, MEANWHILE_SECONDS, SLOW_SECONDS, WAIT_SECONDS = 2.0, 1.0, 2.0, 0.1
# What the end of a job waits for files that tell of it; an interrupted one is to end within 2 s.
END_SECONDS, INTERRUPTED_SECONDS = 60.0, 0.5


@contextlib.contextmanager
def told_if_slow(view: ProgressView, text: str) -> Iterator[None]:
    """Say what the job is at if what is inside takes long; a mistake is told alone, at once."""
    looking = RunStatus(stage=text)
    timer = threading.Timer(SLOW_SECONDS, view.show, [looking])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        view.close(looking)


class Teller:
    """Tells of one run, from its preparation to its end; a context, whose exception is how the run ended."""

    def __init__(
        self,
        view: ProgressView,
        folder: OutputFolder,
        plan: Plan,
        logbook: Logbook,
        check_lock: Callable[[], None],
        has_more: bool = False,
    ) -> None:
        """Begin.

        Args:
            view: shows a person how far the run is.
            folder: the output folder; nothing is written to it before `keep`.
            plan: what is run.
            logbook: told of what happens.
            check_lock: raises where another job has taken the folder over.
            has_more: whether the job goes on with another run after this one.
        """
        self._view, self._folder, self._plan, self._check_lock = view, folder, plan, check_lock
        self.logbook, self._has_more = logbook, has_more
        pid = os.getpid()
        self._process: dict[str, Any] = {
            "host": socket.gethostname(), "pid": pid, "machine": machine(), "process_start": start_time(pid)
        }  # fmt: skip
        self._stage = self._last_notice = self._problem = ""
        self._has_told_problem = self._keeps = self._is_over = False
        self._earlier: pa.Table | None = None
        self._writing: threading.Thread | None = None
        self._one_writes = threading.Lock()
        self._listener: Callable[[RunStatus], None] | None = None
        self._next_show = self._next_status = self._next_timeline = self._next_listen = 0.0

    def __enter__(self) -> Self:
        """Give the teller."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell how the run ended; a signal that comes meanwhile ends a job that was done, and hides no other error."""
        is_interrupted = isinstance(error, JobInterrupted | KeyboardInterrupt | SystemExit)
        state = DONE if error is None else INTERRUPTED if is_interrupted else FAILED
        message = "" if error is None else shown_text(str(error) or type(error).__name__)
        now = time.monotonic()
        status = replace(self._status(now), state=state, error=message, seconds_left=None, stage="")
        if error is None and self._has_more:
            status = replace(status, state=STARTING, stage="going on with the files that came since")
        try:
            with deferred_interrupts() as check_interrupts:
                if self._keeps:
                    spans = self.logbook.spans(now, state, message)
                    seconds = INTERRUPTED_SECONDS if is_interrupted else END_SECONDS
                    self._write_last(status, spans, seconds, lambda: None if is_interrupted else check_interrupts())
                    self._tell_problem()
                    if status.is_over and not is_interrupted:
                        self._view.show(replace(status, stage="writing the report"))
                        self._write_report()
                if error is None:
                    check_interrupts()
        except JobInterrupted:
            if error is None:
                raise
        finally:
            self._view.close(status)

    def keep(self) -> None:
        """Write to the output folder from now on: it is this job's."""
        if self._keeps:
            return
        with contextlib.suppress(EngineError):  # a store that cannot tell of earlier runs now
            self._earlier = read_timeline_table(self._folder)
            for name in self._folder.children(JOB_FOLDER):  # what a driver that was killed was writing
                if is_temporary(name):
                    self._folder.remove(f"{JOB_FOLDER}/{name}")
        self._keeps = True
        self._next_timeline = time.monotonic() + TIMELINE_SECONDS[0]

    def begin(self, missing: Mapping[int, Shard], num_shards: int) -> None:
        """Say which of so many shards are missing, now that the output folder is this job's."""
        self.logbook.plan(missing, num_shards)
        self.keep()

    @contextlib.contextmanager
    def heard_by(self, listener: Callable[[RunStatus], None]) -> Iterator[None]:
        """Tell another one, too, while something inside goes on: every other second, without the single actors."""
        self._listener = listener
        try:
            yield
        finally:
            self._listener = None

    def stage(self, text: str) -> None:
        """Say what the job is at."""
        self._stage = text
        self._next_show = 0.0
        self.tick()

    @contextlib.contextmanager
    def meanwhile(self, text: str) -> Iterator[None]:
        """Say what the job is at, and go on telling while something inside takes its time; no shard is scored there."""
        self.stage(text)
        is_over = threading.Event()

        def go_on() -> None:
            while not is_over.wait(MEANWHILE_SECONDS):
                self.tick()

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def notice(self, text: str) -> None:
        """Say something that a person would want to know."""
        self._last_notice = shown_text(text)
        self._view.notice(self._last_notice)

    def tick(self) -> None:
        """Tell how far the run is, where it is time to."""
        now = time.monotonic()
        if self._view.shows and now >= self._next_show:
            self._next_show = now + SHOW_SECONDS
            self._view.show(self._status(now, self._view.wants_actors))
        if self._listener is not None and now >= self._next_listen:
            self._next_listen = now + LISTEN_SECONDS
            self._listener(self._status(now, with_actors=False))
        if self._keeps and now >= self._next_status and not (self._writing and self._writing.is_alive()):
            spans = self.logbook.spans(now) if now >= self._next_timeline else None
            self._write(self._status(now), spans)
        self._tell_problem()

    def _status(self, now: float, with_actors: bool = True) -> RunStatus:
        status = self.logbook.status(now, with_actors)
        return replace(status, stage=self._stage, notice=self._last_notice, **self._process)

    def _write(self, status: RunStatus, spans: list[Span] | None, is_last: bool = False) -> None:
        self._writing = threading.Thread(target=self._write_files, args=(status, spans, is_last), daemon=True)
        self._writing.start()

    def _write_last(
        self, status: RunStatus, spans: list[Span], seconds: float, check_interrupts: Callable[[], None]
    ) -> None:
        """Write how the run ended, and wait for it for so long, or until a signal comes."""
        self._is_over = True
        self._write(status, spans, is_last=True)  # after the one that is writing, if one is
        deadline = time.monotonic() + seconds
        while self._writing and self._writing.is_alive() and time.monotonic() < deadline:
            self._writing.join(WAIT_SECONDS)
            check_interrupts()

    def _write_files(self, status: RunStatus, spans: list[Span] | None, is_last: bool) -> None:
        began = time.monotonic()
        with self._one_writes:
            try:
                if (is_last or not self._is_over) and self._is_ours():
                    write_status(self._folder, status)
                    self._next_status = _pause(STATUS_SECONDS, began)
                    began = time.monotonic()
                    if spans is not None:
                        write_timeline(self._folder, spans, self._earlier)
                        self._next_timeline = _pause(TIMELINE_SECONDS, began)
            except Exception as error:  # the boundary: nothing that is only told may end the job
                self._problem = shown_text(str(error) if isinstance(error, EngineError) else repr(error))
                self._next_timeline = _pause(TIMELINE_SECONDS, began)
            finally:
                self._next_status = max(self._next_status, _pause(STATUS_SECONDS, began))

    def _write_report(self) -> None:
        """Write the report; whatever goes wrong there, the job is what it is."""
        from engine.view.report import write_report  # matplotlib takes a while to import

        try:
            if self._is_ours():
                write_report(self._folder)
        except Exception as error:  # the boundary: a picture that cannot be drawn fails no job
            reason = shown_text(f"{type(error).__name__}: {error}")
            self._view.notice(f"no report was written ({reason}); icefloe report {self._folder.place} tries again")

    def _is_ours(self) -> bool:
        """Whether the output folder is this job's; another job's, by now, tells of itself."""
        with contextlib.suppress(JobFailedError):
            self._check_lock()
            return read_plan_id(self._folder, self._plan.generation) == self._plan.plan_id
        return False

    def _tell_problem(self) -> None:
        if self._problem and not self._has_told_problem:
            self._has_told_problem = True
            self._view.notice(f"what tells of the job cannot be written: {self._problem}; the job goes on")


def _pause(seconds: tuple[float, float], began: float) -> float:
    """Return when to write again what took from `began` until now: within these bounds, later where it is slow."""
    now, (least, most) = time.monotonic(), seconds
    return now + min(most, max(least, PAUSE_PER_SECOND_OF_WRITING * (now - began)))
