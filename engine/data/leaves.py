"""How an Arrow type nests, and what its leaves are: lists taken off, text, bytes, numbers told apart.

Pure, of types alone; `engine.data.feeding.layout` does the same with values. Start at `peel_type`.
"""

import pyarrow as pa

Extents = tuple[int | None, ...]


def peel_type(field_type: pa.DataType) -> tuple[Extents, pa.DataType]:
    """Return the extents of one row (None for lists of any length) and the type of the leaves.

    Dictionaries stand for their values, extension types for what they are stored as.
    """
    extents: Extents = ()
    while True:
        if isinstance(field_type, pa.FixedShapeTensorType):
            order = field_type.permutation or range(len(field_type.shape))
            extents = (*extents, *(field_type.shape[axis] for axis in order))
            field_type = field_type.value_type
        elif isinstance(field_type, pa.BaseExtensionType):
            field_type = field_type.storage_type
        elif pa.types.is_dictionary(field_type):
            field_type = field_type.value_type
        elif pa.types.is_fixed_size_list(field_type):
            extents = (*extents, field_type.list_size)
            field_type = field_type.value_type
        elif pa.types.is_list(field_type) or pa.types.is_large_list(field_type):
            extents = (*extents, None)
            field_type = field_type.value_type
        else:
            return extents, field_type


def retype_leaves(field_type: pa.DataType, leaf: pa.DataType) -> pa.DataType:
    """Return the type of the same lists with other leaves."""
    if pa.types.is_fixed_size_list(field_type):
        return pa.list_(retype_leaves(field_type.value_type, leaf), field_type.list_size)
    if pa.types.is_list(field_type) or pa.types.is_large_list(field_type):
        make = pa.large_list if pa.types.is_large_list(field_type) else pa.list_
        return make(retype_leaves(field_type.value_type, leaf))
    return leaf


def is_number(field_type: pa.DataType) -> bool:
    """Whether values of this type are numbers, bool among them."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(is_kind(field_type) for is_kind in kinds)


def is_text(field_type: pa.DataType) -> bool:
    """Whether values of this type are text."""
    return any(
        is_kind(field_type) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def is_binary(field_type: pa.DataType) -> bool:
    """Whether values of this type are bytes: raw numbers for a numeric tensor, strings for a string tensor."""
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(is_kind(field_type) for is_kind in kinds)


def is_raw(leaf: pa.DataType, dtype: str | None) -> bool:
    """Whether leaves of this type are the raw little-endian values of a tensor of numbers."""
    return is_binary(leaf) and dtype != "string"


def is_list_view(field_type: pa.DataType) -> bool:
    """Whether values of this type are list views, which no tensor is filled from."""
    return bool(pa.types.is_list_view(field_type) or pa.types.is_large_list_view(field_type))
