"""What the libraries' loggers write to stderr (`--log-level`). Start at `start_logging`."""

import contextlib
import logging
import sys
from typing import Annotated

from cyclopts import Parameter

from engine.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error")
LOGGERS = ("engine", "ray")
LogLevel = Annotated[
    str | None,
    Parameter(
        help=f"Write what is logged from this level on to stderr: {', '.join(LEVELS)}. [default: warning]",
        metavar="LEVEL",
        show_default=False,
    ),
]


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at that time: while a bar moves, it is rich's, which writes above it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        with contextlib.suppress(OSError):  # a disk that is full ends no job
            sys.stderr.write(self.format(record) + "\n")


def start_logging(level: object) -> None:
    """Let the loggers `engine` and `ray`, and all below them, write to stderr from `level` on.

    Args:
        level: one of `LEVELS`; None is warning for `engine`, and leaves Ray's as Ray has it.

    Raises:
        ConfigError: for any other.
    """
    if level is not None and level not in LEVELS:
        raise ConfigError(f"--log-level: expected one of {', '.join(LEVELS)}, found {level!r}")
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in LOGGERS if level else LOGGERS[:1]:
        logger = logging.getLogger(name)
        logger.handlers[:] = [each for each in logger.handlers if not isinstance(each, _StderrHandler)] + [handler]
        logger.setLevel(str(level or "warning").upper())
        logger.propagate = False
