import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.run.tuning.candidates import default_layout, list_layouts, list_variants, next_batch
from engine.run.tuning.settings import Layout, Machine


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(1, 2), (2, 1)]),
        (5, [(1, 5), (5, 1), (2, 2)]),  # three of one thread each would leave two cores idle
        (8, [(1, 8), (8, 1), (4, 2), (2, 4)]),
        (64, [(1, 64), (64, 1), (32, 2), (16, 4), (8, 8), (4, 16), (2, 32)]),
    ],
)
def test_cores_are_shared_out_from_both_ends(cores: int, expected: list[tuple[int, int]]) -> None:
    layouts = list_layouts(Machine(cores), None, None)
    assert [(each.actors, each.threads) for each in layouts] == expected
    assert default_layout(layouts) == Layout(cores, 1)


def test_gpus_are_shared_by_one_two_and_four_actors_each() -> None:
    layouts = list_layouts(Machine(16, gpus=2), None, None)
    assert layouts == [Layout(2, 8, 1.0), Layout(4, 4, 0.5), Layout(8, 2, 0.25)]
    assert default_layout(layouts) == layouts[0]


def test_a_share_that_was_given_is_the_only_one() -> None:
    assert list_layouts(Machine(16, gpus=2), 0.5, 1.0) == [Layout(4, 1, 0.5)]
    assert list_layouts(Machine(16), None, 4.0) == [Layout(4, 4)]
    assert list_layouts(Machine(2), None, 0.5) == [Layout(4, 1)]
    assert list_layouts(Machine(2), None, 8.0) == [Layout(1, 8)]


def sweep(rates: dict[int, float | None], auto_rows: int, max_rows: int = 2**20) -> list[int]:
    """Return the sizes in the order in which they are asked for, on a device that does `rates`."""
    seen: dict[int, float | None] = {}
    while (batch_rows := next_batch(seen, auto_rows, max_rows)) is not None:
        assert batch_rows not in seen
        seen[batch_rows] = rates.get(batch_rows, 1.0)
    return list(seen)


def test_a_sweep_goes_down_and_then_up() -> None:
    rates: dict[int, float | None] = {256: 100.0, 512: 120.0, 1024: 130.0, 2048: 131.0, 4096: 131.0, 128: 95.0}
    assert sweep(rates, 256) == [256, 128, 64, 512, 1024, 2048, 4096]
    rates = {256: 100.0, 512: 80.0, 128: 104.0, 64: 101.0, 32: 60.0}
    assert sweep(rates, 256) == [256, 128, 64, 512]  # two in a row that gained nothing


def test_what_fails_ends_its_direction_alone() -> None:
    assert sweep({16: 10.0, 32: None, 8: 10.1, 4: 5.0}, 16) == [16, 8, 4, 32]


def test_where_the_jobs_own_choice_fails_smaller_ones_are_tried() -> None:
    assert sweep({64: None, 32: None, 16: 10.0, 8: 11.0, 4: 5.0}, 64) == [64, 32, 16, 8, 4]
    assert sweep(dict.fromkeys([64, 32, 16, 8, 4]), 64) == [64, 32, 16, 8, 4]


def test_an_odd_choice_is_measured_beside_the_powers() -> None:
    assert sweep({100: 10.0, 128: 12.0, 256: 11.9, 512: 11.8, 64: 2.0}, 100) == [100, 64, 128, 256, 512]


def test_no_size_is_above_the_sample_but_for_the_jobs_own() -> None:
    assert sweep({4096: 1.0, 2048: 0.5}, 4096, max_rows=1000) == [4096, 2048]


@given(st.integers(1, 5000), st.integers(1, 2**20), st.randoms(use_true_random=False))
def test_a_sweep_ends_within_its_bounds(auto_rows: int, max_rows: int, chance: random.Random) -> None:
    seen: dict[int, float | None] = {}
    while (batch_rows := next_batch(seen, auto_rows, max_rows)) is not None:
        assert batch_rows not in seen
        assert batch_rows == auto_rows or auto_rows / 16 <= batch_rows <= min(auto_rows * 16, 16_384)
        seen[batch_rows] = chance.choice([None, chance.random()])
    assert auto_rows in seen


def test_what_changes_one_thing_comes_first() -> None:
    everything = list_variants(("float32", "bfloat16", "float16"), (False, True))
    assert everything == [
        ("bfloat16", False),
        ("float16", False),
        ("float32", True),
        ("bfloat16", True),
        ("float16", True),
    ]
    assert list_variants(("float16",), (False,)) == [("float16", False)]
    assert list_variants(("float32",), (False,)) == []
