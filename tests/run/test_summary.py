import pytest

from engine.run.summary import PHASES, add_phases, find_bottleneck, share_out


def phases(read: float = 0, bind: float = 0, session: float = 0, write: float = 0, wait: float = 0) -> dict[str, float]:
    return {"read": read, "wait": wait, "bind": bind, "session": session, "write": write}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (phases(6, 1, 2, 1), "reading is the limit: 60% of actor time; try more CPUs per actor (--cpus-per-actor)"),
        (phases(1, 7, 1, 1), "converting columns is the limit: 70% of actor time; try columns of the tensor's own"),
        (phases(0.1, 0, 0.9, 0), "the graph is the limit: 90% of actor time; try more actors or GPUs, or icefloe tune"),
        (phases(1, 1, 1, 2), "writing is the limit: 40% of actor time; try fewer kept columns (--keep)"),
        (phases(1, 1, 1, 1, 6), "waiting for shards is the limit: 60% of actor time; try fewer actors (--actors)"),
        (phases(1, 1, 1, 1), "reading is the limit: 25%"),  # the first of equals
        (phases(session=1.0), "the graph is the limit: 100%"),
        (phases(session=0.99), "none that 0.99 s could tell"),
        (phases(), "nothing was scored"),
        ({}, "nothing was scored"),
    ],
)
def test_the_bottleneck_is_named_with_what_to_try(seconds: dict[str, float], expected: str) -> None:
    assert find_bottleneck(seconds).startswith(expected)


def test_phases_are_added_up_and_the_total_left_out() -> None:
    shards = [{**phases(1, 2, 3, 4, 5), "total": 10.0}, {**phases(0.5, 0.5, 0.5, 0.5), "total": 9.0}]
    assert add_phases(shards) == phases(1.5, 2.5, 3.5, 4.5, 5)


def test_what_is_left_of_an_actor_s_time_is_waiting_and_a_wait_for_a_turn_is_none() -> None:
    assert share_out(phases(1, 2, 3, 4, wait=7), ready_seconds=12) == phases(1, 2, 3, 4, wait=2)
    assert share_out(phases(6, 2, 30, 4), ready_seconds=12) == phases(6, 2, 30, 4)  # shards that overlap, on a GPU
    assert share_out({}, ready_seconds=3) == phases(wait=3)


def test_no_shards_have_no_phases() -> None:
    assert add_phases([]) == phases() == dict.fromkeys(PHASES, 0)
    assert find_bottleneck(add_phases([])) == "nothing was scored"
