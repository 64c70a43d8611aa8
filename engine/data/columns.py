"""Finds the columns that names mean: top-level columns, paths into structs, lists of columns, globs, partitions.

Pure. A column whose whole name is what was written always wins, so names with dots, commas or stars stay usable.
Start at `resolve_feed`, `resolve_column` and `select_columns`.
"""

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import SchemaError

MAX_SHOWN = 40


@dataclass(frozen=True, slots=True)
class ColumnPath:
    """A column of the input, or a field of a struct in it."""

    names: tuple[str, ...]
    """The top-level column, then the fields on the way down."""
    type: pa.DataType
    """Arrow type of its values."""

    def __str__(self) -> str:
        """Write the path as it is typed: `image.bytes`."""
        return ".".join(self.names)

    def of(self, table: pa.Table) -> pa.ChunkedArray:
        """Return the column's values; a null struct has null fields."""
        column = table.column(self.names[0])
        for name in self.names[1:]:
            column = pc.struct_field(column, name)
        return column


@dataclass(frozen=True, slots=True)
class FeedSource:
    """What fills one tensor."""

    text: str
    """As it was written: `pixels`, `image.bytes`, `a,b` or `f_*`."""
    columns: tuple[ColumnPath, ...]
    """The columns, in the order in which they are stacked."""
    is_stacked: bool
    """Whether the columns, each a scalar a row, become the last axis of the tensor."""


@dataclass(frozen=True, slots=True)
class InputSchema:
    """The columns of an input as its first file and its folders show them."""

    path: str
    """The first file, for messages."""
    schema: pa.Schema
    """Schema of the first file."""
    partitions: tuple[str, ...]
    """Hive partition columns that are folders and no columns of the file."""

    @property
    def whole(self) -> pa.Schema:
        """The file's columns, then the partitions' as strings."""
        return pa.schema([*self.schema, *(pa.field(name, pa.string()) for name in self.partitions)])


def resolve_column(columns: InputSchema, text: str, flag: str) -> ColumnPath:
    """Find the column or struct field that `text` names.

    Raises:
        SchemaError: if there is none; the columns and the nearest name are shown.
    """
    found = _find(columns, text)
    if found is None:
        paths = list(all_paths(columns.whole))
        near = difflib.get_close_matches(text, [str(path) for path in paths], n=1)
        has = [str(path) for path in paths if not pa.types.is_struct(path.type)] or ["none"]
        more = f" and {len(has) - MAX_SHOWN:,} more" if len(has) > MAX_SHOWN else ""
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(has[:MAX_SHOWN])}{more}"
        raise SchemaError(f"{columns.path} has no column {text!r}; {hint} ({flag})")
    return found


def resolve_feed(columns: InputSchema, text: str) -> FeedSource:
    """Find the column, or the columns to stack, that fill a tensor.

    Raises:
        SchemaError: if one of them is not there, or stands there twice.
    """
    flag = "--feed TENSOR=COLUMN"
    whole = _find(columns, text)
    if whole is not None:
        return FeedSource(text, (whole,), is_stacked=False)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise SchemaError(f"{flag}: {text!r} names no column; {columns.path} has {', '.join(columns.schema.names)}")
    paths: list[ColumnPath] = []
    for word in words:
        if _is_glob(word) and _find(columns, word) is None:
            paths += _match(columns, word, flag)
        else:
            paths.append(resolve_column(columns, word, flag))
    twice = [str(path) for path in paths if [str(each) for each in paths].count(str(path)) > 1]
    if twice:
        raise SchemaError(f"{flag}: {text} names the column {twice[0]} twice; name it once")
    return FeedSource(text, tuple(paths), is_stacked=len(paths) > 1 or _is_glob(text))


def _is_glob(word: str) -> bool:
    return any(char in word for char in "*?[")


def _match(columns: InputSchema, pattern: str, flag: str) -> list[ColumnPath]:
    """Return the top-level columns that a glob matches, in the schema's order; else the struct fields that it does."""
    paths = list(all_paths(columns.schema))
    for is_nested in (False, True):
        found = [p for p in paths if (len(p.names) > 1) == is_nested and fnmatch.fnmatchcase(str(p), pattern)]
        if found:
            return [resolve_column(columns, str(path), flag) for path in found]
    known = ", ".join(columns.schema.names) or "none"
    raise SchemaError(f"{columns.path} has no column that matches {pattern!r}; it has {known} ({flag})")


def _find(columns: InputSchema, text: str) -> ColumnPath | None:
    """Return the column of that name, else the struct field on that path."""
    schema = columns.whole
    if schema.names.count(text) > 1:
        raise SchemaError(
            f"{columns.path} has {schema.names.count(text)} columns called {text!r}; rename them upstream"
        )
    if text in schema.names:
        return ColumnPath((text,), schema.field(text).type)
    found = [path for path in all_paths(schema) if str(path) == text]
    if len(found) > 1:
        raise SchemaError(f"{columns.path} has {len(found)} fields called {text!r}; rename them upstream")
    return found[0] if found else None


def all_paths(schema: Iterable[pa.Field]) -> Iterator[ColumnPath]:
    """Yield every column and every struct field below one, parents first."""
    for field in schema:
        yield ColumnPath((field.name,), field.type)
        if pa.types.is_struct(field.type):
            for path in all_paths(field.type.fields):
                yield ColumnPath((field.name, *path.names), path.type)


def select_columns(schema: pa.Schema, paths: Sequence[ColumnPath]) -> pa.Schema:
    """Return the columns that hold `paths`, in their order, with no more fields of a struct than these need.

    All are nullable, at every depth: a later file may have nulls where the first has none.
    """
    order = list(dict.fromkeys(path.names[0] for path in paths))
    return pa.schema([_prune(schema.field(name), [p.names[1:] for p in paths if p.names[0] == name]) for name in order])


def _prune(field: pa.Field, below: list[tuple[str, ...]]) -> pa.Field:
    if () in below or not pa.types.is_struct(field.type):
        return pa.field(field.name, relax(field.type))
    kept = [child for child in field.type.fields if any(names[0] == child.name for names in below)]
    children = [_prune(child, [names[1:] for names in below if names[0] == child.name]) for child in kept]
    return pa.field(field.name, pa.struct(children))


def relax(kind: pa.DataType) -> pa.DataType:
    """Return the type that a column is read as: with room for what later files may hold, and what Arrow can work with.

    There may be nulls at every depth, and more values in a dictionary. Views become large types and list views lists:
    pyarrow 26 cannot select rows of the former, nor write slices of the latter.
    """
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, relax(child.type)) for child in kind.fields])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(pa.field(kind.value_field.name, relax(kind.value_type)), kind.list_size)
    if pa.types.is_map(kind):
        return pa.map_(relax(kind.key_type), relax(kind.item_type), kind.keys_sorted)
    is_large = pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind)
    if is_large or pa.types.is_list(kind) or pa.types.is_list_view(kind):
        make = pa.large_list if is_large else pa.list_
        return make(pa.field(kind.value_field.name, relax(kind.value_type)))
    if pa.types.is_dictionary(kind):  # pandas writes int8 indices, which another file's categories may pass
        return pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
    return kind


def leaf_names(schema: Iterable[pa.Field]) -> list[tuple[str, pa.DataType]]:
    """Return the dotted names by which Parquet readers select these columns, with their types; structs taken apart."""
    leaves: list[tuple[str, pa.DataType]] = []
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.num_fields:
            leaves += [(f"{field.name}.{name}", kind) for name, kind in leaf_names(field.type.fields)]
        else:
            leaves.append((field.name, field.type))
    return leaves
