import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import Fault, FaultyProxy, ObjectStore

from engine.data.storage import connecting, local_folder, locking
from engine.data.storage.folder import OutputFolder
from engine.data.storage.locking import LOCK, lock_output
from engine.data.storage.opening import open_folder
from engine.data.storage.processes import machine
from engine.errors import JobFailedError, PlanError

pytestmark = pytest.mark.store

HOLDER = """
import sys, time
from engine.data.storage.locking import lock_output
from engine.data.storage.opening import open_folder

with lock_output(open_folder(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(uri: str) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, uri], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def kill(holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()


def test_a_second_process_is_refused_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    holder = hold(output)
    try:
        with (
            pytest.raises(
                PlanError,
                match=rf"--output {output}: another job is writing to it "
                rf"\(process {holder.pid} on {socket.gethostname()}, since 20\d\d-.*\); wait until it ends",
            ),
            lock_output(open_folder(output), print),
        ):
            pass
        assert (tmp_path / "out" / LOCK).exists()
    finally:
        kill(holder)
    with lock_output(open_folder(output), print) as check:
        check()
        assert json.loads((tmp_path / "out" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "out" / LOCK).exists()


def test_folders_made_for_the_lock_go_where_nothing_was_written(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "out"
    with lock_output(open_folder(str(output)), print):
        assert (output / LOCK).exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with pytest.raises(PlanError, match="mistake"), lock_output(open_folder(str(output)), print):
        raise PlanError("mistake")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
    with lock_output(open_folder(str(output)), print):
        (output / "part").write_bytes(b"x")
    assert sorted(path.name for path in output.iterdir()) == ["part"]


def test_a_file_system_without_locks_has_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locking.fcntl, "flock", refuse)
    with lock_output(open_folder(str(tmp_path)), print) as check:
        check()
        assert json.loads((tmp_path / LOCK).read_text())["renewals"] == 0
    assert list(tmp_path.iterdir()) == []


def test_one_after_the_other_never_two_at_once(tmp_path: Path) -> None:
    held, most, wins = [0], [0], [0]

    def work() -> None:
        for _ in range(50):
            try:
                with lock_output(local_folder.LocalFolder(str(tmp_path)), print):
                    held[0] += 1
                    most[0] = max(most[0], held[0])
                    wins[0] += 1
                    held[0] -= 1
            except PlanError:
                pass

    (tmp_path / "_icefloe").mkdir()
    (tmp_path / "_icefloe" / "plan.json").touch()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert wins[0] > 0


@pytest.fixture
def folder(store: ObjectStore, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OutputFolder]:
    """An output in the store, with leases that are renewed five times a second."""
    monkeypatch.setattr(locking, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(locking, "WATCH_SECONDS", 1.5)
    monkeypatch.setattr(locking, "POLL_SECONDS", 0.1)
    yield open_folder(store.uri(path=f"{prefix}/out"))
    connecting.forget_clients()


def lease(**facts: Any) -> bytes:
    there = {"host": "elsewhere", "pid": 77, "since": "today", "machine": "another", "started": "1", "id": "x"}
    return json.dumps({**there, "renewals": 3, **facts}).encode()


def told(folder: OutputFolder) -> list[str]:
    notices: list[str] = []
    with lock_output(folder, notices.append) as check:
        check()
        assert json.loads(folder.read(LOCK) or b"")["pid"] == os.getpid()
    assert folder.read(LOCK) is None
    return notices


def test_a_lease_is_renewed_and_refuses_another_job(folder: OutputFolder) -> None:
    notices: list[str] = []
    with lock_output(folder, notices.append) as check:
        with (
            pytest.raises(PlanError, match=rf"another job is writing to it \(process {os.getpid()} on .*; wait until"),
            lock_output(folder, notices.append),
        ):
            pass
        check()
        assert json.loads(folder.read(LOCK) or b"")["renewals"] >= 1
    assert folder.read(LOCK) is None
    assert len(notices) == 1
    assert f"{folder.place} is held by a job (process {os.getpid()} on " in notices[0]


def test_a_lease_that_is_not_renewed_is_taken_over(folder: OutputFolder) -> None:
    folder.write(LOCK, lease())
    started = time.monotonic()
    (notice,) = told(folder)
    assert time.monotonic() - started > locking.WATCH_SECONDS
    assert "process 77 on elsewhere, since today); watching for up to 2 s whether it still runs" in notice


def test_a_lease_that_is_given_back_while_it_is_watched(folder: OutputFolder) -> None:
    folder.write(LOCK, lease())
    timer = threading.Timer(0.3, folder.remove, [LOCK])
    timer.start()
    started = time.monotonic()
    assert len(told(folder)) == 1
    timer.join()
    assert time.monotonic() - started < locking.WATCH_SECONDS


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"pid": 1}', b"\xff\xfe"])
def test_a_damaged_lease_is_watched_too(folder: OutputFolder, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "WATCH_SECONDS", 0.2)
    folder.write(LOCK, data)
    assert len(told(folder)) == 1


def test_the_lease_of_a_dead_job_of_this_machine_is_taken_at_once(folder: OutputFolder) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    for facts in ({"pid": child.pid}, {"pid": os.getpid(), "started": "1"}):  # gone; its id is another process's now
        folder.write(LOCK, lease(**{"machine": machine(), "started": "12345", **facts}))
        assert told(folder) == []


def test_a_lease_of_this_machine_that_says_not_when_it_began(folder: OutputFolder) -> None:
    folder.write(LOCK, json.dumps({"pid": os.getpid(), "machine": machine()}).encode())
    assert told(folder) == []


@pytest.mark.parametrize("data", [lease(), None], ids=["taken over", "gone"])
def test_a_job_that_was_taken_over_ends(folder: OutputFolder, data: bytes | None) -> None:
    with lock_output(folder, print) as check:
        if data is None:
            folder.remove(LOCK)
        else:
            folder.write(LOCK, data)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                check()
            except JobFailedError:
                break
            time.sleep(0.05)
        with pytest.raises(JobFailedError, match="was taken over by another job .* while this one ran"):
            check()
    assert folder.read(LOCK) == data  # it is no longer ours to remove


def test_a_lease_outlives_a_hiccup(proxy: FaultyProxy, folder: OutputFolder, prefix: str, quick: None) -> None:
    behind = open_folder(proxy.uri(path=f"{prefix}/out"))
    with lock_output(behind, print) as check:
        proxy.set_faults(Fault("slow_down", path="lock", times=9))
        deadline = time.monotonic() + 10
        while json.loads(folder.read(LOCK) or b"")["renewals"] < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        check()
        assert json.loads(folder.read(LOCK) or b"")["renewals"] >= 2


def test_a_killed_job_of_this_machine_is_followed_at_once(
    folder: OutputFolder, store: ObjectStore, prefix: str
) -> None:
    holder = hold(store.uri(path=f"{prefix}/out"))
    kill(holder)
    assert told(folder) == []
