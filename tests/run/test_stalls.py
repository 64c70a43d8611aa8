import pytest

from engine.run.attempt import Attempt
from engine.run.stalls import WAITING, Progress, StallWatch


def test_a_call_is_asked_for_every_quarter_and_stalls_without_a_sign() -> None:
    watch = StallWatch(100.0)
    watch.begin(1, 7, 0.0)
    assert watch.check(24.9) == ([], [])
    assert watch.check(25.0) == ([1], [])
    assert watch.check(49.0) == ([], [])
    assert watch.check(50.0) == ([1], [])
    assert watch.check(75.0) == ([1], [])
    asked, ((worker, reason),) = watch.check(100.0)
    assert (asked, worker) == ([], 1)
    assert reason == "stalled: shard 7 finished no batch and changed no phase for 100 s; it does not even answer"


def test_an_answer_that_says_the_same_is_no_sign_of_life() -> None:
    watch = StallWatch(100.0)
    watch.begin(1, 7, 0.0)
    watch.check(25.0)
    watch.hear(1, {7: Progress(3, "read")}, 26.0)  # something happened in the first quarter
    for now in (50.0, 75.0, 100.0):
        assert watch.check(now) == ([1], [])
        watch.hear(1, {7: Progress(3, "read")}, now)
    ((_, reason),) = watch.check(126.0)[1]
    assert reason.endswith("the last was 'read'")


def test_batches_keep_a_call_alive_however_long_it_takes() -> None:
    watch = StallWatch(100.0)
    watch.begin(1, 7, 0.0)
    for quarter in range(1, 50):
        assert watch.check(quarter * 25.0) == ([1], [])
        watch.hear(1, {7: Progress(quarter, "batch")}, quarter * 25.0)


def beat(watch: StallWatch, now: float, *shards: int) -> None:
    watch.check(now)
    watch.hear(5, {shard: Progress(int(now), "batch") for shard in shards}, now)


def test_one_shard_that_hangs_is_found_beside_others_that_do_not() -> None:
    watch = StallWatch(100.0)
    for shard in (1, 2, 3):
        watch.begin(5, shard, 0.0)
    for now in range(25, 300, 25):
        beat(watch, now, 1, 3)
    assert watch.check(299.0) == ([], [])
    ((worker, reason),) = watch.check(300.0)[1]
    assert worker == 5
    assert "shard 2 finished no batch and changed no phase for 300 s" in reason


def test_one_shard_that_hangs_is_found_sooner_once_the_others_are_done() -> None:
    watch = StallWatch(100.0)
    for shard in (1, 2):
        watch.begin(5, shard, 0.0)
    for now in range(25, 151, 25):
        beat(watch, now, 1)
    watch.end(5, 1)
    assert [worker for worker, _ in watch.check(175.0)[1]] == [5]


def test_shards_that_take_turns_at_long_batches_do_not_stall() -> None:
    watch = StallWatch(100.0)
    for shard in (1, 2, 3):
        watch.begin(5, shard, 0.0)
    for turn in range(30):  # a batch takes 90 s
        beat(watch, 90.0 * (turn + 1), turn % 3 + 1)
        assert watch.check(90.0 * (turn + 1)) == ([], [])


def test_loading_is_told_apart() -> None:
    watch = StallWatch(4.0)
    watch.begin(2, -1, 0.0)
    watch.hear(2, {-1: Progress(1, "looking at the node")}, 0.0)
    ((_, reason),) = watch.check(4.0)[1]
    assert "loading the model finished no batch" in reason
    assert "the last was 'looking at the node'" in reason


@pytest.mark.parametrize("forget", [lambda watch: watch.end(1, 7), lambda watch: watch.drop(1)])
def test_what_has_ended_is_not_watched(forget: object) -> None:
    watch = StallWatch(1.0)
    watch.begin(1, 7, 0.0)
    forget(watch)
    assert watch.check(100.0) == ([], [])
    watch.hear(1, {7: Progress(1, "read")}, 100.0)


def test_a_shard_that_comes_back_is_watched_anew() -> None:
    watch = StallWatch(100.0)
    watch.begin(1, 7, 0.0)
    watch.end(1, 7)
    watch.begin(1, 7, 90.0)
    assert watch.check(101.0)[1] == []
    assert [worker for worker, _ in watch.check(190.0)[1]] == [1]


def test_an_attempt_marks_batches_and_phases_and_stops_when_it_is_cancelled() -> None:
    attempt = Attempt()
    attempt.end("read")
    attempt.mark("batch")
    assert attempt.progress == Progress(2, "batch")
    assert attempt.seconds["read"] > 0
    attempt.is_cancelled = True
    with pytest.raises(Exception, match="another actor has done the shard"):
        attempt.mark("batch")


def test_the_call_that_others_wait_for_is_the_one_that_stalled() -> None:
    watch = StallWatch(40.0)
    for shard in (5, 6, 7):
        watch.begin(0, shard, 0.0)
    found = {5: Progress(9, WAITING), 6: Progress(9, "read"), 7: Progress(9, WAITING)}
    watch.hear(0, found, 1.0)
    for now in range(5, 41, 5):
        assert watch.check(float(now))[1] == []
        watch.hear(0, found, float(now))
    ((worker, reason),) = watch.check(60.0)[1]
    assert worker == 0
    assert reason.startswith("stalled: shard 6 finished no batch")
    assert reason.endswith("the last was 'read'")
