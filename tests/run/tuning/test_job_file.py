import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import tuning

from engine.config import build_config
from engine.errors import ConfigError
from engine.job_toml import setting_lines, toml_value
from engine.run.tuning.job_file import job_file

SETTINGS: dict[str, Any] = {
    "model": "/models/net.pb",
    "input": ["/data/in"],
    "output": "/data/out",
    "feed": {"x:0": "a,b", "y:0": "c"},
    "set": {"keep_prob:0": 1.0, "flags:0": [True, False]},
    "keep": ["id"],
    "where": ["country in de,fr"],
    "provenance": True,
    "batch_size": "auto",
    "actors": 7,
}


def test_the_default_computes_the_graph_as_it_is() -> None:
    text = job_file(tuning(), SETTINGS, is_named=False)
    read = tomllib.loads(text)
    assert read["batch_size"] == 512
    assert (read["actors"], read["cpus_per_actor"], read["gpus_per_actor"]) == ("auto", 1, 0)
    assert "precision" not in read
    assert "xla" not in read
    assert '# precision = "bfloat16"' in text.splitlines()
    assert "+50% rows/s" in text
    assert "differ by up to 0.0031 (0.08 of the value), the largest entry is another one in 0.03% of rows" in text
    assert "# xla = true" not in text  # no faster


def test_the_jobs_own_options_stay() -> None:
    config = build_config(tomllib.loads(job_file(tuning(), SETTINGS, is_named=False)))
    assert (config.model, config.input, config.output) == ("/models/net.pb", ("/data/in",), "/data/out")
    assert config.feed == {"x:0": "a,b", "y:0": "c"}
    assert config.set == {"keep_prob:0": 1.0, "flags:0": [True, False]}
    assert (config.keep, config.where, config.provenance) == (("id",), ("country in de,fr",), True)


def test_what_the_caller_has_named_is_taken_where_it_is_faster() -> None:
    read = tomllib.loads(job_file(tuning(), SETTINGS, is_named=True))
    assert (read["precision"], read["batch_size"]) == ("bfloat16", 512)
    slow = tomllib.loads(job_file(tuning(bfloat16_rate=10.0), SETTINGS, is_named=True))
    assert "precision" not in slow


def test_a_precision_that_the_job_had_stays() -> None:
    settings = {**SETTINGS, "precision": "bfloat16", "xla": False}
    read = tomllib.loads(job_file(tuning(), settings, is_named=False))
    assert (read["precision"], read["xla"]) == ("bfloat16", False)
    assert tomllib.loads(job_file(tuning(), settings, is_named=True))["precision"] == "bfloat16"


LEAVES = st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = st.recursive(LEAVES, lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(), each, max_size=3))


@pytest.mark.parametrize("value", [None, [None, 1], {"a": None}, {"a": [{"b": None}]}])
def test_a_null_is_no_text(value: object) -> None:
    with pytest.raises(ConfigError, match="a null, which a TOML file cannot say"):
        setting_lines("set", {"x:0": value})


@given(st.dictionaries(st.text(), VALUES, max_size=3))
def test_any_value_comes_back(value: dict[str, Any]) -> None:
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
