"""Asks a store again when it does not answer as it should. Start at `persistent`.

The AWS client of pyarrow 26 tries again by itself, but not for reads shorter than an error page (some 240 bytes), and
only a hundred times in its life: so what fails for now is asked again here, by a client that is made anew.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import tenacity

from engine.data.storage.connecting import forget_clients
from engine.errors import StorageError

P = ParamSpec("P")
T = TypeVar("T")
ATTEMPTS, FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 4, 0.5, 8.0
# A store that hangs costs minutes an attempt: the client waits five times for its answer.
LAST_START_SECONDS = 60.0


def persistent(call: Callable[P, T]) -> Callable[P, T]:
    """Let `call` be made up to 4 times while it raises StorageError, with growing waits; refusals are final at once."""

    @functools.wraps(call)
    def again(*args: P.args, **kwargs: P.kwargs) -> T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(StorageError),
            stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(LAST_START_SECONDS),
            wait=tenacity.wait_exponential_jitter(multiplier=FIRST_WAIT_SECONDS, max=MAX_WAIT_SECONDS),
            before_sleep=_forget,
            reraise=True,
        )
        return retrying(call, *args, **kwargs)

    return again


def _forget(_: Any) -> None:
    forget_clients()
