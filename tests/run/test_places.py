import pytest

from engine.errors import ClusterError
from engine.run.places import PlaceWatch
from engine.run.pool import NodeSize, PoolSize

HAS = "the cluster has 2 nodes with 16 CPUs and 2 GPUs in all, room for 2 such actors, and free 14 CPU, 0 GPU"
STATE = f"asked were 8 actors of 1 CPU, 1 GPU; {HAS}"


def watch_with_nodes() -> PlaceWatch:
    watch = PlaceWatch(PoolSize(8, 8, 1.0, 1.0), 0.0)
    see(watch, 0.0)
    return watch


def see(watch: PlaceWatch, now: float) -> None:
    watch.see([NodeSize(8.0, 1.0, "a"), NodeSize(8.0, 1.0, "b")], "14 CPU, 0 GPU", now)


def test_it_says_what_is_waited_for_ever_more_seldom() -> None:
    watch, told = watch_with_nodes(), {}
    for now in range(0, 600):
        see(watch, now)
        notice = watch.check(float(now), num_asked=6, num_held=8, num_ready=2, last_loss="")
        if notice:
            told[now] = notice
    assert list(told) == [15, 60, 240]
    assert told[60] == f"6 of 8 actors wait for a place for 60 s: {STATE}; the others go on meanwhile"


def test_it_says_how_long_it_will_wait_where_no_actor_is_ready() -> None:
    watch = watch_with_nodes()
    watch.check(0.0, 8, 8, 0, "")
    see(watch, 14.0)
    assert watch.check(15.0, 8, 8, 0, "") == f"8 of 8 actors wait for a place for 15 s: {STATE}; given up after 600 s"


def test_it_is_given_up_where_no_actor_has_a_place_for_ten_minutes() -> None:
    watch = watch_with_nodes()
    see(watch, 599.0)
    watch.check(600.0, 8, 8, 0, "")
    with pytest.raises(ClusterError) as caught:
        watch.check(601.0, 8, 8, 0, "ActorDiedError: its node has died")
    lost = "; before that, actors were lost: ActorDiedError: its node has died"
    assert str(caught.value) == f"no actor got a place within 600 s: {STATE}{lost}"


def test_an_actor_that_loads_has_a_place() -> None:
    watch = watch_with_nodes()
    for now in range(0, 5000, 100):
        see(watch, now)
        watch.check(float(now), num_asked=7, num_held=8, num_ready=0, last_loss="")


def test_nothing_is_said_where_nobody_waits_and_it_begins_anew() -> None:
    watch = watch_with_nodes()
    watch.check(0.0, 1, 8, 7, "")
    see(watch, 20.0)
    assert watch.check(20.0, 1, 8, 7, "")
    assert watch.check(21.0, 0, 8, 8, "") == ""
    see(watch, 30.0)
    assert watch.check(30.0, 1, 8, 7, "") == ""
    see(watch, 44.0)
    assert watch.check(44.0, 1, 8, 7, "") == ""
    assert watch.check(45.0, 1, 8, 7, "")


def test_a_head_that_does_not_answer_is_told() -> None:
    watch = watch_with_nodes()
    assert watch.check(14.0, 0, 8, 8, "") == ""
    assert watch.check(15.0, 0, 8, 8, "") == (
        "the cluster's head has not answered for 15 s; without it, the job will end"
    )
    assert watch.check(16.0, 0, 8, 8, "") == ""
    see(watch, 17.0)
    assert watch.check(31.0, 0, 8, 8, "") == ""
    assert "for 15 s" in watch.check(32.0, 0, 8, 8, "")
