"""The processes of one setting: started, told what to do, all at once or one of them, and ended.

Every wait has an end. A process that dies, fails or says nothing ends the whole crew by an error that says why. Start
at `Crew`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

import engine
from engine.errors import EngineError, WorkerLostError
from engine.run.tuning.bench import Bench

P = ParamSpec("P")
R = TypeVar("R")

LAST_WORDS_BYTES = 4096
END_SECONDS = 10.0
ROOT = Path(engine.__file__).resolve().parent.parent


class OutOfTimeError(WorkerLostError):
    """A process did not answer by the deadline."""


class Crew:
    """Some processes, each with a bench of its own."""

    def __init__(self, environments: Sequence[dict[str, str]]) -> None:
        """Start a process for each of these, which are variables beside our own."""
        self._members: list[_Member] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._members.extend(_Member(each) for each in environments)
            undo.pop_all()

    def close(self) -> None:
        """End all processes at once."""
        for member in self._members:
            member.kill()
        for member in self._members:
            member.bury()
        self._members = []

    def all(self, deadline: float, call: Callable[Concatenate[Bench, P], R], *args: P.args, **_: P.kwargs) -> list[R]:
        """Tell all of them the same, and return their answers in order.

        Args:
            deadline: until when to wait, by `time.monotonic`.
            call: a method of `Bench`.
            *args: its arguments.

        Raises:
            EngineError: what one of them answered; WorkerLostError where one died; OutOfTimeError.
        """
        return self._ask(self._members, deadline, call, [args for _ in self._members])

    def each(self, deadline: float, call: Callable[..., R], arguments: Sequence[tuple[Any, ...]]) -> list[R]:
        """Tell each of them the same with arguments of its own; see `all`."""
        return self._ask(self._members, deadline, call, arguments)

    def first(self, deadline: float, call: Callable[Concatenate[Bench, P], R], *args: P.args, **_: P.kwargs) -> R:
        """Tell the first one alone, while the others rest; see `all`."""
        return self._ask(self._members[:1], deadline, call, [args])[0]

    def _ask(
        self, members: "Sequence[_Member]", deadline: float, call: Callable[..., R], arguments: Sequence[Any]
    ) -> list[R]:
        for member, given in zip(members, arguments, strict=True):
            member.tell((call, given))
        answers: dict[int, R] = {}
        while len(answers) < len(members):
            waiting = [(i, each) for i, each in enumerate(members) if i not in answers]
            ready = wait([each.connection for _, each in waiting], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise OutOfTimeError("it was not done within the time that was left")
            for i, member in waiting:
                if member.connection not in ready:
                    continue
                answer = member.hear()
                if isinstance(answer, EngineError):
                    raise answer
                answers[i] = answer
        return [answers[i] for i in range(len(members))]


class _Member:
    """One process, and our end of the socket to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        """Start it; what it says on its streams is kept for when it dies."""
        self.connection, theirs = Pipe()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `bury`)
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "engine.run.tuning.child", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        theirs.close()

    def tell(self, message: object) -> None:
        """Send a message.

        Raises:
            WorkerLostError: if it is dead.
        """
        try:
            self.connection.send(message)
        except OSError as error:
            raise WorkerLostError(self._last_words()) from error

    def hear(self) -> Any:
        """Return its answer, which is there.

        Raises:
            WorkerLostError: if it died instead.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerLostError(self._last_words()) from error

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def bury(self) -> None:
        """Wait until it has ended, and close what was open."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.connection.close()
        self._log.close()

    def _last_words(self) -> str:
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "a process hung up on us"
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        said = f", and had said: {lines[-1]}" if lines else ""
        if code == -signal.SIGKILL:
            return f"a process was killed (SIGKILL), as the kernel does when no memory is left{said}"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"a process {how}{said}"


def cause(error: EngineError) -> str:
    """Return the first line of what an error says: a traceback may follow."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
