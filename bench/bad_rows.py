"""What bad rows cost: the same rows scored clean, with 1 in 100,000 and with 1 in 100 at fault, at batch 256.

Three kinds of fault: a null (found by a vectorised check), a NaN that a cheap graph refuses (CheckNumerics before an
MLP: the batch is split, and calls are what it costs), and a broken JPEG in a graph that decodes (work is what it
costs). One actor's scorer without Ray, one session thread; the variants of a kind take turns, and each ratio is of
medians of one run. `python bench/bad_rows.py [ROUNDS]`.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine import JobConfig
from engine.data.ledger import Ledger
from engine.job import scoring_spec
from engine.model.session import import_tensorflow, load_session
from engine.preparing.prepare import Job, prepare
from engine.preparing.resuming import claim_output
from engine.run.attempt import Attempt
from engine.run.freezing import scored_model
from engine.run.shard import Scorer

SHARES = {"clean": 0, "1 in 100,000": 100_000, "1 in 100": 100}
BATCH_ROWS = 256
WIDTHS = (64, 128, 64, 10)


def mlp(has_check: bool) -> bytes:
    """Return the graph of an MLP 64-128-64-10, behind a check for NaN where `has_check`."""
    tf = import_tensorflow(0)
    rng, graph = np.random.default_rng(0), tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, WIDTHS[0]], name="inputs")
        x = tf.debugging.check_numerics(x, "inputs") if has_check else x
        for i, (rows, columns) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
            x = tf.matmul(x, tf.constant(rng.standard_normal((rows, columns)).astype(np.float32) / 8))
            x = tf.nn.relu(x) if i < len(WIDTHS) - 2 else tf.nn.softmax(x, name="prediction")
    return bytes(graph.as_graph_def().SerializeToString())


def jpeg_graph() -> bytes:
    """Return a graph that decodes 32x32 JPEG bytes and averages them."""
    tf = import_tensorflow(0)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.string, [None], name="inputs")
        images = tf.map_fn(lambda each: tf.io.decode_jpeg(each, channels=3), x, fn_output_signature=tf.uint8)
        tf.reduce_mean(tf.cast(images, tf.float32), axis=[1, 2, 3], name="prediction")
    return bytes(graph.as_graph_def().SerializeToString())


def vectors(num_rows: int, bad: np.ndarray, is_null: bool) -> pa.Array:
    """Return rows of 64 float32; `bad` ones are null, or hold a NaN."""
    values = np.random.default_rng(1).standard_normal((num_rows, WIDTHS[0])).astype(np.float32)
    if not is_null:
        values[bad, 7] = np.nan
    mask = np.zeros(num_rows, bool)
    mask[bad] = is_null
    return pa.FixedSizeListArray.from_arrays(
        pa.array(values.reshape(-1)), WIDTHS[0], mask=pa.array(mask) if mask.any() else None
    )


def jpegs(num_rows: int, bad: np.ndarray, _: bool = False) -> pa.Array:
    """Return JPEG bytes of 32x32 images; `bad` ones are no image."""
    tf = import_tensorflow(0)
    noise = np.random.default_rng(2).integers(0, 255, (64, 32, 32, 3), np.uint8)
    images = [tf.io.encode_jpeg(image).numpy() for image in noise]
    broken = set(bad.tolist())
    return pa.array([b"no image" if i in broken else images[i % 64] for i in range(num_rows)])


KINDS: dict[str, tuple[int, Callable[[], bytes], Callable[[int, np.ndarray], pa.Array]]] = {
    "null, MLP": (1_000_000, lambda: mlp(has_check=False), lambda n, bad: vectors(n, bad, is_null=True)),
    "NaN refused by the graph, MLP": (1_000_000, lambda: mlp(has_check=True), lambda n, bad: vectors(n, bad, False)),
    "broken JPEG": (100_000, jpeg_graph, jpegs),
}


def make_job(folder: Path, name: str, graph: bytes, column: pa.Array) -> tuple[Job, Scorer]:
    """Write the inputs of one variant, and load a scorer for it."""
    model, rows = folder / "model.pb", folder / f"{name}.parquet"
    model.write_bytes(graph)
    pq.write_table(pa.table({"id": np.arange(len(column)), "inputs": column}), rows, row_group_size=len(column) // 4)
    settings = {"model": str(model), "input": str(rows), "output": str(folder / name), "batch_size": BATCH_ROWS}
    job = prepare(JobConfig(**settings, max_bad_rows="100%"))
    scored = scored_model(job.model, {})
    assert scored is not None
    ledger = Ledger(job.config.output)
    ledger.folder.make()
    claim_output(job, ledger, None, scored.sha256)
    spec = scoring_spec(job, scored)
    session = load_session(graph, [name for name, _ in spec.feeds], [name for name, _ in spec.fetches], {})
    return job, Scorer(spec, session)


def score_once(job: Job, scorer: Scorer) -> tuple[float, int]:
    """Score all shards; return the seconds and the rows in quarantine."""
    for part in Path(job.config.output).glob("part-*"):
        part.unlink()
    started = time.perf_counter()
    results = [scorer.score(shard, Attempt()) for shard in job.plan.shards]
    seconds = time.perf_counter() - started
    return seconds, sum(result.facts.counts.rows_quarantined for result in results)


def main(rounds: int) -> None:
    """Print a table and a line of JSON."""
    found: dict[str, dict[str, float]] = {}
    for kind, (num_rows, make_graph, make_column) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder:
            graph = make_graph()
            jobs = {}
            for share, every in SHARES.items():
                bad = np.arange(every // 2, num_rows, every) if every else np.empty(0, np.int64)
                jobs[share] = make_job(Path(folder), share.replace(" ", "-"), graph, make_column(num_rows, bad))
            seconds: dict[str, list[float]] = {share: [] for share in SHARES}
            num_bad: dict[str, int] = {}
            for _ in range(rounds + 1):  # the first round warms up
                for share, (job, scorer) in jobs.items():
                    took, num_bad[share] = score_once(job, scorer)
                    seconds[share].append(took)
        medians = {share: statistics.median(times[1:]) for share, times in seconds.items()}
        found[kind] = medians
        for share, median in medians.items():
            ratio = median / medians["clean"]
            line = f"{kind:32} {share:14} {num_bad[share]:6} bad of {num_rows:,}  {median:7.2f} s  x{ratio:.2f}"
            sys.stdout.write(f"{line}  {num_rows / median:,.0f} rows/s\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
