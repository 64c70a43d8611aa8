"""The machine's limit for a job: what decoding, the graph and encoding cost alone, over all cores.

Each is measured in one thread, as CPU seconds of the process, by its best known way: row groups decoded whole, graph
at its best batch size on arrays that lie as it wants them, one table of all columns of the output encoded, into files
of its own, for fresh page cache is part of writing. What feeds, assembles, schedules and waits is not in it. Start at
`measure_limit`.

    python bench/limit.py MODEL FOLDER FEED BATCH,BATCH... [SCRATCH]
"""

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
from rivals.feeding import to_array, with_prediction

from engine.model.session import ModelSession, SessionOptions, load_session

# Each piece is measured for about so long, at least twice; the least CPU time counts, for others only add to it.
SECONDS, MIN_RUNS = 1.0, 2
# Rows that the graph is timed on: so many at most, in passes of about so long.
GRAPH_ROWS, PASS_SECONDS = 65_536, 0.3
# Rows that are decoded and encoded, in whole files; more cost as much each.
FILE_ROWS = 2_000_000


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


def least_cpu(work: Callable[[], Any], clean_up: Callable[[], Any] = lambda: None) -> float:
    """Return the CPU seconds of one call: the least of some; cleaning up behind it is not counted."""
    found, until = list[float](), time.perf_counter() + SECONDS
    while len(found) < MIN_RUNS or time.perf_counter() < until:
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
        clean_up()
    return min(found)


def decode_file(path: Path) -> list[pa.Table]:
    """Decode every row group of a file in this thread."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return [file.read_row_group(i, use_threads=False) for i in range(file.num_row_groups)]


def session_seconds(session: ModelSession, rows: np.ndarray, batch: int) -> float:
    """Return CPU seconds a row at this batch size, over whole batches where there are enough rows."""

    def score(count: int) -> None:
        for start in range(0, count, batch):
            session.run({"inputs:0": rows[start : min(start + batch, count)]})

    score(batch)
    started = time.perf_counter()
    score(batch)
    num_batches = int(PASS_SECONDS / (time.perf_counter() - started)) + 1
    count = min(len(rows), batch * max(1, min(num_batches, len(rows) // batch)))
    return least_cpu(lambda: score(count)) / count


def encode_seconds(table: pa.Table, num_files: int, scratch: Path | None) -> float:
    """Return CPU seconds of writing the table so many times, each into a file that is new."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        paths = [Path(folder) / f"part-{i}.parquet" for i in range(num_files)]

        def encode() -> None:
            for path in paths:
                pq.write_table(table, path, compression="zstd", use_dictionary=False)

        return least_cpu(encode, lambda: [path.unlink() for path in paths])


def measure_limit(model: Path, folder: Path, feed: str, batches: tuple[int, ...], scratch: Path | None = None) -> Limit:
    """Measure the three pieces for all rows of a folder; files are written to `scratch` and deleted."""
    session = load_session(model.read_bytes(), ["inputs:0"], ["prediction:0"], {}, options=SessionOptions(threads=1))
    files = sorted(folder.glob("*.parquet"))
    first = pa.concat_tables(decode_file(files[0]))
    num_files = max(1, min(len(files), FILE_ROWS // len(first)))
    share = num_files / len(files)
    decode = least_cpu(lambda: [decode_file(path) and None for path in files[:num_files]]) / share
    tensor = session.inputs[0]
    dtype = np.dtype(object if tensor.dtype == "string" else tensor.dtype)
    inputs = to_array(first.slice(0, GRAPH_ROWS), feed, dtype, tuple(tensor.shape[1:]))
    costs = {batch: session_seconds(session, inputs, batch) for batch in batches}
    best = min(costs, key=lambda batch: costs[batch])
    outputs = np.concatenate([session.run({"inputs:0": inputs[i : i + best]})[0] for i in range(0, len(inputs), best)])
    scored = with_prediction(first, feed, np.resize(outputs, (len(first), outputs.shape[1])))
    encode = encode_seconds(scored, num_files, scratch) / share
    return Limit(decode, costs[best] * len(first) * len(files), encode, best)


def main(model: str, folder: str, feed: str, batches: str, scratch: str | None = None) -> None:
    """Print the limit as JSON."""
    sizes = tuple(map(int, batches.split(",")))
    limit = measure_limit(Path(model), Path(folder), feed, sizes, Path(scratch) if scratch else None)
    sys.stdout.write(json.dumps(asdict(limit)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
