import logging
from collections.abc import Iterator

import pytest

from jobs.logs import LOGGERS, start_logging


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Loggers are the process's; other tests find them as they were."""
    before = [(logging.getLogger(name), logging.getLogger(name).__dict__.copy()) for name in LOGGERS]
    handlers = [(logger, list(logger.handlers)) for logger, _ in before]
    yield
    for logger, state in before:
        logger.setLevel(state["level"])
        logger.propagate = state["propagate"]
    for logger, kept in handlers:
        logger.handlers[:] = kept


def written(capsys: pytest.CaptureFixture[str], name: str) -> list[str]:
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), level)("a %s", level)
    out, err = capsys.readouterr()
    assert out == ""
    return [line.partition(f" {name}: a ")[2] for line in err.splitlines()]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (None, ["warning", "error"]),
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_what_is_logged_from_a_level_on(
    level: str | None, expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(level)
    assert written(capsys, "engine.run.driver") == expected


def test_a_second_call_takes_the_place_of_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging("debug")
    start_logging("error")
    assert written(capsys, "engine.run.driver") == ["error"]


def test_ray_is_asked_only_where_a_level_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger("ray").handlers)
    start_logging(None)
    assert logging.getLogger("ray").handlers == before
    start_logging("info")
    assert written(capsys, "ray.words") == ["info", "warning", "error"]
