"""How answers come out of an actor pool's queue; no Ray is started."""

import queue

import pytest
import ray.exceptions

from engine.errors import JobFailedError
from engine.run import cluster
from engine.run.cluster import LOAD, PLACE, PROGRESS, ActorPool, Answer


class Reference:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def future(self) -> "Reference":
        return self

    def add_done_callback(self, callback) -> None:
        callback(self)

    def exception(self) -> Exception:
        return self._error


@pytest.fixture
def pool() -> ActorPool:
    made = ActorPool.__new__(ActorPool)
    made._answers = queue.SimpleQueue()
    return made


def test_answers_that_never_cease_leave_time_to_look_up(pool: ActorPool) -> None:
    pool._answers.put(Answer(0, PROGRESS, -1))
    num_given = 0
    for answer in pool.answers(0.1):
        num_given += 1
        assert num_given <= cluster.ANSWERS_AT_ONCE
        pool._answers.put(answer)
    assert num_given == cluster.ANSWERS_AT_ONCE


@pytest.mark.parametrize("call", [PLACE, PROGRESS])
def test_a_call_that_cannot_fail_and_did_is_a_lost_actor(pool: ActorPool, call: str) -> None:
    pool._listen(Reference(ray.exceptions.RayTaskError("progress", "trace", OSError("odd"))), 3, call)
    (answer,) = pool.answers(0.1)
    assert "odd" in answer.lost or "trace" in answer.lost


def test_a_model_that_does_not_reach_a_node_is_weather(pool: ActorPool) -> None:
    lost = ray.exceptions.ObjectFetchTimedOutError("ab", "owner", "site")
    pool._listen(Reference(ray.exceptions.RayTaskError("load", "trace", lost)), 3, LOAD)
    pool._listen(Reference(ray.exceptions.RayTaskError("load", "trace", TypeError("odd"))), 3, LOAD)
    first, second = pool.answers(0.1)
    assert first.lost
    assert isinstance(second.value, JobFailedError)
