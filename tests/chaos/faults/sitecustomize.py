"""Stops a process of a job at a scripted point, for tests that kill jobs there.

Python imports this file by its name at every start where `PYTHONPATH` leads here, so the driver and Ray's actors, which
inherit the environment, all have it. Without `ICEFLOE_FAULT` it does nothing. It wraps one function of the engine once
that is imported and imports nothing of the engine, Ray or pyarrow itself, so that jobs start as they always do. When
the code moves, `POINTS` is all that changes.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
Change = tuple[str, Wrap]

PAUSE_SECONDS = 240.0


@dataclass(frozen=True)
class Point:
    """Where a process stops: before or after a call to a function of the engine."""

    module: str
    function: str
    """Function, or Class.method, of that module."""
    after: bool = False
    counts: Callable[..., bool] = lambda *args: True
    """Whether a call with these arguments is one of those that are counted."""
    outlives: bool = False
    """Whether what has stopped goes on in a process that Ray does not end."""


POINTS = {
    # In the driver.
    "before the plan": Point("engine.data.ledger", "Ledger.start"),
    "after the plan": Point("engine.data.ledger", "Ledger.write_inputs"),
    "before the schema": Point("engine.data.ledger", "Ledger.write_schema"),
    "before the manifest": Point("engine.data.ledger", "Ledger.record"),
    "before _SUCCESS": Point("engine.data.ledger", "Ledger.succeed"),
    # In an actor. `_confirm_plan` asks whose the output is: a part is complete then, and gets its name next.
    "in a read": Point("engine.data.source", "read_slices"),
    "quarantine published": Point(
        "engine.data.quarantine", "Quarantine.publish", after=True, counts=lambda bad, *_: bad.num_rows > 0
    ),
    "part unpublished": Point("engine.run.shard", "Scorer._confirm_plan", counts=lambda _: _is_of_a_part()),
    "part published": Point("engine.run.shard", "Scorer.score", after=True),
    # In an actor that outlives its driver: about to ask, or with the answer and about to publish.
    "late": Point("engine.run.shard", "Scorer._confirm_plan", counts=lambda _: _is_of_a_part(), outlives=True),
    "too late to ask": Point(
        "engine.run.shard", "Scorer._confirm_plan", after=True, counts=lambda _: _is_of_a_part(), outlives=True
    ),
    "too late to ask for bad rows": Point(
        "engine.run.shard", "Scorer._confirm_plan", after=True, counts=lambda _: not _is_of_a_part(), outlives=True
    ),
}
# What an actor that outlives its driver tells the end of, and ends with.
LAST = ("engine.run.shard", "Scorer.score")


def _is_of_a_part() -> bool:
    """Whether this thread is publishing a part and no quarantine, which is published by the same code."""
    frame: FrameType | None = sys._getframe()
    while frame:
        if frame.f_code.co_name == "publish" and type(frame.f_locals.get("self")).__name__ == "Quarantine":
            return False
        frame = frame.f_back
    return True


def _is_copy() -> bool:
    """Copy this process, and return whether this is the copy.

    On one machine Ray ends its actors, however they are held up, within seconds of their driver's end. One that its
    cluster has lost sight of lives on; what it holds and does is what the copy holds and does, without the threads by
    which Ray would end it. The copy is a child's child, for Ray kills an actor's own.
    """
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


class Fault:
    """One point, to be reached `nth` times by a process; the test's folder hears of it."""

    def __init__(self, point: str, nth: int, markers: str) -> None:
        """Read what the test asks for."""
        self._point, self._nth, self._markers = POINTS[point], nth, Path(markers)
        self._reached = 0
        self._lock = threading.Lock()
        self._late = False

    def modules(self) -> dict[str, list[Change]]:
        """Return the functions to wrap of each module, and by what."""
        point = self._point
        todo: dict[str, list[Change]] = {}
        todo.setdefault(point.module, []).append((point.function, self._stopping))
        if point.outlives:
            todo.setdefault(LAST[0], []).append((LAST[1], self._telling))
        return todo

    def _stopping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            if not self._point.after:
                self._reach(args)
            result = function(*args, **named)
            if self._point.after:
                self._reach(args)
            return result

        return wrapped

    def _reach(self, args: tuple[Any, ...]) -> None:
        if not self._point.counts(*args):
            return
        with self._lock:
            self._reached += 1
            is_here = self._reached == self._nth
        if not is_here:
            return
        if not self._point.outlives:
            self._pause()
            return
        if _is_copy():
            self._late = True
            self._pause()
            return
        while True:  # the actor itself does nothing more: its copy does
            time.sleep(3600)

    def _pause(self) -> None:
        """Say that the point is reached, and wait to be let go on: mostly to be killed instead."""
        self._tell(f"reached-{os.getpid()}", {"pid": os.getpid()})
        deadline = time.monotonic() + PAUSE_SECONDS
        while not (self._markers / "release").exists():
            if time.monotonic() > deadline:
                os._exit(1)
            time.sleep(0.02)

    def _telling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            told: dict[str, Any] = {}
            try:
                result = function(*args, **named)
                told = {"published": True}
            except Exception as error:
                if not self._late:
                    raise
                told = {"published": False, "error": type(error).__name__, "message": str(error)}
            if self._late:  # no Ray is left to return to
                self._tell(f"outcome-{os.getpid()}", told)
                os._exit(0)
            return result

        return wrapped

    def _tell(self, name: str, document: dict[str, Any]) -> None:
        """Write a file that is there as a whole or not at all."""
        temporary = self._markers / f".{name}-{os.getpid()}"
        temporary.write_text(json.dumps(document))
        temporary.replace(self._markers / name)


def _change(module: ModuleType, changes: list[Change]) -> None:
    """Put wrapped functions in the place of some; whoever imports them later gets the wrapped ones."""
    for function, wrap in changes:
        *owners, name = function.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        setattr(owner, name, wrap(getattr(owner, name)))


class _Finder(importlib.abc.MetaPathFinder):
    """Lets the usual finders find a module, and changes it once it is imported."""

    def __init__(self, todo: dict[str, list[Change]]) -> None:
        self._todo = todo

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Find one of the modules; others are none of ours."""
        changes = self._todo.pop(fullname, None)
        spec = importlib.util.find_spec(fullname) if changes else None
        if not changes or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _change(module, changes)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "ICEFLOE_FAULT" in os.environ:
    sys.meta_path.insert(0, _Finder(Fault(**json.loads(os.environ["ICEFLOE_FAULT"])).modules()))
