"""Checks that a JSON value can be a tensor's constant (`--set`). Pure. Start at `read_constant`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import GraphError
from engine.model.tensor import TensorSpec, shape_text

# JSON's booleans, whole numbers, other numbers and strings, and the kinds of dtype that each may become.
KINDS = {"b": "b", "i": "iufc", "u": "iufc", "f": "iufc", "U": "O"}


def read_constant(value: Any, tensor: TensorSpec) -> npt.NDArray[Any] | None:
    """Return `value` as an array of the tensor's dtype; None where the dtype is not known yet.

    Raises:
        GraphError: if the value would change on the way, or its shape is not the tensor's.
    """
    if tensor.dtype is None:
        return None
    try:
        target = np.dtype(object if tensor.dtype == "string" else tensor.dtype)
        given = np.asarray(value)
        if given.dtype.kind == "U" and not all(isinstance(each, str) for each in np.asarray(value, object).flat):
            raise _refusal(value, tensor)  # numpy turns the 5 of ["a", 5] into text
    except (TypeError, ValueError):
        raise _refusal(value, tensor) from None
    if target.kind not in KINDS.get(given.dtype.kind, ""):
        raise _refusal(value, tensor)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.char.encode(given).astype(object) if target.kind == "O" else given.astype(target)
    if target.kind in "iu" and not (array.astype(given.dtype) == given).all():
        raise _refusal(value, tensor)
    if target.kind == "f" and (np.isinf(array) & ~np.isinf(given)).any():
        raise _refusal(value, tensor)
    if tensor.shape is not None and not _fits(array.shape, tensor.shape):
        raise GraphError(f"--set {tensor.name}: {value!r} has the shape {shape_text(array.shape)}, {tensor} is fed")
    return array


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(found) == len(expected) and all(n in (None, m) for m, n in zip(found, expected, strict=True))


def _refusal(value: Any, tensor: TensorSpec) -> GraphError:
    return GraphError(f"--set {tensor.name}: {value!r} is no {tensor.dtype} {shape_text(tensor.shape)}")
