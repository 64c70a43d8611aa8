"""Values of rows as a person can read them: short, whatever their type, and whatever they hold.

Start at `cell_text`.
"""

import pyarrow as pa

from engine.view.reporting.blocks import shown

MAX_CELL = 80


def cell_text(value: pa.Scalar) -> str:
    """Return a cell as a person can read it: short, and of lists the first few values."""
    if not value.is_valid:
        return "null"
    if isinstance(value, pa.ExtensionScalar):
        return cell_text(value.value)
    if isinstance(value, pa.ListScalar):  # fixed-size and large lists, too
        values = value.values
        texts = ", ".join(cell_text(values[index]) for index in range(min(len(values), MAX_CELL // 8)))
        more = ", ..." if len(values) > MAX_CELL // 8 else ""
        return shown(f"[{texts}{more}]" + (f" ({len(values):,})" if more else ""), MAX_CELL)
    try:
        found = value.as_py()
    except (ArithmeticError, ValueError):  # a date behind the year 9999, which Python knows none of
        inner = getattr(value, "value", None)
        return shown(f"{value.type} {inner}" if isinstance(inner, int) else f"{value.type} out of range", MAX_CELL)
    if isinstance(found, bytes):
        return shown(found[: MAX_CELL + 1].decode("utf-8", "backslashreplace"), MAX_CELL)
    return shown(f"{found:.6g}" if isinstance(found, float) else str(found), MAX_CELL)
