"""Fixtures that several folders share: small inputs, small models, and one Ray for all tests that need one."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests import graphs.py by its name

import graphs

NUM_FEATURES = 4
WAIT_SECONDS = 60


def write_rows(path: Path, start: int, stop: int, row_group_size: int | None = None) -> None:
    """Write rows `start` to `stop` of an endless table: id, and `inputs` as fixed-size lists of 4 float32."""
    ids = np.arange(start, stop)
    values = (np.sin(ids[:, None] * 7.0 + np.arange(NUM_FEATURES)) * 3).astype(np.float32)
    inputs = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), NUM_FEATURES)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": ids, "inputs": inputs}), path, row_group_size=row_group_size)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
    return False


def actor_processes() -> list[int]:
    """Actors of the Ray that this process started; those of others on this machine are not ours to kill."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                name = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::ScoringActor") and is_below(int(folder.name), os.getpid()):
                found.append(int(folder.name))
    return found


@pytest.fixture
def model(tmp_path: Path) -> str:
    """softmax(inputs @ w), 4 features in, 3 classes out."""
    return graphs.write(tmp_path / "model.pb", graphs.linear(NUM_FEATURES))


@pytest.fixture
def inputs(tmp_path: Path) -> str:
    """Folder of four files of 100 rows."""
    for number in range(4):
        write_rows(tmp_path / "in" / f"f{number}.parquet", number * 100, (number + 1) * 100)
    return str(tmp_path / "in")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray on this machine, in this process, for all tests that score in-process."""
    import ray

    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.fixture(autouse=True)
def _gpus_as_before() -> Iterator[None]:
    """Importing TensorFlow hides the GPUs of a process, and what later tests start would inherit that."""
    yield
    if VISIBLE_GPUS is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS
