"""A job followed from another shell or machine, by what its run writes to the output folder. Start at `follow`."""

import time
from dataclasses import replace

from engine.data.ledger import LOCK, SUCCESS, plan_name
from engine.data.status import DONE, INTERRUPTED, SILENCE_SECONDS, RunStatus, read_status
from engine.data.storage.folder import OutputFolder
from engine.data.storage.opening import open_folder, whole_path
from engine.data.storage.processes import is_dead
from engine.errors import JobFailedError, JobInterrupted, PlanError
from engine.view.progress import ProgressView

LOOK_SECONDS, MAX_LOOK_SECONDS = 1.0, 30.0
PAUSE_PER_SECOND_OF_READING = 10.0


def find_output(output: str) -> OutputFolder:
    """Return the output folder of a job.

    Raises:
        PlanError: if no job of ours wrote to it.
    """
    folder = open_folder(whole_path(output))
    if folder.read(plan_name(0)) is None and folder.read(LOCK) is not None:
        raise PlanError(f"{folder.place}: a job is starting there and has told nothing yet; type this again in a while")
    if folder.read(plan_name(0)) is None:
        raise PlanError(
            f"{folder.place} is no output of icefloe: no {plan_name(0)} is in it; name the folder that icefloe score "
            "writes to, once its progress says that it loads the model"
        )
    return folder


def look(folder: OutputFolder) -> RunStatus:
    """Return how far the last run of a job is.

    Raises:
        PlanError: if no run has told.
    """
    status = read_status(folder)
    is_done = folder.read(SUCCESS) is not None
    if status is None:
        told = "it is done" if is_done else "rerun its command, which resumes"
        raise PlanError(f"{folder.place}: no run has told how far it is, an earlier icefloe wrote this output; {told}")
    return replace(status, state=DONE, error="") if is_done and status.state != DONE else status


def follow(folder: OutputFolder, view: ProgressView) -> RunStatus:
    """Show how far a job is until it is over; return how it has ended.

    Raises:
        PlanError: if no run has told.
        JobFailedError: if the run gives no sign of life any more.
    """
    status, heard, told = look(folder), time.monotonic(), ""
    try:
        while not status.is_over:
            view.show(status)
            if status.notice and status.notice != told:
                told = status.notice
                view.notice(told)
            began = time.monotonic()
            is_gone = is_dead(status.machine, status.pid, status.process_start)
            found = look(folder)  # after that, for the last that a process does is to tell of its end
            if found.updated != status.updated or found.is_over:
                status, heard = found, time.monotonic()
            else:
                _check_life(status, is_gone, time.monotonic() - heard, folder.place)
            pause = PAUSE_PER_SECOND_OF_READING * (time.monotonic() - began)
            time.sleep(0.0 if status.is_over else min(MAX_LOOK_SECONDS, max(LOOK_SECONDS, pause)))
    except KeyboardInterrupt as error:
        raise JobInterrupted(f"{folder.place}: followed no longer; the job goes on") from error
    finally:
        view.close(status)
    return status


def check_end(status: RunStatus, place: str) -> None:
    """Take the end of a job for this one's.

    Raises:
        JobFailedError: if the job failed or was interrupted.
    """
    if status.state == INTERRUPTED:
        raise JobInterrupted(f"{place}: {status.error or 'interrupted; the same command resumes'}")
    if status.is_over and status.state != DONE:
        raise JobFailedError(f"{place}: the job failed: {status.error}")


def check_life(status: RunStatus, place: str) -> None:
    """Find out whether a run that was looked at once is still there, as far as this machine can tell.

    Raises:
        JobFailedError: if it is not.
    """
    if not status.is_over:
        _check_life(status, is_dead(status.machine, status.pid, status.process_start), 0.0, place)


def _check_life(status: RunStatus, is_gone: bool, silence: float, place: str) -> None:
    if is_gone:
        raise JobFailedError(
            f"{place}: its process {status.pid} is gone and has not said how it ended (killed, it seems); the same "
            "command resumes"
        )
    if silence >= SILENCE_SECONDS:
        raise JobFailedError(
            f"{place}: no sign of life for {silence:.0f} s; process {status.pid} on {status.host} ran it. If that is "
            "gone, the same command resumes"
        )
