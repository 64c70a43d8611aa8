import pytest

from engine.run.summary import PHASES, add_phases, find_bottleneck


def phases(read: float = 0, bind: float = 0, session: float = 0, write: float = 0) -> dict[str, float]:
    return {"read": read, "bind": bind, "session": session, "write": write}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (phases(6, 1, 2, 1), "reading: 60% of the shards' time; more CPUs per actor (--cpus-per-actor) would help"),
        (phases(1, 7, 1, 1), "converting columns: 70% of the shards' time; columns of the tensor's own dtype"),
        (phases(0.1, 0, 0.9, 0), "the graph: 90% of the shards' time; more actors or GPUs would help"),
        (phases(1, 1, 1, 2), "writing: 40% of the shards' time; fewer kept columns (--keep) would help"),
        (phases(1, 1, 1, 1), "reading: 25%"),  # the first of equals
        (phases(session=1e-9), "the graph: 100%"),
        (phases(), "nothing was scored"),
        ({}, "nothing was scored"),
    ],
)
def test_the_bottleneck_is_named_with_what_would_help(seconds: dict[str, float], expected: str) -> None:
    assert find_bottleneck(seconds).startswith(expected)


def test_phases_are_added_up_and_the_total_left_out() -> None:
    shards = [{**phases(1, 2, 3, 4), "total": 10.0}, {**phases(0.5, 0.5, 0.5, 0.5), "total": 9.0}]
    assert add_phases(shards) == phases(1.5, 2.5, 3.5, 4.5)


def test_no_shards_have_no_phases() -> None:
    assert add_phases([]) == phases() == dict.fromkeys(PHASES, 0)
    assert find_bottleneck(add_phases([])) == "nothing was scored"
