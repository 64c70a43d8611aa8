"""Jobs without Ray and TensorFlow: the real `score`, but for shards that are "scored" in place by copying their ids."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import engine.job
from engine.config import build_config
from engine.data.ledger import Ledger
from engine.data.manifest import PartFacts, RowCounts
from engine.data.quarantine import quarantine_name
from engine.data.sink import PartWriter, choose_encoding
from engine.errors import JobFailedError
from engine.job import score
from engine.preparing.prepare import Job
from engine.preparing.resuming import Done, claim_output
from engine.run.outcome import PoolRun
from engine.run.plan import Shard, part_name
from engine.run.spec import ShardResult
from engine.run.summary import Summary

SCHEMA = pa.schema([("id", pa.int64())])


class Pretender:
    """Stands in for actors; `score` is the real one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.output = Path(settings["output"])
        self.scored: list[str] = []
        """Parts in the order in which they were made."""
        self.stop_after: int | None = None
        """Parts after which the process "dies"."""
        self.is_bad: Callable[[int], bool] = lambda number: False
        monkeypatch.setattr(engine.job, "run_missing", self._run_missing)

    def score(self, **more: Any) -> Summary:
        return score(build_config({**self.settings, **more}))

    def add(self, **more: Any) -> Summary:
        return self.score(**{"add": True, **more})

    def kill_after(self, num_parts: int, **more: Any) -> None:
        """Score so many parts more and "die"."""
        self.stop_after = len(self.scored) + num_parts
        with pytest.raises(JobFailedError, match="killed"):
            self.score(**more)
        self.stop_after = None

    def _run_missing(self, job: Job, ledger: Ledger, done: Done | None, *_: Any) -> PoolRun:
        mine = claim_output(job, ledger, None if done is None else done.parts, "0" * 64)
        run = PoolRun()
        if len(mine) < len(job.part_names):
            ledger.write_schema(SCHEMA)
        for shard in job.plan.shards:
            if part_name(shard, len(job.plan.shards), job.plan.generation) not in mine:
                if len(self.scored) == self.stop_after:
                    raise JobFailedError("killed")
                result = self._score(job, ledger, shard)
                run.keep(0, result, 1)
        run.num_attempts = len(run.results)
        return run

    def _score(self, job: Job, ledger: Ledger, shard: Shard) -> ShardResult:
        name = part_name(shard, len(job.plan.shards), job.plan.generation)
        ids = [i for piece in shard.pieces if not piece.start_byte for i in pq.read_table(piece.path)["id"].to_pylist()]
        good, bad = [i for i in ids if not self.is_bad(i)], [i for i in ids if self.is_bad(i)]
        sources = json.dumps([[piece.relative_path, piece.start_byte, piece.stop_byte] for piece in shard.pieces])
        counts = RowCounts(len(ids), len(good), len(bad), 0)
        facts = PartFacts(job.plan.plan_id, shard.shard_id, sources, counts).to_metadata()
        for file, rows in ((quarantine_name(name), bad), (name, good)):
            if rows or file == name:
                with PartWriter(ledger.folder, file, SCHEMA, choose_encoding(SCHEMA, ())) as part:
                    part.write(pa.table({"id": rows}, SCHEMA))
                    published = part.publish(facts, lambda: None, lambda: True)
        self.scored.append(name)
        seconds = dict.fromkeys(("read", "bind", "session", "write", "total"), 0.0)
        return ShardResult(
            name, PartFacts(job.plan.plan_id, shard.shard_id, sources, counts), published, (), 0, seconds, 0, 0.0
        )

    def ids(self) -> list[int]:
        """Ids in all parts, sorted."""
        return sorted(i for path in self.output.rglob("part-*") for i in pq.read_table(path)["id"].to_pylist())

    def states(self) -> dict[str, tuple[bytes, int, int]]:
        """Bytes, time and inode of every part."""
        return {
            os.path.relpath(path, self.output): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
            for path in self.output.rglob("part-*")
        }

    def generations(self) -> dict[int, int]:
        """Input files by generation, as the folder has them."""
        return {number: len(files) for number, files in enumerate(Ledger(str(self.output)).read_inputs())}

    def is_finished(self) -> bool:
        """Whether the mark of success stands, and the manifest has exactly the parts that are there."""
        ledger = Ledger(str(self.output))
        if not ledger.is_finished(ledger.find_files()):
            return False
        manifest = Counter(row.part for row in ledger.read_manifest())
        return manifest == Counter(list(self.states()))
