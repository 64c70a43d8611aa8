"""Keeps what TensorFlow's native code logs while it starts off a person's screen. Start at `quiet_tensorflow`."""

import contextlib
import faulthandler
import os
import sys
import tempfile
from collections.abc import Iterator

from engine.errors import EngineError


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Send the process's stderr to a file that goes again; it is shown if something ends in an error not of ours.

    TF_CPP_MIN_LOG_LEVEL does not hold back what is logged before the logger is set up (TensorFlow 2.21). A crash of
    native code still shows where Python was.
    """
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as log, os.fdopen(before, "w") as screen:
        os.dup2(log.fileno(), 2)
        faulthandler.enable(screen)
        try:
            yield
        except (EngineError, KeyboardInterrupt):
            raise
        except BaseException:
            log.seek(0)
            screen.write(log.read().decode("utf-8", "replace"))
            raise
        finally:
            faulthandler.disable()
            sys.stderr.flush()
            screen.flush()
            os.dup2(before, 2)
