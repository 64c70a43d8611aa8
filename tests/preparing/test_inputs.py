from pathlib import Path
from typing import Any

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import build_config
from engine.errors import ConfigError, Mistake, PlanError, SchemaError
from engine.preparing.prepare import Job, prepare


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Six files in three folders of two partition columns; each has id, inputs, two scalars and a struct."""
    for i in range(6):
        folder = tmp_path / "in" / f"year={2020 + i // 2}" / f"country={'de' if i % 2 else 'fr'}"
        folder.mkdir(parents=True)
        table = {
            "id": [i], "inputs": [0.5], "f_1": [1.0], "f_2": [2.0], "s": [{"a": 1, "b": "x"}], "t": ["text"]
        }  # fmt: skip
        pq.write_table(pa.table(table), folder / f"{i}.parquet")
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None]))
    return {"model": model, "input": str(tmp_path / "in"), "output": str(tmp_path / "out")}


def job_of(settings: dict[str, Any], **changes: Any) -> Job:
    return prepare(build_config({**settings, **changes}))


def files_of(job: Job) -> list[str]:
    return sorted(Path(file.path).stem for file in job.plan.files)


@pytest.mark.parametrize(
    ("where", "files"),
    [
        (["year >= 2021"], "2345"),
        (["year = 2020", "country = de"], "1"),
        (["country in de,fr"], "012345"),
        (["country != de", "id > 0"], "024"),
        (["year = '2020'"], "01"),
        (["id = 0"], "012345"),
    ],
)
def test_folders_that_cannot_match_are_left_out(settings: dict[str, Any], where: list[str], files: str) -> None:
    job = job_of(settings, where=where)
    assert files_of(job) == list(files)
    assert job.inputs.num_pruned == 6 - len(files)
    assert len(job.inputs.selection.conditions) == sum("id" in text for text in where)
    assert sum(len(shard.pieces) for shard in job.plan.shards) == len(files)


def test_the_plan_knows_the_conditions(settings: dict[str, Any]) -> None:
    plans = {job_of(settings, where=where).plan.plan_id for where in ([], ["id = 0"], ["id = 1"])}
    assert len(plans) == 3
    assert job_of(settings, max_bad_rows=5).plan.plan_id == job_of(settings).plan.plan_id


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"where": "year > 2030"}, PlanError, r"year > 2030: holds for no folder.*; it has year=2020/c"),
        ({"where": "yaer > 2030"}, SchemaError, r"no column 'yaer'; did you mean year\? \(--where\)"),
        ({"where": "id ~ 3"}, ConfigError, r"--where"),
        ({"where": "id = three"}, ConfigError, r"id.*int64.*three"),
        ({"where": "country > 3"}, PlanError, r"quote the value"),
        ({"limit": 2, "where": "year > 2020"}, PlanError, r"--limit 2: --where holds for none of the folders"),
        ({"utf8": "label"}, ConfigError, r"--utf8 label: no output column of the graph; these are prediction"),
        ({"utf8": "prediction"}, SchemaError, r"--utf8 prediction: prediction:0 .*float32.* holds no strings"),
        ({"fill": "id=0"}, ConfigError, r"--fill id: no fed column; expected one of inputs"),
        ({"fill": "inputs=many"}, ConfigError, r"--fill inputs=many: expected a value of double"),
        ({"keep": "nothing"}, SchemaError, r"no column 'nothing'.*--keep"),
        ({"keep": "s.c"}, SchemaError, r"no column 's\.c'; did you mean s\.[ab]\? \(--keep\)"),
        ({"feed": "inputs=s"}, SchemaError, r"name one of its fields"),
        ({"feed": "inputs=f_*"}, SchemaError, r"names 2 columns where inputs:0 \(float32 \[\?\]\) takes 1"),
        ({"feed": "inputs=g_*"}, SchemaError, r"no column that matches 'g_\*'"),
        ({"feed": "inputs=country"}, SchemaError, r"holds text"),
        ({"fetch": "prediction=country"}, SchemaError, r"two output columns are called 'country'"),
        ({"fetch": "prediction=_row", "provenance": True}, SchemaError, r"two output columns are called '_row'"),
        ({"unbatched": True, "batch_size": 8}, ConfigError, r"--batch-size 8: with --unbatched every row"),
    ],
)  # fmt: skip
def test_mistakes(settings: dict[str, Any], changes: dict[str, Any], kind: type[Mistake], message: str) -> None:
    with pytest.raises(kind, match=message):
        job_of(settings, **changes)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (None, ["id", "f_1", "f_2", "s", "t"]),
        ("s.b,id,country", ["s.b", "id"]),
        ("year", []),
        ("all", ["id", "inputs", "f_1", "f_2", "s", "t"]),
    ],
)
def test_kept_columns(settings: dict[str, Any], keep: str | None, kept: list[str]) -> None:
    job = job_of(settings, keep=keep)
    assert [str(path) for path in job.inputs.keep] == kept
    assert job.inputs.selection.partitions == ()


def test_only_what_is_needed_is_read(settings: dict[str, Any]) -> None:
    job = job_of(settings, keep="s.b", where=["s.a > 0", "t = text"])
    assert job.inputs.selection.columns == pa.schema(
        [("inputs", pa.float64()), ("s", pa.struct([("a", pa.int64()), ("b", pa.string())])), ("t", pa.string())]
    )
    assert job_of(settings, keep="s.b").inputs.selection.columns.field("s").type == pa.struct([("b", pa.string())])


def test_a_graph_of_one_row_a_call(settings: dict[str, Any], tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "row.pb", graphs.identity("float32", [2]))
    job = job_of(settings, model=model, unbatched=True, feed="inputs=f_1,f_2")
    assert job.plan.batch_rows == 1
    assert job.feeds[0].row_shape == (2,)
    with pytest.raises(SchemaError, match="has no batch axis to feed rows to; .*--unbatched"):
        job_of(settings, model=graphs.write(tmp_path / "scalar.pb", graphs.identity("float32", [])))


def test_a_partition_column_can_be_fed(settings: dict[str, Any], tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "text.pb", graphs.identity("string", [None]))
    job = job_of(settings, model=model, feed="inputs=country")
    assert job.inputs.selection.partitions == ("country",)
    assert "country" not in job.inputs.selection.columns.names


def test_kept_columns_have_the_types_that_they_are_read_as(settings: dict[str, Any], tmp_path: Path) -> None:
    table = {
        "inputs": [0.5],
        "category": pa.array(["a"]).cast(pa.dictionary(pa.int8(), pa.string())),
        "view": pa.array(["a"], pa.string_view()),
    }
    pq.write_table(pa.table(table), tmp_path / "odd.parquet")
    job = job_of(settings, input=str(tmp_path / "odd.parquet"), where=["view = a"])
    kinds = {str(path): path.type for path in job.inputs.keep}
    assert kinds == {"category": pa.dictionary(pa.int32(), pa.string()), "view": pa.large_string()}
    assert all(job.inputs.selection.columns.field(name).type == kind for name, kind in kinds.items())


def test_an_empty_first_file_does_not_tell_the_types(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    pq.write_table(pa.table({"inputs": pa.nulls(0), "id": pa.nulls(0)}), tmp_path / "mixed" / "a.parquet")
    pq.write_table(pa.table({"inputs": [0.5], "id": [1]}), tmp_path / "mixed" / "b.parquet")
    job = job_of(settings, input=str(tmp_path / "mixed"))
    assert job.inputs.selection.columns.field("inputs").type == pa.float64()
    assert [Path(file.path).name for file in job.plan.files] == ["a.parquet", "b.parquet"]


def test_a_fetch_that_no_column_holds_is_told_at_once(settings: dict[str, Any], tmp_path: Path) -> None:
    made = graphs.graph(
        graphs.placeholder("inputs", "float32", [None]),
        graphs.node("odd", "Identity", "inputs", T="variant"),
    )
    with pytest.raises(SchemaError, match=r"--fetch odd:0 .*no Parquet column holds variant"):
        job_of(settings, model=graphs.write(tmp_path / "odd.pb", made), fetch="odd=x")
