import os
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows

from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.errors import EngineError
from engine.run.summary import Summary
from engine.run.verify import verify_output

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]


class Folder:
    """A folder that grows, and its output."""

    def __init__(self, model: str, root: Path) -> None:
        self.model, self.inputs, self.output = model, root / "in", root / "out"

    def add(self, **more: Any) -> Summary:
        settings = {"model": self.model, "input": (str(self.inputs),), "output": str(self.output)}
        return score(JobConfig(**{**settings, "add": True, "actors": 1, "shard_size": 3000, "batch_size": 32, **more}))

    def day(self, number: int) -> None:
        for each in range(2):
            start = number * 100 + each * 50
            write_rows(self.inputs / f"dt=2026-01-{number:02}" / f"x{each}.parquet", start, start + 50)

    def states(self) -> dict[str, tuple[bytes, int]]:
        paths = sorted(self.output.rglob("part-*"))
        return {os.path.relpath(path, self.output): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    def ids(self) -> list[int]:
        return sorted(i for path in self.output.rglob("part-*") for i in pq.read_table(path)["id"].to_pylist())


@pytest.fixture
def folder(model: str, tmp_path: Path) -> Folder:
    return Folder(model, tmp_path)


def test_a_folder_grows_for_five_days(folder: Folder) -> None:
    expected: list[int] = []
    for number in range(1, 6):
        before = folder.states()
        if number == 3:
            started = time.perf_counter()
            assert folder.add().attempts == 0
            assert time.perf_counter() - started < 2
            continue
        folder.day(number)
        if number == 4:
            shutil.rmtree(folder.inputs / "dt=2026-01-01")
        expected += range(number * 100, number * 100 + 100)
        summary = folder.add()
        assert (folder.ids(), summary.rows_out) == (expected, len(expected))
        assert before.items() <= folder.states().items()
        assert verify_output(Ledger(str(folder.output))).problems == ()
    names = list(folder.states())
    assert (names[0], names[-1]) == (
        "dt=2026-01-01/part-00000-of-00002.parquet",
        "dt=2026-01-05/part-g0003-00001-of-00002.parquet",
    )
    assert len({str(pq.read_schema(folder.output / name).remove_metadata()) for name in names}) == 1


def test_a_generation_cut_off_and_lost_parts_and_new_files_in_one_call(folder: Folder) -> None:
    for number in (1, 2):
        folder.day(number)
        folder.add()
    before = folder.states()
    for name in ("dt=2026-01-02/part-g0001-00001-of-00002.parquet", "_SUCCESS", "_icefloe/manifest.parquet"):
        (folder.output / name).unlink()
    (folder.output / "dt=2026-01-01" / "part-00000-of-00002.parquet").unlink()
    folder.day(3)
    summary = folder.add()
    assert folder.ids() == list(range(100, 400))
    assert {name: folder.states()[name][0] for name in before} == {name: data for name, (data, _) in before.items()}
    assert (summary.rows_out, summary.parts) == (300, 6)
    assert verify_output(Ledger(str(folder.output))).problems == ()


def change(path: Path, name: str, column: pa.Array | None, at: int = 0) -> None:
    table = pq.read_table(path, partitioning=None)
    if name in table.column_names:
        table = table.drop_columns(name)
    pq.write_table(table if column is None else table.add_column(at, name, column), path)


def test_new_files_that_drift_harmlessly(folder: Folder) -> None:
    folder.day(1)
    folder.add()
    folder.day(2)
    first, second = sorted((folder.inputs / "dt=2026-01-02").iterdir())
    change(first, "more", pa.array(["x"] * 50))
    change(second, "id", pa.array(range(250, 300), pa.int64()), at=1)
    for path in (folder.inputs / "dt=2026-01-01").iterdir():
        path.unlink()  # the files that drift are the first ones now
    assert folder.add().rows_out == 200
    assert folder.ids() == list(range(100, 300))
    schemas = {str(pq.read_schema(folder.output / name).remove_metadata()) for name in folder.states()}
    assert len(schemas) == 1
    assert folder.add().attempts == 0


def test_new_files_that_drift_harmfully(folder: Folder) -> None:
    folder.day(1)
    folder.add()
    before = folder.states()
    folder.day(2)
    path = folder.inputs / "dt=2026-01-02" / "x0.parquet"
    change(path, "inputs", None)
    with pytest.raises(EngineError, match=r"x0\.parquet.*inputs"):
        folder.add()
    assert before.items() <= folder.states().items()
    assert not (folder.output / "_SUCCESS").exists()


def test_a_lost_part_is_scored_again_though_other_files_of_its_generation_are_gone(folder: Folder) -> None:
    folder.day(1)
    folder.day(2)
    folder.add()
    before = folder.states()
    shutil.rmtree(folder.inputs / "dt=2026-01-01")
    (folder.output / "dt=2026-01-02" / "part-00003-of-00004.parquet").unlink()
    assert folder.add().attempts == 1
    assert {name: data for name, (data, _) in folder.states().items()} == {n: data for n, (data, _) in before.items()}
