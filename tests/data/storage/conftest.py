"""One S3 store for all tests of storage, each of which writes below a prefix of its own."""

import itertools
from collections.abc import Iterator

import pytest
from object_store import FaultyProxy, ObjectStore

from engine.data.storage import connecting, retrying

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@pytest.fixture
def prefix() -> str:
    return f"case-{next(NUMBERS)}"


@pytest.fixture
def proxy(store: ObjectStore) -> Iterator[FaultyProxy]:
    with FaultyProxy(store) as proxy:
        yield proxy
    connecting.forget_clients()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client try once, and the room that asks again wait next to nothing."""
    monkeypatch.setattr(connecting, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(retrying, "MAX_WAIT_SECONDS", 0.01)
    connecting.forget_clients()
