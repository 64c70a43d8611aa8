import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import write_rows
from hypothesis import given
from hypothesis import strategies as st

from engine.data.listing import list_inputs
from engine.data.pieces import Piece
from engine.data.source import Selection
from engine.run.memory import free_bytes, peak_bytes
from engine.run.tuning.machine import count_cores, count_gpus, find_machine
from engine.run.tuning.sample import MAX_ROWS, Sample, choose_rows, read_sample, take_turns


def sample_of(*num_rows: int) -> Sample:
    return Sample(tuple(Piece(f"/f{i}", f"f{i}", 10, 0, 0, 10, rows) for i, rows in enumerate(num_rows)))


def test_the_first_rows_of_the_first_files_are_taken(tmp_path: Path) -> None:
    for number in range(3):
        write_rows(tmp_path / "in" / f"f{number}.parquet", 0, 100)
    pq.write_table(pa.table({"id": pa.array([], pa.int64())}), tmp_path / "in" / "a-none.parquet")
    sample = read_sample(list_inputs([str(tmp_path / "in")]), Selection(pa.schema([])), 150)
    assert [(piece.relative_path, piece.stop_row) for piece in sample.pieces] == [
        ("f0.parquet", 100),
        ("f1.parquet", 50),
    ]
    assert sample.num_rows == 150


def test_wide_rows_make_a_small_sample() -> None:
    assert choose_rows(4.0) == MAX_ROWS
    assert choose_rows(600_000.0) == 256
    assert choose_rows(64 * 1024.0) == 1024


def test_files_take_turns() -> None:
    helpings = itertools.islice(take_turns(sample_of(10, 4), 6), 4)
    found = [[(piece.path, piece.stop_row) for piece in each] for each in helpings]
    assert found == [[("/f0", 6)], [("/f1", 4), ("/f0", 2)], [("/f1", 4), ("/f0", 2)], [("/f1", 4), ("/f0", 2)]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 500))
def test_every_helping_has_its_rows(files: list[int], num_rows: int) -> None:
    sample = sample_of(*files)
    limits = {piece.path: piece.stop_row or 0 for piece in sample.pieces}
    for pieces in itertools.islice(take_turns(sample, num_rows), 20):
        assert sum(piece.stop_row or 0 for piece in pieces) == min(num_rows, sample.num_rows)
        assert all(0 < (piece.stop_row or 0) <= limits[piece.path] for piece in pieces)


def test_gpus_are_counted_by_their_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).write_bytes(b"")
    assert count_gpus(tmp_path, None) == 2
    assert count_gpus(tmp_path, "1") == 1
    assert count_gpus(tmp_path, "") == count_gpus(tmp_path, "-1") == 0
    assert count_gpus(tmp_path, "0,1,2,3") == 2


def test_a_machine_has_cores_and_memory() -> None:
    machine = find_machine(wants_gpus=False)
    assert machine.cores == count_cores() >= 1
    assert machine.gpus == 0
    assert find_machine(wants_gpus=True).gpus >= 1
    assert free_bytes() > 0
    assert peak_bytes() > 2**20
