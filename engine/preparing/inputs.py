"""Settles what a job reads: which files, which of their rows, and which columns fill which tensor.

Knows the listing and the first footer, and the model's ports; reads no row. Start at `prune_folders`,
then `choose_inputs`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from engine.config import JobConfig
from engine.data.assembly import PROVENANCE
from engine.data.columns import (
    ColumnPath,
    FeedSource,
    InputSchema,
    relax,
    resolve_column,
    resolve_feed,
    select_columns,
)
from engine.data.feeding.fills import match_fills
from engine.data.filtering.conditions import BoundCondition, bind_condition, parse_condition
from engine.data.output import check_output_names
from engine.data.pieces import InputFile, partition_values
from engine.data.source import Selection, open_parquet
from engine.data.storage.reading import Storage
from engine.errors import ConfigError, PlanError
from engine.preparing.generations import Target, kept_schema

# Files without rows that are passed over in search of the first one.
MAX_EMPTY = 16


@dataclass(frozen=True, slots=True)
class JobInputs:
    """What a job reads, and how it is named."""

    files: tuple[InputFile, ...]
    """Input files, without those in folders that hold no row for which all conditions hold."""
    num_pruned: int
    """Files that were left out for their folders."""
    first: InputSchema
    """Columns of the first file and of the folders."""
    metadata: pq.FileMetaData
    """Footer of the first file."""
    sources: Mapping[str, FeedSource]
    """Columns of each feed, by tensor."""
    keep: tuple[ColumnPath, ...]
    """Input columns carried to the output."""
    fills: Mapping[str, str]
    """What stands in for nulls, by path of the fed column."""
    selection: Selection
    """What is read of every file."""

    @property
    def rows_per_byte(self) -> float:
        """Rows that the first file has for each byte that it takes on disk; 0 where it is not among the files."""
        size = next((file.size_bytes for file in self.files if file.path == self.first.path), 0)
        return float(self.metadata.num_rows / size) if size else 0.0


@dataclass(frozen=True, slots=True)
class Listed:
    """Input files, as far as `--where` can tell by their folders which ones hold rows to score."""

    files: tuple[InputFile, ...]
    """Files without those in folders that hold no row for which all conditions hold."""
    num_pruned: int
    """Files that were left out for their folders."""
    partitions: tuple[str, ...]
    """Names of the Hive partitions of all folders."""
    storage: Storage
    """How the files are reached."""


def prune_folders(config: JobConfig, files: Sequence[InputFile], storage: Storage) -> Listed:
    """Leave out the files in folders that by `--where` hold no row to score.

    Raises:
        Mistake: for a condition that cannot hold for a folder's name, or that leaves no file.
        DataError: if the first file is damaged.
    """
    folders = list(dict.fromkeys(file.partition for file in files))
    names = tuple(dict.fromkeys(name for folder in folders for name in partition_values(folder)))
    conditions = [parse_condition(text) for text in config.where]
    on_folders: list[tuple[str, BoundCondition]] = []
    if any(condition.column in names for condition in conditions):
        first, _ = look_at_first(files, names, storage)
        on_folders = [
            (each.column, bind_condition(each, pa.string(), is_partition=True))
            for each in conditions
            if each.column in first.partitions
        ]
    left = _prune(files, on_folders, config.where)
    return Listed(left, len(files) - len(left), names, storage)


def choose_inputs(
    config: JobConfig, listed: Listed, target: Target, feed: Mapping[str, str], fetch: Sequence[str]
) -> JobInputs:
    """Find the columns that the call names in the first file.

    Args:
        config: the call.
        listed: the listing.
        target: which of the files are scored; where they were added, the first plan tells the columns.
        feed: columns as they were written, by tensor.
        fetch: names of the output columns that the graph gives.

    Raises:
        Mistake: for a column that is not there, or names that clash.
        DataError: if the first file is damaged.
    """
    at_hand = target.files if target.first_plan is None else listed.files  # of the target's some may be gone
    first, metadata = look_at_first(at_hand, listed.partitions, listed.storage)
    if target.first_plan is not None:
        first = kept_schema(target.first_plan)
    sources = {tensor: resolve_feed(first, text) for tensor, text in feed.items()}
    fed = [path for source in sources.values() for path in source.columns]
    keep = kept_columns(config, first, fed)
    clash = [name for name in first.partitions if name not in [str(path) for path in keep]]
    own = [field.name for field in PROVENANCE] if config.provenance else []
    check_output_names([*map(str, keep), *fetch, *clash, *own])
    _check_dictionary(config, [*map(str, keep), *fetch, *own])
    filters = []
    for condition in [parse_condition(text) for text in config.where]:
        if condition.column not in first.partitions:
            path = resolve_column(first, condition.column, "--where")
            filters.append((path, bind_condition(condition, relax(path.type))))
    read = [*fed, *keep, *(path for path, _ in filters)]
    partitions = tuple(dict.fromkeys(str(path) for path in read if str(path) in first.partitions))
    columns = select_columns(first.schema, [path for path in read if str(path) not in first.partitions])
    return JobInputs(
        files=target.files,
        num_pruned=listed.num_pruned,
        first=first,
        metadata=metadata,
        sources=sources,
        keep=tuple(replace(path, type=relax(path.type)) for path in keep),
        fills=match_fills(config.fill, list(sources.values())),
        selection=Selection(columns, partitions, tuple(filters), listed.storage),
    )


def look_at_first(
    files: Sequence[InputFile], partitions: Sequence[str], storage: Storage
) -> tuple[InputSchema, pq.FileMetaData]:
    """Return what the first file with rows shows: pandas writes an empty one without types.

    Raises:
        DataError: if it is damaged.
    """
    looks = (_look_at(file, partitions, storage) for file in files[:MAX_EMPTY])
    first = next(looks)
    return first if first[1].num_rows else next((look for look in looks if look[1].num_rows), first)


def _look_at(file: InputFile, partitions: Sequence[str], storage: Storage) -> tuple[InputSchema, pq.FileMetaData]:
    with open_parquet(file.path, storage) as opened:
        schema = opened.schema_arrow
        own = tuple(name for name in partitions if name not in schema.names)
        return InputSchema(file.path, schema, own), opened.metadata


def _prune(
    files: Sequence[InputFile], conditions: Sequence[tuple[str, BoundCondition]], texts: Sequence[str]
) -> tuple[InputFile, ...]:
    """Return the files in folders for which all conditions hold."""
    if not conditions:
        return tuple(files)
    verdicts: dict[str, bool] = {}
    for file in files:
        if file.partition not in verdicts:
            values = partition_values(file.partition)
            verdicts[file.partition] = all(condition.holds(values.get(name)) for name, condition in conditions)
    left = tuple(file for file in files if verdicts[file.partition])
    if not left:
        some = ", ".join(list(verdicts)[:3])
        raise PlanError(f"--where {' and '.join(texts)}: holds for no folder of the input; it has {some}")
    return left


def kept_columns(config: JobConfig, first: InputSchema, fed: Sequence[ColumnPath]) -> tuple[ColumnPath, ...]:
    """Return the columns to carry along; partition columns are in the folders' names and stay there.

    Raises:
        SchemaError: for a column that is not there, or is there twice.
    """
    schema = first.schema
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    match config.keep:
        case None:
            names = [name for name in schema.names if name not in {path.names[0] for path in fed}]
        case "all":
            names = schema.names
        case "none":
            names = []
        case given:
            names = [name for name in given if name not in first.partitions]
            return tuple(resolve_column(first, name, "--keep") for name in names)
    if set(names) & set(twice):
        return (resolve_column(first, twice[0], "--keep"),)  # says that there are two of them
    return tuple(ColumnPath((name,), schema.field(name).type) for name in names)


def _check_dictionary(config: JobConfig, written: Sequence[str]) -> None:
    """Refuse `--dictionary` for a column that the job does not write."""
    for name in () if isinstance(config.dictionary, str) else config.dictionary or ():
        if name not in written:
            raise ConfigError(f"--dictionary {name}: no column of the output; these are {', '.join(written)}")


def check_columns_named(config: JobConfig, fetch: Sequence[str]) -> None:
    """Refuse `--utf8` for a column that the graph does not give.

    Raises:
        ConfigError: naming the columns that it does.
    """
    for name in config.utf8:
        if name not in fetch:
            raise ConfigError(f"--utf8 {name}: no output column of the graph; these are {', '.join(fetch)}")
