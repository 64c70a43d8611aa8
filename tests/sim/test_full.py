"""Ten thousand actors and a million shards: how well they are used, and what the scheduler takes for it."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("full", Path(__file__).with_name("full.py"))
assert SPEC is not None
assert SPEC.loader is not None
full = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(full)


@pytest.mark.sim
@pytest.mark.parametrize(("name", "least"), [("even", 0.99), ("faults", 0.95)])
def test_ten_thousand_actors_and_a_million_shards(name: str, least: float) -> None:
    found = full.in_a_process(name, 10_000)
    assert found["is_done"]
    assert found["utilisation"] >= least
    assert found["cpu_seconds"] < 120  # 13 and 18 s on a machine of 2 cores
    assert found["peak_mb"] < 2_000


def test_the_table_shows_every_scenario() -> None:
    head, titles, *lines = full.table(100)
    assert head.startswith("100 actors, 10,000 shards")
    assert [line.split()[0] for line in lines] == list(full.SCENARIOS)
    assert {len(line) for line in lines} == {len(titles)}
