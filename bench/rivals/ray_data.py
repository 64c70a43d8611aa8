"""Ray Data's way, as Ray 2.60 documents batch inference: `read_parquet`, `map_batches` of a class, `write_parquet`.

The class loads the graph once an actor. Batches are Arrow tables, for the columns then reach TensorFlow without a copy.

    python bench/rivals/ray_data.py --model model.pb --input in --output out --feed inputs [settings]
"""

import argparse
import json
import time
from pathlib import Path

import pyarrow as pa
import ray
from feeding import load_graph, to_array, with_prediction

MIB = 2**20


class Predictor:
    """The graph in one actor."""

    def __init__(self, model: str, feed: str, threads: int, marks: str) -> None:
        """Load it."""
        self._run, self._dtype, self._shape = load_graph(model, threads)
        self._feed, self._marks = feed, Path(marks)
        self._has_begun = False

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score one batch; the first one leaves a mark of when it began, on the machine's monotonic clock."""
        if not self._has_begun:
            (self._marks / f"began-{time.monotonic_ns()}").touch()
            self._has_begun = True
        return with_prediction(table, self._feed, self._run(to_array(table, self._feed, self._dtype, self._shape)))


def parse_options() -> argparse.Namespace:
    """Return what to score, and the settings."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--input", "--output", "--feed", "--marks"):
        parser.add_argument(name, required=True)
    parser.add_argument("--batch", type=int, default=16_384)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--cpus", type=float, default=0.1, help="CPUs that one actor reserves")
    parser.add_argument("--read-cpus", type=float, help="CPUs that a read task reserves; the actor's fuses them")
    parser.add_argument("--threads", type=int, default=0, help="TensorFlow's threads; 0: its own choice")
    parser.add_argument("--in-flight", type=int, help="tasks in flight per actor")
    parser.add_argument("--block-mib", type=float, help="target size of blocks")
    parser.add_argument("--blocks", type=int, help="blocks that the read is split into")
    parser.add_argument("--store-mib", type=int, help="size of the object store")
    parser.add_argument("--dictionary", action="store_true", help="write with dictionaries, pyarrow's default")
    return parser.parse_args()


def main() -> None:
    """Score a folder and print how long it took."""
    options = parse_options()
    started = time.monotonic()
    store = options.store_mib * MIB if options.store_mib else None
    ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=store)
    ray_seconds = time.monotonic() - started
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    if options.block_mib:
        context.target_max_block_size = int(options.block_mib * MIB)
    try:
        read_args = {"num_cpus": options.read_cpus} if options.read_cpus else {}
        rows = ray.data.read_parquet(options.input, override_num_blocks=options.blocks, **read_args)
        scored = rows.map_batches(
            Predictor,
            fn_constructor_args=(options.model, options.feed, options.threads, options.marks),
            batch_format="pyarrow",
            batch_size=options.batch or None,
            num_cpus=options.cpus,
            compute=ray.data.ActorPoolStrategy(size=options.actors, max_tasks_in_flight_per_actor=options.in_flight),
        )
        scored.write_parquet(options.output, use_dictionary=options.dictionary)
        ended = time.monotonic()
    finally:
        ray.shutdown()
    began = min(int(mark.name.removeprefix("began-")) for mark in Path(options.marks).glob("began-*")) / 1e9
    print(json.dumps({"scoring_seconds": ended - began, "ray_seconds": ray_seconds}))


if __name__ == "__main__":
    main()
