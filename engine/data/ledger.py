"""The folder is the ledger: plans, inputs, schema, manifest and summary of a job, and what is done.

A job has one plan; a folder that grows has one more for each time that its new files were scored (`--add`), a
*generation*. Nothing is kept about progress but parts, so a rerun needs nothing but the folder. Start at `Ledger`.
"""

import io
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.data.arrow_errors import reading
from engine.data.manifest import MANIFEST_SCHEMA, ManifestRow, parse_manifest, read_small
from engine.data.parts import is_temporary, part_generation, remove_others, remove_parts
from engine.data.pieces import InputFile
from engine.data.status import STATUS
from engine.data.storage.folder import JOB_FOLDER, OutputFolder
from engine.data.storage.opening import open_folder
from engine.data.timeline import TIMELINE
from engine.errors import DataError, EngineError, JobFailedError, PlanError, StorageError

SUCCESS = "_SUCCESS"
LOCK = f"{JOB_FOLDER}/lock"
INPUTS, SCHEMA = f"{JOB_FOLDER}/inputs.parquet", f"{JOB_FOLDER}/schema.arrow"
MANIFEST, SUMMARY = f"{JOB_FOLDER}/manifest.parquet", f"{JOB_FOLDER}/summary.json"
REPORT = f"{JOB_FOLDER}/report.html"
PLAN_KEYS: dict[str, type] = {"plan_id": str, "settings": dict, "num_shards": int}
PLAN = re.compile(r"plan-(\d{4,})\.json")
INPUT_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("relative_path", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("partition", pa.string()),
        ("generation", pa.int32()),
    ]
)


def plan_name(generation: int) -> str:
    """Return the path below the output folder of a generation's plan."""
    return f"{JOB_FOLDER}/plan-{generation:04d}.json" if generation else f"{JOB_FOLDER}/plan.json"


class Ledger:
    """The `_icefloe` folder of one output folder, and the parts beside it."""

    def __init__(self, output: str) -> None:
        """Point at the output folder that the URI `output` names; nothing is read or made yet."""
        self.folder: OutputFolder = open_folder(output)
        """The output folder."""

    def read_plan(self, generation: int = 0) -> dict[str, Any] | None:
        """Return the plan of a generation, None where there is none yet.

        Raises:
            PlanError: if the folder holds something that no job of ours wrote, or cannot be a folder.
        """
        place, name = self.folder.place, plan_name(generation)
        try:
            data = self.folder.read(name)
            if data is None:
                if not generation:
                    self._check_empty()
                return None
            document = json.loads(data)
        except PlanError as error:
            raise PlanError(f"--output {error}") from error
        except StorageError:
            raise
        except (EngineError, ValueError) as error:
            text = str(error).removeprefix(f"{self.folder.place_of(name)}: ")
            raise PlanError(f"--output {place}: {name} cannot be read ({text})") from error
        if not isinstance(document, dict) or not all(
            isinstance(document.get(key), kind) for key, kind in PLAN_KEYS.items()
        ):
            raise PlanError(f"--output {place}: {name} is no plan of icefloe; name another folder")
        return document

    def _check_empty(self) -> None:
        """Refuse a folder that holds something else and no plan."""
        others = [name for name in self.folder.children() if not is_temporary(name)]
        if others == [JOB_FOLDER]:  # a job that ended before it wrote its plan
            inside = [f"{JOB_FOLDER}/{name}" for name in self.folder.children(JOB_FOLDER)]
            others = [name for name in inside if name.rpartition("/")[2][0] != "." and name != LOCK]
        if others:
            raise PlanError(f"{self.folder.place} holds something else ({others[0]}); name a new or an empty folder")

    def start(self, document: Mapping[str, Any], files: Sequence[InputFile], generation: int = 0) -> None:
        """Write a plan, first of all, and the input files.

        Raises:
            StorageError, JobFailedError: if the folder cannot be made or written to.
        """
        self.folder.write(plan_name(generation), json.dumps(document, indent=1).encode())
        earlier = self._input_table()
        if earlier is not None:  # what a plan that is replaced was made for goes
            earlier = earlier.filter(pc.less(earlier["generation"], generation))
        self._write_inputs(earlier, files, generation)

    def write_inputs(self, files: Sequence[InputFile], generation: int = 0) -> None:
        """Write the listing of a generation beside those of earlier ones, unless it is there."""
        earlier = self._input_table()
        if earlier is None or generation not in earlier["generation"].unique().to_pylist():
            self._write_inputs(earlier, files, generation)

    def _write_inputs(self, earlier: pa.Table | None, files: Sequence[InputFile], generation: int) -> None:
        names = [name for name in INPUT_SCHEMA.names if name != "generation"]
        columns = [pa.array([getattr(file, name) for file in files], INPUT_SCHEMA.field(name).type) for name in names]
        table = pa.table([*columns, pa.repeat(pa.scalar(generation, pa.int32()), len(files))], schema=INPUT_SCHEMA)
        table = table if earlier is None else pa.concat_tables([earlier, table])
        self.folder.write(INPUTS, _parquet_bytes(table))

    def _input_table(self) -> pa.Table | None:
        data = self.folder.read(INPUTS)
        if data is None:
            return None
        place = self.folder.place_of(INPUTS)
        with reading(place):
            table = read_small(pa.BufferReader(data))
        if not table.schema.equals(INPUT_SCHEMA) or any(column.null_count for column in table.columns):
            raise DataError(
                f"{place} is no list of inputs; expected {', '.join(INPUT_SCHEMA.names)}, none of them null"
            )
        return table

    def read_inputs(self) -> list[tuple[InputFile, ...]]:
        """Return the listing of each generation; fewer where a run was cut off before writing one.

        Raises:
            DataError: if it is damaged.
        """
        table = self._input_table()
        if table is None:
            return []
        found: dict[int, list[InputFile]] = {}
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found.setdefault(row[-1], []).append(InputFile(*row[:-1]))
        return [tuple(found.get(generation, ())) for generation in range(max(found, default=-1) + 1)]

    def discard(self, earlier: Mapping[str, Any]) -> list[str]:
        """Remove what the earlier job wrote, and nothing else; the folder then has no plan but a note of this.

        Returns the ids of the plans that are discarded.

        The note replaces the plan first: a late actor of that job finds its plan gone and publishes nothing, and
        a rerun after a crash in here goes on discarding.
        """
        plans = self.folder.children(JOB_FOLDER)
        later = [f"{JOB_FOLDER}/{name}" for name in plans if PLAN.fullmatch(name)]
        own = earlier.get("discarding") or [earlier["plan_id"], *map(self._plan_id_in, later)]
        # A job that was cut off may not have come to remove what late actors of those before it have left.
        plan_ids = list(dict.fromkeys([*own, *earlier.get("discarded", ())]))
        note = {**earlier, "plan_id": "", "discarding": plan_ids}
        self.folder.write(plan_name(0), json.dumps(note, indent=1).encode())
        for name in later:  # its late actors, too, find their plan gone
            self.folder.remove(name)
        names = self.find_files()
        for name in (SUCCESS, INPUTS, SCHEMA, MANIFEST, SUMMARY, STATUS, TIMELINE, REPORT):
            if name in names:
                self.folder.remove(name)
        remove_parts(self.folder, names, plan_ids)
        return list(plan_ids)

    def _plan_id_in(self, name: str) -> str:
        try:
            return str(json.loads(self.folder.read(name) or b"{}").get("plan_id", ""))
        except (ValueError, AttributeError):
            return ""

    def clear_temporaries(self) -> None:
        """Remove what killed attempts left behind; beside the job's own small files one may be written just now."""
        for name in [name for name, _ in self.folder.files() if is_temporary(name)]:
            if name.rpartition("/")[0] != JOB_FOLDER:
                self.folder.remove(name)

    def find_files(self) -> dict[str, int]:
        """Return every file of the folder, with its size."""
        return dict(self.folder.files())

    def holds_parts(self, generation: int = 0) -> bool:
        """Return whether there is any part of a generation."""
        return any(part_generation(name) == generation for name, _ in self.folder.files())

    def write_schema(self, schema: pa.Schema) -> None:
        """Write the output's schema, unless it is there.

        Raises:
            PlanError: if an earlier run of this plan fixed another one.
        """
        earlier = self.read_schema()
        if earlier is None:
            self.folder.write(SCHEMA, schema.serialize().to_pybytes())
        elif not earlier.equals(schema):
            place = self.folder.place_of(SCHEMA)
            raise PlanError(f"{place}: earlier parts have the schema {earlier}, now it is {schema}; use --overwrite")

    def read_schema(self) -> pa.Schema | None:
        """Return the output's schema; None where no actor has told it yet."""
        data = self.folder.read(SCHEMA)
        if data is None:
            return None
        with reading(self.folder.place_of(SCHEMA)):
            return pa.ipc.read_schema(pa.py_buffer(data))

    def is_finished(self, names: Collection[str]) -> bool:
        """Whether the job came to its end, and its manifest is there to tell of it."""
        return SUCCESS in names and MANIFEST in names

    def read_manifest(self) -> list[ManifestRow]:
        """Return the manifest of a finished job, its rows as those of an earlier run.

        Raises:
            DataError: if it is damaged, or not there.
        """
        place = self.folder.place_of(MANIFEST)
        with reading(place), self.folder.open(MANIFEST) as file:
            table = read_small(file)
        return parse_manifest(place, table)

    def check_sizes(self, manifest: Sequence[ManifestRow], names: Mapping[str, int]) -> None:
        """Check that the parts have the sizes that the manifest says.

        Raises:
            PlanError: naming the part that has not.
            DataError: if one is not there.
        """
        for row in manifest:
            place, size = self.folder.place_of(row.part), names.get(row.part)
            if size is None:
                raise DataError(f"{place}: this part is gone since the job ended; the same command scores it again")
            if size != row.bytes:
                raise PlanError(
                    f"{place} has {size} bytes where the manifest says {row.bytes}; "
                    "delete this part, and the same command scores it again"
                )

    def record(self, plan_id: str, generation: int, manifest: Sequence[ManifestRow], summary: dict[str, Any]) -> None:
        """Write manifest and summary of a job that is through.

        What a late actor of a discarded job has published in the instant after it had asked for its plan goes first.

        Raises:
            JobFailedError: if the folder belongs to another job by now, or a part is not what this run published.
        """
        plan = self.read_plan(generation)
        if plan is None or plan["plan_id"] != plan_id:
            raise JobFailedError(f"{self.folder.place} was taken over by another job while this one ran")
        self.clear_temporaries()
        sizes = self.find_files()
        odd = [row.part for row in manifest if sizes.get(row.part) != row.bytes]
        odd += remove_others(self.folder, sizes, manifest, plan, generation)
        if odd:
            raise JobFailedError(
                f"{self.folder.place_of(odd[0])}: changed or gone since it was published; rerun to score it again"
            )
        table = pa.Table.from_pylist([asdict(row) for row in manifest], MANIFEST_SCHEMA)
        self.folder.write(MANIFEST, _parquet_bytes(table))
        self.folder.write(SUMMARY, json.dumps(summary, indent=1).encode())

    def succeed(self) -> None:
        """Write the mark of success, last of all."""
        self.folder.write(SUCCESS, b"")

    def unfinish(self) -> None:
        """Take the mark of success away before parts that went missing are scored again."""
        self.folder.remove(SUCCESS)


def _parquet_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def read_plan_id(folder: OutputFolder, generation: int = 0) -> str | None:
    """Return the id of the plan that a generation of the output folder belongs to now; None where none can be read.

    Raises:
        DataError, StorageError: if the store cannot be asked.
    """
    data = folder.read(plan_name(generation))
    try:
        return None if data is None else str(json.loads(data)["plan_id"])
    except (ValueError, KeyError, TypeError):
        return None


def last_generation(names: Iterable[str]) -> int:
    """Return the number of the last generation that has a plan among the files `names`."""
    found = (PLAN.fullmatch(name.removeprefix(f"{JOB_FOLDER}/")) for name in names if name.startswith(JOB_FOLDER))
    return max((int(match[1]) for match in found if match), default=0)
