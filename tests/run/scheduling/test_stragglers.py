import math

import pytest

from engine.run.scheduling.stragglers import MAX_KNOWN, Durations


@pytest.mark.parametrize(
    ("seconds", "limit"),
    [([], math.inf), ([9, 9], math.inf), ([1, 1, 1], 5), ([1, 9, 10], 18), ([30, 3, 10], 20), ([1, 1, 1, 500], 5)],
)
def test_a_straggler_takes_twice_the_usual_time(seconds: list[float], limit: float) -> None:
    durations = Durations()
    for each in seconds:
        durations.add(each)
    assert durations.straggler_seconds == limit


def test_what_is_long_ago_is_forgotten() -> None:
    durations = Durations()
    for _ in range(1000):
        durations.add(1)
    for _ in range(MAX_KNOWN // 2):
        durations.add(50)
    assert durations.straggler_seconds == 5
    durations.add(50)
    assert durations.straggler_seconds == 100
