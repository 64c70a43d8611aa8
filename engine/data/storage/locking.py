"""One job at a time on an output folder: a file lock where there is one, elsewhere a lease that is renewed.

Keeps two jobs from scoring the same rows; that no row is written twice or by the wrong job does not rest on it, but on
how parts are published. Start at `lock_output`.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.data.arrow_errors import is_refusal
from engine.data.storage.folder import JOB_FOLDER, OutputFolder
from engine.data.storage.local_folder import LocalFolder
from engine.data.storage.processes import is_dead, machine, start_time
from engine.errors import EngineError, JobFailedError, PlanError, StorageError, system_text

LOCK = f"{JOB_FOLDER}/lock"
RENEW_SECONDS, WATCH_SECONDS, POLL_SECONDS = 20.0, 60.0, 2.0
# File systems that know no locks.
UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def lock_output(folder: OutputFolder, on_notice: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the output folder, which is made if need be, and give a check that it is still held.

    The check raises JobFailedError where another job has taken over. A folder in which nothing was written goes again.

    Args:
        folder: the output folder.
        on_notice: told what is waited for.

    Raises:
        PlanError: if another job holds it, or the folder cannot be made.
    """
    made = _missing_folders(folder)
    folder.make()
    try:
        with contextlib.ExitStack() as held:
            if isinstance(folder, LocalFolder) and held.enter_context(_file_lock(folder)):
                yield _cannot_be_lost
            else:
                yield held.enter_context(_lease(folder, on_notice))
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _cannot_be_lost() -> None:
    """Check nothing: the system takes no lock away from a process that lives."""


def _missing_folders(folder: OutputFolder) -> list[Path]:
    """Return the folders that have to be made for a local output, the innermost first."""
    if not isinstance(folder, LocalFolder):
        return []
    inner = folder.root / JOB_FOLDER
    return [path for path in (inner, *inner.parents) if not path.exists()]


@contextlib.contextmanager
def _file_lock(folder: LocalFolder) -> Iterator[bool]:
    """Hold a lock that the system gives back whatever becomes of this process; gives False where there are none.

    Raises:
        PlanError: if another job holds it, or the folder may not be written to.
        StorageError: if it cannot be written to for now; a disk that is full, too.
    """
    path = folder.root / LOCK
    try:
        descriptor = _take(folder, path)
    except OSError as error:
        text = f"{folder.place}: cannot be written to ({system_text(error)})"
        raise (PlanError(f"--output {text}") if is_refusal(error) else StorageError(text)) from error
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _take(folder: LocalFolder, path: Path) -> int | None:
    """Return the open file that is locked, and says who has locked it; None where files cannot be."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PlanError(_refusal(folder, _parse(os.pread(descriptor, 4096, 0)))) from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                path.unlink(missing_ok=True)
                return None
            if not _is_same(descriptor, path):
                continue  # its holder has just ended and taken the file away
            undo.callback(path.unlink, missing_ok=True)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_self()).encode(), 0)
            undo.pop_all()
            return descriptor


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _lease(folder: OutputFolder, on_notice: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold a lease: a small file that says who, and changes every 20 s."""
    _wait_for(folder, on_notice)
    mine = {**_self(), "id": uuid.uuid4().hex, "renewals": 0}
    try:
        folder.write(LOCK, json.dumps(mine).encode())
    except JobFailedError as error:  # no row was scored yet
        raise PlanError(f"--output {error}") from error
    lost: list[str] = []
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            with contextlib.suppress(EngineError):  # a store that does not answer now may do so the next time
                found = _parse(folder.read(LOCK))
                if found.get("id") != mine["id"]:
                    lost.append(_holder(found))
                    return
                mine["renewals"] = int(str(mine["renewals"])) + 1
                folder.write(LOCK, json.dumps(mine).encode())

    def check() -> None:
        if lost:
            raise JobFailedError(f"{folder.place} was taken over by another job ({lost[0]}) while this one ran")

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join(RENEW_SECONDS)
        with contextlib.suppress(EngineError):
            if _parse(folder.read(LOCK)).get("id") == mine["id"]:
                folder.remove(LOCK)


def _wait_for(folder: OutputFolder, on_notice: Callable[[str], None]) -> None:
    """Watch a lease that is there: one that is renewed is held, one that is not was left behind by a dead job.

    Raises:
        PlanError: if it is renewed.
    """
    first = folder.read(LOCK)
    holder = _parse(first)
    if first is None or is_dead(holder.get("machine"), holder.get("pid"), holder.get("started")):
        return
    on_notice(
        f"{folder.place} is held by a job ({_holder(holder)}); "
        f"watching for up to {WATCH_SECONDS:.0f} s whether it still runs"
    )
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        found = folder.read(LOCK)
        if found is None:
            return
        if found != first:
            raise PlanError(_refusal(folder, _parse(found)))


def _refusal(folder: OutputFolder, holder: dict[str, Any]) -> str:
    return (
        f"--output {folder.place}: another job is writing to it ({_holder(holder)}); "
        "wait until it ends, or name another folder"
    )


def _self() -> dict[str, Any]:
    """Say who this process is, so that a person finds it, and a job on the same machine can tell whether it lives."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "machine": machine(),
        "started": start_time(os.getpid()),
    }


def _parse(data: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _holder(found: dict[str, Any]) -> str:
    if "pid" not in found:
        return "which does not say where"
    return f"process {found['pid']} on {found.get('host')}, since {found.get('since')}"
