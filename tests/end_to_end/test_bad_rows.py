"""Bad rows: what becomes of them, how many are put up with, and what a later run knows of them."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import actor_processes, wait_for

from engine import JobConfig, score
from engine.errors import DataError, GraphError, Mistake, SchemaError
from engine.run.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

# Text to float32; refuses a batch that holds other words than numbers, and takes nan and inf for numbers.
NUMBER = graphs.graph(
    graphs.placeholder("inputs", "string", [None]),
    graphs.node("prediction", "StringToNumber", "inputs", out_type="float32"),
)


def run(model: str, inputs: Path, output: Path, **settings: Any) -> Summary:
    """Score; shards are as large as the largest file, so that files of about one size each have a part."""
    sizes = [path.stat().st_size for path in inputs.rglob("*.parquet")]
    config = {"model": model, "input": (str(inputs),), "output": str(output), "actors": 1, "shard_size": max(sizes)}
    return score(JobConfig(**{**config, **settings}))


def write_words(folder: Path, files: Mapping[str, list[str | None]]) -> Path:
    """Write files of the columns id, counted through all of them, and inputs."""
    folder.mkdir(parents=True)
    start = 0
    for name, words in files.items():
        ids = range(start, start + len(words))
        pq.write_table(pa.table({"id": ids, "inputs": pa.array(words, pa.string())}), folder / f"{name}.parquet")
        start += len(words)
    return folder


def read_parts(output: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(output.rglob("part-*")))


def part(number: int, num_parts: int) -> str:
    return f"part-{number:05d}-of-{num_parts:05d}.parquet"


def bad(number: int, num_parts: int) -> str:
    return f"_icefloe/quarantine/bad-{number:05d}-of-{num_parts:05d}.parquet"


def set_aside(output: Path) -> list[tuple[str, int, str]]:
    """Return file, row and class of fault of every row in quarantine."""
    tables = [pq.read_table(path) for path in sorted(output.rglob("bad-*"))]
    return [(row["_file"], row["_row"], row["_error"]) for table in tables for row in table.to_pylist()]


def assert_books_balance(output: Path, summary: Summary) -> None:
    """Parts, quarantine, footers, manifest and summary tell the same numbers of rows."""
    manifest = pq.read_table(output / "_icefloe" / "manifest.parquet").to_pylist()
    counts = ("rows_in", "rows", "rows_quarantined", "rows_filtered")
    for row in manifest:
        assert row["rows_in"] == row["rows"] + row["rows_quarantined"] + row["rows_filtered"]
        footer = pq.read_metadata(output / row["part"])
        assert footer.num_rows == row["rows"]
        aside = output / bad(row["shard_id"], len(manifest))
        assert aside.exists() == bool(row["rows_quarantined"])
        footers = [footer]
        if aside.exists():
            footers.append(pq.read_metadata(aside))
            assert footers[-1].num_rows == row["rows_quarantined"]
        for each in footers:
            facts = json.loads(each.metadata[b"icefloe"])
            assert {name: facts[name] for name in counts} == {name: row[name] for name in counts}
    totals = summary.rows_in, summary.rows_out, summary.rows_quarantined, summary.rows_filtered
    assert totals == tuple(sum(row[name] for row in manifest) for name in counts)
    assert len(list(output.rglob("bad-*"))) == sum(bool(row["rows_quarantined"]) for row in manifest)


@dataclass(frozen=True)
class Scored:
    """A job over four files, of which the second has two bad rows; it was first run without a budget."""

    model: str
    inputs: Path
    output: Path
    settings: dict[str, Any]
    summary: Summary
    first_error: str
    was_finished: bool

    def copy(self, folder: Path) -> Path:
        """Copy the finished output, which is the same job elsewhere."""
        shutil.copytree(self.output, folder)
        return folder

    def rerun(self, output: Path, **more: Any) -> Summary:
        return run(self.model, self.inputs, output, **{**self.settings, **more})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("scored")
    files: dict[str, list[str | None]] = {
        f"f{i}": [f"{number}.5" for number in range(i * 10, i * 10 + 10)] for i in range(4)
    }
    files["f0"][3], files["f0"][4], files["f3"][9] = "nan", "inf", "-inf"
    files["f1"][2], files["f1"][5] = "two", None
    inputs = write_words(folder / "in", files)
    model, output = graphs.write(folder / "m.pb", NUMBER), folder / "out"
    settings: dict[str, Any] = {"batch_size": 4, "where": ("id != 7",)}
    with pytest.raises(DataError) as refusal:
        run(model, inputs, output, **settings)
    was_finished = (output / "_SUCCESS").exists()
    wait_for(lambda: not actor_processes())
    summary = run(model, inputs, output, max_bad_rows=2, **settings)
    return Scored(model, inputs, output, settings, summary, str(refusal.value), was_finished)


def test_no_bad_row_is_put_up_with_unless_the_call_says_so(scored: Scored) -> None:
    assert re.search(r"shard 1: 2 bad rows where --max-bad-rows allows 0: ", scored.first_error)
    assert re.search(r"f1\.parquet, row 2: the graph refuses these values: .*two", scored.first_error)
    assert re.search(r"f1\.parquet, row 5: column 'inputs': a null where inputs:0 ", scored.first_error)
    assert f"see {scored.output}/_icefloe/quarantine" in scored.first_error
    assert "larger --max-bad-rows" in scored.first_error
    assert not scored.was_finished


def test_inside_the_budget_the_job_ends_well_and_every_row_is_accounted_for(scored: Scored) -> None:
    summary = scored.summary
    assert (summary.rows_in, summary.rows_out, summary.rows_quarantined, summary.rows_filtered) == (40, 37, 2, 1)
    assert summary.parts == 4
    assert_books_balance(scored.output, summary)
    assert (scored.output / "_SUCCESS").exists()
    rows = read_parts(scored.output)
    assert rows["id"].to_pylist() == [number for number in range(40) if number not in (7, 12, 15)]
    odd = {3: np.nan, 4: np.inf, 39: -np.inf}
    expected = [odd.get(number, number + 0.5) for number in rows["id"].to_pylist()]
    np.testing.assert_array_equal(rows["prediction"].to_numpy(), np.array(expected, np.float32))
    assert set_aside(scored.output) == [("f1.parquet", 2, "InvalidArgument"), ("f1.parquet", 5, "Null")]
    aside = pq.read_table(scored.output / bad(1, 4))
    assert aside.column_names == ["inputs", "id", "_file", "_row", "_error", "_message"]
    assert aside.select(["inputs", "id"]).to_pylist() == [{"inputs": "two", "id": 12}, {"inputs": None, "id": 15}]


def test_nan_and_inf_are_kept_and_counted_by_output_column(scored: Scored) -> None:
    assert scored.summary.nan_values == {"prediction": 1}
    assert scored.summary.inf_values == {"prediction": 2}
    manifest = pq.read_table(scored.output / "_icefloe" / "manifest.parquet").to_pylist()
    counts = [json.loads(row["odd_values"]) for row in manifest]
    assert counts == [{"prediction": [1, 1]}, {}, {}, {"prediction": [0, 1]}]


def test_a_finished_job_is_judged_by_the_budget_of_the_call(scored: Scored) -> None:
    with pytest.raises(DataError, match="2 bad rows where --max-bad-rows allows 1"):
        scored.rerun(scored.output, max_bad_rows=1)
    again = scored.rerun(scored.output, max_bad_rows=3)
    assert (again.attempts, again.rows_quarantined, again.nan_values) == (0, 2, {"prediction": 1})


def test_a_resumed_job_counts_the_rows_that_lie_in_quarantine(scored: Scored, tmp_path: Path) -> None:
    output = scored.copy(tmp_path / "out")
    whole = (output / part(2, 4)).read_bytes()
    (output / part(2, 4)).unlink()
    with pytest.raises(DataError, match=r"2 bad rows where --max-bad-rows allows 1.*_icefloe/quarantine"):
        scored.rerun(output, max_bad_rows=1)
    assert not (output / "_SUCCESS").exists()
    summary = scored.rerun(output, max_bad_rows=2)
    assert (summary.attempts, summary.parts_earlier, summary.rows_quarantined) == (1, 3, 2)
    assert (summary.nan_values, summary.inf_values) == ({"prediction": 1}, {"prediction": 2})
    assert (output / part(2, 4)).read_bytes() == whole
    assert_books_balance(output, summary)


def test_a_job_cut_off_scores_a_part_again_whose_quarantine_is_gone(scored: Scored, tmp_path: Path) -> None:
    output = scored.copy(tmp_path / "out")
    before = pq.read_table(output / bad(1, 4))
    (output / bad(1, 4)).unlink()
    (output / "_SUCCESS").unlink()
    summary = scored.rerun(output, max_bad_rows=2)
    assert (summary.attempts, summary.parts_earlier) == (1, 3)
    assert pq.read_table(output / bad(1, 4)) == before
    assert (output / part(1, 4)).read_bytes() == (scored.output / part(1, 4)).read_bytes()
    assert_books_balance(output, summary)


def test_overwriting_removes_the_quarantine_of_the_earlier_job(scored: Scored, tmp_path: Path) -> None:
    output = scored.copy(tmp_path / "out")
    (output / "_icefloe" / "quarantine" / "notes.txt").write_text("mine")
    summary = scored.rerun(output, where=("id < 12",), overwrite=True)
    assert (summary.rows_out, summary.rows_quarantined, summary.rows_filtered) == (12, 0, 28)
    assert not list(output.rglob("bad-*"))
    assert (output / "_icefloe" / "quarantine" / "notes.txt").exists()
    assert_books_balance(output, summary)


def test_a_job_ends_early_past_its_number_of_bad_rows(tmp_path: Path) -> None:
    files: dict[str, list[str | None]] = {f"f{i:02}": ["1", "2", "x", "4"] for i in range(30)}
    inputs, model = write_words(tmp_path / "in", files), graphs.write(tmp_path / "m.pb", NUMBER)
    with pytest.raises(DataError, match=r"3 bad rows where --max-bad-rows allows 2: .*row 2.*; .*row 2"):
        run(model, inputs, tmp_path / "out", max_bad_rows=2)
    wait_for(lambda: not actor_processes())
    assert len(list((tmp_path / "out").rglob("part-*"))) < 15
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.fixture(scope="module")
def shared_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path, str]:
    """A job whose first file is bad from the first row to the last, run with a share that is too small."""
    folder = tmp_path_factory.mktemp("share")
    files: dict[str, list[str | None]] = {"f0": ["bad"] * 40, "f1": ["1"] * 80, "f2": ["2"] * 79 + ["x"]}
    inputs, model = write_words(folder / "in", files), graphs.write(folder / "m.pb", NUMBER)
    with pytest.raises(DataError) as refusal:
        run(model, inputs, folder / "out", max_bad_rows="20%")
    return model, inputs, folder / "out", str(refusal.value)


def test_a_first_file_of_bad_rows_alone_only_fills_quarantine(shared_out: tuple[str, Path, Path, str]) -> None:
    _, _, output, _ = shared_out
    expected = [("f0.parquet", row, "InvalidArgument") for row in range(40)] + [("f2.parquet", 79, "InvalidArgument")]
    assert set_aside(output) == expected
    assert read_parts(output)["prediction"].to_pylist() == [1.0] * 80 + [2.0] * 79


def test_a_share_is_judged_at_the_end_and_a_larger_one_finishes_without_scoring(
    shared_out: tuple[str, Path, Path, str],
) -> None:
    model, inputs, output, message = shared_out
    assert "41 bad rows of 200 (20.500%) where --max-bad-rows allows 20%" in message
    assert "f0.parquet, row 0: the graph refuses these values" in message
    assert len(list(output.rglob("part-*"))) == 3
    assert not (output / "_SUCCESS").exists()
    summary = run(model, inputs, output, max_bad_rows="20.5%")
    assert (summary.attempts, summary.parts, summary.parts_earlier) == (0, 3, 3)
    assert (summary.rows_in, summary.rows_out, summary.rows_quarantined) == (200, 159, 41)
    assert (output / "_SUCCESS").exists()
    assert_books_balance(output, summary)


def test_each_kind_of_fault_has_its_name(tmp_path: Path) -> None:
    columns: dict[str, tuple[pa.DataType, str, list[int | None], Callable[[int], Any]]] = {
        "scalar": (pa.float64(), "float32", [None], float),
        "count": (pa.int64(), "int32", [None], lambda row: row),
        "pair": (pa.list_(pa.float64()), "float32", [None, 2], lambda row: [row, -row]),
        "grid": (pa.list_(pa.list_(pa.int32())), "int32", [None, 2, 2], lambda row: [[row, 1], [2, 3]]),
        "raw": (pa.binary(), "int16", [None, 2], lambda row: np.array([row, -row], "<i2").tobytes()),
        "blob": (pa.binary(), "string", [None], lambda row: f"ä{row}".encode()),
    }
    faults: dict[int, tuple[str, Any, str, str]] = {
        1: ("scalar", None, "Null", "column 'scalar': a null where scalar_in:0 "),
        2: ("scalar", 1e300, "Overflow", r"column 'scalar': 1e\+300 overflows float32 of scalar_in:0"),
        3: ("count", 2**31, "Overflow", "column 'count': 2147483648 overflows int32 of count_in:0"),
        4: ("pair", [1.0], "WrongLength", "column 'pair': a list of 1 values where pair_in:0 .* takes 2"),
        5: ("pair", [1.0, None], "Null", "column 'pair': a null"),
        6: ("pair", [], "WrongLength", "column 'pair': a list of 0 values"),
        7: ("grid", [[1, 2], [3]], "WrongLength", "column 'grid': lists of different lengths inside one row"),
        8: ("grid", [[1, 2]], "WrongLength", r"column 'grid': rows of \[1, 2\] cannot fill grid_in:0"),
        9: ("raw", b"abc", "WrongBytes", "column 'raw': 3 bytes where raw_in:0 .* takes 4"),
        10: ("raw", b"", "WrongBytes", "column 'raw': 0 bytes"),
        11: ("blob", b"\xff", "NotUtf8", "output column 'blob_out': bytes that are no UTF-8"),
        12: ("scalar", float("nan"), "NotFinite", r"output column 'scalar_out': NaN or Inf .*--nan-is-bad"),
        13: ("pair", [0.0, float("-inf")], "NotFinite", "output column 'pair_out': NaN or Inf"),
        14: ("count", 500, "InvalidArgument", "the graph refuses these values: .*500 is not in"),
        15: ("blob", None, "Null", "column 'blob': a null"),
    }
    rows = []
    for row in range(20):
        values = {name: make(row) for name, (_, _, _, make) in columns.items()}
        if row in faults:
            values[faults[row][0]] = faults[row][1]
        rows.append({"id": row, "notes": [{"key": f"k{row}", "value": row / 2}] * (row % 3), **values})
    notes = pa.list_(pa.struct([("key", pa.string()), ("value", pa.float64())]))
    kinds = [("id", pa.int64()), ("notes", notes), *((name, each[0]) for name, each in columns.items())]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds)), tmp_path / "in" / "x.parquet")
    nodes = [
        graphs.constant("squares", np.arange(100, dtype=np.int32) ** 2),
        graphs.constant("axis", np.int32(0)),
        graphs.node(
            "square", "GatherV2", "squares", "count_in", "axis", Tparams="int32", Tindices="int32", Taxis="int32"
        ),
    ]
    for name, (_, dtype, shape, _) in columns.items():
        nodes += [graphs.placeholder(f"{name}_in", dtype, shape)]
        nodes += [graphs.node(f"{name}_out", "Identity", f"{name}_in", T=dtype)]
    model = graphs.write(tmp_path / "m.pb", graphs.graph(*nodes))
    fetches = {name: name for name in (*(f"{name}_out" for name in columns), "square")}
    summary = run(
        model, tmp_path / "in", tmp_path / "out", feed={f"{name}_in": name for name in columns}, fetch=fetches,
        utf8="blob_out", nan_is_bad=True, batch_size=5, max_bad_rows=len(faults),
    )  # fmt: skip
    good = [row for row in range(20) if row not in faults]
    scored = read_parts(tmp_path / "out")
    assert (summary.rows_out, summary.rows_quarantined, summary.nan_values) == (len(good), len(faults), {})
    assert scored["id"].to_pylist() == good
    assert scored["notes"].to_pylist() == [rows[row]["notes"] for row in good]
    assert scored["square"].to_pylist() == [row**2 for row in good]
    assert scored["pair_out"].to_pylist() == [[row, -row] for row in good]
    assert scored["raw_out"].to_pylist() == [[row, -row] for row in good]
    assert scored["blob_out"].to_pylist() == [f"ä{row}" for row in good]
    aside = pq.read_table(tmp_path / "out" / bad(0, 1))
    assert aside["_row"].to_pylist() == list(faults)
    assert aside["_error"].to_pylist() == [reason for _, _, reason, _ in faults.values()]
    for message, (_, _, _, pattern) in zip(aside["_message"].to_pylist(), faults.values(), strict=True):
        assert re.search(pattern, message), message
    assert aside["notes"].to_pylist() == [rows[row]["notes"] for row in faults]
    came = [aside[column][i].as_py() for i, (column, _, _, _) in enumerate(faults.values())]
    assert repr(came) == repr([value for _, value, _, _ in faults.values()])
    assert_books_balance(tmp_path / "out", summary)


@pytest.mark.parametrize(
    ("values", "made", "kind", "message"),
    [
        (
            pa.array([[1.0] * 5] * 8, pa.list_(pa.float32())),
            graphs.linear(4),
            SchemaError,
            r"all of the first 8 rows are at fault .*f\d\.parquet, row 0: column 'inputs': a list of 5 values "
            r"where inputs:0 \(float32 \[\?, 4\]\) takes 4",
        ),
        (
            pa.array(["yes", "no"] * 4),
            NUMBER,
            GraphError,
            r"all of the first 8 rows are at fault .*f\d\.parquet, row 0: the graph refuses these values: .*yes",
        ),
    ],
    ids=["binding", "graph"],
)
def test_what_all_rows_fail_for_is_a_mistake_whatever_the_budget(
    values: pa.Array, made: Any, kind: type[Mistake], message: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        pq.write_table(pa.table({"inputs": values}), tmp_path / "in" / f"f{i}.parquet")
    model = graphs.write(tmp_path / "m.pb", made)
    with pytest.raises(kind, match=message):
        run(model, tmp_path / "in", tmp_path / "out", max_bad_rows=1_000_000)
    assert not list((tmp_path / "out").rglob("part-*"))
    assert not (tmp_path / "out" / "_SUCCESS").exists()
