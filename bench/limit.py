"""The machine's limit for a job: what decoding, the graph and encoding cost alone, over all cores.

Each is measured in one thread, as CPU seconds of the process, by its best known way: row groups decoded whole, graph
at its best batch size on arrays that lie as it wants them, one table of all columns of the output encoded. What feeds,
assembles, schedules and waits is not in it. Start at `measure_limit`.
"""

import fnmatch
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.model.session import ModelSession, SessionOptions, load_session

# Each piece is measured for about so long, at least twice; the least CPU time counts, for others only add to it.
SECONDS = 1.0
WARM_ROWS = 4096


@dataclass(frozen=True)
class Limit:
    """CPU seconds of one thread for all rows."""

    decode: float
    """Decoding the columns that are read."""
    session: float
    """`Session.run` at the best batch size."""
    encode: float
    """Encoding kept columns and predictions."""
    best_batch: int
    """That batch size."""

    def seconds(self, cores: int) -> float:
        """Return the least seconds that so many cores take."""
        return (self.decode + self.session + self.encode) / cores


def least_cpu(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of one call: the least of some."""
    found, until = list[float](), time.perf_counter() + SECONDS
    while len(found) < 2 or time.perf_counter() < until:  # noqa: PLR2004
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def decode_file(path: Path) -> list[pa.Table]:
    """Decode every row group of a file in this thread."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return [file.read_row_group(i, use_threads=False) for i in range(file.num_row_groups)]


def to_inputs(table: pa.Table, feed: str, tensor: Any) -> np.ndarray:
    """Return the fed columns as one array of the tensor's dtype, aligned."""
    names = [name for name in table.column_names if fnmatch.fnmatch(name, feed)]
    if len(names) > 1:
        return np.stack([table[name].to_numpy() for name in names], axis=-1).astype(tensor.dtype)
    column = table[feed].combine_chunks()
    if tensor.dtype == "string":
        return np.array(column.to_pylist(), object)
    shape = (len(table), *tensor.shape[1:])
    if pa.types.is_binary(column.type):
        return np.frombuffer(column.buffers()[2], np.dtype(tensor.dtype)).reshape(shape)
    return column.flatten().to_numpy().astype(tensor.dtype, copy=False).reshape(shape)


def session_seconds(session: ModelSession, rows: np.ndarray, batch: int) -> float:
    """Return CPU seconds a row at this batch size."""
    count = max(1, min(len(rows), WARM_ROWS * 16) // batch) * batch
    count = min(count, len(rows))

    def score() -> None:
        for start in range(0, count, batch):
            session.run({"inputs:0": rows[start : start + batch]})

    score()
    return least_cpu(score) / count


def measure_limit(model: Path, folder: Path, feed: str, batches: tuple[int, ...]) -> Limit:
    """Measure the three pieces for all rows of a folder."""
    session = load_session(model.read_bytes(), ["inputs:0"], ["prediction:0"], {}, options=SessionOptions(threads=1))
    files = sorted(folder.glob("*.parquet"))
    num_rows = sum(pq.read_metadata(path).num_rows for path in files)
    (first, *_), decode = decode_file(files[0]), 0.0
    per_file = len(first)
    some = files[: max(1, min(len(files), int(2e6) // per_file))]
    decode = least_cpu(lambda: [decode_file(path) and None for path in some]) * len(files) / len(some)
    inputs = to_inputs(first.slice(0, WARM_ROWS * 16), feed, session.inputs[0])
    costs = {batch: session_seconds(session, inputs, batch) for batch in batches}
    sys.stderr.write(f"COSTS {costs}\n")
    best = min(costs, key=lambda batch: costs[batch])
    outputs = np.concatenate([session.run({"inputs:0": inputs[i : i + best]})[0] for i in range(0, len(inputs), best)])
    outputs = np.resize(outputs, (per_file, outputs.shape[1]))
    prediction = pa.FixedSizeListArray.from_arrays(pa.array(outputs.reshape(-1)), outputs.shape[1])
    table = pa.table({"id": first["id"], "prediction": prediction})
    with tempfile.TemporaryDirectory(dir=folder.parent) as there:
        encode = least_cpu(
            lambda: pq.write_table(table, Path(there) / "part.parquet", compression="zstd", use_dictionary=False)
        )
    return Limit(decode, costs[best] * num_rows, encode * num_rows / per_file, best)


if __name__ == "__main__":
    sizes = tuple(map(int, sys.argv[4].split(",")))
    sys.stdout.write(json.dumps(asdict(measure_limit(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sizes))) + "\n")
