import threading
import time
from collections.abc import Callable

import pytest

from engine.run.attempt import Attempt
from engine.run.turns import Turns

DEADLINE = 10.0


def nothing() -> None:
    pass


def in_threads(count: int, work: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("num_turns", [1, 2, 3])
def test_no_more_compute_at_once_than_there_are_turns(num_turns: int) -> None:
    turns, lock = Turns(num_turns), threading.Lock()
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            with turns.taken(Attempt(), nothing):
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.0005)
                with lock:
                    inside[0] -= 1

    for thread in in_threads(6, work):
        thread.join(DEADLINE)
    assert (inside, most) == ([0], [num_turns])


def test_where_the_work_is_a_gpu_s_nobody_waits() -> None:
    turns, all_in = Turns(None), threading.Barrier(3, timeout=DEADLINE)

    def work() -> None:
        with turns.taken(Attempt(), nothing):
            all_in.wait()

    for thread in in_threads(3, work):
        thread.join(DEADLINE)
    assert not all_in.broken


def test_one_that_waits_for_storage_lets_another_compute_and_its_time_is_told_apart() -> None:
    turns, first, second = Turns(1), Attempt(), Attempt()
    reading, computed = threading.Event(), threading.Event()

    def read() -> None:
        with turns.taken(first, nothing), turns.given_up(first, "read"):
            reading.set()
            assert computed.wait(DEADLINE)
            time.sleep(0.02)

    (thread,) = in_threads(1, read)
    assert reading.wait(DEADLINE)
    with turns.taken(second, pytest.fail):  # the turn is there to be had
        computed.set()
        until(lambda: first.is_waiting)
        time.sleep(0.02)
    thread.join(DEADLINE)
    assert not first.is_waiting
    assert first.seconds["read"] >= 0.02
    assert first.seconds["wait"] >= 0.02
    assert second.seconds["wait"] == 0


def test_who_has_to_wait_looks_ahead_first() -> None:
    turns, waiting, looked = Turns(1), Attempt(), []
    with turns.taken(Attempt(), pytest.fail):

        def work() -> None:
            with turns.taken(waiting, lambda: looked.append(waiting.is_waiting)):
                looked.append("in")

        (thread,) = in_threads(1, work)
        until(lambda: waiting.is_waiting)
        assert looked == [False]
    thread.join(DEADLINE)
    assert looked == [False, "in"]


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_turn_comes_back_from_one_that_fails(gives_up: bool) -> None:
    turns = Turns(1)

    def fail() -> None:
        with turns.taken(attempt, nothing):
            if not gives_up:
                raise OSError("no disk")
            with turns.given_up(attempt, "read"):
                raise OSError("no disk")

    for _ in range(3):
        attempt = Attempt()
        with pytest.raises(OSError, match="no disk"):
            fail()
    with turns.taken(Attempt(), pytest.fail):
        pass


def test_one_that_gets_nowhere_holds_up_nobody_and_gives_no_turn_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run.turns.PATIENCE_SECONDS", 0.05)
    turns, hung, other = Turns(1), Attempt(), Attempt()
    with turns.taken(hung, pytest.fail):
        with turns.taken(other, nothing), turns.given_up(other, "read"):
            pass
        assert other.seconds["wait"] >= 0.05
        late = Attempt()
        with turns.taken(late, nothing):  # no turn came free by the one that had none
            assert late.seconds["wait"] >= 0.05
    with turns.taken(Attempt(), pytest.fail):
        waited = []
        with turns.taken(Attempt(), lambda: waited.append("one turn")):
            assert waited == ["one turn"]


def test_one_that_gets_somewhere_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.run.turns.PATIENCE_SECONDS", 0.05)
    turns, slow, waiting, inside = Turns(1), Attempt(), Attempt(), []

    def work() -> None:
        with turns.taken(waiting, nothing):
            inside.append(slow.progress.marks)

    with turns.taken(slow, pytest.fail):
        (thread,) = in_threads(1, work)
        until(lambda: waiting.is_waiting)
        for _ in range(20):
            time.sleep(0.01)
            slow.mark("batch")
            assert not inside
    thread.join(DEADLINE)
    assert inside == [20]
