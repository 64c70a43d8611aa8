"""The loop that an engineer writes first: row groups, `Session.run`, a `ParquetWriter`; one process, default threads.

pyarrow and TensorFlow keep their defaults but for the batch size. One output file for each input file.

    python bench/rivals/plain_loop.py --model model.pb --input in --output out --feed inputs --batch 4096
"""

import argparse
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feeding import load_graph, to_array, with_prediction


def main() -> None:
    """Score a folder and print how long it took."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--input", "--output", "--feed"):
        parser.add_argument(name, required=True)
    parser.add_argument("--batch", type=int, default=4096)
    options = parser.parse_args()
    run, dtype, shape = load_graph(options.model, threads=0)
    Path(options.output).mkdir(parents=True, exist_ok=True)
    num_rows, started = 0, time.perf_counter()
    for path in sorted(Path(options.input).glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            writer = None
            for index in range(file.num_row_groups):
                table = file.read_row_group(index)
                scored = []
                for start in range(0, len(table), options.batch):
                    batch = table.slice(start, options.batch)
                    scored.append(
                        with_prediction(batch, options.feed, run(to_array(batch, options.feed, dtype, shape)))
                    )
                writer = writer or pq.ParquetWriter(Path(options.output) / path.name, scored[0].schema)
                writer.write_table(pa.concat_tables(scored))
                num_rows += len(table)
            if writer:
                writer.close()
    print(json.dumps({"rows": num_rows, "scoring_seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
