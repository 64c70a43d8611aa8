import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import write_rows

from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.errors import DataError, PlanError
from engine.run.summary import Summary
from engine.run.verify import verify_output

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]


def run(model: str, inputs: str, output: Path, **more: Any) -> Summary:
    settings: dict[str, Any] = {"model": model, "input": (inputs,), "output": str(output), "shard_size": 4000}
    return score(JobConfig(**{**settings, "batch_size": 32, "actors": 1, **more}))


def states(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("part-*"))}


def ids(output: Path) -> list[int]:
    return sorted(i for path in output.glob("part-*") for i in pq.read_table(path)["id"].to_pylist())


def test_a_job_that_was_moved_goes_on_elsewhere(model: str, inputs: str, tmp_path: Path) -> None:
    run(model, inputs, tmp_path / "out")
    before = states(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "out2")
    (tmp_path / "out2" / list(before)[2]).unlink()
    Path(inputs).rename(tmp_path / "in2")
    summary = run(model, str(tmp_path / "in2"), tmp_path / "out2", actors=2, max_bad_rows=3)
    assert (summary.attempts, summary.parts_earlier) == (1, 3)
    assert states(tmp_path / "out2") == before
    assert verify_output(Ledger(str(tmp_path / "out2"))).problems == ()


def test_a_job_stopped_by_a_damaged_file_keeps_its_parts_and_names_what_changed(
    model: str, inputs: str, tmp_path: Path
) -> None:
    output, damaged = tmp_path / "out", Path(inputs) / "f3.parquet"
    whole, state = damaged.read_bytes(), damaged.stat()
    damaged.write_bytes(whole[:-20] + b"\0" * 20)
    os.utime(damaged, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match=r"f3\.parquet"):
        run(model, inputs, output)
    done = states(output)
    damaged.write_bytes(whole)
    with pytest.raises(PlanError, match=r"batch_size 32 -> 16; f3\.parquet touched, same size; name another folder"):
        run(model, inputs, output, batch_size=16)
    os.utime(damaged, ns=(state.st_atime_ns, state.st_mtime_ns))
    write_rows(Path(inputs) / "f4.parquet", 400, 500)
    with pytest.raises(PlanError, match=r"1 input files new, first: f4\.parquet; type --add"):
        run(model, inputs, output)
    summary = run(model, inputs, output, add=True)
    assert ids(output) == list(range(500))
    assert done.items() <= states(output).items()
    assert (summary.parts, list(states(output))[-1]) == (5, "part-g0001-00000-of-00001.parquet")
    assert verify_output(Ledger(str(output))).problems == ()
