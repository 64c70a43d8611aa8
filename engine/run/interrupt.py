"""Turns SIGINT and SIGTERM into JobInterrupted. Start at `interruptible`."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import JobInterrupted


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise JobInterrupted on SIGINT and SIGTERM; enter it after ray.init, which replaces the handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise JobInterrupted(f"interrupted by {signal.Signals(number).name}; finished parts stay, rerun to resume")

    before: Mapping[signal.Signals, Any] = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
