import inspect
import pickle

import pytest

from engine import errors
from engine.errors import (
    ClusterError,
    ConfigError,
    DataError,
    EngineError,
    GraphError,
    JobFailedError,
    JobInterrupted,
    Mistake,
    PlanError,
    SchemaError,
    StorageError,
    WorkerLostError,
)

ALL = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, EngineError)]


def drawn_tree() -> dict[str, str]:
    """Class and base, as the module's docstring draws them."""
    lines = [line.rstrip() for line in str(errors.__doc__).splitlines()]
    first = next(i for i, line in enumerate(lines) if line.strip() == "EngineError")
    parents, tree = {0: "EngineError"}, {}
    for line in lines[first + 1 :]:
        if not line:
            break
        mark = max(line.find("|- "), line.find("`- "))
        assert mark > 0, f"no branch: {line}"
        depth = (mark - (len(lines[first]) - len(lines[first].lstrip()))) // 3 + 1
        name = line[mark + 3 :].split()[0]
        tree[name] = parents[depth - 1]
        parents[depth] = name
    return tree


def test_the_drawn_tree_is_the_tree_of_classes() -> None:
    classes = {item.__name__: item.__bases__[0].__name__ for item in ALL if item is not EngineError}
    assert drawn_tree() == classes


@pytest.mark.parametrize("kind", ALL)
def test_pickling_keeps_class_message_and_attributes(kind: type[EngineError]) -> None:
    error = kind("shard 3: what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "shard 3: what happened"
    assert vars(copy) == vars(error)
    assert (copy.exit_code, copy.retryable) == (error.exit_code, error.retryable)


@pytest.mark.parametrize("kind", ALL)
def test_every_class_can_be_made_without_arguments_and_says_what_it_is(kind: type[EngineError]) -> None:
    kind()
    assert kind.__doc__
    assert kind.__doc__ != Exception.__doc__


def test_data_error_keeps_its_reason_and_shows_the_message_alone() -> None:
    copy = pickle.loads(pickle.dumps(DataError("no JPEG", "InvalidArgument")))
    assert (copy.message, copy.reason, str(copy)) == ("no JPEG", "InvalidArgument", "no JPEG")


@pytest.mark.parametrize(
    ("kind", "exit_code", "retryable"),
    [
        (EngineError, 1, False),
        (Mistake, 2, False),
        (ConfigError, 2, False),
        (GraphError, 2, False),
        (SchemaError, 2, False),
        (PlanError, 2, False),
        (ClusterError, 2, False),
        (DataError, 1, False),
        (StorageError, 1, True),
        (WorkerLostError, 1, True),
        (JobFailedError, 1, False),
        (JobInterrupted, 130, False),
    ],
)
def test_exit_code_and_retryable(kind: type[EngineError], exit_code: int, retryable: bool) -> None:
    assert (kind.exit_code, kind.retryable) == (exit_code, retryable)


def test_every_class_has_its_codes_tested() -> None:
    names = {item.__name__ for item in ALL}
    assert names == {*drawn_tree(), "EngineError"}
    assert len(names) == 13
