import json
import os
import shutil
from pathlib import Path
from typing import Any

import graphs
import pytest
from conftest import write_rows
from pretending import Pretender

import engine.preparing.prepare
from engine.config import build_config
from engine.data.ledger import Ledger
from engine.errors import DataError, PlanError
from engine.preparing.prepare import prepare
from engine.preparing.resuming import claim_output, find_done
from engine.preview import preview
from engine.run.verify import verify_output
from engine.run.versions import installed_versions

ADVICE = "name another folder, or type --overwrite to discard it"


@pytest.fixture
def job(model: str, inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretender:
    """A job over four files, each of them a shard."""
    settings = {"model": model, "input": [inputs], "output": str(tmp_path / "out"), "shard_size": 4000}
    return Pretender(monkeypatch, {**settings, "batch_size": 256})


def refusal(job: Pretender, **more: Any) -> str:
    """What is said by `score` and, the same, by `plan`; without the part that is always there."""
    with pytest.raises(PlanError) as caught:
        job.score(**more)
    text = str(caught.value)
    assert preview(build_config({**job.settings, **more})).refusal == text
    start = f"--output {job.output} holds a job that differs: "
    assert text.startswith(start)
    return text.removeprefix(start)


# --- what decides the output is refused by name

CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"batch_size": 512}, "batch_size 256 -> 512"),
    ({"shard_size": 9999}, "shard_size 4000 -> 9999"),
    ({"keep": "none"}, "keep ['id'] -> []"),
    ({"keep": "all"}, "keep ['id'] -> ['id', 'inputs']"),
    ({"limit": 150}, "limit None -> 150"),
    ({"where": "id < 7"}, "where [] -> ['id < 7']"),
    ({"fill": {"inputs": "0"}}, "fill {} -> {'inputs': '0'}"),
    ({"provenance": True}, "provenance False -> True"),
    ({"nan_is_bad": True}, "nan_is_bad False -> True"),
    ({"precision": "bfloat16"}, "precision float32 -> bfloat16"),
    ({"xla": True}, "xla False -> True"),
    ({"fetch": "prediction=score"}, "fetch ['prediction:0=prediction'] -> ['prediction:0=score']"),
    ({"fetch": "logits=prediction"}, "fetch ['prediction:0=prediction'] -> ['logits:0=prediction']"),
    ({"init_op": "prediction"}, "init_op [] -> ['prediction']"),
    ({"allow_op": "ReadFile"}, "allow_op [] -> ['ReadFile']"),
    ({"compression": "gzip"}, "encoding "),
    ({"row_group_size": 7}, "encoding "),
    ({"dictionary": "none"}, "encoding "),
    ({"keep": "none", "batch_size": 3}, "batch_size 256 -> 3; keep ['id'] -> []"),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=lambda each: str(each)[:40])
def test_a_changed_setting_is_named(job: Pretender, change: dict[str, Any], expected: str) -> None:
    job.score()
    before = job.states()
    found = refusal(job, **change)
    assert found.startswith(expected)
    assert found.endswith(f"; {ADVICE}")
    assert job.states() == before
    assert job.is_finished()
    job.score(**change, overwrite=True)
    assert job.is_finished()
    assert verify_output(Ledger(str(job.output))).problems == ()


def test_another_model_is_named(job: Pretender) -> None:
    job.score()
    graphs.write(Path(job.settings["model"]), graphs.linear(4, 2))
    assert refusal(job).startswith("model_sha256 ")


def test_other_versions_are_named(job: Pretender, monkeypatch: pytest.MonkeyPatch) -> None:
    job.score()
    upgraded = {**installed_versions(), "tensorflow": "9.9.9"}
    monkeypatch.setattr(engine.preparing.prepare, "installed_versions", lambda: upgraded)
    assert refusal(job).startswith("versions {")
    monkeypatch.setattr(
        engine.preparing.prepare, "installed_versions", lambda: {**installed_versions(), "ray": "9.9.9"}
    )
    assert job.score().attempts == 0


def test_every_setting_of_the_plan_is_tried_here(job: Pretender) -> None:
    settings = prepare(build_config(job.settings)).plan.settings
    tried = {expected.split(" ")[0] for _, expected in CHANGES}
    elsewhere = {"model_sha256", "op_library_sha256", "inputs_sha256", "versions", "feed", "set", "utf8", "unbatched"}
    assert settings.keys() == tried | elsewhere


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def test_changed_inputs_are_named(job: Pretender, inputs: str, tmp_path: Path) -> None:
    folder = Path(inputs)
    job.score()
    size = (folder / "f2.parquet").stat().st_size
    touch(folder / "f3.parquet")
    assert refusal(job) == f"f3.parquet touched, same size; {ADVICE}"
    write_rows(folder / "f2.parquet", 0, 1)
    now = (folder / "f2.parquet").stat().st_size
    assert refusal(job) == f"f2.parquet {size} -> {now} bytes; f3.parquet touched, same size; {ADVICE}"
    for number in (7, 8, 9):
        write_rows(folder / f"f{number}.parquet", 0, 1)
    (folder / "f0.parquet").unlink()
    assert refusal(job, batch_size=512) == (
        "batch_size 256 -> 512; 3 input files new, first: f7.parquet; 1 input files gone, first: f0.parquet; "
        f"f2.parquet {size} -> {now} bytes; f3.parquet touched, same size; {ADVICE}"
    )


@pytest.mark.parametrize("change", ["new", "gone", "both"])
def test_where_only_files_came_or_went_add_is_offered(job: Pretender, inputs: str, change: str) -> None:
    job.score()
    if change != "gone":
        write_rows(Path(inputs) / "f7.parquet", 700, 701)
    if change != "new":
        (Path(inputs) / "f0.parquet").unlink()
    assert refusal(job).endswith(f"; type --add to keep it and score only what is new, {ADVICE}")
    assert job.score(add=True).attempts == (change != "gone")
    assert job.is_finished()


def test_a_folder_that_grew_past_its_automatic_sizes_is_offered_add(job: Pretender, inputs: str) -> None:
    job.settings |= {"batch_size": "auto", "shard_size": "auto"}
    job.score()
    plan = Path(job.output) / "_icefloe" / "plan.json"
    document = json.loads(plan.read_text())
    document["settings"] |= {"batch_size": 16, "shard_size": 17 * 2**20}
    plan.write_text(json.dumps(document))
    write_rows(Path(inputs) / "f7.parquet", 700, 701)
    assert "; type --add to keep it" in refusal(job)
    assert job.score(add=True).batch_size == 16


# --- what does not may change


@pytest.mark.parametrize(
    "change",
    [
        {"actors": 7},
        {"cpus_per_actor": 2},
        {"gpus_per_actor": 0.5},
        {"address": "host:1"},
        {"max_bad_rows": 5},
        {"max_bad_rows": "5%"},
        {"add": True},
    ],
    ids=str,
)
def test_what_does_not_decide_the_output_may_change(job: Pretender, change: dict[str, Any]) -> None:
    job.kill_after(2)
    before = job.states()
    summary = job.score(**change)
    assert (summary.parts_earlier, summary.attempts) == (2, 2)
    assert before.items() <= job.states().items()
    assert job.ids() == list(range(400))
    assert job.score(**change).attempts == 0


def test_output_and_input_may_be_moved(job: Pretender, inputs: str, tmp_path: Path) -> None:
    job.kill_after(2)
    before = job.states()
    job.output.rename(tmp_path / "out2")
    Path(inputs).rename(tmp_path / "in2")
    job.settings |= {"output": str(tmp_path / "out2"), "input": [str(tmp_path / "in2")]}
    job.output = tmp_path / "out2"
    summary = job.score()
    assert (summary.parts_earlier, summary.attempts) == (2, 2)
    assert before.items() <= job.states().items()
    assert job.ids() == list(range(400))
    assert verify_output(Ledger(str(job.output))).problems == ()


def test_inputs_may_be_named_in_any_order(job: Pretender, inputs: str) -> None:
    files = sorted(str(path) for path in Path(inputs).iterdir())
    job.settings |= {"input": files}
    job.kill_after(2)
    for order in (list(reversed(files)), [inputs], [f"{inputs}/*.parquet"]):
        prepared = prepare(build_config({**job.settings, "input": order}))
        done = find_done(prepared, Ledger(prepared.config.output))
        assert done is not None
        assert len(done.parts) == 2
    job.settings |= {"input": list(reversed(files))}
    assert job.score().attempts == 2


def test_a_budget_is_judged_again(job: Pretender) -> None:
    job.is_bad = lambda number: number < 5
    with pytest.raises(DataError, match="5 bad rows of 400"):
        job.score(max_bad_rows="1%")
    assert not (job.output / "_SUCCESS").exists()
    with pytest.raises(DataError, match="5 bad rows of 400"):
        job.score(max_bad_rows="1%")
    assert job.score(max_bad_rows="2%").attempts == 0
    assert job.is_finished()
    with pytest.raises(DataError, match="5 bad rows"):  # of a job that is finished, too
        job.score(max_bad_rows="1%")


# --- cut off anywhere


@pytest.mark.parametrize("num_parts", range(4))
def test_killed_after_some_parts(job: Pretender, num_parts: int) -> None:
    job.kill_after(num_parts)
    before = job.states()
    assert len(before) == num_parts
    assert job.score().parts_earlier == num_parts
    assert before.items() <= job.states().items()
    assert job.ids() == list(range(400))
    assert verify_output(Ledger(str(job.output))).problems == ()


@pytest.mark.parametrize("name", ["inputs.parquet", "schema.arrow", "manifest.parquet", "summary.json"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_files_of_the_ledger_that_are_lost_are_made_again(job: Pretender, name: str, is_finished: bool) -> None:
    if is_finished:
        job.score()
        (job.output / "_SUCCESS").unlink()
    else:
        job.kill_after(2)
    (job.output / "_icefloe" / name).unlink(missing_ok=True)
    job.score()
    assert job.ids() == list(range(400))
    assert job.is_finished()
    if not (is_finished and name == "schema.arrow"):  # which only an actor can tell
        assert verify_output(Ledger(str(job.output))).problems == ()


def test_a_first_try_without_a_part_is_no_obstacle(job: Pretender, inputs: str) -> None:
    job.kill_after(0)
    touch(Path(inputs) / "f1.parquet")
    write_rows(Path(inputs) / "f7.parquet", 700, 710)
    assert job.score(batch_size=3).rows_out == 410
    assert verify_output(Ledger(str(job.output))).problems == ()


def test_killed_while_discarding(job: Pretender, monkeypatch: pytest.MonkeyPatch) -> None:
    job.score()

    def die(self: Ledger) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as context:
        context.setattr(Ledger, "find_files", die)
        with pytest.raises(RuntimeError):
            Ledger(str(job.output)).discard(Ledger(str(job.output)).read_plan() or {})
    assert len(job.states()) == 4
    summary = job.score(batch_size=3)  # goes on with discarding, without --overwrite
    assert (summary.parts_earlier, summary.attempts) == (0, 4)
    assert verify_output(Ledger(str(job.output))).problems == ()


def test_parts_of_another_plan_under_our_names_are_replaced(job: Pretender, tmp_path: Path) -> None:
    job.score()
    lost = sorted(job.states())[0]
    late = (job.output / lost).read_bytes()
    job.score(batch_size=3, overwrite=True)
    (job.output / lost).write_bytes(late)
    (job.output / "_SUCCESS").unlink()
    assert job.score(batch_size=3).attempts == 1
    assert (job.output / lost).read_bytes() != late


def test_a_part_that_changed_is_named(job: Pretender) -> None:
    job.score()
    lost = job.output / sorted(job.states())[2]
    shutil.copy(job.output / sorted(job.states())[0], lost)
    lost.write_bytes(lost.read_bytes() + b"x")
    with pytest.raises(PlanError, match=rf"{lost.name} has \d+ bytes where the manifest says \d+; delete this part"):
        job.score()
    lost.unlink()
    assert job.score().attempts == 1


def test_looking_writes_nothing(job: Pretender) -> None:
    job.kill_after(2)
    before = {path: path.stat().st_mtime_ns for path in job.output.rglob("*")}
    prepared = prepare(build_config(job.settings))
    done = find_done(prepared, Ledger(str(job.output)))
    assert done is not None
    assert (len(done.parts), done.is_finished) == (2, False)
    assert {path: path.stat().st_mtime_ns for path in job.output.rglob("*")} == before


def test_another_graph_from_the_same_source_is_refused_where_parts_are_there(job: Pretender) -> None:
    job.kill_after(2)
    prepared, ledger = prepare(build_config(job.settings)), Ledger(str(job.output))
    done = find_done(prepared, ledger)
    assert done is not None
    with pytest.raises(PlanError, match="frozen again, gives another graph than the one that the parts there"):
        claim_output(prepared, ledger, done.parts, "1" * 64)
    for name in job.states():
        (job.output / name).unlink()
    assert claim_output(prepared, ledger, frozenset(), "1" * 64) == set()
    plan = ledger.read_plan()
    assert plan is not None
    assert (plan["scored_sha256"], plan["plan_id"]) == ("1" * 64, prepared.plan.plan_id)
