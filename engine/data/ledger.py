"""The folder is the ledger: plan, inputs, schema, manifest and summary of a job, and what is done.

A part that is there under its name is done, for parts appear whole or not at all. Nothing else is kept about
progress, so a rerun needs nothing but the folder. Start at `Ledger`.
"""

import contextlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.listing import InputFile
from engine.data.manifest import MANIFEST_SCHEMA, ManifestRow, PartFacts, describe_part, read_part_facts
from engine.data.quarantine import FOLDER as QUARANTINE_FOLDER
from engine.data.quarantine import QUARANTINE, quarantine_name
from engine.data.sink import TEMPORARY_PREFIX, write_whole, writing
from engine.errors import DataError, JobFailedError, PlanError

FOLDER = "_icefloe"
SUCCESS = "_SUCCESS"
PART = re.compile(r"part-\d{5,}-of-(\d{5,})\.parquet")


class Ledger:
    """The `_icefloe` folder of one output folder, and the parts beside it."""

    def __init__(self, root: str) -> None:
        """Point at the output folder `root`; nothing is read or made yet."""
        self.root = Path(root)
        self._folder = self.root / FOLDER

    def read_plan(self) -> dict[str, Any] | None:
        """Return the plan that the folder belongs to, None where there is no plan yet.

        Raises:
            PlanError: if the folder holds something that no job of ours wrote, or cannot be a folder.
        """
        try:
            if not stat.S_ISDIR(self.root.stat().st_mode):
                raise PlanError(f"--output {self.root}: expected a folder, found a file")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PlanError(f"--output {self.root}: {error.strerror}") from error
        try:
            document = json.loads((self._folder / "plan.json").read_bytes())
        except FileNotFoundError:
            others = [name for name in sorted(os.listdir(self.root)) if not name.startswith(TEMPORARY_PREFIX)]
            if others == [FOLDER]:  # a job that ended before it wrote its plan
                others = [f"{FOLDER}/{name}" for name in os.listdir(self._folder) if name[0] != "."]
            if others:
                raise PlanError(
                    f"--output {self.root} holds something else ({others[0]}); name a new or an empty folder"
                ) from None
            return None
        except (OSError, ValueError) as error:
            raise PlanError(f"--output {self.root}: {FOLDER}/plan.json cannot be read ({error})") from error
        if not isinstance(document, dict) or not {"plan_id", "settings", "num_shards"} <= document.keys():
            raise PlanError(f"--output {self.root}: {FOLDER}/plan.json is no plan of icefloe; name another folder")
        return document

    def start(self, document: Mapping[str, Any], files: Sequence[InputFile]) -> None:
        """Write the plan, first of all, and the input files.

        Raises:
            StorageError: if the folder cannot be made or written to.
            PlanError: if a part of the path is a file.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(f"--output {self.root}: cannot make this folder ({error.strerror})") from error
        write_whole(self._folder / "plan.json", json.dumps(document, indent=1).encode())
        self.write_inputs(files)

    def write_inputs(self, files: Sequence[InputFile]) -> None:
        """Write the listing, unless it is there."""
        if not (self._folder / "inputs.parquet").exists():
            table = pa.Table.from_pylist([asdict(file) for file in files])
            write_whole(self._folder / "inputs.parquet", _parquet_bytes(table))

    def read_inputs(self) -> tuple[InputFile, ...]:
        """Return the listing of the earlier run; empty where it was cut off before writing one."""
        path = self._folder / "inputs.parquet"
        if not path.exists():
            return ()
        with reading(str(path)):
            return tuple(InputFile(**row) for row in pq.read_table(path).to_pylist())

    def discard(self, earlier: Mapping[str, Any]) -> None:
        """Remove what the earlier job wrote, and nothing else; the folder then has no plan but a note of this.

        The note replaces the plan first: a late actor of that job finds its plan gone and publishes nothing, and
        a rerun after a crash in here goes on discarding.
        """
        plan_id = earlier.get("discarding") or earlier["plan_id"]
        note = {**earlier, "plan_id": "", "discarding": plan_id}
        write_whole(self._folder / "plan.json", json.dumps(note, indent=1).encode())
        ending = f"-of-{earlier['num_shards']:05d}.parquet"
        with writing(self.root):
            (self.root / SUCCESS).unlink(missing_ok=True)
            for name in ("inputs.parquet", "schema.arrow", "manifest.parquet", "summary.json"):
                (self._folder / name).unlink(missing_ok=True)
            names = (PART, QUARANTINE)
            mine = [p for p in self._walk() if any(n.fullmatch(p.name) for n in names) and p.name.endswith(ending)]
            for path in mine:
                with contextlib.suppress(PlanError, DataError):  # a foreign or a damaged file is not ours to remove
                    if read_part_facts(path).plan_id == plan_id:
                        path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # a partition folder goes with its last file
                    path.parent.rmdir()

    def clear_temporaries(self) -> None:
        """Remove what killed attempts left behind."""
        with writing(self.root):
            for path in [path for path in self._walk() if path.name.startswith(TEMPORARY_PREFIX)]:
                path.unlink(missing_ok=True)

    def _walk(self) -> Iterator[Path]:
        """Yield the files of this output folder; the outputs of other jobs below it are not ours."""
        for place, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if not os.path.exists(os.path.join(place, name, FOLDER))]
            yield from (Path(place) / name for name in names)

    def find_parts(self, names: Iterable[str]) -> set[str]:
        """Return which of the parts `names` are there."""
        found = {path.relative_to(self.root).as_posix() for path in self._walk() if PART.fullmatch(path.name)}
        return found.intersection(names)

    def holds_parts(self, num_shards: int) -> bool:
        """Return whether there is any part of a plan of `num_shards`."""
        ending = f"-of-{num_shards:05d}.parquet"
        return any(PART.fullmatch(path.name) and path.name.endswith(ending) for path in self._walk())

    def keep_parts(self, names: Iterable[str], plan_id: str) -> set[str]:
        """Return which of `names` are parts of the plan, and remove those that are not.

        Such were left by a discarded job's late actor, or miss the quarantine that their rows went to.

        Raises:
            PlanError: for a file under a part's name that no job of ours wrote, or that is damaged.
        """

        def is_mine(name: str) -> bool:
            try:
                facts = read_part_facts(self.root / name)
                if facts.plan_id == plan_id and self._has_quarantine(name, facts):
                    return True
            except DataError as error:
                raise PlanError(f"{error}; delete this part, and the same command scores it again") from error
            (self.root / name).unlink(missing_ok=True)
            return False

        names = sorted(names)
        with ThreadPoolExecutor(8) as pool:
            return {name for name, mine in zip(names, pool.map(is_mine, names), strict=True) if mine}

    def _has_quarantine(self, name: str, facts: PartFacts) -> bool:
        """Return whether the bad rows that a part's footer tells of lie in quarantine."""
        found = PART.fullmatch(Path(name).name)
        if not facts.counts.rows_quarantined or found is None:
            return True
        path = self.root / quarantine_name(facts.shard_id, int(found[1]))
        try:
            return read_part_facts(path).counts == facts.counts
        except (DataError, PlanError):
            return False

    def write_schema(self, schema: pa.Schema) -> None:
        """Write the output's schema, unless it is there.

        Raises:
            PlanError: if an earlier run of this plan fixed another one.
        """
        path = self._folder / "schema.arrow"
        if path.exists():
            with reading(str(path)):
                earlier = pa.ipc.read_schema(pa.py_buffer(path.read_bytes()))
            if not earlier.equals(schema):
                raise PlanError(f"{path}: earlier parts have the schema {earlier}, now it is {schema}; use --overwrite")
        else:
            write_whole(path, schema.serialize().to_pybytes())

    def describe_parts(self, names: Sequence[str]) -> list[ManifestRow]:
        """Read footers and hash the bytes of parts of earlier runs."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda name: describe_part(self.root, name), names))

    @property
    def is_finished(self) -> bool:
        """Whether the job came to its end, and its manifest is there to tell of it."""
        return (self.root / SUCCESS).exists() and (self._folder / "manifest.parquet").exists()

    def read_manifest(self) -> list[ManifestRow]:
        """Return the manifest of a finished job, its rows as those of an earlier run."""
        path = self._folder / "manifest.parquet"
        with reading(str(path)):
            rows = pq.read_table(path).to_pylist()
        return [ManifestRow(**{**row, "attempts": None, "seconds": None}) for row in rows]

    def check_sizes(self, manifest: Sequence[ManifestRow]) -> None:
        """Check that the parts have the sizes that the manifest says.

        Raises:
            PlanError: naming the part that has not.
        """
        for row in manifest:
            path = self.root / row.part
            with reading(str(path)):
                size = path.stat().st_size
            if size != row.bytes:
                raise PlanError(
                    f"{path} has {size} bytes where the manifest says {row.bytes}; "
                    "delete this part, and the same command scores it again"
                )

    def count_quarantined(self, names: Iterable[str]) -> int:
        """Return how many bad rows the parts `names` left in quarantine."""
        folder = self.root / QUARANTINE_FOLDER
        if not folder.is_dir():
            return 0
        asides = {Path(name).name.replace("part-", "bad-", 1) for name in names}
        found = [folder / name for name in sorted(os.listdir(folder)) if name in asides]
        return sum(read_part_facts(path).counts.rows_quarantined for path in found)

    def record(self, plan_id: str, manifest: Sequence[ManifestRow], summary: Mapping[str, Any]) -> None:
        """Write manifest and summary of a job that is through.

        Raises:
            JobFailedError: if the folder belongs to another job by now.
        """
        if read_plan_id(str(self.root)) != plan_id:
            raise JobFailedError(f"{self.root} was taken over by another job while this one ran")
        self.clear_temporaries()
        table = pa.Table.from_pylist([asdict(row) for row in manifest], MANIFEST_SCHEMA)
        write_whole(self._folder / "manifest.parquet", _parquet_bytes(table))
        write_whole(self._folder / "summary.json", json.dumps(summary, indent=1).encode())

    def succeed(self) -> None:
        """Write the mark of success, last of all."""
        write_whole(self.root / SUCCESS, b"")

    def unfinish(self) -> None:
        """Take the mark of success away before parts that went missing are scored again."""
        with writing(self.root):
            (self.root / SUCCESS).unlink(missing_ok=True)


def _parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_plan_id(root: str) -> str | None:
    """Return the id of the plan that the output folder `root` belongs to now; None where none can be read."""
    try:
        return str(json.loads((Path(root) / FOLDER / "plan.json").read_bytes())["plan_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
