"""What codec, dictionaries and row groups of the output cost: CPU seconds to write and to read, and bytes.

Predictions are float noise, ids count up, labels repeat. CPU seconds of one thread, the median of some rounds, so that
a busy machine disturbs little. Run it with `make bench`.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import JobConfig
from engine.data.sink import EncodingRules, PartWriter, choose_encoding
from engine.data.storage.local_folder import LocalFolder
from engine.options import CODECS

NUM_ROWS, NUM_CLASSES, SLICE_ROWS, ROUNDS = 1_000_000, 10, 32_768, 3


def make_rows() -> pa.Table:
    """Return ids, labels of 20 kinds, unique texts, and softmax predictions of 10 classes."""
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(NUM_CLASSES), NUM_ROWS).astype(np.float32)
    ids = np.arange(NUM_ROWS)
    return pa.table(
        {
            "id": ids,
            "label": pa.array([f"class {i % 20}" for i in ids]),
            "key": pa.array([f"{i * 2654435761 % 2**32:08x}" for i in ids]),
            "prediction": pa.FixedSizeListArray.from_arrays(pa.array(scores.reshape(-1)), NUM_CLASSES),
        }
    )


def measure(rows: pa.Table, rules: EncodingRules) -> tuple[float, float, int, int]:
    """Return CPU seconds to write and to read, bytes, and row groups."""
    write, read = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(ROUNDS):
            started = time.process_time()
            encoding = choose_encoding(rows.schema, ["prediction"], rules)
            with PartWriter(LocalFolder(folder), f"{index}.parquet", rows.schema, encoding) as part:
                for start in range(0, len(rows), SLICE_ROWS):
                    part.write(rows.slice(start, SLICE_ROWS))
                part.publish({}, lambda: None, lambda: False)
            write.append(time.process_time() - started)
            path = Path(folder) / f"{index}.parquet"
            started = time.process_time()
            pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
            read.append(time.process_time() - started)
        groups = pq.read_metadata(path).num_row_groups
        return statistics.median(write), statistics.median(read), path.stat().st_size, groups


def main(out: Sequence[str] = ()) -> None:
    """Print a line a choice."""
    pa.set_cpu_count(1)
    rows = make_rows()
    default = JobConfig(model="m", input=("i",), output="o")
    lines = [(f"codec {codec}", EncodingRules(codec)) for codec in CODECS]
    lines += [(f"dictionary {kind}", EncodingRules(default.compression, None, kind)) for kind in ("all", "none")]
    lines += [(f"row groups of {n:,}", EncodingRules(default.compression, n)) for n in (1_000, 32_768, 1_000_000)]
    print(f"{NUM_ROWS:,} rows, {rows.nbytes / 2**20:.0f} MiB in memory, slices of {SLICE_ROWS:,}")
    print(f"{'':24} {'write':>8} {'read':>8} {'MiB':>8} {'groups':>8}")
    for name, rules in lines:
        write, read, size, groups = measure(rows, rules)
        mark = " (default)" if rules == EncodingRules(default.compression) else ""
        print(f"{name:24} {write:7.2f}s {read:7.2f}s {size / 2**20:8.1f} {groups:8}{mark}")


if __name__ == "__main__":
    main(sys.argv[1:])
