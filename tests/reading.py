"""Tables as a slice brings them, without a file."""

import pyarrow as pa

from engine.data.columns import ColumnPath, select_columns
from engine.data.drift import absorb


def as_read(table: pa.Table) -> pa.Table:
    """Return all columns of `table` in the types that they are read as."""
    paths = [ColumnPath((field.name,), field.type) for field in table.schema]
    return absorb(table, select_columns(table.schema, paths))
