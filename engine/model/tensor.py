"""What is known of a tensor: the value type that graph and columns are bound by. Pure, and light to import."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int | None, ...] | None
"""Extents of a tensor, None where one is unknown; None as a whole where the rank is unknown."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as far as it is known: name with output index, dtype and shape."""

    name: str
    """Tensor name with its output index, `inputs:0`."""
    dtype: str | None
    """TensorFlow's name of the dtype, `float32`; None where the file does not say."""
    shape: Shape
    """Extents, batch axis first; None where the rank is unknown."""

    def __str__(self) -> str:
        """Write the tensor as messages show it: `inputs:0 (float32 [?, 64])`."""
        return f"{self.name} ({self.dtype or 'dtype unknown'} {shape_text(self.shape)})"


def shape_text(shape: Shape) -> str:
    """Write a shape as `[?, 8, 8]`, and an unknown rank as `[...]`."""
    return "[...]" if shape is None else "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """Return numpy's dtype of `dtype`, one of TensorFlow's names.

    Raises:
        TypeError: for a dtype without one (string, resource, quantised).
    """
    if dtype == "bfloat16":
        import ml_dtypes  # comes with TensorFlow, and is light without it

        dtype = ml_dtypes.bfloat16
    found: np.dtype[Any] = np.dtype(dtype)
    return found
