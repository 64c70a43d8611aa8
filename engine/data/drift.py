"""Tells whether a later input file can be read as the first one, and reads its columns so.

Harmless drift (order, nullability, offsets, dictionaries, narrower numbers) is absorbed; all other is named by the
field that differs. No value is ever changed and no null lost. Pure, on Arrow values alone; it opens no file.
`find_drift` judges schemas; `absorb` converts a table that it passed, by recursion over arrays: pyarrow 26 casts leaves
well, but no struct by the names of its children, no map, and nothing to a dictionary or extension type inside a list.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import DataError

_UNITS = ("s", "ms", "us", "ns")
_SHOWN_CHARACTERS = 120


def find_drift(found: pa.Schema, expected: pa.Schema) -> str | None:
    """Say where a file of schema `found` cannot be read as `expected`; None where it can.

    Args:
        found: the whole schema of a file.
        expected: what the job reads of the first input file; structs may lack children that `found` has.

    Returns:
        One sentence without a full stop that names the first field of `expected` that differs.
    """
    return _find_in_children(found, expected, None)


def absorb(table: pa.Table, expected: pa.Schema) -> pa.Table:
    """Return the columns of `expected`, in its order and of its types.

    Chunks stay chunks. A column whose type is the expected one is passed on without a copy.

    Args:
        table: at least the columns of `expected`, in whose schema `find_drift` found nothing.
        expected: what the job reads of the first input file.

    Raises:
        DataError: for values that the expected type cannot hold, which no schema tells: a timestamp out of the range
            of a finer unit, more distinct values than a dictionary's index counts, 2 GiB of text in 32-bit offsets.
    """
    if not expected.names:
        return table.select([])  # which keeps the number of rows, as `Table.from_arrays` cannot
    return pa.Table.from_arrays([_absorb_column(table.column(f.name), f) for f in expected], schema=expected)


def _absorb_column(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    if column.type.equals(field.type):
        return column
    try:
        return pa.chunked_array([_convert(chunk, field.type) for chunk in column.chunks], type=field.type)
    except (pa.ArrowInvalid, pa.ArrowCapacityError) as error:
        raise DataError(
            f"column {field.name!r} ({_shown(column.type)}) does not fit the type that the first input file has "
            f"({_shown(field.type)}): {error}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Place:
    """A field as messages call it: `'image.tags' (its elements)`."""

    path: str
    """Names from the column down to a struct's child, with dots between."""
    part: str = ""
    """What of it is meant, below lists and maps: `elements`, `values' elements`; empty for all of it."""

    def child(self, name: str) -> "_Place":
        return _Place(f"{self.path}.{name}")

    def inside(self, part: str) -> "_Place":
        return _Place(self.path, f"{self.part}' {part}" if self.part else part)

    def differs(self, found: pa.DataType, expected: pa.DataType) -> str:
        return f"column {self} is {_shown(found)} where the first input file has {_shown(expected)}"

    def __str__(self) -> str:
        return f"{self.path!r} (its {self.part})" if self.part else repr(self.path)


def _shown(field_type: pa.DataType) -> str:
    """Write a type for a message: a struct of a hundred children by its two ends."""
    text = str(field_type)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:80]} ... {text[-30:]}"


def _find_in_children(found: Any, expected: Any, place: _Place | None) -> str | None:
    """Compare schemas or struct types by the names of their fields."""
    for field in expected:
        below = place.child(field.name) if place else _Place(field.name)
        indices = found.get_all_field_indices(field.name)
        if not indices:
            return f"no column {below}, which the first input file has ({_shown(field.type)})"
        if len(indices) > 1:
            return f"two columns {below}"
        drift = _find(found.field(indices[0]).type, field.type, below)
        if drift:
            return drift
    return None


def _find(found: pa.DataType, expected: pa.DataType, place: _Place) -> str | None:
    """Compare two types; each absorbed case here has its conversion in `_convert`."""
    if found.equals(expected) or pa.types.is_null(found):
        return None
    if _is_extension(found) or _is_extension(expected):
        drift = _find_in_extensions(found, expected, place)
    elif pa.types.is_dictionary(found) or pa.types.is_dictionary(expected):
        drift = _find_in_dictionaries(found, expected, place)
    elif pa.types.is_struct(found) and pa.types.is_struct(expected):
        drift = _find_in_children(found, expected, place)
    elif pa.types.is_map(found) and pa.types.is_map(expected):
        keys = _find(found.key_type, expected.key_type, place.inside("keys"))
        drift = keys or _find(found.item_type, expected.item_type, place.inside("values"))
    elif _is_list(found) and _is_list(expected) and _can_resize(found, expected):
        drift = _find(found.value_type, expected.value_type, place.inside("elements"))
    else:
        drift = None if _is_exact(found, expected) else place.differs(found, expected)
    return drift


def _find_in_extensions(found: pa.DataType, expected: pa.DataType, place: _Place) -> str | None:
    is_other = _is_extension(found) and _is_extension(expected) and _identity(found) != _identity(expected)
    # Named by its own type, which tells more than that of its storage.
    if is_other or _find(_storage(found), _storage(expected), place):
        return place.differs(found, expected)
    return None


def _find_in_dictionaries(found: pa.DataType, expected: pa.DataType, place: _Place) -> str | None:
    found_values, expected_values = (t.value_type if pa.types.is_dictionary(t) else t for t in (found, expected))
    # Parquet holds no dictionaries of nested values, and pyarrow 26 encodes none.
    if any(pa.types.is_nested(_storage(t)) for t in (found_values, expected_values)):
        return place.differs(found, expected)
    return _find(found_values, expected_values, place)


def _is_exact(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a cast from one leaf type to the other keeps every value, timestamps out of range aside."""
    if pa.types.is_integer(found) and pa.types.is_integer(expected):
        if pa.types.is_signed_integer(found) == pa.types.is_signed_integer(expected):
            return bool(found.bit_width <= expected.bit_width)
        return bool(pa.types.is_signed_integer(expected) and found.bit_width < expected.bit_width)
    if pa.types.is_floating(found) and pa.types.is_floating(expected):
        return bool(found.bit_width <= expected.bit_width)
    if pa.types.is_decimal(found) and pa.types.is_decimal(expected):
        return bool(found.scale == expected.scale and found.precision <= expected.precision)
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(expected):
        return bool(found.tz == expected.tz and _UNITS.index(found.unit) <= _UNITS.index(expected.unit))
    if _is_text(found) and _is_text(expected):
        return True
    return (_is_bytes(found) or pa.types.is_fixed_size_binary(found)) and _is_bytes(expected)


def _is_text(t: pa.DataType) -> bool:
    return bool(pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_string_view(t))


def _is_bytes(t: pa.DataType) -> bool:
    """Whether values are bytes of any length."""
    return bool(pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_binary_view(t))


def _is_list_view(t: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(t) or pa.types.is_large_list_view(t))


def _is_list(t: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, _is_list_view)
    return any(is_kind(t) for is_kind in kinds)


def _can_resize(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether lists of one type can be held by the other, whatever their elements."""
    if not pa.types.is_fixed_size_list(expected):
        return True
    return bool(pa.types.is_fixed_size_list(found) and found.list_size == expected.list_size)


def _is_extension(t: pa.DataType) -> bool:
    return isinstance(t, pa.BaseExtensionType)


def _storage(t: pa.DataType) -> pa.DataType:
    return t.storage_type if _is_extension(t) else t


def _identity(t: pa.BaseExtensionType) -> tuple[Any, ...]:
    """What makes an extension type the one that it is, its storage aside."""
    if isinstance(t, pa.ExtensionType):
        return t.extension_name, t.__arrow_ext_serialize__()
    # Types built into Arrow do not show their parameters in one place (pyarrow 26). `dim_names` change no value.
    parameters = ("shape", "permutation", "type_name", "vendor_name")
    return t.extension_name, *(getattr(t, name, None) for name in parameters)


def _convert(array: pa.Array, expected: pa.DataType) -> pa.Array:
    """Convert one array, of any offset, between types in which `_find` found nothing."""
    found = array.type
    if found.equals(expected):
        return array
    if pa.types.is_null(found):
        converted = pa.nulls(len(array), expected)
    elif _is_extension(found):
        converted = _convert(array.storage, expected)
    elif _is_extension(expected):
        converted = pa.ExtensionArray.from_storage(expected, _convert(array, expected.storage_type))
    elif pa.types.is_dictionary(expected):
        converted = _encode(array, expected)
    elif pa.types.is_dictionary(found):
        converted = _convert(_decode(array), expected)
    elif pa.types.is_struct(expected):
        children = [_convert(array.field(found.get_field_index(f.name)), f.type) for f in expected]
        converted = pa.Array.from_buffers(expected, len(array), [_validity(array)], children=children)
    elif pa.types.is_fixed_size_list(expected):
        size = expected.list_size
        elements = _convert(array.values.slice(array.offset * size, len(array) * size), expected.value_type)
        converted = pa.Array.from_buffers(expected, len(array), [_validity(array)], children=[elements])
    elif _is_list(expected) or pa.types.is_map(expected):
        converted = _convert_list(array, expected)
    else:
        converted = array.cast(expected)
    return converted


def _validity(array: pa.Array) -> pa.Buffer | None:
    """Return the bitmap of valid slots, starting at bit 0; None where all are."""
    return pc.invert(array.is_null()).buffers()[1] if array.null_count else None


def _convert_list(array: pa.Array, expected: pa.DataType) -> pa.Array:
    """Convert lists of any kind to lists of any length, or maps to maps."""
    lists = _as_lists(array) if pa.types.is_map(array.type) else array
    # `flatten` leaves out what lies under nulls and outside of a slice; so do these lengths.
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
    is_large = pa.types.is_large_list(expected) or pa.types.is_large_list_view(expected)
    width = pa.int64() if is_large else pa.int32()
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)]).cast(width)
    buffers = [_validity(array), offsets.buffers()[1]]
    if _is_list_view(expected):
        buffers.append(lengths.cast(width).buffers()[1])
    elements = lists.flatten()
    if pa.types.is_map(expected):
        # By position: the two need not be called key and value.
        fields = [expected.key_field, expected.item_field]
        pairs = [_convert(elements.field(i), field.type) for i, field in enumerate(fields)]
        child = pa.StructArray.from_arrays(pairs, fields=fields)
    else:
        child = _convert(elements, expected.value_type)
    return pa.Array.from_buffers(expected, len(array), buffers, children=[child])


def _as_lists(array: pa.MapArray) -> pa.ListArray:
    """See maps as lists of pairs, which is what they are in memory; pyarrow 26 has no such cast."""
    pairs = array.values
    buffers = array.buffers()[:2]
    return pa.Array.from_buffers(pa.list_(pairs.type), len(array), buffers, offset=array.offset, children=[pairs])


def _decode(array: pa.DictionaryArray) -> pa.Array:
    """Look the values up; text and bytes come out large, since `take` has no kernel for views (pyarrow 26)."""
    values = array.dictionary
    if _is_extension(values.type):
        values = values.storage
    if _is_text(values.type):
        values = values.cast(pa.large_string())
    elif _is_bytes(values.type):
        values = values.cast(pa.large_binary())
    return values.take(array.indices)


def _encode(array: pa.Array, expected: pa.DictionaryType) -> pa.Array:
    """Convert values, or a dictionary of another type, to a dictionary."""
    if not pa.types.is_dictionary(array.type):
        array = _encode_anew(array)
    elif not _can_count(expected.index_type, array.indices):
        array = _encode_anew(_decode(array))  # leaves out entries that no row of this slice uses
    values = _convert(array.dictionary, expected.value_type)
    return pa.DictionaryArray.from_arrays(array.indices.cast(expected.index_type), values, ordered=expected.ordered)


def _encode_anew(array: pa.Array) -> pa.DictionaryArray:
    if pa.types.is_decimal32(array.type) or pa.types.is_decimal64(array.type):
        # `dictionary_encode` has kernels for the wider two only (pyarrow 26).
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
    return array.dictionary_encode()


def _can_count(index_type: pa.DataType, indices: pa.Array) -> bool:
    limit = 2 ** (index_type.bit_width - int(pa.types.is_signed_integer(index_type)))
    return bool((pc.max(indices).as_py() or 0) < limit)
