import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.ledger import Ledger, read_plan_id
from engine.data.manifest import ManifestRow, PartFacts, RowCounts
from engine.data.parts import count_quarantined, describe_parts, is_part, keep_parts
from engine.data.pieces import InputFile
from engine.data.sink import PartWriter, choose_encoding
from engine.data.storage.folder import TEMPORARY_PREFIX
from engine.data.storage.local_folder import LocalFolder
from engine.errors import DataError, EngineError, JobFailedError, PlanError

SCHEMA = pa.schema([("id", pa.int64())])
FILES = (
    InputFile("/in/a.parquet", "a.parquet", 100, 1_700_000_000_123_456_789, ""),
    InputFile("/in/dt=1/é b.parquet", "dt=1/é b.parquet", 2**40, 5, "dt=1"),
)
PLAN = {"plan_id": "abc", "settings": {"limit": None, "feed": {"x:0": "x"}}, "num_shards": 2, "discarded": []}
PARTS = ["part-00000-of-00002.parquet", "dt=1/part-00001-of-00002.parquet"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def ledger(root: Path) -> Ledger:
    """A job that was started and has written nothing."""
    ledger = Ledger(str(root))
    ledger.folder.make()
    ledger.start(PLAN, FILES)
    return ledger


def is_finished(ledger: Ledger) -> bool:
    return ledger.is_finished(ledger.find_files())


def found_parts(ledger: Ledger) -> set[str]:
    return {name for name in ledger.find_files() if is_part(name)}


def publish(root: Path, name: str, num_rows: int = 3, plan_id: str = "abc", counts: RowCounts | None = None) -> str:
    sources = json.dumps([["/in/a.parquet", 0, 100]])
    with PartWriter(LocalFolder(str(root)), name, SCHEMA, choose_encoding(SCHEMA, ())) as part:
        part.write(pa.table({"id": range(num_rows)}, SCHEMA))
        shard_id = int(name.split("-")[1])
        facts = PartFacts(plan_id, shard_id, sources, counts or RowCounts(num_rows + 1, num_rows, 0, 1))
        part.publish(facts.to_metadata(), lambda: None, lambda: True)
    return name


def finish(ledger: Ledger, plan_id: str, manifest: list[ManifestRow], summary: dict[str, Any]) -> None:
    ledger.record(plan_id, 0, manifest, summary)
    ledger.succeed()


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_plan_is_read_as_it_was_written(ledger: Ledger, root: Path) -> None:
    assert Ledger(str(root)).read_plan() == PLAN
    assert ledger.read_inputs() == [FILES]
    assert read_plan_id(LocalFolder(str(root))) == "abc"
    assert not is_finished(ledger)
    assert files_in(root) == ["_icefloe/inputs.parquet", "_icefloe/plan.json"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_new_or_empty_folder_has_no_plan(root: Path, is_there: bool) -> None:
    if is_there:
        root.mkdir()
    assert Ledger(str(root)).read_plan() is None
    assert Ledger(str(root)).read_inputs() == []
    assert read_plan_id(LocalFolder(str(root))) is None
    assert root.exists() == is_there  # reading makes nothing


@pytest.mark.parametrize("name", ["data.csv", "part-00000-of-00002.parquet", ".hidden", "_icefloe/inputs.parquet"])
def test_a_foreign_folder_is_refused(root: Path, name: str) -> None:
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(b"mine")
    with pytest.raises(PlanError, match=f"holds something else .{name}.; name a new or an empty folder"):
        Ledger(str(root)).read_plan()


def test_what_a_start_that_was_killed_leaves_is_no_foreign_folder(root: Path) -> None:
    (root / "_icefloe").mkdir(parents=True)
    (root / "_icefloe" / f"{TEMPORARY_PREFIX}123").write_bytes(b"{")
    (root / f"{TEMPORARY_PREFIX}456").write_bytes(b"{")
    assert Ledger(str(root)).read_plan() is None


def test_an_output_that_is_a_file_is_refused(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(PlanError, match="expected a folder, found a file"):
        Ledger(str(root)).read_plan()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b"3", b'"text"', b"{}"])
def test_a_plan_that_cannot_be_read_is_refused(ledger: Ledger, root: Path, content: bytes) -> None:
    (root / "_icefloe/plan.json").write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json (cannot be read|is no plan of icefloe)"):
        ledger.read_plan()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[1]", b"null"])
def test_a_plan_that_cannot_be_read_has_no_id(ledger: Ledger, root: Path, content: bytes) -> None:
    (root / "_icefloe/plan.json").write_bytes(content)
    assert read_plan_id(LocalFolder(str(root))) is None


def test_a_folder_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PlanError, match="cannot make this folder"):
        Ledger(str(tmp_path / "file/out")).folder.make()


def test_the_listing_is_written_once(ledger: Ledger) -> None:
    ledger.write_inputs(FILES[:1])
    assert ledger.read_inputs() == [FILES]


def test_a_listing_that_was_cut_off_is_written_on_resume(ledger: Ledger, root: Path) -> None:
    (root / "_icefloe/inputs.parquet").unlink()
    assert ledger.read_inputs() == []
    ledger.write_inputs(FILES)
    assert ledger.read_inputs() == [FILES]


def test_a_damaged_listing_is_told(ledger: Ledger, root: Path) -> None:
    (root / "_icefloe/inputs.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"inputs\.parquet"):
        ledger.read_inputs()


# --- what is done


def test_the_parts_that_are_there_are_done(ledger: Ledger, root: Path) -> None:
    assert found_parts(ledger) & set(PARTS) == set()
    publish(root, PARTS[1])
    assert found_parts(ledger) & set(PARTS) == {PARTS[1]}
    publish(root, PARTS[0])
    assert found_parts(ledger) & set(PARTS) == set(PARTS)


def test_other_names_and_places_are_no_parts(ledger: Ledger, root: Path) -> None:
    (root / "dt=2").mkdir()
    for name in (
        "part-00000-of-00003.parquet",
        f"{TEMPORARY_PREFIX}{PARTS[0]}-123",
        "dt=2/part-00001-of-00002.parquet",
    ):
        (root / name).write_bytes(b"")
    assert found_parts(ledger) & set(PARTS) == set()


def test_numbers_of_more_than_five_digits(ledger: Ledger, root: Path) -> None:
    name = "part-123456-of-1000000.parquet"
    (root / name).write_bytes(b"")
    assert found_parts(ledger) == {name}


def test_temporaries_are_cleared_and_nothing_else(ledger: Ledger, root: Path) -> None:
    publish(root, PARTS[1])
    before = files_in(root)
    for name in (f"{TEMPORARY_PREFIX}a", f"dt=1/{TEMPORARY_PREFIX}b", f"_icefloe/{TEMPORARY_PREFIX}c"):
        (root / name).write_bytes(b"")
    (root / ".other").write_bytes(b"")
    ledger.clear_temporaries()
    being_written = f"_icefloe/{TEMPORARY_PREFIX}c"  # how far the job is, perhaps
    assert files_in(root) == sorted([*before, ".other", being_written])


# --- discarding


def test_only_what_the_job_wrote_is_discarded(ledger: Ledger, root: Path) -> None:
    for name in PARTS:
        publish(root, name)
    ledger.write_schema(SCHEMA)
    finish(ledger, PLAN["plan_id"], describe_parts(ledger.folder, PARTS), {"rows": 1})
    theirs = ["notes.txt", "data.parquet", "dt=1/notes.txt", "part-00000-of-00009.parquet", "_icefloe/theirs.json"]
    for name in theirs:
        (root / name).write_bytes(b"mine")
    ledger.discard(PLAN)
    assert files_in(root) == sorted([*theirs, "_icefloe/plan.json"])
    assert all((root / name).read_bytes() == b"mine" for name in theirs)
    assert not is_finished(ledger)


def test_an_empty_partition_folder_goes_with_its_last_part(ledger: Ledger, root: Path) -> None:
    publish(root, PARTS[1])
    ledger.discard(PLAN)
    assert not (root / "dt=1").exists()
    assert root.exists()


def test_discarding_leaves_a_note_until_the_next_start(ledger: Ledger, root: Path) -> None:
    publish(root, PARTS[0])
    ledger.discard(PLAN)
    note = ledger.read_plan()
    assert note is not None
    assert note["discarding"]
    assert read_plan_id(LocalFolder(str(root))) != "abc"  # a late actor of the old job publishes nothing
    publish(root, PARTS[1])  # as if killed before this part was removed
    ledger.discard(note)
    assert found_parts(ledger) & set(PARTS) == set()
    ledger.start({**PLAN, "plan_id": "def"}, FILES[:1])
    assert ledger.read_plan() == {**PLAN, "plan_id": "def"}
    assert ledger.read_inputs() == [FILES[:1]]


def test_a_discarded_folder_takes_another_schema(ledger: Ledger) -> None:
    ledger.write_schema(SCHEMA)
    ledger.discard(PLAN)
    ledger.write_schema(pa.schema([("other", pa.string())]))


# --- schema


@pytest.mark.parametrize("score", [pa.list_(pa.float32(), 3), pa.fixed_shape_tensor(pa.float32(), [2, 3])], ids=str)
def test_a_schema_is_fixed_by_the_first_run(ledger: Ledger, score: pa.DataType) -> None:
    schema = pa.schema([("id", pa.int64()), ("score", score)])
    ledger.write_schema(schema)
    ledger.write_schema(schema)
    for other in (SCHEMA, pa.schema([schema.field(1), schema.field(0)]), pa.schema([*schema, ("more", pa.int8())])):
        with pytest.raises(
            PlanError, match=r"(?s)schema\.arrow: earlier parts have the schema .*--overwrite"
        ) as caught:
            ledger.write_schema(other)
        assert str(other) in str(caught.value)


# --- the end


def test_parts_are_described_from_their_footers(ledger: Ledger, root: Path) -> None:
    for name in PARTS:
        publish(root, name, num_rows=7)
    rows = describe_parts(ledger.folder, PARTS)
    assert [row.part for row in rows] == PARTS
    assert [row.shard_id for row in rows] == [0, 1]
    for row in rows:
        assert (row.rows_in, row.rows, row.attempts, row.seconds) == (8, 7, None, None)
        assert json.loads(row.sources) == [["/in/a.parquet", 0, 100]]
        part = ledger.folder.hash(row.part)
        assert (row.bytes, row.sha256) == (part.num_bytes, part.sha256)
    assert describe_parts(ledger.folder, []) == []


def test_a_damaged_part_is_told_by_name(ledger: Ledger, root: Path) -> None:
    (root / PARTS[0]).write_bytes(b"PAR1 something PAR1")
    with pytest.raises(DataError, match=PARTS[0]):
        describe_parts(ledger.folder, PARTS[:1])


@pytest.mark.parametrize("metadata", [None, {"icefloe": "no json"}, {"icefloe": "{}"}, {"other": "{}"}])
def test_a_part_that_no_job_of_ours_wrote_is_told_by_name(
    ledger: Ledger, root: Path, metadata: dict[str, str] | None
) -> None:
    pq.write_table(pa.table({"id": [1]}).replace_schema_metadata(metadata), root / PARTS[0])
    with pytest.raises(EngineError, match=PARTS[0]):
        describe_parts(ledger.folder, PARTS[:1])


@pytest.fixture
def whole(ledger: Ledger, root: Path) -> Ledger:
    """A job whose parts are there."""
    for name in PARTS:
        publish(root, name)
    return ledger


def manifest(ledger: Ledger, attempts: int | None = 2, seconds: float | None = 0.5) -> list[ManifestRow]:
    sizes = ledger.find_files()
    return [
        ManifestRow(name, i, "[]", 10, 8, 1, 1, "{}", sizes[name], "ab" * 32, attempts, seconds)
        for i, name in enumerate(PARTS)
    ]


def test_finishing_writes_manifest_and_summary(whole: Ledger, root: Path) -> None:
    finish(whole, PLAN["plan_id"], manifest(whole), {"rows_out": 18})
    assert is_finished(whole)
    assert is_finished(Ledger(str(root)))
    assert json.loads((root / "_icefloe/summary.json").read_bytes()) == {"rows_out": 18}
    assert pq.read_table(root / "_icefloe/manifest.parquet").column("attempts").to_pylist() == [2, 2]
    assert whole.read_manifest() == manifest(whole, None, None)  # to a later run these are parts of an earlier one


def test_a_manifest_of_earlier_parts_only(whole: Ledger) -> None:
    finish(whole, PLAN["plan_id"], manifest(whole, None, None), {})
    assert whole.read_manifest() == manifest(whole, None, None)


@pytest.mark.parametrize("name", ["manifest.parquet", "summary.json"])
def test_the_mark_of_success_comes_last(whole: Ledger, root: Path, name: str) -> None:
    (root / "_icefloe" / name).mkdir()  # in the way of the file
    with pytest.raises(JobFailedError, match=name):
        finish(whole, PLAN["plan_id"], manifest(whole), {})
    assert not is_finished(whole)
    assert (root / "_icefloe/manifest.parquet").is_file() == (name == "summary.json")


def test_the_mark_of_success_is_taken_away(whole: Ledger) -> None:
    whole.unfinish()
    finish(whole, PLAN["plan_id"], manifest(whole), {})
    whole.unfinish()
    assert not is_finished(whole)


def test_part_metadata_says_nothing_that_differs_between_runs() -> None:
    counts = RowCounts(rows_in=5, rows=3, rows_quarantined=1, rows_filtered=1)
    sources = [["a", 0, 9]]
    made = PartFacts("abc", 3, json.dumps(sources, indent=4), counts, {"y": (2, 0)}).to_metadata()
    assert made == PartFacts("abc", 3, json.dumps(sources), counts, {"y": (2, 0)}).to_metadata()
    assert json.loads(made["icefloe"]) == {
        "plan_id": "abc", "shard_id": 3, "sources": sources, "rows_in": 5, "rows": 3, "rows_quarantined": 1,
        "rows_filtered": 1, "odd_values": {"y": [2, 0]},
    }  # fmt: skip
    assert os.uname().nodename not in made["icefloe"]


BAD = RowCounts(rows_in=5, rows=3, rows_quarantined=2)


@pytest.mark.parametrize("aside", [None, RowCounts(rows_in=5, rows=4, rows_quarantined=1), BAD])
def test_a_part_is_done_only_with_its_quarantine(ledger: Ledger, root: Path, aside: RowCounts | None) -> None:
    for name in PARTS:
        publish(root, name, counts=BAD if name == PARTS[1] else None)
    if aside is not None:
        publish(root, "_icefloe/quarantine/bad-00001-of-00002.parquet", counts=aside)
    assert keep_parts(ledger.folder, PARTS, "abc") == set(PARTS if aside is BAD else PARTS[:1])
    assert (root / PARTS[1]).exists() == (aside is BAD)


def test_bad_rows_of_parts_that_are_kept_are_counted(ledger: Ledger, root: Path) -> None:
    assert count_quarantined(ledger.folder, PARTS, ledger.find_files()) == 0
    publish(root, "_icefloe/quarantine/bad-00001-of-00002.parquet", counts=BAD)
    assert count_quarantined(ledger.folder, PARTS, ledger.find_files()) == 2
    assert count_quarantined(ledger.folder, PARTS[:1], ledger.find_files()) == 0


def test_discarding_takes_the_quarantine_along(ledger: Ledger, root: Path) -> None:
    mine = publish(root, "_icefloe/quarantine/bad-00001-of-00002.parquet")
    other = publish(root, "_icefloe/quarantine/bad-00000-of-00002.parquet", plan_id="another")
    ledger.discard(PLAN)
    assert not (root / mine).exists()
    assert (root / other).exists()
