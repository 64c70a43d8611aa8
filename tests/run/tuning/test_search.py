from collections.abc import Callable

import pytest

from engine.run.tuning.search import Bounds, Search, Step
from engine.run.tuning.settings import Failure, Layout, Measurement, Setting

SECONDS = 3.0
LOAD_SECONDS = 5.0
GIB = 2**30
LAYOUTS = [Layout(1, 4), Layout(4, 1), Layout(2, 2)]
VARIANTS = [("bfloat16", False), ("float32", True), ("bfloat16", True)]
World = Callable[[Step], "float | str | None"]


def measured(setting: Setting, batch_rows: int, rate: float, peak_bytes: int = GIB) -> Measurement:
    return Measurement(setting, batch_rows, rate, 1 / rate, peak_bytes, LOAD_SECONDS, 0.1)


def run(
    world: World, seconds: float = 1000.0, memory_bytes: int = 0, is_fixed: bool = False, max_rows: int = 100_000
) -> tuple[Search, list[Step]]:
    """Drive a search against a world that answers a rate, None for a batch that fails, or why a setting does."""
    bounds = Bounds(0.0, seconds, SECONDS, 256, max_rows, is_fixed, memory_bytes)
    search, now, steps, before = Search(LAYOUTS, VARIANTS, bounds), 0.0, list[Step](), None
    while (step := search.next(now)) is not None:
        assert now < step.deadline <= seconds
        steps.append(step)
        now += SECONDS + LOAD_SECONDS * (step.setting != before)
        before, answer = step.setting, world(step)
        if isinstance(answer, str):
            search.take(Failure(step.setting, None, answer))
        elif answer is None:
            search.take(Failure(step.setting, step.batch_rows, "no room"))
        else:
            search.take(measured(step.setting, step.batch_rows, answer))
    assert now <= seconds + SECONDS + LOAD_SECONDS
    return search, steps


def flat(step: Step) -> float:
    """One thread each is twice as fast; batches matter little; bfloat16 gains."""
    rate = {1: 1000.0, 4: 2000.0, 2: 1900.0}[step.setting.layout.actors]
    return rate * (1.5 if step.setting.precision == "bfloat16" else 1.0) * (1.0 if step.batch_rows == 256 else 0.99)


def test_layouts_come_first_and_then_what_computes_otherwise_at_the_best() -> None:
    search, steps = run(flat)
    plain = [step for step in steps if step.setting.is_plain]
    assert steps[: len(plain)] == plain
    assert [step.setting.layout for step in plain][0] == LAYOUTS[0]
    assert {step.setting.layout for step in plain} == set(LAYOUTS)
    rest = steps[len(plain) :]
    assert [(step.setting.precision, step.setting.xla) for step in rest[::2]] == VARIANTS
    assert {step.setting.layout for step in rest} == {Layout(4, 1)}
    assert search.left_out == []


def test_a_batch_size_is_measured_once_but_for_the_two_that_decide() -> None:
    def lucky(step: Step) -> float:
        return flat(step) * (1.2 if step.batch_rows == 512 else 1.0)

    search, steps = run(lucky)
    plain = [(step.setting, step.batch_rows) for step in steps if step.setting.is_plain]
    again = [each for each in plain if plain.count(each) > 1]
    assert set(again) == {(Setting(Layout(4, 1)), 256), (Setting(Layout(4, 1)), 512)}
    assert len({(each.setting, each.batch_rows) for each in search.measurements}) == len(search.measurements)


def test_the_second_figure_counts_as_much_as_the_first() -> None:
    seen = set()

    def luck(step: Step) -> float:
        is_second = (step.setting, step.batch_rows) in seen
        seen.add((step.setting, step.batch_rows))
        return flat(step) * (1.5 if step.batch_rows == 512 and not is_second else 1.0)

    search, _ = run(luck)
    rates = {(each.setting, each.batch_rows): each.rows_per_second for each in search.measurements}
    assert rates[Setting(Layout(4, 1)), 512] == pytest.approx(2000 * 0.99 * 1.25)


def test_a_layout_without_memory_is_left_out() -> None:
    search, steps = run(flat, memory_bytes=3 * GIB)
    assert Layout(4, 1) not in {step.setting.layout for step in steps}
    assert search.left_out == ["4 actors x 1 thread: 4.0 GiB of memory would be taken where 2.7 GiB are free"]


def test_layouts_between_are_left_out_once_they_are_clearly_worse() -> None:
    search, steps = run(lambda step: 1000.0 * step.setting.layout.threads)
    assert Layout(2, 2) not in {step.setting.layout for step in steps}
    assert search.left_out == ["2 actors x 2 threads: 4 actors x 1 thread was clearly slower than the best already"]


def test_what_there_was_no_time_for_is_told() -> None:
    search, steps = run(flat, seconds=30.0)
    assert steps[0].setting.layout == LAYOUTS[0]
    assert any(text.startswith("1 actor x 4 threads, batches of") for text in search.left_out)
    assert any("bfloat16" in text and text.endswith("no time was left") for text in search.left_out)


def test_the_first_step_is_tried_however_short_the_time() -> None:
    _, steps = run(flat, seconds=1.0)
    assert [step.setting.layout for step in steps] == [LAYOUTS[0]]


def test_a_way_to_compute_that_is_refused_is_not_tried_with_xla() -> None:
    search, steps = run(lambda step: "refused" if step.setting.precision == "bfloat16" else flat(step))
    tried = [step for step in steps if step.setting.precision == "bfloat16"]
    assert [step.setting.xla for step in tried] == [False]
    assert [each.reason for each in search.failures] == ["refused"]


def test_a_batch_that_fails_is_no_end() -> None:
    search, steps = run(lambda step: None if step.batch_rows > 256 else flat(step))
    assert {each.batch_rows for each in search.failures} == {512}
    assert any(step.batch_rows == 128 for step in steps)


def test_a_layout_that_fails_as_a_whole_is_no_end() -> None:
    search, steps = run(lambda step: "killed" if step.setting.layout.actors == 4 else flat(step))
    assert [step.setting.layout for step in steps].count(Layout(4, 1)) == 1
    assert {step.setting.layout for step in steps if not step.setting.is_plain} == {Layout(2, 2)}


def test_a_fixed_batch_is_the_only_one() -> None:
    _, steps = run(flat, is_fixed=True)
    assert {step.batch_rows for step in steps} == {256}


def test_a_batch_that_would_take_seconds_is_not_tried() -> None:
    _, steps = run(lambda step: 300.0 * step.setting.layout.actors)
    assert max(step.batch_rows for step in steps) == 512  # 1,024 rows would take an actor 3.4 s


def test_nothing_measured_is_an_end() -> None:
    search, steps = run(lambda _: "killed")
    assert search.measurements == []
    assert len(steps) == len(LAYOUTS)
