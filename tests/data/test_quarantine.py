from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data.faults import Faults, Reason
from engine.data.quarantine import NUM_SHOWN, QUARANTINE, Quarantine, quarantine_name
from engine.data.source import Slice
from engine.data.storage.local_folder import LocalFolder

SCHEMA = pa.schema([("id", pa.int64()), ("s", pa.struct([("a", pa.string())])), ("_error", pa.string())])


def read_of(num_rows: int, start: int = 100) -> Slice:
    table = pa.table(
        {"id": range(num_rows), "s": [{"a": f"x{i}"} for i in range(num_rows)], "_error": ["old"] * num_rows}, SCHEMA
    )
    return Slice(table, "/in/dt=1/f.parquet", "dt=1/f.parquet", np.arange(start, start + 2 * num_rows, 2), num_rows)


def faults_of(num_rows: int, bad: dict[int, str]) -> Faults:
    faults = Faults(num_rows)
    for row, message in reversed(bad.items()):
        faults.add(Reason.NULL, np.array([row]), message)
    return faults


def publish(aside: Quarantine, has_part: bool = False) -> None:
    aside.publish({"icefloe": "{}"}, lambda: None, lambda: has_part)


def test_a_bad_row_comes_as_it_was_with_its_place_and_reason(tmp_path: Path) -> None:
    name = quarantine_name("dt=1/part-00007-of-00042.parquet")
    path = tmp_path / name
    assert path.name == "bad-00007-of-00042.parquet"
    assert QUARANTINE.fullmatch(path.name)
    with Quarantine(LocalFolder(str(tmp_path)), name, SCHEMA) as aside:
        aside.write(read_of(5), faults_of(5, {1: "one", 3: "three"}))
        aside.write(read_of(5), faults_of(5, {}))
        aside.write(read_of(9, 1000), faults_of(9, {i: "many" for i in range(9)}))
        assert not path.exists()
        publish(aside)
    assert aside.num_rows == 11
    assert aside.shown == [
        "/in/dt=1/f.parquet, row 102: one", "/in/dt=1/f.parquet, row 106: three", "/in/dt=1/f.parquet, row 1000: many"
    ]  # fmt: skip
    assert len(aside.shown) == NUM_SHOWN
    rows = pq.read_table(path).to_pylist()
    assert len(rows) == 11
    assert rows[0] == {
        "id": 1, "s": {"a": "x1"}, "_file": "dt=1/f.parquet", "_row": 102, "_error": "Null", "_message": "one"
    }  # fmt: skip
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_without_bad_rows_there_is_no_file(tmp_path: Path) -> None:
    with Quarantine(LocalFolder(str(tmp_path)), "bad.parquet", SCHEMA) as aside:
        aside.write(read_of(5), faults_of(5, {}))
        publish(aside)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("has_part", [True, False])
@pytest.mark.parametrize("has_faults", [True, False])
def test_what_a_cut_off_attempt_left_is_replaced_but_not_a_twins(
    tmp_path: Path, has_part: bool, has_faults: bool
) -> None:
    path = tmp_path / "bad.parquet"
    path.write_bytes(b"earlier")
    with Quarantine(LocalFolder(str(tmp_path)), "bad.parquet", SCHEMA) as aside:
        aside.write(read_of(5), faults_of(5, {2: "two"} if has_faults else {}))
        publish(aside, has_part)
    if has_part:
        assert path.read_bytes() == b"earlier"
    elif has_faults:
        assert pq.read_table(path)["_row"].to_pylist() == [104]
    else:
        assert not path.exists()


def test_what_was_not_published_is_dropped(tmp_path: Path) -> None:
    with Quarantine(LocalFolder(str(tmp_path)), "bad.parquet", SCHEMA) as aside:
        aside.write(read_of(5), faults_of(5, {2: "two"}))
    assert not list(tmp_path.iterdir())


def test_the_quarantine_of_a_later_generation_is_numbered_like_its_part() -> None:
    name = quarantine_name("part-g0003-00000-of-00002.parquet")
    assert name == "_icefloe/quarantine/bad-g0003-00000-of-00002.parquet"
    assert QUARANTINE.fullmatch(name.rpartition("/")[2])
