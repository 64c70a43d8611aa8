"""A process that does to its `Bench` what it is told, until nobody tells it any more.

`python -m engine.run.tuning.child DESCRIPTOR` with one end of a socket; functions and arguments come in, values or
errors go out. Start at `serve`.
"""

import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

from engine.errors import EngineError, JobFailedError
from engine.run.tuning.bench import Bench

WATCH_SECONDS = 0.5


def serve(connection: "Connection[Any, Any]") -> None:
    """Answer until the other end is closed; an error of ours is an answer, and so is one that nobody foresaw."""
    bench = Bench()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(bench, *arguments)
        except EngineError as error:
            answer = error
        except Exception as error:  # the boundary: another process is told
            trace = "".join(traceback.format_exception(error))
            answer = JobFailedError(f"{type(error).__name__}: {error}\n{trace}")
        connection.send(answer)


def _end_with(parent: int) -> None:
    """End this process at once when `parent` is gone, whatever it is at."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent, which gets it too, ends us
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    serve(Connection(int(sys.argv[1])))
