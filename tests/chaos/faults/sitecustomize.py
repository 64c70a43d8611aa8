"""Stops a process of a job at a scripted point, or has actors meet with what a script says, for tests of both.

Python imports this file by its name at every start where `PYTHONPATH` leads here, so the driver and Ray's actors, which
inherit the environment, all have it. Without `ICEFLOE_FAULT` and `ICEFLOE_SCRIPT` it does nothing. It wraps functions
of the engine once these are imported and imports nothing of the engine, Ray or pyarrow itself, so that jobs start as
they always do. When the code moves, `POINTS` and `Script.modules` are all that changes.
"""

import contextlib
import ctypes
import dataclasses
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import itertools
import json
import os
import resource
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
ROOM_BYTES = 128 * 2**20
HELD: list[bytearray] = []


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


class Script:
    """What befalls the actors of a cluster: a JSON file says it, which the test may write anew while they run.

    `shards` has for a shard a list of outcomes, one for each attempt at it, whoever makes it, and nothing befalls those
    after; or one outcome for all of them. An outcome is an action and a phase, as in "hang in read". `load` has actions
    likewise, for the loads of all actors. `pace` is how long each batch of a shard takes at least, in seconds. `blind`
    ("input" or "output") is what the node does not see, and `versions` are those that it pretends to have.
    """

    def __init__(self, path: str) -> None:
        """Take the file; the folder `marks` beside it counts attempts and loads."""
        self._path = Path(path)
        self._marks = self._path.parent / "marks"
        self._here = threading.local()

    def modules(self) -> dict[str, list[Change]]:
        """Return the functions to wrap of each module, and by what."""
        return {
            "engine.run.actor": [("check_node", self._load), ("installed_versions", self._pretend)],
            "engine.run.shard": [("Scorer.score", self._score)],
            "engine.data.source": [("read_slices", functools.partial(self._befall, "read"))],
            "engine.run.batches": [("score_batch", functools.partial(self._befall, "session"))],
            "engine.data.sink": [("PartWriter.write", functools.partial(self._befall, "write"))],
        }

    def _read(self) -> dict[str, Any]:
        return json.loads(self._path.read_bytes())

    def _next(self, mark: str, outcomes: list[str] | str) -> str:
        """Count one more of what `mark` says, over all processes, and return its outcome."""
        for nth in itertools.count(1):
            try:
                descriptor = os.open(self._marks / f"{mark}-{nth}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(descriptor, str(os.getpid()).encode())
            os.close(descriptor)
            break
        return outcomes if isinstance(outcomes, str) else next(iter(outcomes[nth - 1 :]), "")

    def _load(self, check_node: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(check_node)
        def wrapped(spec: Any) -> Any:
            script = self._read()
            _act(self._next("load", script.get("load", "")))
            if script.get("blind") == "output":
                spec = dataclasses.replace(spec, output=f"{spec.output}-elsewhere")
            if script.get("blind") == "input":
                first = spec.samples[0]
                spec = dataclasses.replace(spec, samples=(dataclasses.replace(first, path=f"{first.path}-elsewhere"),))
            return check_node(spec)

        return wrapped

    def _pretend(self, installed_versions: Callable[[], dict[str, str]]) -> Callable[[], dict[str, str]]:
        @functools.wraps(installed_versions)
        def wrapped() -> dict[str, str]:
            return installed_versions() | self._read().get("versions", {})

        return wrapped

    def _score(self, score: Callable[..., Any]) -> Callable[..., Any]:
        """Note which outcome the attempt of this thread has; all of it runs in this thread."""

        @functools.wraps(score)
        def wrapped(scorer: Any, shard: Any, attempt: Any) -> Any:
            outcomes = self._read().get("shards", {}).get(str(shard.shard_id), "")
            self._here.outcome = self._next(f"shard-{shard.shard_id}", outcomes)
            try:
                return score(scorer, shard, attempt)
            finally:
                self._here.outcome = None

        return wrapped

    def _befall(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **named: Any) -> Any:
            outcome = getattr(self._here, "outcome", None)
            if outcome is None:  # not of a shard
                return function(*args, **named)
            action, _, where = outcome.rpartition(" in ")
            if where == phase:
                self._here.outcome = ""
                _act(action)
            started = time.monotonic()
            result = function(*args, **named)
            while phase == "session" and time.monotonic() - started < self._read().get("pace", 0):
                time.sleep(0.05)
            return result

        return wrapped


def _act(action: str) -> None:
    """Do what a script says; nothing for an empty action."""
    match action.split():
        case []:
            return
        case ["hang"]:
            time.sleep(3600)
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case ["exit"]:
            os._exit(1)
        case ["segfault"]:
            ctypes.string_at(0)
        case ["storage", "error"]:
            raise sys.modules["engine.errors"].StorageError("a store that was made to fail")
        case ["no", "memory"]:
            _limit_memory()
            held = []
            while True:
                held.append(bytearray(ROOM_BYTES // 8))
        case ["no", "memory", "from", "now", "on"]:
            _limit_memory()
            with contextlib.suppress(MemoryError):
                while True:
                    HELD.append(bytearray(2**20))
        case _:
            raise ValueError(f"no such action: {action!r}")


def _limit_memory() -> None:
    """Leave this process little room; what it takes of that without writing to it is not really used."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM_BYTES, resource.RLIM_INFINITY))


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
if "ICEFLOE_SCRIPT" in os.environ:
    sys.meta_path.insert(0, _Finder(Script(os.environ["ICEFLOE_SCRIPT"]).modules()))
