"""Outputs of every kind: each verifies clean, and so do all of its rows scored again; changed predictions are found."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trained
from conftest import write_rows

from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.run.verify import verify_output
from engine.sampling import Resample, is_close, score_sample

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

ALL = 10_000


def write(path: Path, **columns: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=20)


def words_of_two_roots(folder: Path) -> dict[str, Any]:
    """Files of one name in one partition of two roots, bad rows in one shard; strings out, a file is empty."""
    for root, first in (("A", "a"), ("B", "b")):
        for day in (1, 2, 3):
            values = [None if (i * 7 + ord(first) + day) % 5 == 0 else f"{first}{day}{i}" for i in range(30)]
            here = folder / root / f"dt={day}"
            write(here / "x.parquet", id=range(30), inputs=pa.array(values, pa.string()), w=[1.0, np.nan, 2.0] * 10)
    write(folder / "A" / "dt=2" / "none.parquet", id=pa.array([], pa.int64()), inputs=pa.array([], pa.string()),
          w=pa.array([], pa.float64()))  # fmt: skip
    model = graphs.write(folder / "m.pb", graphs.identity("string", [None]))
    inputs = (str(folder / "A"), str(folder / "B"))
    return {"model": model, "input": inputs, "provenance": True, "max_bad_rows": 99, "where": ("dt < 3", "id != 4"),
            "utf8": ("prediction",)}  # fmt: skip


def limited(folder: Path) -> dict[str, Any]:
    """A limit within a file of many row groups, most of them unread for a condition; shards are ranges."""
    ids = np.arange(400)
    ids[:60] += 1000
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.sin(np.arange(1600)).astype(np.float32)), 4)
    write(folder / "in" / "a.parquet", id=ids, inputs=values)
    write_rows(folder / "in" / "b.parquet", 400, 500)
    model = graphs.write(folder / "m.pb", graphs.linear())
    return {"model": model, "input": (str(folder / "in"),), "limit": 350, "where": ("id >= 1000",), "batch_size": 8,
            "shard_size": 4000}  # fmt: skip


def ragged(folder: Path) -> dict[str, Any]:
    """Lists of several lengths into an open extent."""
    rows = [[float(i)] * (1 + i % 3) for i in range(50)]
    write(folder / "in" / "x.parquet", inputs=pa.array(rows, pa.list_(pa.float32())))
    model = graphs.write(folder / "m.pb", graphs.identity("float32", [None, None]))
    return {"model": model, "input": (str(folder / "in"),), "batch_size": 4}


def unbatched(folder: Path) -> dict[str, Any]:
    """A graph of one row a call, which reverses what comes; columns have names with equals signs."""
    write(folder / "in" / "x.parquet", **{"a=b": pa.array([[float(i), 2.0, 3.0] for i in range(30)])})
    made = graphs.graph(
        graphs.placeholder("inputs", "float64", [None]),
        graphs.constant("axis", np.array([0], np.int32)),
        graphs.node("prediction", "ReverseV2", "inputs", "axis", T="float64", Tidx="int32"),
    )
    return {"model": graphs.write(folder / "m.pb", made), "input": (str(folder / "in"),), "unbatched": True,
            "feed": {"inputs": "a=b"}, "fetch": {"prediction": "p=q"}, "keep": "all"}  # fmt: skip


def kinds(folder: Path) -> dict[str, Any]:
    """Outputs of every dtype, a NaN and an Inf among them; kept columns that Python has no values for.

    A limit ends in the second of three files, which share a shard.
    """
    values = np.linspace(-3, 3, 360).astype(np.float32).reshape(90, 4)
    values[3, 0], values[34, 1] = np.nan, np.inf
    structs = pa.array(
        [{"t": i, "x": float("nan")} for i in range(90)], pa.struct({"t": pa.int64(), "x": pa.float32()})
    )
    table = pa.table({
        "inputs": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 4),
        "when": pa.array(range(1, 91), pa.timestamp("ns")),
        "far": pa.array([2**31 - 1] * 90, pa.date32()),
        "both": structs,
    })  # fmt: skip
    (folder / "in").mkdir()
    for number in range(3):
        pq.write_table(table.slice(number * 30, 30), folder / "in" / f"f{number}.parquet")
    nodes = [
        graphs.placeholder("inputs", "float32", [None, 4]),
        graphs.constant("zero", np.float32(0)),
        graphs.constant("shape", np.array([-1, 2, 2], np.int32)),
        graphs.constant("last", np.array(1, np.int32)),
        graphs.node("bool", "Greater", "inputs", "zero", T="float32"),
        graphs.node("square", "Reshape", "inputs", "shape", T="float32", Tshape="int32"),
        graphs.node("int64", "ArgMax", "inputs", "last", T="float32", Tidx="int32", output_type="int64"),
    ]
    for name in ("float16", "bfloat16", "float64"):
        nodes.append(graphs.node(name, "Cast", "inputs", SrcT="float32", DstT=name))
    names = ("float16", "bfloat16", "float64", "int64", "bool", "square")
    return {
        "model": graphs.write(folder / "m.pb", graphs.graph(*nodes)),
        "input": (str(folder / "in"),),
        "fetch": {name: name for name in names},
        "limit": 40,
        "batch_size": 8,
    }


def variables(folder: Path) -> dict[str, Any]:
    """A checkpoint, which is frozen by the job."""
    from engine.model.checkpoint import save_checkpoint

    rows = pa.FixedSizeListArray.from_arrays(pa.array(trained.ROWS.reshape(-1)), 2)
    write(folder / "in" / "x.parquet", id=range(64), inputs=rows)
    with trained.session() as (_, v1, opened):
        trained.regression()
        opened.run(v1.global_variables_initializer())
        trained.train(opened, 3)
        save_checkpoint(opened, str(folder / "run" / "model"), inputs=["inputs"], outputs=["prediction"])
    return {"model": str(folder / "run" / "model"), "input": (str(folder / "in"),)}


def growing(folder: Path) -> dict[str, Any]:
    """Two generations, the file of the first of which is gone; the graph draws random numbers."""
    made = graphs.linear()
    made.node.append(graphs.node("shape", "Shape", "inputs", T="float32", out_type="int32"))
    made.node.append(graphs.node("noise", "RandomUniform", "shape", T="int32", dtype="float32"))
    config = {"model": graphs.write(folder / "m.pb", made), "input": (str(folder / "in"),), "add": True}
    config["fetch"] = {"prediction": "prediction", "noise": "noise"}
    write_rows(folder / "in" / "day0.parquet", 0, 30)
    score(JobConfig(**config, output=str(folder / "out"), actors=1))
    (folder / "in" / "day0.parquet").unlink()
    write_rows(folder / "in" / "day1.parquet", 30, 70)
    return config


MAKERS = (words_of_two_roots, limited, ragged, unbatched, kinds, variables, growing)


@dataclass
class Outputs:
    """Finished outputs by kind, each made when it is first asked for."""

    root: Path

    def folder(self, maker: Callable[[Path], dict[str, Any]]) -> Path:
        folder = self.root / maker.__name__
        if not (folder / "out" / "_SUCCESS").exists() or not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            score(JobConfig(**maker(folder), output=str(folder / "out"), actors=1))
            (folder / "made").touch()
        return folder

    def copy(self, maker: Callable[[Path], dict[str, Any]], to: Path) -> Path:
        shutil.copytree(self.folder(maker) / "out", to)
        return to


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return Outputs(tmp_path_factory.mktemp("kinds"))


def sampled(output: Path, num_rows: int = ALL) -> Resample:
    return score_sample(Ledger(str(output)), num_rows, seed=1)


def change(output: Path, column: str, edit: Callable[[Any], Any], is_forged: bool = False) -> str:
    """Write the first part again with other values, its facts as they were; forge its hash in the manifest."""
    path = min(path for path in output.rglob("part-*.parquet") if pq.read_metadata(path).num_rows)
    table, facts = pq.read_table(path), pq.read_metadata(path).metadata[b"icefloe"]
    values = [edit(value) for value in table[column].to_pylist()]
    kind = table.schema.field(column).type
    table = table.set_column(table.schema.get_field_index(column), column, pa.array(values, kind))
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"icefloe": facts.decode()})
    name = path.relative_to(output).as_posix()
    if is_forged:
        manifest = output / "_icefloe" / "manifest.parquet"
        listed = pq.read_table(manifest)
        data = path.read_bytes()
        rows = [
            {**row, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} if row["part"] == name else row
            for row in listed.to_pylist()
        ]
        pq.write_table(pa.Table.from_pylist(rows, listed.schema), manifest)
    return name


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_a_clean_output_verifies_clean(outputs: Outputs, maker: Callable[[Path], dict[str, Any]]) -> None:
    output = outputs.folder(maker) / "out"
    found, again = verify_output(Ledger(str(output))), sampled(output)
    assert (found.problems, again.problems) == ((), ())
    if maker is growing:
        assert again.num_rows == 40
        assert found.notes[0].startswith("1 input files are gone since they were scored, first: ")
        noise, gone = again.notes
        assert noise.endswith("40 rows differ, as they may: noise (RandomUniform) in the graph draws random numbers")
        assert gone == "the inputs of 1 parts are gone; no row of these was scored again"
    else:
        assert again.num_rows == found.counts.rows > 0
        assert (found.notes, again.notes) == ((), ())


def test_the_kinds_are_what_they_should_be(outputs: Outputs) -> None:
    counts = verify_output(Ledger(str(outputs.folder(words_of_two_roots) / "out"))).counts
    assert counts.rows_quarantined > 8
    assert counts.rows_filtered
    assert verify_output(Ledger(str(outputs.folder(limited) / "out"))).counts.rows_in == 350
    assert verify_output(Ledger(str(outputs.folder(kinds) / "out"))).counts.rows_in == 40
    assert len(list((outputs.folder(limited) / "out").glob("part-*"))) > 2


@pytest.mark.parametrize(
    ("maker", "column", "edit"),
    [
        (limited, "prediction", lambda value: [value[0] + 0.01, *value[1:]]),
        (words_of_two_roots, "prediction", lambda value: value + "!"),
        (words_of_two_roots, "_row", lambda value: value + 1),
        (ragged, "prediction", lambda value: [*value, 0.0]),
        (kinds, "bool", lambda value: [not value[0], *value[1:]]),
        (kinds, "float16", lambda value: [1.5, *value[1:]]),
        (kinds, "when", lambda value: None),
        (unbatched, "p=q", lambda value: value[::-1]),
    ],
)
def test_changed_values_are_found_even_with_a_forged_hash(
    outputs: Outputs, tmp_path: Path, maker: Any, column: str, edit: Callable[[Any], Any]
) -> None:
    output = outputs.copy(maker, tmp_path / "out")
    name = change(output, column, edit, is_forged=True)
    assert verify_output(Ledger(str(output))).problems == ()
    problems = sampled(output).problems
    assert problems[0].startswith(f"{name}, row 0 (")
    assert f"{column} is " in problems[0]
    assert len(problems) <= 21


def test_a_sample_is_drawn_over_all_parts(outputs: Outputs) -> None:
    assert sampled(outputs.folder(limited) / "out", 7) == Resample(7, ())


def test_a_damaged_part_hides_no_other(outputs: Outputs, tmp_path: Path) -> None:
    output = outputs.copy(words_of_two_roots, tmp_path / "out")
    change(output, "prediction", lambda value: value + "!")
    last = max(path for path in output.rglob("part-*") if pq.read_metadata(path).num_rows)
    last.write_bytes(last.read_bytes()[:100])
    text = " | ".join(sampled(output).problems)
    assert f"{last.name}: its rows could not be scored again: " in text
    assert "prediction is " in text


def test_a_lost_or_emptied_quarantine(outputs: Outputs, tmp_path: Path) -> None:
    output = outputs.copy(words_of_two_roots, tmp_path / "out")
    asides = sorted(output.rglob("bad-*"))
    asides[0].unlink()
    pq.write_table(pa.table({"x": [1]}), asides[-1])
    assert "could not be scored again" in " | ".join(sampled(output).problems)


def test_inputs_that_are_gone_or_changed(outputs: Outputs, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(outputs.folder(kinds), folder)
    move_job(outputs.folder(kinds), folder)
    assert sampled(folder / "out").problems == ()
    os.utime(folder / "in" / "f0.parquet", (1, 1))
    (problem,) = sampled(folder / "out").problems
    assert "f0.parquet changed since the job was planned" in problem
    os.utime(folder / "in" / "f1.parquet", (1, 1))
    os.utime(folder / "in" / "f2.parquet", (1, 1))
    (problem,) = sampled(folder / "out").problems
    assert problem == "rows could not be scored again: every input has changed since, or is gone"
    shutil.rmtree(folder / "in")
    again = sampled(folder / "out")
    assert (again.num_rows, again.problems) == (
        0,
        ("no row could be scored again: all inputs are gone, or lie elsewhere",),
    )
    assert again.notes == ("the inputs of 1 parts are gone; no row of these was scored again",)


def move_job(old: Path, new: Path) -> None:
    """Let plan and listing of a copied job tell of its new folder."""
    plan = new / "out" / "_icefloe" / "plan.json"
    plan.write_text(plan.read_text().replace(str(old), str(new)))
    inputs = new / "out" / "_icefloe" / "inputs.parquet"
    table = pq.read_table(inputs)
    rows = [{**row, "path": row["path"].replace(str(old), str(new))} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), inputs)


@pytest.mark.parametrize("maker", [limited, variables], ids=["graph", "checkpoint"])
def test_a_model_that_was_replaced_or_is_gone(outputs: Outputs, tmp_path: Path, maker: Any) -> None:
    folder = tmp_path / "job"
    shutil.copytree(outputs.folder(maker), folder)
    move_job(outputs.folder(maker), folder)
    assert sampled(folder / "out", 3) == Resample(3, ())
    if maker is limited:
        graphs.write(folder / "m.pb", graphs.linear(output="prediction", num_out=2))
    else:
        data = next((folder / "run").glob("model.data-*"))
        data.write_bytes(bytes(byte ^ 1 for byte in data.read_bytes()))
    (problem,) = sampled(folder / "out", 3).problems
    assert problem.startswith("rows could not be scored again: ")
    if maker is limited:
        assert problem.endswith("m.pb is not the model that this output was made with")
    shutil.rmtree(folder / "run", ignore_errors=True)
    (folder / "m.pb").unlink(missing_ok=True)
    (problem,) = sampled(folder / "out", 3).problems
    assert problem.startswith("rows could not be scored again: --model ")


@pytest.mark.parametrize("change", [{"config": {}}, {"settings": {}}, {"columns": 1}, {"scored_sha256": None}])
def test_a_damaged_plan(outputs: Outputs, tmp_path: Path, change: dict[str, Any]) -> None:
    output = outputs.copy(growing, tmp_path / "out")
    for name in ("plan.json", "plan-0001.json"):
        path = output / "_icefloe" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert "could not be scored again: " in " | ".join(sampled(output).problems)


def test_floats_are_close_and_everything_else_is_equal() -> None:
    assert is_close([1.0, float("nan")], [1.0005, float("nan")], 1e-3)
    assert not is_close(1.0, float("nan"), 1e-3)
    assert not is_close(1.0, 1.01, 1e-3)
    assert is_close(float("inf"), float("inf"), 1e-3)
    assert not is_close(float("inf"), 1e38, 1e-3)
    assert not is_close([1.0], [1.0, 2.0], 1e-3)
    assert not is_close(b"a", b"b", 1e-3)
    assert not is_close(True, False, 1e-3)
    one = float(ml_dtypes.bfloat16(1.0))
    assert is_close(one, one + float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps), 3e-2)
