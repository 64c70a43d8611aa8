import itertools
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from pretending import Pretender

import engine.preparing.prepare
import engine.preparing.resuming
from engine.config import build_config
from engine.data.columns import InputSchema
from engine.data.ledger import Ledger
from engine.data.pieces import InputFile
from engine.data.storage.local_folder import LocalFolder
from engine.data.storage.locking import lock_output
from engine.errors import ConfigError, DataError, PlanError
from engine.preparing.generations import History, Target, choose_generation, keep_schema, kept_schema, moved_files
from engine.preview import Preview, preview
from engine.run.plan import pair_files, touched_files
from engine.run.verify import verify_output

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)
ROWS = 10


def file_of(name: str, size: int = 100, root: str = "/in", mtime_ns: int = 1) -> InputFile:
    partition = "/".join(part for part in name.split("/")[:-1] if "=" in part)
    return InputFile(f"{root}/{name}", name, size, mtime_ns, partition)


def listing(files: Sequence[InputFile]) -> list[InputFile]:
    return sorted(files, key=lambda file: (file.relative_path, file.path))


# --- which generation a call scores

A, B, C = file_of("a.parquet"), file_of("b.parquet", mtime_ns=2), file_of("c.parquet", mtime_ns=3)
PLAN: dict[str, Any] = {"plan_id": "x", "settings": {}}


def history(*inputs: Sequence[InputFile], unfinished: tuple[int, ...] = ()) -> History:
    return History(PLAN, tuple(tuple(files) for files in inputs), unfinished)


@pytest.mark.parametrize(
    ("earlier", "listed", "may_add", "expected"),
    [
        (None, [A, B], True, Target(0, (A, B))),
        (history([A]), [A, B], False, Target(0, (A, B))),  # as any job: what differs is told by its plan
        (history([A]), [A], True, Target(0, (A,), PLAN, is_settled=True)),
        (history([A]), [A, B, C], True, Target(1, (B, C), PLAN)),
        (history([A]), [B], True, Target(1, (B,), PLAN)),
        (history([A], unfinished=(0,)), [A, B], True, Target(0, (A,), PLAN, has_more=True)),
        (history([A], unfinished=(0,)), [A], True, Target(0, (A,), PLAN)),
        (history([A], [B]), [A, B], False, Target(1, (B,), PLAN, is_settled=True)),
        (history([A], [B]), [A, B, C], True, Target(2, (C,), PLAN)),
        (history([A], [B]), [C], True, Target(2, (C,), PLAN)),
        (history([A], [B], unfinished=(0,)), [A, B], False, Target(0, (A,), PLAN)),
        (history([A], [B], unfinished=(0, 1)), [A, B], False, Target(0, (A,), PLAN, has_more=True, has_gaps=True)),
        (history([A], [B], unfinished=(1,)), [A, B, C], True, Target(1, (B,), PLAN, has_more=True)),
        (history([A, B], [C]), [C], False, Target(1, (C,), PLAN, is_settled=True)),
        (
            history([A, B], [C], unfinished=(0,)),
            [B, C],
            True,
            Target(0, (A, B), PLAN, gone=frozenset({"/in/a.parquet"})),
        ),
    ],
)
def test_a_generation_is_chosen(
    earlier: History | None, listed: list[InputFile], may_add: bool, expected: Target
) -> None:
    assert choose_generation(earlier, listed, may_add) == expected


@pytest.mark.parametrize(
    ("listed", "may_add", "message"),
    [
        ([replace(A, mtime_ns=9), B], True, "a.parquet touched, same size; name another folder"),
        ([replace(A, size_bytes=9), B, C], True, "a.parquet 100 -> 9 bytes; name another folder"),
        ([A, B, C], False, "1 input files new, first: c.parquet; type --add to keep it and score only what is new"),
        ([replace(A, mtime_ns=9), B, C], False, "a.parquet touched, same size; 1 input files new, first: c.parquet; n"),
    ],
)
def test_what_changed_is_refused_by_name(listed: list[InputFile], may_add: bool, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        choose_generation(history([A], [B]), listed, may_add, "/out")
    assert f"--output /out holds a job that differs: {message}" in str(caught.value)


def test_a_file_that_was_moved_is_not_scored_twice() -> None:
    old = [file_of("new/x.parquet", mtime_ns=1_000_000_007), file_of("new/y.parquet", mtime_ns=2_000_000_007)]
    now = [replace(file, path=file.path.replace("new", "old"), relative_path=f"old/{file.path[-9:]}") for file in old]
    assert moved_files(old, now)[0].startswith("new/x.parquet was moved to old/x.parquet, and 1 more (same name, size")
    with pytest.raises(PlanError, match=r"new/x\.parquet was moved to old/x\.parquet.*move it back, or touch it"):
        choose_generation(history(old), now, True)
    other = [replace(file, mtime_ns=file.mtime_ns + 1) for file in now]
    assert choose_generation(history(old), other, True).files == tuple(other)


def test_times_of_whole_seconds_do_not_tell_a_moved_file() -> None:
    old, new = (
        file_of("dt=1/part-0.parquet", mtime_ns=5_000_000_000),
        file_of("dt=2/part-0.parquet", mtime_ns=5 * 10**9),
    )
    assert moved_files([old], [new]) == []


def test_a_renamed_root_and_a_vanished_twin() -> None:
    old = [file_of("a.parquet", 10, "/x"), file_of("a.parquet", 20, "/y")]
    assert choose_generation(history(old), old[1:], True).is_settled
    renamed = [replace(file, path=f"/0{file.path[1:]}") for file in old]
    target = choose_generation(history(old, unfinished=(0,)), listing(renamed), True)
    assert (target.files, target.gone) == (tuple(renamed), frozenset())  # in the order in which they were planned


# --- whatever comes, goes or moves

NAMES = [f"{folder}{number}.parquet" for folder in ("", "dt=1/", "dt=2/") for number in range(4)]


@st.composite
def two_listings(draw: st.DrawFn) -> tuple[list[InputFile], list[InputFile]]:
    found = []
    for roots in (st.sampled_from(["/x", "/y"]), st.sampled_from(["/x", "/y", "/z"])):
        places = draw(st.lists(st.tuples(roots, st.sampled_from(NAMES)), unique=True))
        found.append(
            listing([file_of(name, draw(st.integers(1, 3)), root, draw(st.integers(1, 3))) for root, name in places])
        )
    return found[0], found[1]


@QUICK
@given(two_listings())
def test_every_file_is_paired_or_new_and_never_both(listings: tuple[list[InputFile], list[InputFile]]) -> None:
    old, new = listings
    pairs, added = pair_files(old, new)
    assert sorted([file.path for _, file in pairs] + [file.path for file in added]) == sorted(f.path for f in new)
    assert len({file.path for file, _ in pairs}) == len(pairs)
    assert {file.path for file, _ in pairs} <= {file.path for file in old}
    assert all(before.relative_path == now.relative_path for before, now in pairs)
    assert added == [file for file in new if file in added]
    same_path = {file.path for file in old} & {file.path for file in new}
    assert {before.path for before, now in pairs if before.path == now.path} == same_path


@QUICK
@given(two_listings())
def test_what_is_touched_is_what_differs(listings: tuple[list[InputFile], list[InputFile]]) -> None:
    pairs, _ = pair_files(*listings)
    differ = [
        now.relative_path for old, now in pairs if (old.size_bytes, old.mtime_ns) != (now.size_bytes, now.mtime_ns)
    ]
    told = touched_files(pairs)
    assert [text.split(" ")[0] for text in told[:5]] == differ[:5]
    assert len(told) == min(len(differ), 6)
    assert touched_files([(file, file) for file in listings[0]]) == []


@QUICK
@given(st.data())
def test_over_all_days_every_file_is_in_exactly_one_generation(data: st.DataObject) -> None:
    """Files come and go, the root is renamed, runs are cut off; each file ever listed is scored once."""
    root, clock = "/in", itertools.count(1)
    there: dict[str, tuple[int, int]] = {}
    inputs: list[tuple[InputFile, ...]] = []
    done: set[int] = set()
    seen: set[str] = set()
    fresh = (f"dt={number % 3}/{number}.parquet" for number in itertools.count())
    for _ in range(data.draw(st.integers(1, 6))):
        there |= {next(fresh): (data.draw(st.integers(1, 2)), next(clock)) for _ in range(data.draw(st.integers(0, 3)))}
        for name in data.draw(st.lists(st.sampled_from(sorted(there) or [""]), unique=True, max_size=2)):
            there.pop(name, None)
        if data.draw(st.booleans()):
            root = data.draw(st.sampled_from(["/in", "/0in", "/moved"]))
        listed = listing([file_of(name, size, root, mtime) for name, (size, mtime) in there.items()])
        if not listed:
            continue
        seen |= there.keys()
        has_more, num_turns = True, 0
        while has_more:
            missing = tuple(number for number in range(len(inputs)) if number not in done)
            earlier = History(PLAN, tuple(inputs), missing) if inputs else None
            target = choose_generation(earlier, listed, may_add=True)
            if target.generation == len(inputs):
                inputs.append(target.files)
            assert [file.relative_path for file in target.files] == [
                file.relative_path for file in inputs[target.generation]
            ]
            has_more, num_turns = target.has_more, num_turns + 1
            assert num_turns < 20
            if data.draw(st.booleans()) and data.draw(st.booleans()):
                break  # cut off
            done.add(target.generation)
            for lost in data.draw(st.lists(st.sampled_from(sorted(done)), max_size=1)) if not has_more else ():
                done.discard(lost)
        names = [file.relative_path for files in inputs for file in files]
        assert len(names) == len(set(names))
        assert set(names) <= seen
        if not has_more:
            assert there.keys() <= set(names)


# --- columns that a plan keeps

SCHEMA = pa.schema([("id", pa.int64()), ("inputs", pa.list_(pa.float32(), 4))], metadata={"pandas": "{}"})


def test_columns_go_through_a_plan_file() -> None:
    first = InputSchema("/in/a.parquet", SCHEMA, ("dt", "land"))
    found = kept_schema(json.loads(json.dumps({"columns": keep_schema(first)})))
    assert (found.path, found.partitions) == (first.path, first.partitions)
    assert found.schema.equals(first.schema, check_metadata=True)


@pytest.mark.parametrize("columns", [None, {}, {"path": "a", "schema": "!", "partitions": []}, {"schema": 3}])
def test_a_plan_without_columns_is_a_mistake(columns: Any) -> None:
    with pytest.raises(PlanError, match=r"keeps no columns .*type --overwrite"):
        kept_schema({} if columns is None else {"columns": columns})


# --- a folder that grows


@pytest.fixture
def job(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretender:
    """A job over the folder `in`, without a file in it yet; shards are files."""
    return Pretender(
        monkeypatch,
        {"model": model, "input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "shard_size": 1500},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "in"


def day(folder: Path, number: int, files: int = 2, rows: int = ROWS) -> list[int]:
    """Write the files of a day, and return their ids."""
    start = number * 100
    for each in range(files):
        name = folder / f"dt=2026-01-{number:02}" / f"x{each}.parquet"
        write_rows(name, start + each * rows, start + (each + 1) * rows)
    return list(range(start, start + files * rows))


def planned(job: Pretender, **more: Any) -> Preview:
    return preview(build_config({**job.settings, "add": True, **more}))


def test_a_folder_that_grows_for_five_days(job: Pretender, folder: Path) -> None:
    expected: list[int] = []
    for number in range(1, 6):
        before = job.states()
        if number != 3:
            expected += day(folder, number)
        if number == 4:
            shutil.rmtree(folder / "dt=2026-01-01")
        summary = job.add()
        assert job.ids() == expected
        assert (summary.rows_in, summary.rows_out, summary.parts) == (len(expected), len(expected), len(job.states()))
        assert summary.parts_earlier == len(before)
        assert before.items() <= job.states().items()  # the same files, untouched
        assert job.is_finished()
    assert job.generations() == {0: 2, 1: 2, 2: 2, 3: 2}
    assert sorted(job.states())[0] == "dt=2026-01-01/part-00000-of-00002.parquet"
    assert sorted(job.states())[-1] == "dt=2026-01-05/part-g0003-00001-of-00002.parquet"
    found = verify_output(Ledger(str(job.output)))
    assert (found.problems, found.counts.rows) == ((), len(expected))


def test_only_new_parts_are_hashed(job: Pretender, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = LocalFolder.hash
    monkeypatch.setattr(LocalFolder, "hash", lambda self, name: (hashed.append(name), real(self, name))[1])
    rows = {}
    for number in range(1, 4):
        day(folder, number)
        job.add()
        now = {row.part: row.sha256 for row in Ledger(str(job.output)).read_manifest()}
        assert rows.items() <= now.items()
        rows = now
    assert hashed == []
    lost = "dt=2026-01-02/part-g0001-00001-of-00002.parquet"
    (job.output / lost).unlink()
    job.add()
    assert hashed == ["dt=2026-01-02/part-g0001-00000-of-00002.parquet"]
    assert {row.part: row.sha256 for row in Ledger(str(job.output)).read_manifest()} == rows


@pytest.mark.parametrize("may_add", [True, False])
@pytest.mark.parametrize("has_come", [True, False])
def test_a_generation_that_was_cut_off_is_finished_first(
    job: Pretender, folder: Path, may_add: bool, has_come: bool
) -> None:
    expected = day(folder, 1)
    job.add()
    expected += day(folder, 2, files=3)
    job.kill_after(1, add=True)
    assert not (job.output / "_SUCCESS").exists()
    before = job.states()
    if has_come:
        expected += day(folder, 3)
    found = planned(job) if may_add or not has_come else None
    if has_come and not may_add:
        with pytest.raises(PlanError, match=r"2 input files new, first: dt=2026-01-03/x0\.parquet; type --add"):
            job.score()
        may_add = True
        found = planned(job)
    assert found is not None
    assert (found.generation, found.num_done, found.has_more, found.is_finished) == (1, 1, has_come, False)
    job.score(add=may_add)
    assert job.ids() == expected
    assert before.items() <= job.states().items()
    assert len(job.generations()) == 2 + has_come
    assert job.is_finished()
    assert verify_output(Ledger(str(job.output))).problems == ()
    assert planned(job).is_finished


@pytest.mark.parametrize("lost", ["_SUCCESS", "_icefloe/manifest.parquet", "_icefloe/summary.json"])
def test_killed_while_finishing(job: Pretender, folder: Path, lost: str) -> None:
    for number in (1, 2):
        day(folder, number)
        job.add()
    (job.output / lost).unlink()
    (job.output / "_SUCCESS").unlink(missing_ok=True)
    before, expected = job.states(), job.ids() + day(folder, 3)
    assert (planned(job).generation, planned(job).has_more) == (1, True)
    job.add()
    assert job.ids() == expected
    assert before.items() <= job.states().items()
    assert job.is_finished()


def test_bad_rows_of_a_generation_that_was_over_its_budget_are_not_forgotten_when_files_come(
    job: Pretender, folder: Path
) -> None:
    day(folder, 1)
    job.add(max_bad_rows="10%")
    day(folder, 2)
    job.is_bad = lambda number: 200 <= number < 205
    with pytest.raises(DataError, match=r"5 bad rows of 20 \(25.000%\) where --max-bad-rows allows 10%"):
        job.add(max_bad_rows="10%")
    day(folder, 3)
    with pytest.raises(DataError, match="5 bad rows of 20"):
        job.add(max_bad_rows="10%")
    assert not (job.output / "_SUCCESS").exists()
    assert len(job.generations()) == 2
    assert job.add(max_bad_rows="30%").rows_quarantined == 5
    assert len(job.generations()) == 3
    assert job.is_finished()


def test_budgets_are_judged_a_generation(job: Pretender, folder: Path) -> None:
    job.is_bad = lambda number: number % 100 == 7
    for number in (1, 2, 3):
        day(folder, number)
        summary = job.add(max_bad_rows="5%")
        assert (summary.rows_quarantined, summary.rows_in) == (number, number * 20)
    names = sorted(path.name for path in (job.output / "_icefloe" / "quarantine").iterdir())
    assert names == [
        "bad-00000-of-00002.parquet",
        "bad-g0001-00000-of-00002.parquet",
        "bad-g0002-00000-of-00002.parquet",
    ]
    (job.output / "_icefloe" / "quarantine" / names[1]).unlink()
    (job.output / "dt=2026-01-02" / "part-g0001-00001-of-00002.parquet").unlink()
    job.add(max_bad_rows="5%")  # a part whose quarantine is gone is no part
    assert sorted(path.name for path in (job.output / "_icefloe" / "quarantine").iterdir()) == names


@pytest.mark.parametrize("more", [0, 1])
def test_killed_between_a_plan_and_its_inputs(job: Pretender, folder: Path, more: int) -> None:
    expected = day(folder, 1)
    job.add()
    listed = (job.output / "_icefloe" / "inputs.parquet").read_bytes()
    expected += day(folder, 2)
    job.kill_after(0, add=True)
    assert (job.output / "_icefloe" / "plan-0001.json").exists()
    (job.output / "_icefloe" / "inputs.parquet").write_bytes(listed)
    first = json.loads((job.output / "_icefloe" / "plan-0001.json").read_text())["plan_id"]
    if more:
        expected += day(folder, 3)
    job.add()
    assert job.ids() == expected
    assert job.is_finished()
    plan = json.loads((job.output / "_icefloe" / "plan-0001.json").read_text())
    assert (plan["plan_id"] == first, plan["discarded"]) == (not more, [first] * more)
    assert sum(job.generations().values()) == 4 + 2 * more
    assert verify_output(Ledger(str(job.output))).problems == ()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_part_of_any_generation_is_scored_again(job: Pretender, folder: Path, lost: int) -> None:
    for number in (1, 2, 3):
        day(folder, number)
        job.add()
    before = job.states()
    name = [name for name in sorted(before) if f"2026-01-0{lost + 1}" in name][1]
    (job.output / name).unlink()
    job.scored.clear()
    summary = job.score()
    assert (job.scored, summary.parts_earlier, summary.attempts) == ([name], 5, 1)
    assert {each: state[0] for each, state in job.states().items()} == {each: s[0] for each, s in before.items()}
    assert job.is_finished()


def test_lost_parts_of_several_generations_and_new_files_in_one_call(job: Pretender, folder: Path) -> None:
    for number in (1, 2, 3):
        day(folder, number)
        job.add()
    for path in job.output.rglob("part-*-00001-of-*"):
        path.unlink()
    (job.output / "dt=2026-01-01" / "part-00000-of-00002.parquet").unlink()
    expected = sorted(i for number in (1, 2, 3, 4) for i in range(number * 100, number * 100 + 20))
    day(folder, 4)
    job.add()
    assert job.ids() == expected
    assert job.is_finished()


def test_a_copy_of_a_part_elsewhere_below_the_output_is_no_part(job: Pretender, folder: Path) -> None:
    expected = day(folder, 1)
    job.add()
    (job.output / "backup").mkdir()
    shutil.copy(job.output / "dt=2026-01-01" / "part-00000-of-00002.parquet", job.output / "backup")
    expected += day(folder, 2)
    assert job.add().rows_in == len(expected)
    (job.output / "_icefloe" / "manifest.parquet").unlink()
    assert job.add().rows_in == len(expected)
    (job.output / "dt=2026-01-01" / "part-00000-of-00002.parquet").unlink()
    assert job.add().rows_in == len(expected)
    assert (job.output / "dt=2026-01-01" / "part-00000-of-00002.parquet").exists()


def test_a_part_that_is_lost_together_with_its_input_is_told_before_ray(job: Pretender, folder: Path) -> None:
    for number in (1, 2):
        day(folder, number)
        job.add()
    (job.output / "dt=2026-01-01" / "part-00001-of-00002.parquet").unlink()
    (folder / "dt=2026-01-01" / "x0.parquet").unlink()
    before = job.ids()
    job.add()  # the other one is gone, whose part is there
    assert len(job.ids()) == len(before) + ROWS
    (job.output / "dt=2026-01-01" / "part-00000-of-00002.parquet").unlink()
    with pytest.raises(PlanError, match=r"part-00000-of-00002.parquet is missing, and .*x0.parquet, which it is made "):
        job.add()
    assert "bring this file back as it was" in planned(job).refusal


# --- what is refused, and what is not


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 512}, "batch_size 4096 -> 512; name another"),
        ({"keep": "none"}, r"keep ['id'] -> []"),
        ({"where": "id > 3"}, r"where [] -> ['id > 3']"),
        ({"provenance": True}, "provenance False -> True"),
        ({"compression": "gzip"}, "encoding {"),
    ],
)
@pytest.mark.parametrize("has_come", [True, False])
def test_a_changed_option_is_refused(
    job: Pretender, folder: Path, change: dict[str, Any], message: str, has_come: bool
) -> None:
    day(folder, 1)
    job.add()
    if has_come:
        day(folder, 2)
    with pytest.raises(PlanError) as caught:
        job.add(**change)
    assert f"holds a job that differs: {message}" in str(caught.value)
    assert message in planned(job, **change).refusal
    assert job.is_finished()


def test_a_changed_model_is_refused(job: Pretender, folder: Path) -> None:
    for number in (1, 2):
        day(folder, number)
        job.add()
    day(folder, 3)
    graphs.write(Path(job.settings["model"]), graphs.linear(4, 2))
    with pytest.raises(PlanError, match=r"differs: model_sha256 \w{64} -> \w{64};"):
        job.add()


@pytest.mark.parametrize("has_come", [True, False])
def test_other_versions_and_shards_are_no_obstacle_but_for_a_generation_that_was_cut_off(
    job: Pretender, folder: Path, monkeypatch: pytest.MonkeyPatch, has_come: bool
) -> None:
    day(folder, 1)
    job.add()
    upgraded = {"engine": "0.1.0", "tensorflow": "9.9.9", "pyarrow": "26", "ray": "2"}
    monkeypatch.setattr(engine.preparing.prepare, "installed_versions", lambda: upgraded)
    monkeypatch.setattr(engine.preparing.resuming, "installed_versions", lambda: upgraded)
    if has_come:
        day(folder, 2)
    assert planned(job, shard_size=9999).is_finished != has_come
    summary = job.add(shard_size=9999)
    assert summary.attempts == has_come
    assert job.is_finished()
    day(folder, 3)
    job.kill_after(1, add=True)
    monkeypatch.undo()
    monkeypatch.setattr(engine.job, "run_missing", job._run_missing)
    with pytest.raises(PlanError, match=r"versions \{.*9\.9\.9.* -> "):
        job.add()


def test_a_generation_without_a_part_is_planned_anew(
    job: Pretender, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = day(folder, 1)
    job.add()
    expected += day(folder, 2)
    job.kill_after(0, add=True)
    first = json.loads((job.output / "_icefloe" / "plan-0001.json").read_text())["plan_id"]
    with pytest.raises(PlanError, match="batch_size 4096 -> 64"):  # not the first generation's
        job.add(batch_size=64)
    job.add(shard_size=9999)
    assert json.loads((job.output / "_icefloe" / "plan-0001.json").read_text())["discarded"] == [first]
    assert job.ids() == expected
    assert verify_output(Ledger(str(job.output))).problems == ()


def test_a_generation_without_a_part_whose_files_are_gone_again(job: Pretender, folder: Path) -> None:
    expected = day(folder, 1)
    job.add()
    listed = (job.output / "_icefloe" / "inputs.parquet").read_bytes()
    day(folder, 2)
    job.kill_after(0, add=True)
    (job.output / "_icefloe" / "inputs.parquet").write_bytes(listed)
    shutil.rmtree(folder / "dt=2026-01-02")
    assert job.add().attempts == 0
    assert job.ids() == expected
    assert job.is_finished()
    assert verify_output(Ledger(str(job.output))).problems == ()


@pytest.mark.parametrize(("name", "value"), [("limit", 5), ("overwrite", True)])
def test_options_that_do_not_go_together(job: Pretender, folder: Path, name: str, value: object) -> None:
    day(folder, 1)
    with pytest.raises(ConfigError, match=f"--{name}"):
        job.add(**{name: value})


@pytest.mark.parametrize("num_generations", [1, 2])
def test_a_changed_old_file_is_refused(job: Pretender, folder: Path, num_generations: int) -> None:
    for number in range(1, num_generations + 1):
        day(folder, number)
        job.add()
    day(folder, 3)
    path = folder / "dt=2026-01-01" / "x1.parquet"
    os.utime(path, ns=(1, 1))
    with pytest.raises(PlanError, match=r"differs: dt=2026-01-01/x1\.parquet touched, same size; name another"):
        job.add()
    size = path.stat().st_size
    write_rows(path, 0, 500)
    with pytest.raises(PlanError, match=rf"dt=2026-01-01/x1\.parquet {size} -> \d+ bytes"):
        job.add()


def test_a_plain_call_says_to_type_add(job: Pretender, folder: Path) -> None:
    day(folder, 1)
    job.score()
    day(folder, 2)
    hint = "type --add to keep it and score only what is new, name another folder, or type --overwrite to discard it"
    with pytest.raises(PlanError) as caught:
        job.score()
    assert str(caught.value).endswith(f"differs: 2 input files new, first: dt=2026-01-02/x0.parquet; {hint}")
    assert planned(job, add=False).refusal == str(caught.value)
    assert planned(job).generation == 1
    for more in ({"batch_size": 3}, {"limit": 15}, {"keep": "none"}):
        with pytest.raises(PlanError) as caught:
            job.score(**more)
        assert "--add" not in str(caught.value)
    job.add()
    day(folder, 3)
    with pytest.raises(PlanError) as caught:
        job.score()
    assert str(caught.value).endswith(f"differs: 2 input files new, first: dt=2026-01-03/x0.parquet; {hint}")


def test_a_plain_call_on_a_folder_whose_old_files_are_gone(job: Pretender, folder: Path) -> None:
    expected = day(folder, 1)
    job.score()
    expected += day(folder, 2)
    shutil.rmtree(folder / "dt=2026-01-01")
    with pytest.raises(PlanError, match=r"2 input files new, .*; 2 input files gone, .*; type --add to keep it"):
        job.score()
    job.add()
    assert job.ids() == expected
    assert job.score().attempts == 0  # a folder of generations forgets no file


def test_the_batch_comes_from_the_first_generation(job: Pretender, folder: Path) -> None:
    def lists(name: str, start: int, width: int) -> None:
        folder.mkdir(exist_ok=True)
        values = pa.array([[float(i)] * width for i in range(20)], pa.list_(pa.float32()))
        pq.write_table(
            pa.table({"id": range(start, start + 20), "inputs": values}), folder / name, use_dictionary=False
        )

    graphs.write(Path(job.settings["model"]), graphs.identity("float32", [None, None]))
    lists("b.parquet", 0, 3000)
    batch = job.add().batch_size
    lists("a.parquet", 100, 30)
    with pytest.raises(PlanError, match="1 input files new, first: a.parquet; type --add"):
        job.score()
    assert job.add().batch_size == batch < 4096
    (folder / "b.parquet").unlink()
    lists("c.parquet", 200, 30)
    assert job.add().batch_size == batch
    with pytest.raises(PlanError, match=f"batch_size {batch} -> 77"):
        job.add(batch_size=77)
    assert job.add(batch_size=batch).attempts == 0
    assert job.ids() == [start + i for start in (0, 100, 200) for i in range(20)]


def test_conditions_on_folders(job: Pretender, folder: Path) -> None:
    job.settings |= {"where": "dt >= 2026-01-02"}
    expected: list[int] = []
    for number in (1, 2):
        day(folder, number)
    job.add()
    expected += range(200, 220)
    assert job.ids() == expected
    write_rows(folder / "dt=2026-01-01" / "late.parquet", 900, 910)
    assert planned(job).is_finished
    assert job.add().attempts == 0
    assert job.score().attempts == 0
    write_rows(folder / "dt=2026-01-02" / "late.parquet", 910, 920)
    write_rows(folder / "dt=2026-01-01" / "late.parquet", 900, 999)  # a change where nobody looks
    assert (job.add().attempts, job.ids()) == (1, [*expected, *range(910, 920)])
    day(folder, 3)
    with pytest.raises(PlanError, match=r"where \['dt >= 2026-01-02'\] -> \['dt >= 2026-01-03'\]"):
        job.add(where="dt >= 2026-01-03")


def test_two_roots_one_file_vanishing_and_one_root_renamed(job: Pretender, tmp_path: Path) -> None:
    roots = [tmp_path / "A", tmp_path / "B"]
    for start, root in zip((0, 100), roots, strict=True):
        write_rows(root / "x.parquet", start, start + ROWS + start // 100)
        write_rows(root / "only" / f"{root.name}.parquet", start + 50, start + 60)
    job.settings |= {"input": [str(root) for root in roots]}
    job.add()
    expected = [*range(10), *range(50, 60), *range(100, 111), *range(150, 160)]
    roots[1].rename(tmp_path / "0B")
    job.settings |= {"input": [str(roots[0]), str(tmp_path / "0B")]}
    write_rows(tmp_path / "0B" / "z.parquet", 300, 310)
    assert job.add().attempts == 1
    (tmp_path / "0B").rename(roots[1])
    job.settings |= {"input": [str(root) for root in roots]}
    (roots[0] / "x.parquet").unlink()
    write_rows(roots[0] / "y.parquet", 200, 210)
    assert job.add().attempts == 1
    assert job.ids() == [*expected, *range(200, 210), *range(300, 310)]
    assert job.is_finished()


def test_a_file_that_moves_within_its_root_is_told(job: Pretender, folder: Path) -> None:
    write_rows(folder / "new" / "x.parquet", 0, 10)
    job.add()
    (folder / "old").mkdir()
    (folder / "new" / "x.parquet").rename(folder / "old" / "x.parquet")
    with pytest.raises(PlanError, match=r"new/x\.parquet was moved to old/x\.parquet"):
        job.add()


def test_an_output_that_was_moved_goes_on(job: Pretender, folder: Path, tmp_path: Path) -> None:
    day(folder, 1)
    job.add()
    job.output.rename(tmp_path / "elsewhere")
    job.settings |= {"output": str(tmp_path / "elsewhere")}
    job.output = tmp_path / "elsewhere"
    expected = list(range(100, 120)) + day(folder, 2)
    assert (job.add().attempts, job.ids()) == (2, expected)


def test_overwriting_three_generations_takes_only_what_is_ours(job: Pretender, folder: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        day(folder, number)
        job.add()
    job.is_bad = lambda number: number == 105
    plans = [job.output / "_icefloe" / name for name in ("plan.json", "plan-0001.json", "plan-0002.json")]
    plan_ids = [json.loads(path.read_text())["plan_id"] for path in plans]
    (job.output / "notes.txt").write_text("mine")
    (job.output / "dt=2026-01-02" / "part-mine.parquet").write_text("mine")
    pq.write_table(pa.table({"id": [1]}), job.output / "dt=2026-01-01" / "part-00007-of-00009.parquet")
    write_rows(tmp_path / "in2" / "f.parquet", 900, 910)
    job.settings |= {"input": str(tmp_path / "in2"), "output": str(job.output / "below")}
    job.score()
    job.settings |= {"input": str(folder), "output": str(job.output)}
    below = {path: path.read_bytes() for path in (job.output / "below").rglob("*") if path.is_file()}
    shutil.rmtree(folder / "dt=2026-01-01")
    summary = job.score(overwrite=True)
    assert (summary.rows_in, summary.parts, job.generations()) == (40, 4, {0: 4})
    assert sorted(path.name for path in (job.output / "_icefloe").iterdir()) == [
        "inputs.parquet", "manifest.parquet", "plan.json", "schema.arrow", "summary.json",
    ]  # fmt: skip
    left = {os.path.relpath(path, job.output) for path in job.output.rglob("*") if path.is_file()}
    ours = {row.part for row in Ledger(str(job.output)).read_manifest()}
    assert {name for name in left - ours if not name.startswith(("_", "below/"))} == {
        "notes.txt", "dt=2026-01-02/part-mine.parquet", "dt=2026-01-01/part-00007-of-00009.parquet",
    }  # fmt: skip
    assert {path: path.read_bytes() for path in below} == below
    assert json.loads((job.output / "_icefloe" / "plan.json").read_text())["discarded"] == plan_ids


def test_two_calls_at_once(job: Pretender, folder: Path) -> None:
    day(folder, 1)
    job.add()
    day(folder, 2)
    before = job.states()
    with (
        lock_output(LocalFolder(str(job.output)), print),
        pytest.raises(PlanError, match=r"another job is writing to it \(process \d+ on "),
    ):
        job.add()
    assert job.states() == before
    assert (job.output / "_SUCCESS").exists()
    assert job.add().attempts == 2


def test_a_call_without_anything_to_do_is_fast_after_a_year(job: Pretender, folder: Path) -> None:
    template = None
    day(folder, 1, files=1)
    job.add()
    first = job.output / "_icefloe" / "plan.json"
    template = json.loads(first.read_text())
    ledger = Ledger(str(job.output))
    manifest = ledger.read_manifest()
    files = list(ledger.read_inputs()[0])
    part = (job.output / manifest[0].part).read_bytes()
    listings = [tuple(files)]
    for number in range(1, 366):
        path = folder / f"dt=x{number:03}" / "x.parquet"
        path.parent.mkdir()
        shutil.copy2(files[0].path, path)
        relative = os.path.relpath(path, folder)
        state = path.stat()
        listings.append((InputFile(str(path), relative, state.st_size, state.st_mtime_ns, f"dt=x{number:03}"),))
        name = f"dt=x{number:03}/part-g{number:04}-00000-of-00001.parquet"
        (job.output / name).parent.mkdir()
        (job.output / name).write_bytes(part)
        manifest.append(replace(manifest[0], part=name))
        plan = {**template, "settings": {**template["settings"], "generation": number}}
        (job.output / "_icefloe" / f"plan-{number:04}.json").write_text(json.dumps(plan))
    (job.output / "_icefloe" / "inputs.parquet").unlink()
    rows = [{**row_of(file), "generation": number} for number, files in enumerate(listings) for file in files]
    from engine.data.ledger import INPUT_SCHEMA

    pq.write_table(pa.Table.from_pylist(rows, INPUT_SCHEMA), job.output / "_icefloe" / "inputs.parquet")
    ledger.record(template["plan_id"], 0, manifest, {})
    started = time.perf_counter()
    summary = job.add()
    seconds = time.perf_counter() - started
    assert (summary.attempts, summary.parts) == (0, 366)
    assert seconds < 2
    print(f"{seconds:.2f} s")


def row_of(file: InputFile) -> dict[str, Any]:
    return {name: getattr(file, name) for name in ("path", "relative_path", "size_bytes", "mtime_ns", "partition")}


def test_success_waits_for_all_generations(job: Pretender, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3):
        day(folder, number)
        job.add()
    for number in (0, 2):
        name = f"part-g{number:04}-00001-of-00002.parquet" if number else "part-00001-of-00002.parquet"
        (job.output / f"dt=2026-01-0{number + 1}" / name).unlink()
    succeed, num_parts = Ledger.succeed, list[int]()
    monkeypatch.setattr(Ledger, "succeed", lambda self: (num_parts.append(len(job.states())), succeed(self)))
    job.add()
    assert num_parts == [6]
    assert job.is_finished()


@pytest.mark.parametrize("change", ["mended", "gone", "more"])
def test_inputs_of_a_generation_without_a_part_may_change(job: Pretender, folder: Path, change: str) -> None:
    expected = day(folder, 1)
    job.add()
    expected += day(folder, 2)
    job.kill_after(0, add=True)
    path = folder / "dt=2026-01-02" / "x0.parquet"
    match change:
        case "mended":
            write_rows(path, 200, 205)
        case "gone":
            path.unlink()
        case "more":
            expected += day(folder, 3)
    lost = {"mended": range(205, 210), "gone": range(200, 210), "more": ()}[change]
    job.add()
    assert job.ids() == [i for i in expected if i not in lost]
    assert job.add().attempts == 0
    assert len(job.generations()) == 2
    assert verify_output(Ledger(str(job.output))).problems == ()


def test_a_renamed_root_while_a_twin_vanishes(job: Pretender, tmp_path: Path) -> None:
    for start, root in ((0, "A"), (100, "B")):
        write_rows(tmp_path / root / "x.parquet", start, start + ROWS + start // 100)
    write_rows(tmp_path / "A" / "y.parquet", 50, 60)
    job.settings |= {"input": [str(tmp_path / "A"), str(tmp_path / "B")]}
    job.add()
    (tmp_path / "A" / "x.parquet").unlink()
    (tmp_path / "B").rename(tmp_path / "0B")
    job.settings |= {"input": [str(tmp_path / "A"), str(tmp_path / "0B")]}
    assert job.add().attempts == 0


def test_notes_beside_the_plans_stay(job: Pretender, folder: Path) -> None:
    for number in (1, 2):
        day(folder, number)
        job.add()
    notes = job.output / "_icefloe" / "plan-notes.json"
    notes.write_text("mine")
    job.score(overwrite=True)
    assert notes.read_text() == "mine"
