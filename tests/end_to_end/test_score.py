import hashlib
import json
import os
from pathlib import Path

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import NUM_FEATURES, write_rows

from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.errors import ClusterError, DataError, GraphError, PlanError
from engine.run.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]


def run(model: str, inputs: str, output: Path, **settings: object) -> Summary:
    return score(JobConfig(**{"model": model, "input": (inputs,), "output": str(output), **settings}))


def part_hashes(output: Path) -> dict[str, str]:
    return {
        path.relative_to(output).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("part-*.parquet"))
    }


def softmax(rows: np.ndarray, model: str) -> np.ndarray:
    weights = np.random.default_rng(0).normal(size=(NUM_FEATURES, 3)).astype(np.float32)
    logits = rows @ weights
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def test_every_row_is_scored_once_and_in_order(model: str, inputs: str, tmp_path: Path) -> None:
    summary = run(model, inputs, tmp_path / "out", shard_size=1000, batch_size=32)
    assert (summary.rows_in, summary.rows_out, summary.rows_quarantined) == (400, 400, 0)
    assert summary.parts >= 4
    assert summary.attempts == summary.parts
    names = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    table = pa.concat_tables(pq.read_table(tmp_path / "out" / name) for name in names)
    assert table["id"].to_pylist() == list(range(400))
    assert table.column_names == ["id", "prediction"]
    assert table.schema.field("prediction").type == pa.list_(pa.float32(), 3)
    source = ds.dataset(inputs).to_table().sort_by("id")
    expected = softmax(np.stack(source["inputs"].to_numpy()), model)
    np.testing.assert_allclose(np.stack(table["prediction"].to_numpy()), expected, rtol=1e-5)


def test_a_device_without_room_halves_the_batches_and_says_so(inputs: str, tmp_path: Path) -> None:
    """TensorFlow's own ResourceExhaustedError, of a graph that asks for more than any allocator gives."""
    model = graphs.write(tmp_path / "hungry.pb", graphs.hungry(40, NUM_FEATURES))
    summary = run(model, inputs, tmp_path / "out", batch_size=64, actors=1)
    assert summary.rows_out == 400
    assert summary.batches_halved == 1  # and then it is known
    assert not summary.bytes_stable
    assert summary.bytes_stable_reason == "batches halved because the device ran out of memory: 1"
    scored = ds.dataset(sorted(map(str, (tmp_path / "out").glob("part-*")))).to_table().sort_by("id")
    rows = np.stack(ds.dataset(inputs).to_table().sort_by("id")["inputs"].to_numpy())
    np.testing.assert_allclose(np.stack(scored["prediction"].to_numpy()), softmax(rows, model), rtol=1e-5)


def test_the_files_of_a_job(model: str, inputs: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = run(model, inputs, output, shard_size=1000)
    assert sorted(path.name for path in output.iterdir() if not path.name.startswith("part-")) == [
        "_SUCCESS",
        "_icefloe",
    ]
    folder = output / "_icefloe"
    assert sorted(path.name for path in folder.iterdir()) == [
        "inputs.parquet",
        "manifest.parquet",
        "plan.json",
        "report.html",
        "schema.arrow",
        "status.json",
        "summary.json",
        "timeline.parquet",
    ]
    assert json.loads((folder / "summary.json").read_text())["plan_id"] == summary.plan_id
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["plan_id"] == summary.plan_id
    assert plan["settings"]["model_sha256"] == hashlib.sha256(Path(model).read_bytes()).hexdigest()
    manifest = pq.read_table(folder / "manifest.parquet").to_pylist()
    assert {row["part"]: row["sha256"] for row in manifest} == part_hashes(output)
    assert sum(row["rows"] for row in manifest) == 400
    assert all(row["attempts"] == 1 and row["seconds"] > 0 for row in manifest)
    schema = pa.ipc.read_schema(pa.py_buffer((folder / "schema.arrow").read_bytes()))
    footer = pq.read_schema(output / manifest[0]["part"])
    assert footer.remove_metadata().equals(schema)
    facts = json.loads(pq.read_metadata(output / manifest[0]["part"]).metadata[b"icefloe"])
    assert facts["plan_id"] == summary.plan_id
    assert facts["rows"] == manifest[0]["rows"]
    listed = pq.read_table(folder / "inputs.parquet").to_pylist()
    assert [row["size_bytes"] for row in listed] == [os.path.getsize(row["path"]) for row in listed]


def test_parts_are_the_same_bytes_whatever_the_number_of_actors(model: str, inputs: str, tmp_path: Path) -> None:
    one = run(model, inputs, tmp_path / "one", shard_size=1000, actors=1)
    three = run(model, inputs, tmp_path / "three", shard_size=1000, actors=3)
    assert (one.actors, three.plan_id) == (1, one.plan_id)
    assert part_hashes(tmp_path / "one") == part_hashes(tmp_path / "three")


def test_a_rerun_scores_only_what_is_missing(model: str, inputs: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(model, inputs, output, shard_size=1000)
    before = part_hashes(output)
    lost = sorted(before)[1]
    (output / lost).unlink()
    (output / ".icefloe-left-over").write_bytes(b"half a part")
    summary = run(model, inputs, output, shard_size=1000)
    assert (summary.parts_earlier, summary.attempts) == (len(before) - 1, 1)
    assert part_hashes(output) == before
    assert not (output / ".icefloe-left-over").exists()
    manifest = pq.read_table(output / "_icefloe" / "manifest.parquet").to_pylist()
    assert [row["part"] for row in manifest if row["attempts"] is not None] == [lost]


def test_a_finished_job_runs_nothing(model: str, inputs: str, tmp_path: Path) -> None:
    first = run(model, inputs, tmp_path / "out")
    again = run(model, inputs, tmp_path / "out", actors=1)
    assert (again.attempts, again.parts_earlier, again.rows_out) == (0, first.parts, 400)


def test_a_job_cut_off_while_finishing_ends_without_scoring(model: str, inputs: str, tmp_path: Path) -> None:
    first = run(model, inputs, tmp_path / "out")
    (tmp_path / "out" / "_SUCCESS").unlink()
    (tmp_path / "out" / "_icefloe" / "manifest.parquet").unlink()
    again = run(model, inputs, tmp_path / "out")
    assert (again.attempts, again.parts_earlier, again.rows_out) == (0, first.parts, 400)
    ledger = Ledger(str(tmp_path / "out"))
    assert ledger.is_finished(ledger.find_files())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 16}, r"batch_size 32 -> 16"),
        ({"keep": "none"}, r"keep \['id'\] -> \[\]"),
        ({"limit": 10}, r"limit None -> 10"),
    ],
)
def test_a_changed_option_is_refused_by_name(
    model: str, inputs: str, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    run(model, inputs, tmp_path / "out", batch_size=32, limit=None)
    with pytest.raises(PlanError, match=message):
        run(model, inputs, tmp_path / "out", **{"batch_size": 32, **change})


def test_changed_inputs_are_refused_and_overwrite_starts_anew(model: str, inputs: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(model, inputs, output, shard_size=1000)
    (output / "notes.txt").write_text("mine")
    os.utime(Path(inputs) / "f1.parquet", (1, 1))
    with pytest.raises(PlanError, match=r"f1\.parquet touched, same size"):
        run(model, inputs, output, shard_size=1000)
    write_rows(Path(inputs) / "f9.parquet", 900, 1000)
    with pytest.raises(PlanError, match=r"1 input files new, first: f9\.parquet"):
        run(model, inputs, output, shard_size=1000)
    summary = run(model, inputs, output, shard_size=1000, overwrite=True)
    assert (summary.rows_out, summary.parts_earlier) == (500, 0)
    assert len(part_hashes(output)) == summary.parts
    assert (output / "notes.txt").read_text() == "mine"


def test_limit_takes_the_first_rows(model: str, inputs: str, tmp_path: Path) -> None:
    summary = run(model, inputs, tmp_path / "out", limit=250, shard_size=1000, batch_size=64)
    assert summary.rows_in == 250
    ids = ds.dataset(tmp_path / "out", exclude_invalid_files=True).to_table()["id"].to_pylist()
    assert sorted(ids) == list(range(250))


def test_one_file_of_many_row_groups_is_cut_into_byte_ranges(model: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "big.parquet", 0, 5000, row_group_size=300)
    summary = run(model, str(tmp_path / "in"), tmp_path / "out", shard_size=20_000, batch_size=64)
    assert summary.parts > 3
    names = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
    ids = [i for name in names for i in pq.read_table(tmp_path / "out" / name)["id"].to_pylist()]
    assert ids == list(range(5000))


def test_an_empty_file_gives_an_empty_part_of_the_same_schema(model: str, inputs: str, tmp_path: Path) -> None:
    write_rows(Path(inputs) / "f2-empty.parquet", 0, 0)
    summary = run(model, inputs, tmp_path / "out", shard_size=1000)
    schemas = {str(pq.read_schema(path).remove_metadata()) for path in (tmp_path / "out").glob("part-*")}
    assert summary.rows_out == 400
    assert len(schemas) == 1


def test_partition_folders_are_kept(model: str, tmp_path: Path) -> None:
    for day in (1, 2):
        write_rows(tmp_path / "in" / f"dt=2026-01-0{day}" / "x.parquet", day * 10, day * 10 + 10)
    run(model, str(tmp_path / "in"), tmp_path / "out")
    assert list(part_hashes(tmp_path / "out")) == [
        "dt=2026-01-01/part-00000-of-00002.parquet",
        "dt=2026-01-02/part-00001-of-00002.parquet",
    ]


def test_a_null_ends_the_job_with_file_row_and_column(model: str, tmp_path: Path) -> None:
    rows = pa.array([[1.0, 2, 3, 4], None], pa.list_(pa.float32(), 4))
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"inputs": rows}), tmp_path / "in" / "x.parquet")
    with pytest.raises(DataError, match=r"shard 0: .*x\.parquet, row 1: column 'inputs': a null"):
        run(model, str(tmp_path / "in"), tmp_path / "out")


def test_a_graph_whose_output_does_not_follow_the_rows(tmp_path: Path, inputs: str) -> None:
    reduce = graphs.graph(
        graphs.placeholder("inputs", "float32", [None, NUM_FEATURES]),
        graphs.constant("axis", np.array([0], np.int32)),
        graphs.node("prediction", "Sum", "inputs", "axis", T="float32", Tidx="int32"),
    )
    with pytest.raises(GraphError, match=r"should be the \d+ rows"):
        run(graphs.write(tmp_path / "sum.pb", reduce), inputs, tmp_path / "out")


def test_renaming_one_of_two_roots_scores_no_row_twice(model: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "A" / "x.parquet", 0, 100)
    write_rows(tmp_path / "B" / "a.parquet", 100, 200)
    output, settings = tmp_path / "out", {"shard_size": 3000}
    run(model, "", output, **{**settings, "input": (str(tmp_path / "A"), str(tmp_path / "B"))})
    before = part_hashes(output)
    (output / sorted(before)[1]).unlink()
    (tmp_path / "B").rename(tmp_path / "0B")
    run(model, "", output, **{**settings, "input": (str(tmp_path / "A"), str(tmp_path / "0B"))})
    assert part_hashes(output) == before
    ids = [i for name in before for i in pq.read_table(output / name)["id"].to_pylist()]
    assert sorted(ids) == list(range(200))


def test_a_mistake_leaves_the_earlier_output_and_a_corrected_one_needs_no_overwrite(
    model: str, inputs: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run(model, inputs, output, batch_size=32)
    before = part_hashes(output)
    with pytest.raises(ClusterError, match="99 actors of 4 CPU"):
        run(model, inputs, output, batch_size=16, overwrite=True, actors=99, shard_size=100, cpus_per_actor=4)
    assert part_hashes(output) == before
    assert (output / "_SUCCESS").exists()
    with pytest.raises(GraphError, match="first axis should be"):  # told when loaded
        run(sums(tmp_path), inputs, tmp_path / "other", fetch={"total": "total"})
    assert run(sums(tmp_path), inputs, tmp_path / "other", fetch={"rows": "rows"}).rows_out == 400


def sums(folder: Path) -> str:
    made = graphs.graph(
        graphs.placeholder("inputs", "float32", [None, NUM_FEATURES]),
        graphs.constant("axis", np.array([0, 1], np.int32)),
        graphs.constant("last", np.array([1], np.int32)),
        graphs.node("total", "Sum", "inputs", "axis", T="float32", Tidx="int32"),
        graphs.node("rows", "Sum", "inputs", "last", T="float32", Tidx="int32"),
    )
    return graphs.write(folder / "sums.pb", made)


def test_a_part_of_another_plan_is_scored_again(model: str, inputs: str, tmp_path: Path) -> None:
    run(model, inputs, tmp_path / "one", shard_size=1000)
    run(model, inputs, tmp_path / "two", shard_size=1000, batch_size=7)
    before = part_hashes(tmp_path / "one")
    name = sorted(before)[2]
    (tmp_path / "one" / "_SUCCESS").unlink()
    (tmp_path / "one" / name).write_bytes((tmp_path / "two" / name).read_bytes())
    summary = run(model, inputs, tmp_path / "one", shard_size=1000)
    assert summary.attempts == 1
    assert part_hashes(tmp_path / "one") == before


def test_a_job_below_another_output_is_left_alone(model: str, inputs: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(model, inputs, output)
    run(model, inputs, output / "v2")
    before = part_hashes(output / "v2")
    run(model, inputs, output, overwrite=True)
    assert part_hashes(output / "v2") == before


def test_moved_inputs_give_the_same_bytes(model: str, inputs: str, tmp_path: Path) -> None:
    run(model, inputs, tmp_path / "one", shard_size=1000)
    Path(inputs).rename(tmp_path / "moved")
    run(model, str(tmp_path / "moved"), tmp_path / "two", shard_size=1000)
    assert part_hashes(tmp_path / "one") == part_hashes(tmp_path / "two")


def test_lists_of_another_length_in_a_later_file(tmp_path: Path) -> None:
    for name, width in (("a", 3), ("b", 5)):
        rows = pa.array([[float(i)] * width for i in range(4)], pa.list_(pa.float32()))
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(pa.table({"inputs": rows}), tmp_path / "in" / f"{name}.parquet")
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, None]))
    run(model, str(tmp_path / "in"), tmp_path / "out")
    table = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*")))
    assert [len(row) for row in table["prediction"].to_pylist()] == [3] * 4 + [5] * 4


def test_nothing_of_the_model_is_in_the_working_folder(model: str, inputs: str, tmp_path: Path) -> None:
    before = set(os.listdir())
    run(model, inputs, tmp_path / "out")
    assert set(os.listdir()) == before
