import json
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows
from graphs import graph, node, placeholder

from engine.config import build_config
from engine.data.decoding import decoding_bytes
from engine.data.ledger import SUMMARY, Ledger
from engine.data.row_groups import SLICE_BYTES
from engine.data.sink import GROUP_BYTES
from engine.data.source import READ_BUFFER_BYTES
from engine.errors import ConfigError, PlanError
from engine.preparing.forecast import Forecast
from engine.preparing.prepare import prepare
from engine.preparing.resuming import claim_output
from engine.preview import RETAINED_BYTES, DataInFlight, Preview, preview
from engine.run.scheduling.fleet import SHARDS_PER_WORKER


@pytest.fixture
def settings(model: str, inputs: str, tmp_path: Path) -> dict[str, Any]:
    return {"model": model, "input": [inputs], "output": str(tmp_path / "out")}


def previewed(settings: dict[str, Any], **more: Any) -> Preview:
    return preview(build_config({**settings, **more}))


def test_a_preview_says_what_would_run(settings: dict[str, Any], tmp_path: Path) -> None:
    found = previewed(settings, shard_size=1000)
    job = prepare(build_config({**settings, "shard_size": 1000}))
    assert found.plan_id == job.plan.plan_id
    assert (found.model, found.output) == (settings["model"], settings["output"])
    assert found.num_files == 4
    assert found.input_bytes == sum(path.stat().st_size for path in Path(settings["input"][0]).iterdir())
    assert found.num_shards == len(job.plan.shards) > 4
    assert found.shard_bytes == 1000
    assert (found.num_done, found.refusal) == (0, "")
    assert found.feeds == (("inputs", str(job.inputs.first.schema.field("inputs").type), "inputs:0 (float32 [?, 4])"),)
    assert found.fetches == (("prediction:0 (float32 [?, 3])", "prediction"),)
    assert found.kept == (("id", "int64"),)
    num = found.num_shards
    assert found.parts == (f"part-00000-of-{num:05d}.parquet", f"part-{num - 1:05d}-of-{num:05d}.parquet")
    assert not (tmp_path / "out").exists()


def test_one_part_is_named_once(settings: dict[str, Any]) -> None:
    assert previewed(settings).parts == ("part-00000-of-00001.parquet",)


def test_data_in_flight_is_exact_for_columns_of_fixed_width(settings: dict[str, Any]) -> None:
    settings |= {"gpus_per_actor": 0}
    memory = previewed(settings, batch_size=32, input=f"{settings['input'][0]}/f0.parquet").memory
    metadata = pq.read_metadata(f"{settings['input'][0]}/f0.parquet")
    decoding = decoding_bytes(metadata, metadata.schema.to_arrow_schema(), 100, READ_BUFFER_BYTES)
    assert memory == DataInFlight(
        shards_at_once=SHARDS_PER_WORKER,
        holding_at_once=1,
        slice_bytes=100 * (8 + 4 * 4),
        decoding_bytes=decoding,
        converted_bytes=0,
        batch_bytes=32 * 4 * 4,
        part_bytes=100 * 8 + GROUP_BYTES,
        fetched_bytes=0,
        is_exact=True,
    )
    assert memory.shard_bytes == 2400 + decoding + 512 + 800 + GROUP_BYTES
    assert memory.retained_bytes == memory.shard_bytes + RETAINED_BYTES
    assert memory.total_bytes == 2 * memory.shard_bytes + RETAINED_BYTES
    small = previewed(settings, batch_size=32, input=f"{settings['input'][0]}/f0.parquet", row_group_size=50).memory
    assert small.part_bytes == 100 * 8 + 50 * 8


@pytest.mark.parametrize(
    ("cpus", "gpus", "holding"), [(None, 0, 1), (0.5, 0, 1), (2, 0, 2), (8, 0, 3), (1, 1, 3), (1, 0.25, 3)]
)
def test_as_many_shards_hold_rows_as_may_compute(
    settings: dict[str, Any], cpus: float | None, gpus: float, holding: int
) -> None:
    memory = previewed(settings, cpus_per_actor=cpus, gpus_per_actor=gpus).memory
    assert (memory.shards_at_once, memory.holding_at_once) == (SHARDS_PER_WORKER, holding)
    assert memory.total_bytes == holding * memory.shard_bytes + memory.retained_bytes


def test_the_slice_before_is_counted_where_row_groups_are_cut(settings: dict[str, Any]) -> None:
    write_rows(Path(settings["input"][0]) / "large.parquet", 0, 1_000_000)
    cut = previewed(settings, input=f"{settings['input'][0]}/large.parquet", batch_size=1024).memory
    metadata = pq.read_metadata(f"{settings['input'][0]}/large.parquet")
    rows = cut.slice_bytes // 24
    decoding = decoding_bytes(metadata, metadata.schema.to_arrow_schema(), rows, READ_BUFFER_BYTES)
    assert cut.decoding_bytes == cut.slice_bytes + decoding


def test_data_in_flight_holds_for_files_larger_than_the_first(settings: dict[str, Any]) -> None:
    write_rows(Path(settings["input"][0]) / "f9.parquet", 400, 500_000)
    memory = previewed(settings, batch_size=32).memory
    assert memory.is_exact
    assert SLICE_BYTES - 24 < memory.slice_bytes <= SLICE_BYTES


def test_a_column_that_is_cast_is_counted_twice(settings: dict[str, Any]) -> None:
    graphs.write(Path(settings["model"]), graphs.linear())
    path = Path(settings["input"][0]) / "f0.parquet"
    table = pq.read_table(path)
    table = table.set_column(1, "inputs", table["inputs"].cast(pa.list_(pa.float64(), 4)))
    pq.write_table(table, path)
    assert previewed(settings, input=str(path)).memory.converted_bytes == 100 * 4 * 4


def test_a_column_fed_to_two_tensors_is_counted_for_each(settings: dict[str, Any]) -> None:
    both = graph(
        placeholder("a", "float32", [None, 4]),
        placeholder("b", "float64", [None, 4]),
        node("c", "Cast", "b", SrcT="float64", DstT="float32"),
        node("y", "AddV2", "a", "c", T="float32"),
    )
    graphs.write(Path(settings["model"]), both)
    memory = previewed(
        settings, feed=("a=inputs", "b=inputs"), fetch="y=y", batch_size=10, input=f"{settings['input'][0]}/f0.parquet"
    ).memory
    assert memory.batch_bytes == 10 * (4 * 4 + 4 * 8)
    assert memory.converted_bytes == 100 * 4 * 8


def test_data_in_flight_of_columns_of_varying_width_is_no_promise(settings: dict[str, Any], tmp_path: Path) -> None:
    texts = pa.table({"text": [str(i) * 9 for i in range(50)], "id": np.arange(50)})
    pq.write_table(texts, tmp_path / "text.parquet")
    graphs.write(Path(settings["model"]), graphs.identity("string", [None]))
    memory = previewed(settings, input=str(tmp_path / "text.parquet"), feed="inputs=text").memory
    assert not memory.is_exact
    assert memory.slice_bytes > 50 * 8


def test_input_without_rows(settings: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "empty.parquet", 0, 0)
    found = previewed(settings, input=str(tmp_path / "empty.parquet"))
    assert found.num_shards == 1
    assert found.memory.slice_bytes == 0


def start(settings: dict[str, Any], parts: int = 0) -> None:
    """Leave the output folder as an earlier run that was cut off would."""
    job = prepare(build_config(settings))
    ledger = Ledger(job.config.output)
    ledger.folder.make()
    claim_output(job, ledger, None, "ab")
    for name in list(job.part_names)[:parts]:
        (Path(job.config.output) / name).write_bytes(b"")


def test_parts_that_are_done_are_counted(settings: dict[str, Any]) -> None:
    settings["shard_size"] = 1000
    start(settings, parts=3)
    assert (previewed(settings).num_done, previewed(settings).refusal) == (3, "")


def test_a_job_that_differs_would_be_refused(settings: dict[str, Any]) -> None:
    start({**settings, "batch_size": 8}, parts=1)
    found = previewed(settings, batch_size=16)
    assert "holds a job that differs: batch_size 8 -> 16;" in found.refusal
    assert found.num_done == 0
    assert previewed(settings, batch_size=16, overwrite=True).refusal == ""


def test_a_folder_of_something_else_is_a_mistake(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_bytes(b"")
    with pytest.raises(PlanError, match=r"holds something else \(thesis.doc\)"):
        previewed(settings)


def test_a_preview_writes_nothing(settings: dict[str, Any], tmp_path: Path) -> None:
    start(settings)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    previewed(settings)
    previewed(settings, overwrite=True)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_preview_is_json(settings: dict[str, Any]) -> None:
    found = previewed(settings)
    document = json.loads(json.dumps(found.to_json()))
    assert document["plan_id"] == found.plan_id
    assert document["memory"]["total_bytes"] == found.memory.total_bytes
    assert document["feeds"] == [list(feed) for feed in found.feeds]


def test_no_simulation_unless_it_is_asked_for(settings: dict[str, Any]) -> None:
    assert previewed(settings).simulated is None
    assert previewed(settings).to_json()["simulated"] is None


def simulated(settings: dict[str, Any], num_actors: int, rate: float | None = None, **more: Any) -> Forecast:
    found = preview(build_config({**settings, **more}), simulate=num_actors, rate=rate).simulated
    assert found is not None
    return found


def test_a_simulation_of_one_actor_takes_the_rows_over_the_rate(settings: dict[str, Any]) -> None:
    found = simulated(settings, 1, 2.0, input=f"{settings['input'][0]}/f0.parquet", shard_size=300)
    assert found.num_shards > 3
    assert (found.num_actors, found.num_rows, found.is_estimated) == (1, 100, False)
    assert (found.rate, found.is_rate_given) == (2.0, True)
    assert (found.load_seconds, found.is_load_assumed) == (10.0, True)
    assert found.wall_seconds == pytest.approx(10 + 100 / 2)
    assert found.utilisation == pytest.approx(1.0)
    assert found.useful_actors == found.num_shards // SHARDS_PER_WORKER
    assert simulated(settings, 9, 2.0, shard_size=300).wall_seconds < 10 + 400 / 2 / 4


def test_rows_of_several_files_are_estimated_by_bytes(settings: dict[str, Any]) -> None:
    found = simulated(settings, 2, 100.0, shard_size=1000)
    num_rows = sum(pq.read_metadata(path).num_rows for path in Path(settings["input"][0]).glob("*.parquet"))
    assert found.is_estimated
    assert found.num_rows == pytest.approx(num_rows, rel=0.15)


def test_a_limit_is_kept_to(settings: dict[str, Any]) -> None:
    assert simulated(settings, 2, 100.0, limit=130).num_rows == 130


def test_only_what_is_missing_is_simulated(settings: dict[str, Any]) -> None:
    settings["shard_size"] = 1000
    whole = simulated(settings, 1, 1.0)
    start(settings, parts=3)
    rest = simulated(settings, 1, 1.0)
    assert rest.num_shards == whole.num_shards - 3
    assert rest.num_rows < whole.num_rows
    assert rest.wall_seconds == pytest.approx(10 + rest.num_rows, abs=1)


def keep_summary(settings: dict[str, Any], text: str) -> None:
    Ledger(str(settings["output"])).folder.write(SUMMARY, text.encode())


def test_the_last_summary_tells_rate_and_seconds_to_load(settings: dict[str, Any]) -> None:
    start(settings)
    keep_summary(settings, json.dumps({"rows_per_actor_second": 12.5, "actors": 40, "seconds_load": 3.5}))
    found = simulated(settings, 1)
    assert (found.rate, found.is_rate_given) == (12.5, False)
    assert (found.load_seconds, found.is_load_assumed) == (3.5, False)
    assert simulated(settings, 1, 99.0).rate == 99.0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"rows_per_actor_second": 0.0}', '{"rows_per_actor_second": "x"}'])
def test_a_rate_that_nothing_tells_is_a_mistake(settings: dict[str, Any], text: str) -> None:
    start(settings)
    keep_summary(settings, text)
    with pytest.raises(ConfigError, match=r"--simulate 8: .* --rate R$"):
        simulated(settings, 8)


def test_where_nothing_is_missing_no_rate_is_asked_for(settings: dict[str, Any]) -> None:
    settings["shard_size"] = 1000
    start(settings, parts=previewed(settings).num_shards)
    found = simulated(settings, 8)
    assert (found.num_shards, found.num_rows, found.rate, found.wall_seconds, found.utilisation) == (0, 0, 0, 0, 0)


def test_more_actors_than_shards_do_not_help(settings: dict[str, Any]) -> None:
    shards = previewed(settings, shard_size=1000).num_shards
    few, many = (simulated(settings, num, 1.0, shard_size=1000) for num in (shards, 100_000))
    assert few.wall_seconds == many.wall_seconds


def test_input_without_rows_takes_no_time_to_score(settings: dict[str, Any], tmp_path: Path) -> None:
    write_rows(tmp_path / "empty.parquet", 0, 0)
    found = simulated(settings, 3, 5.0, input=str(tmp_path / "empty.parquet"))
    assert (found.num_shards, found.num_rows, found.wall_seconds) == (1, 0, 10.0)
