"""Settles what a job reads: which files, which of their rows, and which columns fill which tensor.

Knows the listing and the first footer, and the model's ports; reads no row. Start at `choose_inputs`.
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
from engine.data.listing import InputFile, partition_values
from engine.data.output import check_output_names
from engine.data.source import Selection, open_parquet
from engine.errors import ConfigError, PlanError

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


def choose_inputs(
    config: JobConfig, files: Sequence[InputFile], feed: Mapping[str, str], fetch: Sequence[str]
) -> JobInputs:
    """Find the columns that the call names in the first file, and the files that its conditions leave.

    Args:
        config: the call.
        files: the listing.
        feed: columns as they were written, by tensor.
        fetch: names of the output columns that the graph gives.

    Raises:
        Mistake: for a column that is not there, names that clash, or conditions that leave no file.
        DataError: if the first file is damaged.
    """
    folders = list(dict.fromkeys(file.partition for file in files))
    names = tuple(dict.fromkeys(name for folder in folders for name in partition_values(folder)))
    conditions = [parse_condition(text) for text in config.where]
    on_folders: list[tuple[str, BoundCondition]] = []
    first, metadata = _look_at_first(files, names)
    for condition in conditions:
        if condition.column in first.partitions:
            on_folders.append((condition.column, bind_condition(condition, pa.string(), is_partition=True)))
    left = _prune(files, on_folders, config.where)
    if len(left) < len(files):
        first, metadata = _look_at_first(left, names)
    sources = {tensor: resolve_feed(first, text) for tensor, text in feed.items()}
    fed = [path for source in sources.values() for path in source.columns]
    keep = _kept_columns(config, first, fed)
    clash = [name for name in first.partitions if name not in [str(path) for path in keep]]
    own = [field.name for field in PROVENANCE] if config.provenance else []
    check_output_names([*map(str, keep), *fetch, *clash, *own])
    filters = []
    for condition in conditions:
        if condition.column not in first.partitions:
            path = resolve_column(first, condition.column, "--where")
            filters.append((path, bind_condition(condition, relax(path.type))))
    read = [*fed, *keep, *(path for path, _ in filters)]
    partitions = tuple(dict.fromkeys(str(path) for path in read if str(path) in first.partitions))
    columns = select_columns(first.schema, [path for path in read if str(path) not in first.partitions])
    return JobInputs(
        files=left,
        num_pruned=len(files) - len(left),
        first=first,
        metadata=metadata,
        sources=sources,
        keep=tuple(replace(path, type=relax(path.type)) for path in keep),
        fills=match_fills(config.fill, list(sources.values())),
        selection=Selection(columns, partitions, tuple(filters)),
    )


def _look_at_first(files: Sequence[InputFile], partitions: Sequence[str]) -> tuple[InputSchema, pq.FileMetaData]:
    """Return what the first file with rows shows: pandas writes an empty one without types."""
    looks = (_look_at(file, partitions) for file in files[:MAX_EMPTY])
    first = next(looks)
    return first if first[1].num_rows else next((look for look in looks if look[1].num_rows), first)


def _look_at(file: InputFile, partitions: Sequence[str]) -> tuple[InputSchema, pq.FileMetaData]:
    with open_parquet(file.path) as opened:
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


def _kept_columns(config: JobConfig, first: InputSchema, fed: Sequence[ColumnPath]) -> tuple[ColumnPath, ...]:
    """Return the columns to carry along; partition columns are in the folders' names and stay there."""
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


def check_text_columns(config: JobConfig, fetch: Sequence[str]) -> None:
    """Refuse `--utf8` for a column that the job does not write.

    Raises:
        ConfigError: naming the columns that it does.
    """
    for name in config.utf8:
        if name not in fetch:
            raise ConfigError(f"--utf8 {name}: no output column of the graph; these are {', '.join(fetch)}")
