"""The folder is the ledger: plan, inputs, schema, manifest and summary of a job, and what is done.

A part that is there under its name is done, for parts appear whole or not at all. Nothing else is kept about
progress, so a rerun needs nothing but the folder. Start at `Ledger`.
"""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.listing import InputFile
from engine.data.sink import TEMPORARY_PREFIX, hash_file, write_whole
from engine.errors import PlanError

FOLDER = "_icefloe"
SUCCESS = "_SUCCESS"
PART = re.compile(r"part-\d{5,}-of-\d{5,}\.parquet")
METADATA_KEY = "icefloe"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One part as the manifest lists it."""

    part: str
    """Path below the output folder."""
    shard_id: int
    """Position in the plan."""
    sources: str
    """JSON: the input files and byte ranges that it was made of."""
    rows_in: int
    """Input rows read."""
    rows: int
    """Rows written."""
    bytes: int
    """Size of the part."""
    sha256: str
    """Hash of the part."""
    attempts: int | None
    """Attempts that this run needed; None for a part of an earlier run."""
    seconds: float | None
    """Seconds from read to commit; None for a part of an earlier run."""


MANIFEST_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("shard_id", pa.int64()),
        ("sources", pa.string()),
        ("rows_in", pa.int64()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("attempts", pa.int64()),
        ("seconds", pa.float64()),
    ]
)


def part_metadata(plan_id: str, shard_id: int, sources: str, rows_in: int, rows: int) -> dict[str, str]:
    """Return what a part's footer says of it: nothing that differs between two runs of one plan."""
    facts = {"plan_id": plan_id, "shard_id": shard_id, "sources": json.loads(sources), "rows_in": rows_in, "rows": rows}
    return {METADATA_KEY: json.dumps(facts, sort_keys=True)}


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
        if self.root.exists() and not self.root.is_dir():
            raise PlanError(f"--output {self.root}: expected a folder, found a file")
        if not self.root.exists():
            return None
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
        note = {**earlier, "plan_id": "", "discarding": True}
        write_whole(self._folder / "plan.json", json.dumps(note, indent=1).encode())
        (self.root / SUCCESS).unlink(missing_ok=True)
        for name in ("inputs.parquet", "schema.arrow", "manifest.parquet", "summary.json"):
            (self._folder / name).unlink(missing_ok=True)
        ending = f"-of-{earlier['num_shards']:05d}.parquet"
        for path in list(self._walk()):
            if PART.fullmatch(path.name) and path.name.endswith(ending):
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # a partition folder goes with its last file
                    path.parent.rmdir()

    def clear_temporaries(self) -> None:
        """Remove what killed attempts left behind."""
        for path in list(self._walk()):
            if path.name.startswith(TEMPORARY_PREFIX):
                path.unlink(missing_ok=True)

    def _walk(self) -> Iterator[Path]:
        for place, _, names in os.walk(self.root):
            yield from (Path(place) / name for name in names)

    def find_parts(self, names: Iterable[str]) -> set[str]:
        """Return which of the parts `names` are there."""
        found = {path.relative_to(self.root).as_posix() for path in self._walk() if PART.fullmatch(path.name)}
        return found.intersection(names)

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
            return list(pool.map(self._describe_part, names))

    def _describe_part(self, name: str) -> ManifestRow:
        path = self.root / name
        facts = read_part_facts(path)
        with reading(str(path)):
            part = hash_file(path)
        sources = json.dumps(facts["sources"], sort_keys=True)
        return ManifestRow(
            name, facts["shard_id"], sources, facts["rows_in"], facts["rows"], part.num_bytes, part.sha256, None, None
        )

    @property
    def is_finished(self) -> bool:
        """Whether the job came to its end."""
        return (self.root / SUCCESS).exists()

    def read_manifest(self) -> list[ManifestRow]:
        """Return the manifest of a finished job, its rows as those of an earlier run."""
        path = self._folder / "manifest.parquet"
        with reading(str(path)):
            rows = pq.read_table(path).to_pylist()
        return [ManifestRow(**{**row, "attempts": None, "seconds": None}) for row in rows]

    def finish(self, manifest: Sequence[ManifestRow], summary: Mapping[str, Any]) -> None:
        """Write manifest and summary, and the mark of success last."""
        table = pa.Table.from_pylist([asdict(row) for row in manifest], MANIFEST_SCHEMA)
        write_whole(self._folder / "manifest.parquet", _parquet_bytes(table))
        write_whole(self._folder / "summary.json", json.dumps(summary, indent=1).encode())
        write_whole(self.root / SUCCESS, b"")

    def unfinish(self) -> None:
        """Take the mark of success away before parts that went missing are scored again."""
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


def read_part_facts(path: Path) -> dict[str, Any]:
    """Return what `part_metadata` put into a part's footer.

    Raises:
        PlanError: if no job of ours wrote the file.
        DataError: if it is damaged.
    """
    with reading(str(path)):
        metadata = pq.read_metadata(path).metadata or {}
    try:
        facts = json.loads(metadata[METADATA_KEY.encode()])
        return {name: facts[name] for name in ("plan_id", "shard_id", "sources", "rows_in", "rows")}
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(f"{path} has a part's name, but no job of ours wrote it; move it away") from error
