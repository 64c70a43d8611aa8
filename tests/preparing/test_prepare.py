import hashlib
import os
from pathlib import Path
from typing import Any

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows
from graphs import graph, linear, node, placeholder

from engine.config import build_config
from engine.errors import ConfigError, DataError, EngineError, GraphError, Mistake, PlanError, SchemaError
from engine.preparing.prepare import Job, prepare


@pytest.fixture
def settings(model: str, inputs: str, tmp_path: Path) -> dict[str, Any]:
    return {"model": model, "input": [inputs], "output": str(tmp_path / "out")}


def prepared(settings: dict[str, Any], **more: Any) -> Job:
    return prepare(build_config({**settings, **more}))


def refusal(kind: type[EngineError], settings: dict[str, Any], **more: Any) -> str:
    with pytest.raises(kind) as caught:
        prepared(settings, **more)
    return str(caught.value)


def test_a_job_is_checked_and_planned(settings: dict[str, Any], tmp_path: Path) -> None:
    job = prepared(settings)
    assert [str(path) for path in job.inputs.keep] == ["id"]
    assert job.inputs.selection.columns.names == ["inputs", "id"]
    assert [(feed.column, str(feed.tensor)) for feed in job.feeds] == [("inputs", "inputs:0 (float32 [?, 4])")]
    assert job.plan.settings["model_sha256"] == hashlib.sha256(Path(settings["model"]).read_bytes()).hexdigest()
    assert [Path(file.path).name for file in job.plan.files] == ["f0.parquet", "f1.parquet", "f2.parquet", "f3.parquet"]
    assert job.part_names == {"part-00000-of-00001.parquet": 0}
    assert job.model.random_operations == ()
    assert not (tmp_path / "out").exists()


def test_preparing_twice_gives_the_same_plan(settings: dict[str, Any]) -> None:
    assert prepared(settings).plan == prepared(settings).plan


def test_paths_become_absolute(settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = prepared({"model": "model.pb", "input": "in", "output": "out"})
    assert (job.config.model, job.config.input, job.config.output) == (
        settings["model"],
        tuple(settings["input"]),
        settings["output"],
    )
    assert job.plan.plan_id == prepared(settings).plan.plan_id


@pytest.mark.parametrize("key", ["model", "input", "output"])
def test_a_relative_path_inside_a_ray_job_is_a_mistake(
    settings: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    prepared(settings)
    assert f"--{key} some/path: a relative path inside a Ray job" in refusal(
        ConfigError, settings, **{key: "some/path"}
    )


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(None, ("id",)), ("all", ("id", "inputs")), ("none", ()), (["inputs", "id"], ("inputs", "id")), ("id", ("id",))],
)
def test_kept_columns(settings: dict[str, Any], keep: object, expected: tuple[str, ...]) -> None:
    job = prepared(settings, keep=keep)
    assert tuple(str(path) for path in job.inputs.keep) == expected
    assert job.inputs.selection.columns.names == list(dict.fromkeys(["inputs", *expected]))


DECIDES = [
    {"fetch": "prediction=score"},
    {"fetch": "logits=prediction"},
    {"keep": "none"},
    {"limit": 7},
    {"batch_size": 8},
    {"precision": "float16"},
    {"xla": True},
    {"shard_size": 1000},
    {"init_op": "prediction"},
    {"feed": "logits=three"},
    {"set": {"weights": 1}},
]
DECIDES_NOT = [
    {"output": "/elsewhere"},
    {"actors": 7},
    {"gpus_per_actor": 0.5},
    {"cpus_per_actor": 2},
    {"address": "h:1"},
    {"overwrite": True},
    {"batch_size": 4096},
    {"keep": ["id", "three"]},
]


@pytest.fixture
def wide(settings: dict[str, Any]) -> dict[str, Any]:
    """The job of `settings` over files with another column, a list of three."""
    for path in Path(settings["input"][0]).iterdir():
        table = pq.read_table(path)
        three = pa.array([[1.0, 2.0, 3.0]] * len(table), pa.list_(pa.float32(), 3))
        pq.write_table(table.append_column("three", three), path)
    return settings


@pytest.mark.parametrize("change", DECIDES, ids=str)
def test_what_decides_the_output_is_in_the_plan_id(wide: dict[str, Any], change: dict[str, Any]) -> None:
    assert prepared(wide, **change).plan.plan_id != prepared(wide).plan.plan_id


@pytest.mark.parametrize("change", DECIDES_NOT, ids=str)
def test_what_does_not_decide_the_output_is_not_in_the_plan_id(wide: dict[str, Any], change: dict[str, Any]) -> None:
    assert prepared(wide, **change).plan.plan_id == prepared(wide).plan.plan_id


def test_another_model_is_another_plan(settings: dict[str, Any]) -> None:
    before = prepared(settings).plan.plan_id
    graphs.write(Path(settings["model"]), linear(4, 2))
    assert prepared(settings).plan.plan_id != before


def test_another_input_file_is_another_plan(settings: dict[str, Any]) -> None:
    before = prepared(settings).plan.plan_id
    write_rows(Path(settings["input"][0]) / "g.parquet", 0, 3)
    assert prepared(settings).plan.plan_id != before


def test_moving_the_input_folder_changes_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    before = prepared(settings).plan.plan_id
    os.rename(settings["input"][0], tmp_path / "moved")
    assert prepared(settings, input=str(tmp_path / "moved")).plan.plan_id == before


@pytest.mark.parametrize(
    ("limit", "num_files", "last_row"), [(1, 1, 1), (100, 1, 100), (101, 2, 1), (400, 4, 100), (9999, 4, 100)]
)
def test_a_limit_reads_only_the_files_that_it_needs(
    settings: dict[str, Any], limit: int, num_files: int, last_row: int
) -> None:
    pieces = [piece for shard in prepared(settings, limit=limit).plan.shards for piece in shard.pieces]
    assert len(pieces) == num_files
    assert pieces[-1].stop_row == last_row


def test_the_batch_follows_from_the_row(settings: dict[str, Any]) -> None:
    assert prepared(settings).plan.batch_rows == 4096
    assert prepared(settings, batch_size=33).plan.batch_rows == 33


def test_a_fixed_batch_axis_wins(settings: dict[str, Any]) -> None:
    graphs.write(Path(settings["model"]), graphs.identity("float32", [8, 4]))
    assert prepared(settings, batch_size=33).plan.batch_rows == 8


def test_two_fixed_batch_axes_are_a_mistake(settings: dict[str, Any]) -> None:
    both = graph(placeholder("a", "float32", [8, 4]), placeholder("b", "float32", [9, 4]), node("y", "AddV2", "a", "b"))
    graphs.write(Path(settings["model"]), both)
    message = refusal(GraphError, settings, feed=("a=inputs", "b=inputs"), fetch="y=y")
    assert "a:0 (float32 [8, 4]) and b:0 (float32 [9, 4]) fix different batch sizes" in message


def test_random_operations_are_noted(settings: dict[str, Any]) -> None:
    noisy = graph(
        *linear(output="mean").node, node("noise", "RandomUniform"), node("prediction", "Add", "mean", "noise")
    )
    graphs.write(Path(settings["model"]), noisy)
    assert prepared(settings).model.random_operations == ("noise (RandomUniform)",)
    assert prepared(settings, fetch="mean=p").model.random_operations == ()


def test_a_tensor_fed_and_set_is_a_mistake(settings: dict[str, Any]) -> None:
    message = refusal(ConfigError, settings, feed="inputs=inputs", set={"inputs:0": 1})
    assert message == "inputs:0 is both fed (--feed) and set (--set); leave one of them out"


def test_a_scalar_placeholder_is_not_fed_by_a_column(settings: dict[str, Any]) -> None:
    both = graph(*linear().node, placeholder("k", "float32", []), node("y", "Mul", "prediction", "k"))
    graphs.write(Path(settings["model"]), both)
    message = refusal(SchemaError, settings, feed=("inputs=inputs", "k=id"), fetch="y=y")
    assert "k:0 (float32 []) has no batch axis to feed rows to; type --set k:0=VALUE" in message


def test_a_placeholder_without_a_shape_takes_any(settings: dict[str, Any]) -> None:
    bare = graph(node("inputs", "Placeholder", dtype="float32"), node("prediction", "Identity", "inputs", T="float32"))
    graphs.write(Path(settings["model"]), bare)
    assert prepared(settings).feeds[0].tensor.shape is None


@pytest.mark.parametrize("pattern", ["*", "*.parquet", "**/*.parquet"])
def test_output_inside_what_a_glob_walks_is_a_mistake(settings: dict[str, Any], pattern: str) -> None:
    folder = settings["input"][0]
    more = {"input": f"{folder}/{pattern}", "output": f"{folder}/day/out"}
    if pattern == "*.parquet":  # finds nothing of what is written there
        prepared(settings, **more)
    else:
        write_rows(Path(folder) / "day" / "f.parquet", 0, 3)
        assert "--output" in refusal(PlanError, settings, **more)


@pytest.mark.parametrize("scheme", ["nowhere", "hdfs"])
def test_output_elsewhere_is_not_a_local_folder_of_that_name(settings: dict[str, Any], scheme: str) -> None:
    with pytest.raises(Mistake, match=rf"--output {scheme}://bucket/out"):
        prepared(settings, output=f"{scheme}://bucket/out")


def test_a_damaged_first_input_names_the_file(settings: dict[str, Any]) -> None:
    first = Path(settings["input"][0]) / "f0.parquet"
    first.write_bytes(first.read_bytes()[:-20])
    assert str(first) in refusal(DataError, settings)


def test_two_input_columns_of_one_name_are_told(settings: dict[str, Any], tmp_path: Path) -> None:
    table = pq.read_table(Path(settings["input"][0]) / "f0.parquet")
    names = ["id", "id", "inputs"]
    pq.write_table(pa.Table.from_arrays([table["id"], table["id"], table["inputs"]], names), tmp_path / "two.parquet")
    message = refusal(SchemaError, settings, input=str(tmp_path / "two.parquet"))
    assert "no column 'id'" not in message
    assert "'id'" in message


def test_rows_of_several_shapes_are_compiled_as_they_come(settings: dict[str, Any]) -> None:
    open_shape = graph(
        placeholder("inputs", "float32", [None, None]), node("prediction", "Relu", "inputs", T="float32")
    )
    assert not prepared(settings, xla=True).compiles_as_it_goes
    graphs.write(Path(settings["model"]), open_shape)
    assert not prepared(settings, xla=True).compiles_as_it_goes  # lists of one length
    for path in Path(settings["input"][0]).iterdir():
        table = pq.read_table(path)
        pq.write_table(table.set_column(1, "inputs", table["inputs"].cast(pa.list_(pa.float32()))), path)
    assert prepared(settings, xla=True).compiles_as_it_goes
    assert not prepared(settings).compiles_as_it_goes
