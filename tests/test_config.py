import math
import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from engine.config import JobConfig, SimulationConfig, build_config, build_simulation_config
from engine.errors import ConfigError
from engine.options import tensor_name

BASE: dict[str, Any] = {"model": "m.pb", "input": ["in"], "output": "out"}


def build(**settings: Any) -> JobConfig:
    return build_config({**BASE, **settings})


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(**settings)
    return str(caught.value)


def test_defaults() -> None:
    config = build()
    assert config.model_dump() == {
        "model": "m.pb",
        "input": ("in",),
        "output": "out",
        "feed": {"inputs:0": "inputs"},
        "fetch": {"prediction:0": "prediction"},
        "set": {},
        "init_op": (),
        "keep": None,
        "where": (),
        "fill": {},
        "utf8": (),
        "provenance": False,
        "nan_is_bad": False,
        "max_bad_rows": 0,
        "unbatched": False,
        "batch_size": "auto",
        "precision": "float32",
        "xla": False,
        "actors": "auto",
        "gpus_per_actor": None,
        "cpus_per_actor": None,
        "allow_cpu": False,
        "max_attempts": 4,
        "stall_timeout": 600.0,
        "shard_size": "auto",
        "limit": None,
        "op_library": (),
        "allow_op": (),
        "address": None,
        "overwrite": False,
        "add": False,
        "compression": "zstd",
        "row_group_size": "auto",
        "dictionary": None,
    }


@pytest.mark.parametrize(("name", "full"), [("x", "x:0"), ("x:0", "x:0"), ("a/b:2", "a/b:2")])
def test_the_output_index_may_be_left_out(name: str, full: str) -> None:
    assert tensor_name(name) == full


GOOD: list[tuple[str, Any, Any]] = [
    ("model", "/m/model.pb", "/m/model.pb"),
    ("input", "a.parquet", ("a.parquet",)),
    ("input", ("a", "b/*.parquet"), ("a", "b/*.parquet")),
    ("input", ["a,b"], ("a,b",)),
    ("output", "/o", "/o"),
    ("feed", ("x=a",), {"x:0": "a"}),
    ("feed", ["x:1 = a", "y=b=c"], {"x:1": "a", "y:0": "b=c"}),
    ("feed", {"x": "a", "y:1": "b"}, {"x:0": "a", "y:1": "b"}),
    ("fetch", "p=score", {"p:0": "score"}),
    ("fetch", {"p": "score"}, {"p:0": "score"}),
    ("set", ("k=1.0",), {"k:0": 1.0}),
    ("set", ["k:0=false", 's="word"', "v=[1, 2]"], {"k:0": False, "s:0": "word", "v:0": [1, 2]}),
    ("set", {"k": 0.5, "s": "word"}, {"k:0": 0.5, "s:0": "word"}),
    ("set", {}, {}),
    ("feed", {"x": ["a", "b"], "y": "f_*"}, {"x:0": "a,b", "y:0": "f_*"}),
    ("feed", ("x=a,image.bytes",), {"x:0": "a,image.bytes"}),
    ("where", "a = 1", ("a = 1",)),
    ("where", ["a = 1", "b is-null"], ("a = 1", "b is-null")),
    ("fill", ("age=0", "name=a b", "q=x=y"), {"age": "0", "name": "a b", "q": "x=y"}),
    ("fill", {"age": 0, "p": 0.5, "ok": True, "name": "none"}, {"age": "0", "p": "0.5", "ok": "true", "name": "none"}),
    ("fill", {}, {}),
    ("utf8", "label", ("label",)),
    ("max_bad_rows", 0, 0),
    ("max_bad_rows", "17", 17),
    ("max_bad_rows", "0.10 %", "0.1%"),
    ("max_bad_rows", "100%", "100%"),
    ("init_op", "init", ("init",)),
    ("init_op", ["init", "init_2"], ("init", "init_2")),
    ("keep", "all", "all"),
    ("keep", ("none",), "none"),
    ("keep", "id, name", ("id", "name")),
    ("keep", ("id", "name,age"), ("id", "name", "age")),
    ("keep", None, None),
    ("batch_size", "auto", "auto"),
    ("batch_size", "64", 64),
    ("batch_size", 1, 1),
    ("precision", "float16", "float16"),
    ("xla", True, True),
    ("actors", 3, 3),
    ("actors", "auto", "auto"),
    ("actors", "3", 3),
    ("actors", "2:8", "2:8"),
    ("actors", " 02 : 8 ", "2:8"),
    ("actors", "1:64", "1:64"),
    ("actors", "5:5", "5:5"),
    ("allow_cpu", True, True),
    ("max_attempts", "1", 1),
    ("max_attempts", 7, 7),
    ("stall_timeout", "90", 90.0),
    ("stall_timeout", 0.5, 0.5),
    ("stall_timeout", 30, 30.0),
    ("gpus_per_actor", "0.25", 0.25),
    ("gpus_per_actor", 0, 0.0),
    ("gpus_per_actor", 2, 2.0),
    ("cpus_per_actor", 0.5, 0.5),
    ("cpus_per_actor", "4", 4.0),
    ("shard_size", "64MiB", 64 * 2**20),
    ("shard_size", "1 MB", 10**6),
    ("shard_size", 1000, 1000),
    ("shard_size", "auto", "auto"),
    ("limit", "10", 10),
    ("limit", None, None),
    ("address", "10.0.0.5:6379", "10.0.0.5:6379"),
    ("overwrite", True, True),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_good_values(name: str, value: Any, expected: Any) -> None:
    assert getattr(build(**{name: value}), name) == expected


COUNT = "expected a whole number of at least 1"
SHARE = "expected a fraction below 1 or a whole number"
ACTORS = "expected a whole number of at least 1, MIN:MAX as in 2:8, or auto, found"
POSITIVE = "expected a number above 0, found"
SIZE = "expected bytes, as in 64MiB or 1000000, or auto"
BAD: list[tuple[str, Any, str]] = [
    ("model", 3, "valid string"),
    ("input", 3, "expected one or more names"),
    ("input", [1], "expected one or more names"),
    ("output", ["a"], "valid string"),
    ("where", "", "expected COLUMN OP VALUE, as in 'country = de'"),
    ("where", [3], "expected COLUMN OP VALUE"),
    ("fill", "age", "expected COLUMN=VALUE, as in age=0"),
    ("fill", {"age": [1]}, "expected a number, text, true or false for age"),
    ("fill", ("age=0", "age=1"), "age is given twice"),
    ("max_bad_rows", "many", "expected a number of rows, or a share of them as in 0.1%"),
    ("max_bad_rows", -1, "expected a number of rows"),
    ("max_bad_rows", 1.5, "expected a number of rows"),
    ("max_bad_rows", True, "expected a number of rows"),
    ("max_bad_rows", "101%", "expected a number of rows"),
    ("max_bad_rows", "nan%", "expected a number of rows"),
    ("feed", {"x": []}, "expected each tensor once with the name of its column"),
    ("feed", "x", "expected TENSOR=COLUMN, as in inputs:0=pixels"),
    ("feed", "=a", "expected TENSOR=COLUMN"),
    ("feed", "x=", "expected TENSOR=COLUMN"),
    ("feed", (), "expected TENSOR=COLUMN"),
    ("feed", 3, "expected TENSOR=COLUMN"),
    ("feed", ("x=a", "x=b"), "x is given twice"),
    ("feed", ("x=a", "x:0=b"), "each tensor once"),
    ("feed", {"x": "a", "x:0": "b"}, "each tensor once"),
    ("feed", {"x": 1}, "name of its column; see x"),
    ("feed", {}, "expected at least one TENSOR=COLUMN"),
    ("fetch", "prediction", "expected TENSOR=COLUMN"),
    ("fetch", {}, "expected at least one TENSOR=COLUMN"),
    ("set", "k", "expected TENSOR=VALUE with VALUE in JSON, as in keep_prob:0=1.0"),
    ("set", "k=word", "expected VALUE in JSON"),
    ("set", ("k=1", "k=2"), "k is given twice"),
    ("set", 7, "expected TENSOR=VALUE"),
    ("init_op", 3, "expected one or more names"),
    ("keep", "", "expected column names, all or none"),
    ("keep", (), "expected column names, all or none"),
    ("keep", 5, "expected one or more names"),
    *[("batch_size", value, COUNT + ", or auto") for value in (0, -1, "0", "many", 1.5, True, "1.5", "")],
    *[("actors", value, ACTORS) for value in (0, -1, 1.5, True, [2], "", "none", "1.5", ":", "2:", ":8", "8:2")],
    *[("actors", value, ACTORS) for value in ("0:4", "1:2:3", "1:auto", "-1:4", "1:1.5", [1, 4], None, f"1:{2**60}")],
    *[("max_attempts", value, COUNT + ", found") for value in (0, -1, "many", 1.5, True, None)],
    *[("stall_timeout", value, POSITIVE) for value in (0, -1, "soon", "nan", "inf", math.inf, True, None, 10**400)],
    *[("precision", value, "expected one of float32, bfloat16, float16") for value in ("half", "", 16, None, [1])],
    ("xla", "perhaps", "valid boolean"),
    ("allow_cpu", "perhaps", "valid boolean"),
    *[("limit", value, COUNT + ", found") for value in (0, "auto", "ten", -3)],
    *[("gpus_per_actor", value, SHARE) for value in (-1, 1.5, "half", "nan", "inf", True, [1])],
    *[("cpus_per_actor", value, SHARE + ", above 0") for value in (0, "0", 0.0)],
    *[("cpus_per_actor", value, SHARE) for value in (-1, 2.5, "one")],
    *[("shard_size", value, SIZE) for value in (0, "0", "-1", "large", "5 parsecs", 1.9, float("inf"))],
    ("address", 3, "valid string"),
    ("overwrite", "perhaps", "valid boolean"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_bad_values_name_the_flag_what_was_expected_and_what_was_found(name: str, value: Any, expected: str) -> None:
    message = refusal(**{name: value})
    assert message.startswith("--" + name.replace("_", "-") + ": ")
    assert expected in message
    shown = " ".join(map(str, value)) if isinstance(value, tuple) and value else repr(value)  # words as they were typed
    assert message.endswith(f"found {shown}")


def test_a_constant_stands_once_whether_its_index_is_written_or_not() -> None:
    assert "once" in refusal(set=("k=1", "k:0=2"))
    assert "once" in refusal(set={"k": 1, "k:0": 2})


@pytest.mark.parametrize("value", [True, False])
def test_a_shard_size_is_no_switch(value: bool) -> None:
    assert SIZE in refusal(shard_size=value)


def test_a_number_beyond_floats_is_a_mistake() -> None:
    assert SHARE in refusal(cpus_per_actor=10**400)


def test_a_constant_that_json_cannot_hold_is_a_mistake() -> None:
    settings = tomllib.loads("[set]\nday = 2020-01-01")
    assert "day" in refusal(**settings)


def test_an_empty_input_says_what_was_expected() -> None:
    message = refusal(input="")
    assert "--input" in message
    assert "after validation" not in message


@pytest.mark.parametrize("missing", ["model", "input", "output"])
def test_a_missing_key_is_named_with_its_meaning(missing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config({name: value for name, value in BASE.items() if name != missing})
    assert (
        str(caught.value)
        == f"--{missing} is missing: {str(JobConfig.model_fields[missing].description).removesuffix('.')}"
    )


def test_several_problems_are_told_together() -> None:
    with pytest.raises(ConfigError, match=r"--model is missing.*--input is missing.*--output is missing.*--limit"):
        build_config({"limit": 0})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("modle", "model"), ("inputs", "input"), ("batchsize", "batch_size"), ("batch-size", "batch_size")],
)
def test_an_unknown_key_names_the_nearest(key: str, nearest: str) -> None:
    assert refusal(**{key: 1}) == f"unknown key {key!r}; did you mean {nearest}?"


def test_an_unknown_key_without_a_near_one_names_all() -> None:
    message = refusal(zzzzzz=1)
    assert "unknown key 'zzzzzz'" in message
    assert all(name in message for name in JobConfig.model_fields)


def test_each_unknown_key_is_named() -> None:
    message = refusal(modle=1, outputt=2)
    assert "'modle'" in message
    assert "'outputt'" in message


def test_flags_and_toml_give_the_same_config() -> None:
    from_file = tomllib.loads("""
        model = "m.pb"
        input = ["a", "b"]
        output = "out"
        init_op = ["init"]
        op_library = ["ops.so"]
        allow_op = ["ReadFile", "PrintV2"]
        keep = ["id", "name"]
        batch_size = 32
        precision = "bfloat16"
        xla = true
        actors = "2:8"
        gpus_per_actor = 0.5
        cpus_per_actor = 1
        allow_cpu = true
        max_attempts = 2
        stall_timeout = 45
        shard_size = "1MiB"
        limit = 7
        address = "h:1"
        overwrite = true
        add = true
        compression = "none"
        row_group_size = 1000
        dictionary = ["id"]
        where = ["a = 1", "b in x,y"]
        utf8 = ["label"]
        provenance = true
        nan_is_bad = true
        max_bad_rows = "0.50%"
        unbatched = true
        [fill]
        age = 0
        name = "none"
        [feed]
        x = "a"
        "y:1" = "b"
        [fetch]
        p = "score"
        [set]
        keep_prob = 1.0
        names = ["a", "b"]
        is_training = false
    """)
    flags = {
        "model": "m.pb",
        "input": ("a", "b"),
        "output": "out",
        "init_op": ("init",),
        "keep": ("id,name",),
        "batch_size": "32",
        "precision": "bfloat16",
        "xla": True,
        "add": True,
        "compression": "none",
        "row_group_size": "1000",
        "dictionary": ("id",),
        "actors": "2:8",
        "allow_cpu": True,
        "max_attempts": "2",
        "stall_timeout": "45.0",
        "gpus_per_actor": "0.5",
        "cpus_per_actor": "1",
        "shard_size": "1MiB",
        "limit": "7",
        "op_library": "ops.so",
        "allow_op": ("ReadFile", "PrintV2"),
        "address": "h:1",
        "overwrite": True,
        "where": ("a = 1", "b in x,y"),
        "fill": ("age=0", "name=none"),
        "utf8": ("label",),
        "provenance": True,
        "nan_is_bad": True,
        "max_bad_rows": "0.5%",
        "unbatched": True,
        "feed": ("x=a", "y:1=b"),
        "fetch": ("p=score",),
        "set": ("keep_prob=1.0", 'names=["a", "b"]', "is_training=false"),
    }
    assert build_config(from_file) == build_config(flags)
    assert set(from_file) == set(JobConfig.model_fields), "a field that this test does not know"


def test_config_is_frozen() -> None:
    config = build()
    with pytest.raises(ValidationError, match="frozen"):
        config.limit = 3  # type: ignore[misc]


def test_defaults_are_not_shared() -> None:
    build().feed["other:0"] = "other"
    assert build().feed == {"inputs:0": "inputs"}


def test_every_field_has_a_help_text() -> None:
    assert all((field.description or "").endswith((".", "]")) for field in JobConfig.model_fields.values())


@pytest.mark.parametrize(
    ("simulate", "rate", "expected"),
    [(None, None, (None, None)), ("10000", None, (10000, None)), (8, "2.5e6", (8, 2.5e6)), ("1", 1, (1, 1.0))],
)
def test_a_simulation(simulate: Any, rate: Any, expected: tuple[int | None, float | None]) -> None:
    config = build_simulation_config({"simulate": simulate, "rate": rate})
    assert (config.simulate, config.rate) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"simulate": "0"}, f"--simulate: {COUNT}, found '0'"),
        ({"simulate": "2:8"}, f"--simulate: {COUNT}, found '2:8'"),
        ({"simulate": 3, "rate": 0}, f"--rate: {POSITIVE} 0"),
        ({"simulate": 3, "rate": "fast"}, f"--rate: {POSITIVE} 'fast'"),
        ({"rate": "500"}, "--rate 500: is that of simulated actors; say how many with --simulate N"),
    ],
)
def test_a_simulation_that_cannot_be(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_simulation_config(settings)
    assert str(caught.value) == expected


def test_a_simulation_is_no_part_of_a_job() -> None:
    assert not set(SimulationConfig.model_fields) & set(JobConfig.model_fields)
