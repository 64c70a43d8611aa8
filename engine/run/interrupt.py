"""Turns SIGINT and SIGTERM into JobInterrupted. Start at `interruptible`.

Handlers live in the main thread alone; in any other thread these contexts do nothing.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import JobInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interruption(number: int) -> JobInterrupted:
    name = signal.Signals(number).name
    return JobInterrupted(f"interrupted by {name}; finished parts stay, the same command resumes")


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise JobInterrupted on the first signal, wherever the main thread is; a second one ends the process at once."""
    seen: list[int] = []

    def interrupt(number: int, _: object) -> None:
        if seen:
            os._exit(JobInterrupted.exit_code)
        seen.append(number)
        raise _interruption(number)

    with _handling(interrupt):
        yield


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Give a function that raises JobInterrupted if a signal came; a second signal ends the process at once.

    For loops around calls into Ray, whose C code turns an exception out of a signal handler into a SystemError.
    """
    seen: list[int] = []

    def remember(number: int, _: object) -> None:
        if seen:
            os._exit(JobInterrupted.exit_code)
        seen.append(number)

    def check() -> None:
        if seen:
            raise _interruption(seen[0])

    with _handling(remember):
        yield check


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers back that were there before: `ray.init` replaces them."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
