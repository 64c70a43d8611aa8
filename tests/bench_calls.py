"""What tests tell the processes of a crew to do, instead of measuring; these import it by its name."""

import os
import signal
import sys
import time

from engine.errors import GraphError
from engine.run.tuning.bench import Bench


def echo(_: Bench, value: object) -> tuple[object, int]:
    return value, os.getpid()


def sleep(_: Bench, seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def die(_: Bench, number: int) -> None:
    os.kill(os.getpid(), number or signal.SIGKILL)
    time.sleep(10)


def leave(_: Bench, code: int) -> None:
    sys.stderr.write("no such thing\n")
    sys.stderr.flush()
    os._exit(code)


def refuse(_: Bench, text: str) -> None:
    raise GraphError(text)


def stumble(_: Bench) -> None:
    raise ZeroDivisionError("by nothing")


def variable(_: Bench, name: str) -> str | None:
    return os.environ.get(name)
