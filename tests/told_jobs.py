"""Output folders as jobs leave them, with timelines that were made up: small ones, and one of 500 actors.

Start at `write_job`.
"""

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import build_config
from engine.data.ledger import MANIFEST, SCHEMA, SUCCESS, SUMMARY, Ledger, plan_name
from engine.data.manifest import MANIFEST_SCHEMA, ManifestRow, PartFacts, RowCounts
from engine.data.quarantine import REASONS, quarantine_name
from engine.data.status import RunStatus, write_status
from engine.data.timeline import ATTEMPT, CANCELLED, FAILED, LOAD, LOST, OK, READY, RUN, Span, write_timeline

PLAN_ID = "0123456789abcdef"
STARTED = 1_790_000_000.0


@dataclass
class Timeline:
    """Spans being made up: actors take shards in turn, three at once."""

    num_actors: int
    num_shards: int
    run: float = STARTED
    node: str = "node-{}"
    per_node: int = 8
    first_shard: int = 0
    seconds: float = 20.0
    """Seconds of a usual shard."""
    rows: int = 20_000
    """Rows of a shard."""
    lost: tuple[int, ...] = ()
    """Actors that are lost at two thirds of their time."""
    outcome: str = OK
    plan_id: str = PLAN_ID
    seed: int = 1
    message: str = "the actor died: its process was killed (signal 9)"
    spans: list[Span] = field(default_factory=list)

    def make(self) -> list[Span]:
        chance, end = np.random.default_rng(self.seed), 0.0
        per_actor = -(-self.num_shards // self.num_actors)
        for actor in range(self.num_actors):
            node, load = self.node.format(actor // self.per_node), 4.0 + 3.0 * float(chance.random())
            first = self.first_shard + actor * per_actor
            shards = range(first, min(first + per_actor, self.first_shard + self.num_shards))
            self._add(LOAD, 2.0, 2.0 + load, OK, actor, node)
            now, stops = 2.0 + load, [2.0 + load] * 3
            for shard in shards:
                lane = int(np.argmin(stops))
                took = self.seconds * (0.7 + 0.6 * float(chance.random()))
                took *= 4 if chance.random() < 0.01 else 1
                stop = stops[lane] + took
                if actor in self.lost and shard - first > len(shards) * 2 // 3:
                    self._add(ATTEMPT, stops[lane], now, LOST, actor, node, shard, 1, message=self.message)
                    continue
                if chance.random() < 0.01:
                    self._add(ATTEMPT, stops[lane], stops[lane] + took / 3, FAILED, actor, node, shard, 1,
                              message="StorageError: the store did not answer")  # fmt: skip
                    stops[lane] += took / 3
                    stop = stops[lane] + took
                self._add(ATTEMPT, stops[lane], stop, OK, actor, node, shard, 1, rows=self.rows, bytes=2**24,
                          read_seconds=0.25 * took, wait_seconds=0.4 * took, bind_seconds=0.03 * took,
                          session_seconds=0.26 * took, write_seconds=0.05 * took)  # fmt: skip
                if took > 2 * self.seconds:
                    self._add(ATTEMPT, stops[lane] + took / 2, stop, CANCELLED, actor, node, shard, 2, is_backup=True)
                stops[lane] = stop
                now = max(stops)
            is_lost = actor in self.lost
            self._add(READY, 2.0 + load, now, LOST if is_lost else OK, actor, node,
                      message=self.message if is_lost else "")  # fmt: skip
            end = max(end, now)
        self._add(RUN, 0.0, end + 1.0, self.outcome, rows=self.rows * self.num_shards)
        return self.spans

    def _add(self, kind: str, start: float, stop: float, outcome: str, *actor: Any, **more: Any) -> None:
        """Add a span; `actor` is worker and node, and for attempts shard and attempt."""
        self.spans.append(Span(self.plan_id, self.run, kind, start, stop, outcome, *actor, **more))


def write_job(
    folder: Path,
    table: pa.Table,
    spans: list[Span],
    *,
    num_parts: int = 4,
    config: dict[str, Any] | None = None,
    fetch: tuple[str, ...] = ("prediction",),
    odd: dict[str, tuple[int, int]] | None = None,
    bad: dict[str, list[dict[str, Any]]] | None = None,
    summary: dict[str, Any] | None = None,
    status: RunStatus | None = None,
    model: dict[str, Any] | None = None,
    is_finished: bool = True,
) -> Ledger:
    """Write an output folder: `table` in parts, `bad` rows in the quarantine of the first part, and the rest."""
    ledger = Ledger(str(folder))
    ledger.folder.make()
    settings = {"model": "/models/net.pb", "input": ["/data/in"], "output": str(folder), **(config or {})}
    document = {
        "plan_id": PLAN_ID,
        "settings": {"fetch": [f"t{i}:0={name}" for i, name in enumerate(fetch)],
                     "batch_size": 256, "shard_size": 2**24,
                     "keep": ["id"], "model_sha256": "ab" * 32},
        "config": build_config(settings).model_dump(mode="json"),
        "scored_sha256": "cd" * 32,
        "num_shards": num_parts,
        "num_inputs": 3,
        "versions": {"engine": "0.1.0", "tensorflow": "2.21.0"},
        **({"model": model} if model else {}),
    }  # fmt: skip
    ledger.folder.write(plan_name(0), json.dumps(document).encode())
    ledger.folder.write(SCHEMA, table.schema.serialize().to_pybytes())
    bounds, rows = [len(table) * i // num_parts for i in range(num_parts + 1)], []
    num_bad = sum(map(len, (bad or {}).values()))
    for shard in range(num_parts):
        mine, name = table.slice(bounds[shard], bounds[shard + 1] - bounds[shard]), part_name(shard, num_parts)
        counts = RowCounts(len(mine) + num_bad * (shard == 0), len(mine), num_bad * (shard == 0), 0)
        odd_values = (odd or {}) if shard == 0 else {}
        facts = PartFacts(PLAN_ID, shard, "[]", counts, odd_values)
        pq.write_table(mine.replace_schema_metadata(facts.to_metadata()), folder / name)
        size = (folder / name).stat().st_size
        rows.append(ManifestRow(name, shard, "[]", counts.rows_in, counts.rows, counts.rows_quarantined, 0,
                                json.dumps(odd_values), size, "00" * 32, 1, 1.0))  # fmt: skip
    if bad:
        aside = folder / quarantine_name(part_name(0, num_parts))
        aside.parent.mkdir()
        pq.write_table(_bad_table(bad), aside)
    if spans:
        write_timeline(ledger.folder, spans)
    if status is not None:
        write_status(ledger.folder, status)
    if is_finished:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], MANIFEST_SCHEMA), sink)
        ledger.folder.write(MANIFEST, sink.getvalue())
        told = {**SUMMARY_FIGURES, "rows_in": len(table) + num_bad, "rows_out": len(table),
                "rows_quarantined": num_bad, "parts": num_parts, "output": str(folder), **(summary or {})}  # fmt: skip
        ledger.folder.write(SUMMARY, json.dumps(told).encode())
        ledger.folder.write(SUCCESS, b"")
    return ledger


def part_name(shard: int, num_parts: int) -> str:
    return f"part-{shard:05d}-of-{num_parts:05d}.parquet"


def _bad_table(bad: dict[str, list[dict[str, Any]]]) -> pa.Table:
    rows = [
        {"_file": "f.parquet", "_row": number, "_message": f"{reason} here", **row, "_error": reason}
        for reason, mine in bad.items()
        for number, row in enumerate(mine)
    ]
    own = [name for name in rows[0] if name not in {each.name for each in REASONS}]
    columns = {name: pa.array([row[name] for row in rows]) for name in own}
    columns |= {each.name: pa.array([row[each.name] for row in rows], each.type) for each in REASONS}
    return pa.table(columns)


SUMMARY_FIGURES: dict[str, Any] = {
    "plan_id": PLAN_ID, "rows_filtered": 0, "parts_earlier": 0, "seconds_total": 83.4, "seconds_ray_start": 1.2,
    "seconds_load": 4.1, "scoring_seconds": 71.5, "rows_per_second": 11_200.0, "rows_per_actor_second": 3_000.0,
    "session_share": 0.71, "bottleneck": "the graph is the limit: 71% of actor time; try more actors",
    "phase_seconds": {"read": 30.0, "wait": 20.0, "bind": 2.0, "session": 200.0, "write": 10.0}, "attempts": 12,
    "second_attempts": 1, "actors": 4, "actors_lost": 1, "devices": [], "model_load_bytes": 3 * 2**28,
    "batch_size": 256, "precision": "float32", "xla": False, "drift": {}, "batches_split": 0, "batches_halved": 0,
    "bytes_stable": True, "bytes_stable_reason": "", "versions": {},
}  # fmt: skip


def scored_table(num_rows: int, num_classes: int = 10, seed: int = 2) -> pa.Table:
    """Return rows with an id, a softmax `prediction` [N, classes], a `score` [N] and a `label` of text."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(size=(num_rows, num_classes)).astype(np.float32) * 2 + np.linspace(0, 1, num_classes)
    values = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    prediction = pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).reshape(-1)), num_classes)
    label = pa.array(np.array(["cat", "dog", "a longer name of a bird"])[chance.integers(0, 3, num_rows)])
    return pa.table({"id": np.arange(num_rows), "prediction": prediction,
                     "score": chance.gamma(2.0, size=num_rows).astype(np.float32), "label": label})  # fmt: skip


def big_spans() -> list[Span]:
    """500 actors, 10,000 shards, two runs; some actors are lost, some shards take long."""
    first = Timeline(500, 4_000, lost=tuple(range(0, 500, 50)), outcome=FAILED).make()
    return first + Timeline(500, 6_000, STARTED + 5_000.0, first_shard=4_000, lost=(3, 77), seed=3).make()
