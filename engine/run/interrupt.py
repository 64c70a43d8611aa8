"""Turns SIGINT and SIGTERM into JobInterrupted. Start at `interruptible`.

Handlers live in the main thread alone; in any other thread these contexts do nothing.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from engine.errors import JobInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _interruption(number: int) -> JobInterrupted:
    name = signal.Signals(number).name
    return JobInterrupted(f"interrupted by {name}; finished parts stay, the same command resumes")


class _Handler:
    """Remembers the first signal, and raises it or leaves that to a check; a second one ends the process at once."""

    def __init__(self, seen: list[int], is_deferred: bool) -> None:
        self.seen = seen
        self._is_deferred = is_deferred

    def __call__(self, number: int, _: object) -> None:
        if self.seen:
            os._exit(JobInterrupted.exit_code)
        self.seen.append(number)
        if not self._is_deferred:
            raise _interruption(number)


@contextlib.contextmanager
def _handling(is_deferred: bool) -> Iterator[list[int]]:
    """Handle SIGNALS, and give what was seen; contexts inside one another share it."""
    outer = signal.getsignal(signal.SIGINT)
    seen = outer.seen if isinstance(outer, _Handler) else []
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    handler = _Handler(seen, is_deferred)
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield seen
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise JobInterrupted on the first signal, wherever the main thread is; a second one ends the process at once."""
    with _handling(is_deferred=False):
        yield


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Give a function that raises JobInterrupted if a signal came; a second signal ends the process at once.

    For loops around calls into Ray, whose C code turns an exception out of a signal handler into a SystemError.
    """
    with _handling(is_deferred=True) as seen:

        def check() -> None:
            if seen:
                raise _interruption(seen[0])

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
