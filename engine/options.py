"""What the value of an option may be: checks from what a flag, TOML key or Python argument says to what is meant.

Each takes anything, returns the value in its one form, and raises ValueError with a sentence that says what was
expected. Pure: nothing here reads a file or the environment. `engine.config` names them in its fields.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ByteSize, Field, TypeAdapter, ValidationError

MAX_PERCENT = 100
CODECS = ("zstd", "snappy", "gzip", "brotli", "lz4", "none")
PRECISIONS = ("float32", "bfloat16", "float16")
MAX_COUNT = 2**53  # what a float64 and every Arrow length can hold


def tensor_name(name: str) -> str:
    """Return `name` with its output index: `x` and `x:0` are the same tensor."""
    return name if ":" in name else f"{name}:0"


def _pairs(value: object, what: str) -> dict[str, Any]:
    """Read `NAME=VALUE` strings, or a table, as a dict; a name may stand once."""
    if isinstance(value, Mapping):
        return dict(value)
    pairs: dict[str, Any] = {}
    for item in [value] if isinstance(value, str) else value if isinstance(value, (list, tuple)) else ():
        name, sign, right = str(item).partition("=")
        if not (name.strip() and sign and right.strip()):
            raise ValueError(f"expected {what}")
        if name.strip() in pairs:
            raise ValueError(f"{name.strip()} is given twice; expected each once")
        pairs[name.strip()] = right.strip()
    if not pairs:
        raise ValueError(f"expected {what}")
    return pairs


def _ports(value: object) -> dict[str, str]:
    pairs = _pairs(value, "TENSOR=COLUMN, as in inputs:0=pixels")
    ports: dict[str, str] = {}
    for name, given in pairs.items():
        is_list = isinstance(given, (list, tuple)) and given and all(isinstance(each, str) for each in given)
        column = ",".join(given) if is_list else given  # columns to stack, as job.toml may list them
        if not isinstance(column, str) or tensor_name(name) in ports:
            raise ValueError(f"expected each tensor once with the name of its column; see {name}")
        ports[tensor_name(name)] = column
    if not ports:
        raise ValueError("expected at least one TENSOR=COLUMN")
    return ports


def _paths(value: object) -> object:
    if value in ("", (), []) or "\0" in str(value):
        raise ValueError("expected one or more paths")
    return _names(value)


def _path(value: object) -> object:
    if value == "" or "\0" in str(value):
        raise ValueError("expected a path")
    return value


def _constants(value: object) -> dict[str, Any]:
    pairs = _pairs(value, "TENSOR=VALUE with VALUE in JSON, as in keep_prob:0=1.0")
    if len({tensor_name(name) for name in pairs}) < len(pairs):
        raise ValueError("a tensor is given twice, with and without :0; expected each tensor once")
    try:
        # Through JSON either way, so that a table of job.toml holds what a flag could say, and no dates.
        texts = {name: json.dumps(each) for name, each in pairs.items()} if isinstance(value, Mapping) else pairs
        return {tensor_name(name): json.loads(text) for name, text in texts.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected VALUE in JSON, as in keep_prob:0=1.0 or is_training:0=false ({error})") from error


def _names(value: object) -> tuple[str, ...]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise ValueError("expected one or more names")
    if not all(items):
        raise ValueError("expected one or more names, none of them empty")
    return tuple(items)


def _columns(value: object) -> object:
    if value is None or value in ("all", "none"):
        return value
    if value in ("", (), []):
        raise ValueError("expected column names, all or none")
    names = tuple(name.strip() for item in _names(value) for name in item.split(",") if name.strip())
    if names in (("all",), ("none",)):
        return names[0]
    if not names:
        raise ValueError("expected column names, all or none")
    return names


def _count(value: object) -> int:
    try:
        count = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_COUNT:
        raise ValueError("expected a whole number of at least 1" + (f" and at most {MAX_COUNT}" if count > 0 else ""))
    return count


def _actors(value: object) -> object:
    """Return a number of actors, `auto`, or bounds as `MIN:MAX`."""
    if value == "auto":
        return value
    try:
        low, colon, high = value.partition(":") if isinstance(value, str) else (value, "", "")
        bounds = [_count(each) for each in ((low, high) if colon else (low,))]
    except ValueError:
        bounds = []
    if not bounds or bounds != sorted(bounds):
        raise ValueError("expected a whole number of at least 1, MIN:MAX as in 2:8, or auto")
    return ":".join(map(str, bounds)) if colon else bounds[0]


def _or_auto(check: Callable[[object], object]) -> Callable[[object], object]:
    def check_or_auto(value: object) -> object:
        try:
            return value if value == "auto" else check(value)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from error

    return check_or_auto


def _optional(check: Callable[[object], object]) -> Callable[[object], object]:
    return lambda value: None if value is None else check(value)


def _share(value: object) -> object:
    try:
        share = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        share = -1.0
    if not (0 <= share < math.inf) or (share > 1 and share != int(share)):  # Ray: amounts above 1 must be whole
        raise ValueError("expected a fraction below 1 or a whole number")
    return share


def _positive_share(value: object) -> object:
    if not _share(value):
        raise ValueError("expected a fraction below 1 or a whole number, above 0")
    return _share(value)


def _positive(value: object) -> object:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError("expected a number above 0")
    return number


def _num_bytes(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected bytes, as in 64MiB or 1000000")
    try:
        num_bytes = TypeAdapter(ByteSize).validate_python(value)
    except ValidationError:
        num_bytes = ByteSize(0)
    if num_bytes < 1:
        raise ValueError("expected bytes, as in 64MiB or 1000000")
    return int(num_bytes)


def _fills(value: object) -> dict[str, str]:
    """Return values as text, for which type they are is the column's to say."""
    pairs = {} if value == {} else _pairs(value, "COLUMN=VALUE, as in age=0")
    for column, each in pairs.items():
        if not isinstance(each, (str, int, float)):
            raise ValueError(f"expected a number, text, true or false for {column}")
    return {column: each if isinstance(each, str) else json.dumps(each) for column, each in pairs.items()}


def _conditions(value: object) -> tuple[str, ...]:
    try:
        return _names(value)
    except ValueError as error:
        raise ValueError("expected COLUMN OP VALUE, as in 'country = de'") from error


def _budget(value: object) -> int | str:
    """Return a number of rows, or a share as `P%`."""
    text = str(value).strip() if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    try:
        if text.endswith("%") and 0 <= float(text[:-1]) <= MAX_PERCENT:
            return f"{float(text[:-1]):.12g}%"
        if 0 <= int(text) <= MAX_COUNT:
            return int(text)
    except ValueError:
        pass
    raise ValueError("expected a number of rows, or a share of them as in 0.1%")


def _one_of(words: tuple[str, ...]) -> Callable[[object], object]:
    def check(value: object) -> object:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return value

    return check


def _some_of(words: tuple[str, ...]) -> Callable[[object], object]:
    def check(value: object) -> object:
        names = _names(value)
        if not names or not set(names) <= set(words):
            raise ValueError(f"expected one or more of {', '.join(words)}")
        return tuple(dict.fromkeys(names))

    return check


class Placeholder(str):
    """What stands for a value in help: `N`, `PATH`."""

    __slots__ = ()


def _accepts(check: Callable[[Any], object], shape: object) -> BeforeValidator:
    """Return the check, with the shapes of what job.toml may say, for its schema."""
    return BeforeValidator(check, json_schema_input_type=shape)


def _enum(words: tuple[str, ...]) -> Any:
    return Annotated[str, Field(json_schema_extra={"enum": list(words)})]


def _text(pattern: str) -> Any:
    return Annotated[str, Field(pattern=pattern)]


# What job.toml may say; the checks above take texts for numbers, too, for a flag has nothing else.
_TEXT = Annotated[str, Field(min_length=1)]
_TEXTS = _TEXT | Annotated[list[_TEXT], Field(min_length=1)]
_NUMBER = Annotated[int, Field(ge=1, le=MAX_COUNT)]
_AUTO = Literal["auto"]
_AMOUNT = Annotated[float, Field(gt=0)]
_PORTS = Annotated[dict[str, _TEXTS], Field(min_length=1)]
_SHARES = Annotated[float, Field(ge=0, le=1)] | Annotated[int, Field(ge=0)]
_POSITIVE_SHARES = Annotated[float, Field(gt=0, le=1)] | _NUMBER

Codec = Annotated[str, _accepts(_one_of(CODECS), _enum(CODECS)), Placeholder("CODEC")]
Precision = Annotated[str, _accepts(_one_of(PRECISIONS), _enum(PRECISIONS)), Placeholder("DTYPE")]
Precisions = Annotated[tuple[str, ...], BeforeValidator(_some_of(PRECISIONS)), Placeholder("DTYPE...")]
Switches = Annotated[tuple[str, ...], BeforeValidator(_some_of(("off", "on"))), Placeholder("on|off...")]
PathText = Annotated[str, _accepts(_path, _TEXT), Placeholder("PATH")]
OptionalPathText = Annotated[str | None, BeforeValidator(_optional(_path)), Placeholder("PATH")]
Paths = Annotated[tuple[str, ...], _accepts(_paths, _TEXTS), Placeholder("PATH...")]
Names = Annotated[tuple[str, ...], _accepts(_names, _TEXT | list[_TEXT]), Placeholder("NAME...")]
Ports = Annotated[dict[str, str], _accepts(_ports, _PORTS), Placeholder("TENSOR=COLUMN...")]
Constants = Annotated[dict[str, Any], _accepts(_constants, dict[str, Any]), Placeholder("TENSOR=VALUE...")]
Fills = Annotated[dict[str, str], _accepts(_fills, dict[str, str | float | bool]), Placeholder("COLUMN=VALUE...")]
Conditions = Annotated[tuple[str, ...], _accepts(_conditions, _TEXT | list[_TEXT]), Placeholder("CONDITION...")]
Columns = Annotated[
    tuple[str, ...] | Literal["all", "none"] | None, _accepts(_columns, _TEXTS), Placeholder("COLUMN...")
]
OptionalCount = Annotated[int | None, _accepts(_optional(_count), _NUMBER), Placeholder("N")]
Count = Annotated[int, _accepts(_count, _NUMBER), Placeholder("N")]
CountOrAuto = Annotated[int | Literal["auto"], _accepts(_or_auto(_count), _NUMBER | _AUTO), Placeholder("N|auto")]
ActorCount = Annotated[
    int | str, _accepts(_actors, _NUMBER | _text(r"^(auto|[0-9]+:[0-9]+)$")), Placeholder("N|MIN:MAX")
]
BytesOrAuto = Annotated[
    int | Literal["auto"],
    _accepts(_or_auto(_num_bytes), _NUMBER | _text(r"^(auto|[0-9.]+ ?[kKMGTPE]?i?[bB])$")),
    Placeholder("BYTES|auto"),
]
Share = Annotated[float | None, _accepts(_optional(_share), _SHARES), Placeholder("SHARE")]
PositiveShare = Annotated[float | None, _accepts(_optional(_positive_share), _POSITIVE_SHARES), Placeholder("SHARE")]
PositiveNumber = Annotated[float, _accepts(_positive, _AMOUNT), Placeholder("NUMBER")]
OptionalPositiveNumber = Annotated[float | None, _accepts(_optional(_positive), _AMOUNT), Placeholder("NUMBER")]
RowBudget = Annotated[
    int | str, _accepts(_budget, Annotated[int, Field(ge=0)] | _text(r"^[0-9.]+ ?%$")), Placeholder("N|P%")
]
