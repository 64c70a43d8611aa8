"""Puts the rows of a slice together again: kept columns, scored columns in input order, where each row came from.

Pure. Start at `output_schema` and `assemble`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.data.columns import ColumnPath
from engine.data.faults import Array
from engine.data.output import OutputColumn, check_output_names, to_column
from engine.data.source import Slice

PROVENANCE = (pa.field("_file", pa.string()), pa.field("_row", pa.int64()))


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Rows that were scored in one call, or in calls that followed each other."""

    rows: Array
    """Positions in the slice, ascending: int64 [n]."""
    arrays: list[Array]
    """For each fetch, [n, ...]."""


def output_schema(keep: Sequence[ColumnPath], outputs: Sequence[OutputColumn], has_provenance: bool) -> pa.Schema:
    """Return the schema of every part: the kept columns as they are, the fetches, then `_file` and `_row`.

    Raises:
        SchemaError: if two columns have one name.
    """
    fetched = [pa.field(output.column, output.type) for output in outputs]
    fields = [*(pa.field(str(path), path.type) for path in keep), *fetched, *(PROVENANCE if has_provenance else ())]
    check_output_names([field.name for field in fields])
    return pa.schema(fields)


def assemble(
    schema: pa.Schema,
    keep: Sequence[ColumnPath],
    outputs: Sequence[OutputColumn],
    read: Slice,
    scored: Sequence[ScoredRows],
) -> pa.Table:
    """Return the scored rows of a slice as a table of `schema`, in input order; numbers are not copied.

    Raises:
        GraphError: if the rows have other extents than the output's schema says.
    """
    rows = np.concatenate([each.rows for each in scored]) if scored else np.empty(0, np.int64)
    fetched = [
        pa.chunked_array([to_column(output, each.arrays[i]) for each in scored], output.type)
        for i, output in enumerate(outputs)
    ]
    if len(rows) > 1 and (np.diff(rows) < 0).any():  # rows of one shape were scored together
        order = np.argsort(rows)
        rows, fetched = rows[order], [column.take(pa.array(order)) for column in fetched]
    kept = [path.of(read.table) for path in keep]
    numbers = read.rows
    if len(rows) < len(read.table):
        kept, numbers = [column.take(pa.array(rows)) for column in kept], numbers[rows]
    columns = [*kept, *fetched]
    if len(schema) > len(columns):
        columns += [pa.repeat(pa.scalar(read.relative_path), len(rows)), pa.array(numbers)]
    return pa.Table.from_arrays(columns, schema=schema)
