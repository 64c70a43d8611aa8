import os
import signal
import subprocess
import sys
import threading

import pytest

from engine.errors import JobInterrupted
from engine.run.interrupt import deferred_interrupts, handlers_kept, interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_raises_where_the_main_thread_is(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(JobInterrupted, match=f"interrupted by {number.name}"), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_deferred_signal_waits_to_be_asked_for() -> None:
    with interruptible(), deferred_interrupts() as check:
        check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(JobInterrupted, match="SIGTERM"):
            check()


def test_a_second_signal_ends_the_process_at_once_also_after_a_deferred_first() -> None:
    script = """
import os, signal, sys
from engine.errors import JobInterrupted
from engine.run.interrupt import deferred_interrupts, interruptible
with interruptible():
    try:
        with deferred_interrupts() as check:
            os.kill(os.getpid(), signal.SIGINT)
            check()
    except JobInterrupted:
        os.kill(os.getpid(), signal.SIGINT)  # while what was started is being stopped
        sys.exit("still there")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_have_no_handlers_to_set() -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with interruptible(), deferred_interrupts() as check, handlers_kept():
                check()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures
