"""What `verify_output` finds in outputs that were damaged, one way at a time and at random."""

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows

from engine import JobConfig, score
from engine.data.ledger import REPORT, Ledger
from engine.data.status import STATUS
from engine.data.timeline import TIMELINE
from engine.errors import EngineError, PlanError
from engine.run.plan import plan_id
from engine.run.verify import Verification, verify_output

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

NUMBER = graphs.graph(
    graphs.placeholder("inputs", "string", [None]),
    graphs.node("prediction", "StringToNumber", "inputs", out_type="float32"),
)
PARTS = [f"part-{number:05d}-of-00004.parquet" for number in range(4)]
BAD = "_icefloe/quarantine/bad-00001-of-00004.parquet"
NUM_CASES = 200


@dataclass(frozen=True)
class Made:
    """Finished jobs over inputs of their own; `other` is the first one with another batch size."""

    folder: Path
    output: Path
    other: Path
    grown: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Four files of ten rows: two rows are bad, one is filtered, some predictions are NaN or Inf."""
    folder = tmp_path_factory.mktemp("made")
    words: list[str | None] = [f"{number}.5" for number in range(40)]
    words[3], words[4], words[39], words[12], words[15] = "nan", "inf", "-inf", "two", None
    (folder / "in").mkdir()
    for number in range(4):
        span = slice(number * 10, number * 10 + 10)
        table = pa.table({"id": range(span.start, span.stop), "inputs": pa.array(words[span], pa.string())})
        pq.write_table(table, folder / "in" / f"f{number}.parquet")
    size = max(path.stat().st_size for path in (folder / "in").iterdir())
    config: dict[str, Any] = {"model": graphs.write(folder / "m.pb", NUMBER), "input": (str(folder / "in"),)}
    config |= {"where": ("id != 7",), "shard_size": size, "max_bad_rows": 2, "actors": 1}
    score(JobConfig(**config, output=str(folder / "out"), batch_size=4))
    shutil.copytree(folder / "out", folder / "other")
    become_another(folder / "other")
    grow = {"model": graphs.write(folder / "g.pb", graphs.linear()), "input": (str(folder / "growing"),), "actors": 1}
    for number in range(2):
        write_rows(folder / "growing" / f"day{number}.parquet", number * 10, number * 10 + 10)
        score(JobConfig(**grow, output=str(folder / "grown"), add=True))
    return Made(folder, folder / "out", folder / "other", folder / "grown")


def become_another(output: Path) -> None:
    """Turn an output into that of the same job with another batch size."""
    plan = output / "_icefloe" / "plan.json"
    document = json.loads(plan.read_text())
    settings = {**document["settings"], "batch_size": 5}
    plan.write_text(json.dumps({**document, "settings": settings, "plan_id": plan_id(settings)}))
    for path in [*output.glob("part-*"), *output.rglob("bad-*")]:
        table, facts = pq.read_table(path), json.loads(pq.read_metadata(path).metadata[b"icefloe"])
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"icefloe": json.dumps({**facts, "plan_id": plan_id(settings)})})


@pytest.fixture
def out(made: Made, tmp_path: Path) -> Path:
    shutil.copytree(made.output, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def grown(made: Made, tmp_path: Path) -> Path:
    shutil.copytree(made.grown, tmp_path / "grown")
    return tmp_path / "grown"


def verified(output: Path) -> Verification:
    return verify_output(Ledger(str(output)))


def problems(output: Path) -> tuple[str, ...]:
    return verified(output).problems


def edit_table(path: Path, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the rows of a small Parquet file and leave its schema."""
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(edit(table.to_pylist()), table.schema), path)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(path: Path, has_facts: bool = True) -> None:
    """Write a part again, all predictions 1 higher, its footer's facts as they were."""
    table, facts = pq.read_table(path), pq.read_metadata(path).metadata[b"icefloe"]
    index = table.schema.get_field_index("prediction")
    higher = pa.array([value + 1 for value in table["prediction"].to_pylist()], pa.float32())
    table = table.set_column(index, "prediction", higher)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        if has_facts:
            writer.add_key_value_metadata({"icefloe": facts.decode()})


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset % len(data)] ^= 0x41
    path.write_bytes(data)


def swap(one: Path, two: Path) -> None:
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def test_clean_outputs_are_found_so(made: Made) -> None:
    found = verified(made.output)
    assert (found.problems, found.notes, found.parts, found.inputs) == ((), (), 4, 4)
    assert dataclasses.astuple(found.counts) == (40, 37, 2, 1)
    grown = verified(made.grown)
    assert (grown.problems, grown.notes, grown.parts, grown.inputs, grown.counts.rows) == ((), (), 2, 2, 20)


def test_a_folder_without_a_job_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.parquet").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name, what in (
        ("none", "it is empty, or not there"),
        ("empty", "it is empty, or not there"),
        ("other", r"no _icefloe/plan\.json is in it; name the folder that icefloe score wrote to"),
        ("file", "expected a folder, found a file"),
    ):
        with pytest.raises(PlanError, match=what):
            verified(tmp_path / name)


def test_parts_that_are_gone_or_cut_short(out: Path) -> None:
    (out / PARTS[0]).unlink()
    (out / PARTS[2]).write_bytes((out / PARTS[2]).read_bytes()[:-40])
    (out / PARTS[3]).write_bytes(b"")
    first, second, third = problems(out)
    assert first == f"{PARTS[0]} is gone, with 9 rows; rerun the job to score it again"
    assert second.startswith(f"{PARTS[2]} is damaged or was cut short (")
    assert second.endswith("delete it, and rerun the job to score it again")
    assert third.startswith(f"{PARTS[3]} is damaged or was cut short (")


def test_a_part_of_another_plan(made: Made, out: Path) -> None:
    shutil.copy(made.other / PARTS[0], out / PARTS[0])
    (problem,) = problems(out)
    assert problem.startswith(f"{PARTS[0]} is a part of another plan (")


def test_a_part_that_lies_there_a_second_time(made: Made, out: Path) -> None:
    shutil.copy(out / PARTS[1], out / "part-00001-of-00005.parquet")
    (out / "more").mkdir()
    shutil.copy(out / PARTS[2], out / "more" / "copy.parq")
    shutil.copy(made.other / PARTS[0], out / "copy.parquet")
    other, copy, part = problems(out)
    assert other.startswith("copy.parquet holds shard 0 of another plan (")
    assert copy == "more/copy.parq holds shard 2 of this job a second time; readers take it for a part; move it away"
    assert part.startswith("part-00001-of-00005.parquet holds shard 1 of this job a second time")


def test_swapped_parts(out: Path) -> None:
    swap(out / PARTS[0], out / PARTS[1])
    first, second = problems(out)
    assert first.startswith(f"{PARTS[0]} holds shard 1 in place of 0; delete it")
    assert second.startswith(f"{PARTS[1]} holds shard 0 in place of 1; delete it")


def test_rewritten_parts(out: Path) -> None:
    rewrite(out / PARTS[0])
    rewrite(out / PARTS[2], has_facts=False)
    first, second = problems(out)
    assert first.startswith(f"{PARTS[0]} has ") or "sha-256 differs" in first
    assert second.startswith(f"{PARTS[2]}: no job of icefloe wrote this file")


def test_a_flipped_byte_of_a_page(out: Path) -> None:
    flip(out / PARTS[3], 60)
    assert problems(out) == (
        f"{PARTS[3]}: its bytes are not those that were published (sha-256 differs from the manifest's); "
        "delete it, and rerun the job to score it again",
    )


def test_quarantine_that_is_gone_damaged_or_too_much(made: Made, out: Path) -> None:
    whole = (out / BAD).read_bytes()
    shutil.copy(out / BAD, out / BAD.replace("00001", "00002"))
    (problem,) = problems(out)
    assert problem.startswith("_icefloe/quarantine/bad-00002-of-00004.parquet: no part in the manifest has these bad")
    (out / BAD.replace("00001", "00002")).unlink()
    (out / BAD).write_bytes(whole[:-9])
    (problem,) = problems(out)
    assert problem.startswith(f"{BAD} is damaged (")
    (out / BAD).unlink()
    assert problems(out) == (f"{BAD} is gone, with 2 rows; delete {PARTS[1]}, and rerun the job",)
    shutil.copy(made.other / BAD, out / BAD)
    (problem,) = problems(out)
    assert problem.startswith(f"{BAD} holds bad rows of shard 1 of plan ")
    (out / PARTS[1]).unlink()
    assert len(problems(out)) == 2


def test_a_manifest_row_twice_or_not_at_all(out: Path) -> None:
    manifest = out / "_icefloe" / "manifest.parquet"
    edit_table(manifest, lambda rows: [rows[0], rows[0], *rows[2:]])
    text = " | ".join(problems(out))
    assert "shard 0 is in _icefloe/manifest.parquet 2 times; delete _icefloe/manifest.parquet, and rerun" in text
    assert "shard 1 is not in _icefloe/manifest.parquet; delete" in text
    assert f"{PARTS[1]} holds shard 1 of this job, which the manifest does not list" in text
    assert "input f1.parquet: bytes 0 to " in text
    assert "_icefloe/summary.json tells other figures" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": 8, "rows_filtered": 2}, "its footer counts 10 rows in, 9 out, 0 quarantined, 1 filtered and it has"),
        ({"sources": '[["f1.parquet", 0, 10]]'}, "its footer names other inputs"),
        ({"odd_values": "{}"}, "its footer counts other NaN and Inf values"),
        ({"rows_in": 11}, "not every input row is in it, in quarantine or filtered"),
        ({"sha256": "0" * 64}, "sha-256 differs from the manifest's"),
        ({"part": "elsewhere/" + PARTS[0]}, f"elsewhere/{PARTS[0]} is gone"),
        ({"part": PARTS[0].replace("00004", "00005")}, "but the plan's name for shard 0 is part-00000-of-00004"),
        ({"part": "part-g0003-00000-of-00004.parquet"}, "_icefloe/plan-0003.json is gone"),
        ({"part": None}, "manifest.parquet is no manifest"),
        ({"rows": -1}, "is damaged: ManifestRow("),
        ({"sources": "[1]"}, "is damaged: ManifestRow("),
        ({"odd_values": None}, "manifest.parquet is no manifest"),
    ],
)
def test_an_edited_row_of_the_manifest(out: Path, change: dict[str, Any], said: str) -> None:
    edit_table(out / "_icefloe" / "manifest.parquet", lambda rows: [{**rows[0], **change}, *rows[1:]])
    assert said in " | ".join(problems(out))


def test_a_manifest_that_is_gone_or_no_manifest(out: Path) -> None:
    manifest = out / "_icefloe" / "manifest.parquet"
    (out / "_SUCCESS").unlink()
    for damage in (lambda: pq.write_table(pa.table({"x": [1]}), manifest), lambda: manifest.write_bytes(b"PAR1PAR1")):
        damage()
        success, text = problems(out)
        assert success.startswith("_SUCCESS is not there: the job did not end, or goes on now; rerun it")
        assert "is no manifest" in text or "no readable Parquet file" in text
    manifest.unlink()
    assert "_icefloe/manifest.parquet is gone; rerun the job to write it again (parts were not checked)" in problems(
        out
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: rows[1:], "is damaged: its files are not those that _icefloe/plan.json was made for"),
        (lambda rows: [*rows, rows[0]], "is damaged: its files are not those that _icefloe/plan.json was made for"),
        (lambda rows: [{**rows[0], "size_bytes": 1}, *rows[1:]], "is damaged: its files are not those"),
        (lambda rows: [{**rows[0], "path": None}, *rows[1:]], "inputs.parquet is no list of inputs"),
        (lambda rows: [{**rows[0], "generation": None}, *rows[1:]], "inputs.parquet is damaged"),
        (lambda rows: [{**rows[0], "mtime_ns": 5}, *rows[1:]], "have changed since they were scored: f0.parquet touch"),
        (lambda rows: [{**rows[0], "partition": "a=1"}, *rows[1:]], "is not in a=1, where its input belongs"),
    ],
)
def test_an_edited_list_of_inputs(out: Path, edit: Callable[..., list[dict[str, Any]]], said: str) -> None:
    edit_table(out / "_icefloe" / "inputs.parquet", edit)
    assert said in " | ".join(problems(out))


def test_a_list_of_inputs_that_is_gone_or_none(out: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), out / "_icefloe" / "inputs.parquet")
    assert problems(out)[0].startswith("_icefloe/inputs.parquet is damaged: ")
    (out / "_icefloe" / "inputs.parquet").unlink()
    assert problems(out) == (
        "_icefloe/inputs.parquet is gone: whether each input is in the parts once was not checked",
    )


def test_the_schema_of_another_output(made: Made, out: Path) -> None:
    shutil.copy(made.grown / "_icefloe" / "schema.arrow", out / "_icefloe" / "schema.arrow")
    (problem,) = problems(out)
    assert problem.startswith("_icefloe/schema.arrow is not the schema of 4 parts, first part-00000-of-00004.parquet: ")
    assert problem.endswith("prediction fixed_size_list<item: float>[3] where they have float") or "[3]" in problem
    (out / "_icefloe" / "schema.arrow").write_bytes(b"no schema")
    (problem,) = problems(out)
    assert problem.startswith("_icefloe/schema.arrow is damaged, and whether the parts have one schema was not checked")
    (out / "_icefloe" / "schema.arrow").unlink()
    assert problems(out) == ("_icefloe/schema.arrow is gone: whether the parts have one schema was not checked",)


def test_a_summary_that_was_edited_or_is_gone(out: Path) -> None:
    summary = out / "_icefloe" / "summary.json"
    edit_json(summary, rows_in=41, plan_id="x", nan_values={})
    (problem,) = problems(out)
    assert "(in brackets): rows_in 41 (40), nan_values {} ({'prediction': 1}), plan_id x (" in problem
    summary.write_text("[]")
    assert problems(out)[0].startswith("_icefloe/summary.json is damaged (TypeError")
    summary.unlink()
    (out / "_SUCCESS").unlink()
    assert [text.partition(" is ")[0] for text in problems(out)] == ["_SUCCESS", "_icefloe/summary.json"]


def test_the_plan_of_another_job(made: Made, out: Path) -> None:
    shutil.copy(made.other / "_icefloe" / "plan.json", out / "_icefloe" / "plan.json")
    assert sum("is a part of another plan" in text for text in problems(out)) == 4
    shutil.copy(made.grown / "_icefloe" / "plan.json", out / "_icefloe" / "plan.json")
    text = " | ".join(problems(out))
    assert "is not those that" not in text
    assert "its files are not those that _icefloe/plan.json was made for" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {}}, "_icefloe/plan.json was changed: its settings are not those of its plan id"),
        ({"settings": []}, "_icefloe/plan.json is no plan of icefloe"),
        ({"num_shards": 5}, "but the plan's name for shard 0 is part-00000-of-00005.parquet"),
        ({"num_shards": 10**12}, f"and {10**12 - 24} more shards are not in _icefloe/manifest.parquet"),
        ({"num_shards": "4"}, "_icefloe/plan.json is no plan of icefloe"),
        ({"config": None}, "_icefloe/plan.json is damaged: it does not tell shards and inputs"),
    ],
)
def test_an_edited_plan(out: Path, change: dict[str, Any], said: str) -> None:
    edit_json(out / "_icefloe" / "plan.json", **change)
    assert said in " | ".join(problems(out))


def test_a_plan_that_is_gone_hides_nothing_else(out: Path) -> None:
    (out / "_icefloe" / "plan.json").unlink()
    (out / PARTS[0]).unlink()
    plan, part = problems(out)
    assert plan == "_icefloe/plan.json is gone: whose the parts are that it planned was not checked"
    assert part.startswith(f"{PARTS[0]} is gone")
    (out / "_icefloe" / "plan.json").write_text("{")
    assert problems(out)[0].startswith("_icefloe/plan.json is damaged (")


def test_what_is_nobodys_fault_is_noted(out: Path) -> None:
    shutil.copy(out / BAD, out / "foreign.parquet")
    pq.write_table(pa.table({"x": [1]}), out / "foreign.parquet")
    (out / "notes.txt").write_text("mine")
    (out / ".icefloe-part-00000-of-00004.parquet-1").write_bytes(b"half")
    (out / "_icefloe" / "lock").write_text("{}")
    found = verified(out)
    assert found.problems == ()
    assert [text.split()[0] for text in found.notes] == [
        ".icefloe-part-00000-of-00004.parquet-1",
        "_icefloe/lock:",
        "foreign.parquet",
    ]
    pq.write_table(pa.table({"x": [1]}), out / "part-00009-of-00010.parquet")
    (problem,) = problems(out)
    assert problem.startswith("part-00009-of-00010.parquet is called as a part is, but no job of icefloe wrote it")


def test_inputs_that_changed_or_are_gone(made: Made, out: Path, tmp_path: Path) -> None:
    """The job is moved to a copy of its inputs, whose times are kept."""
    shutil.copytree(made.folder / "in", tmp_path / "in")
    plan = json.loads((out / "_icefloe" / "plan.json").read_text())
    edit_json(out / "_icefloe" / "plan.json", config={**plan["config"], "input": [str(tmp_path / "in")]})
    inputs = out / "_icefloe" / "inputs.parquet"
    edit_table(inputs, lambda rows: [{**row, "path": str(tmp_path / "in" / row["relative_path"])} for row in rows])
    assert problems(out) == ()
    os.utime(tmp_path / "in" / "f1.parquet", (1, 1))
    (tmp_path / "in" / "f2.parquet").write_bytes(b"x")
    (problem,) = problems(out)
    assert problem.startswith("inputs have changed since they were scored: f1.parquet touched, same size; f2.parquet ")
    for name in ("f1", "f2"):
        (tmp_path / "in" / f"{name}.parquet").unlink()
    found = verified(out)
    gone = f"2 input files are gone since they were scored, first: {tmp_path}/in/f1.parquet"
    assert (found.problems, found.notes) == ((), (gone,))
    shutil.rmtree(tmp_path / "in")
    found = verified(out)
    unseen = f"inputs below {tmp_path}/in were not compared: {tmp_path}/in: no such file or folder"
    assert (found.problems, found.notes) == ((), (unseen,))


def test_damage_to_a_later_generation(made: Made, grown: Path) -> None:
    part = next(path.name for path in grown.glob("part-g0001-*"))
    first = next(path.name for path in grown.glob("part-0*"))
    (grown / "_icefloe" / "plan-0001.json").rename(grown / "plan")
    (problem,) = problems(grown)
    assert problem.startswith("_icefloe/plan-0001.json is gone")
    (grown / "_icefloe" / "plan-0001.json").write_text("[]")
    (problem,) = problems(grown)
    assert problem.startswith("_icefloe/plan-0001.json is damaged (")
    (grown / "plan").rename(grown / "_icefloe" / "plan-0001.json")
    swap(grown / first, grown / part)
    assert [text.partition(" (")[0] for text in problems(grown)] == [
        f"{name} is a part of another plan" for name in (first, part)
    ]
    swap(grown / first, grown / part)
    (grown / part).unlink()
    assert problems(grown) == (f"{part} is gone, with 10 rows; rerun the job to score it again",)
    edit_table(grown / "_icefloe" / "manifest.parquet", lambda rows: rows[:1])
    assert "shard 0 of generation 1 is not in _icefloe/manifest.parquet" in " | ".join(problems(grown))


def damage(output: Path, other: Path, chance: random.Random) -> str:
    """Do some harm to a random file; return which one, and what."""
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    name, twin = chance.choice(files), chance.choice(files)
    path = output / name
    size = path.stat().st_size
    kind = chance.choice(["flip", "flip", "flip", "zero", "cut", "delete", "copy", "swap", "replace", "folder"])
    if kind in ("flip", "zero") and size:
        for _ in range(chance.randint(1, 4)):
            flip(path, chance.randrange(size))
        if kind == "zero":
            data = path.read_bytes()
            at = chance.randrange(size)
            path.write_bytes(data[:at] + bytes(min(16, size - at)) + data[at + 16 :])
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[: chance.randrange(size + 1)])
    elif kind == "delete":
        path.unlink()
    elif kind == "copy":
        twin = f"{os.path.dirname(name)}/part-{chance.randrange(10):05d}-of-00004.parquet".lstrip("/")
        if not (output / twin).exists():
            shutil.copy(path, output / twin)
    elif kind == "swap":
        swap(path, output / twin)
    elif kind == "replace" and (other / name).exists():
        shutil.copy(other / name, path)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    return f"{kind} {name} {twin}"


def is_harmless(path: Path, before: Path) -> bool:
    """Whether a file that differs says the same where it matters: what nothing is decided by may be anything."""
    name = path.name
    if f"_icefloe/{name}" in (STATUS, TIMELINE, REPORT):
        return True
    if name == "_SUCCESS":
        return path.is_file()
    if name.startswith("plan"):
        plans = [json.loads(each.read_text()) for each in (path, before)]
        return all(plans[0][key] == plans[1][key] for key in ("plan_id", "settings", "num_shards"))
    if name == "summary.json":  # seconds and the like
        return all(isinstance(json.loads(each.read_text()), dict) for each in (path, before))
    if name == "schema.arrow":
        schemas = [pa.ipc.read_schema(pa.py_buffer(each.read_bytes())) for each in (path, before)]
        return bool(schemas[0].equals(schemas[1]))
    if name in ("manifest.parquet", "inputs.parquet"):
        tables = [pq.read_table(each).to_pylist() for each in (path, before)]
        ours = [[{**row, "seconds": 0, "attempts": 0, "path": ""} for row in table] for table in tables]
        return ours[0] == ours[1]
    # No hash is kept of bad rows: values may have changed, as long as they can be read.
    return name.startswith("bad-") and pq.read_table(path).num_rows == pq.read_table(before).num_rows


def test_no_damage_ends_in_a_traceback_or_goes_unseen(made: Made, tmp_path: Path) -> None:
    for seed in range(NUM_CASES):
        output, whole = tmp_path / f"case{seed}", made.output if seed % 3 else made.grown
        shutil.copytree(whole, output)
        done = damage(output, made.other, random.Random(seed))
        try:
            found = verified(output).problems
        except EngineError as error:
            found = (str(error),)
        if not found:
            for path in output.rglob("*"):
                if path.is_file():
                    before = whole / path.relative_to(output)
                    assert before.is_file(), (seed, done)
                    assert path.read_bytes() == before.read_bytes() or is_harmless(path, before), (seed, done)
            gone = {path.relative_to(whole).as_posix() for path in whole.rglob("*")} - {
                path.relative_to(output).as_posix() for path in output.rglob("*")
            }
            assert gone <= {STATUS, TIMELINE, REPORT}, (seed, done)  # which only tell of the job
        shutil.rmtree(output)
