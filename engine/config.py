"""JobConfig: one definition gives the flags, the TOML keys, their checks and their help.

Every field's docstring is the flag's help; every check raises a sentence that says what was expected.
Pure: nothing here reads a file or the environment. Start at `JobConfig` and `build_config`.
"""

import difflib
import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

from engine.errors import ConfigError

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
            raise ValueError(f"{name.strip()} is given twice; expected each tensor once")
        pairs[name.strip()] = right.strip()
    if not pairs:
        raise ValueError(f"expected {what}")
    return pairs


def _ports(value: object) -> dict[str, str]:
    pairs = _pairs(value, "TENSOR=COLUMN, as in inputs:0=pixels")
    ports: dict[str, str] = {}
    for name, column in pairs.items():
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


def _count(value: object) -> object:
    try:
        count = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_COUNT:
        raise ValueError("expected a whole number of at least 1" + (f" and at most {MAX_COUNT}" if count > 0 else ""))
    return count


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


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Ports = Annotated[dict[str, str], BeforeValidator(_ports)]
CountOrAuto = Annotated[int | Literal["auto"], BeforeValidator(_or_auto(_count))]


class JobConfig(BaseModel):
    """Everything that a job is told: the flags of `score` and `plan`, and the keys of `job.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Annotated[str, BeforeValidator(_path)]
    """Frozen graph (.pb, .pbtxt), checkpoint prefix, SavedModel folder or Keras file to score with."""
    input: Annotated[tuple[str, ...], BeforeValidator(_paths)]
    """Parquet files, folders and globs."""
    output: Annotated[str, BeforeValidator(_path)]
    """Folder that the parts are written to."""
    feed: Ports = Field(default={"inputs:0": "inputs"})
    """TENSOR=COLUMN: fill this tensor from that column. Any tensor, placeholder or not. [default: the model's own
    ports where it tells them, else inputs:0=inputs]"""
    fetch: Ports = Field(default={"prediction:0": "prediction"})
    """TENSOR=COLUMN: write this tensor as that column. [default: the model's own ports where it
    tells them, else prediction:0=prediction]"""
    set: Annotated[dict[str, Any], BeforeValidator(_constants)] = Field(default={})
    """TENSOR=VALUE: feed this constant with every batch (keep_prob:0=1.0); VALUE is JSON."""
    init_op: Names = ()
    """Operation to run once after loading (lookup tables). [default: what was kept beside the frozen graph]"""
    keep: Annotated[tuple[str, ...] | Literal["all", "none"] | None, BeforeValidator(_columns)] = None
    """Input columns carried to the output: names, all or none. [default: every column not fed]"""
    batch_size: CountOrAuto = "auto"
    """Rows per graph call, or auto: about 4 MiB of input. A fixed batch axis in the graph wins. [default: auto]"""
    actors: CountOrAuto = "auto"
    """Number of actors, or auto: all GPUs over the share, else all CPUs over the share. [default: auto]"""
    gpus_per_actor: Annotated[float | None, BeforeValidator(_optional(_share))] = None
    """GPUs of one actor: a fraction below 1 or a whole number. [default: one where there are GPUs]"""
    cpus_per_actor: Annotated[float | None, BeforeValidator(_optional(_positive_share))] = None
    """CPUs of one actor: a fraction below 1 or a whole number. [default: 1, less where the actors would not fit]"""
    shard_size: Annotated[int | Literal["auto"], BeforeValidator(_or_auto(_num_bytes))] = "auto"
    """Input bytes per shard (64MiB), or auto: a 512th of the input, from 16 to 256 MiB. [default: auto]"""
    limit: Annotated[int | None, BeforeValidator(_optional(_count))] = None
    """Score only the first N rows."""
    op_library: Names = ()
    """Library of custom operations (.so), loaded first; repeatable."""
    allow_op: Names = ()
    """Let an operation through that reads or writes files, or reaches network or Python (ReadFile); repeatable."""
    address: str | None = None
    """Ray cluster (HOST:PORT or auto); else RAY_ADDRESS, else a new one on this machine."""
    overwrite: bool = False
    """Discard what the output folder's earlier job wrote."""


class FreezeConfig(BaseModel):
    """What `freeze` is told besides source and destination."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    outputs: Names = ()
    """Tensors to freeze to, names of the signature, or NEW=EITHER. [default: all that the signature has]"""
    inputs: Names = ()
    """NEW=TENSOR: another name for an input. [default: the signature's, a lone one as inputs]"""
    signature: str | None = None
    """Signature of a SavedModel. [default: serving_default, or the only one]"""
    sample: Annotated[str | None, BeforeValidator(_path)] = None
    """Parquet file on whose first rows to compare. [default: random numbers, where these mean something]"""
    feed: Ports = Field(default={})
    """TENSOR=COLUMN of the sample. [default: the column of the input's own name]"""
    set: Annotated[dict[str, Any], BeforeValidator(_constants)] = Field(default={})
    """TENSOR=VALUE: replace an input by this constant for good (keep_prob:0=1.0); VALUE is JSON."""
    init_op: Names = ()
    """Operation to keep, to be run once after loading. [default: what fills the lookup tables]"""
    op_library: Names = ()
    """Library of custom operations (.so), loaded first; repeatable."""
    allow_op: Names = ()
    """Let an operation through that reads or writes files, or reaches network or Python (ReadFile); repeatable."""


Config = TypeVar("Config", JobConfig, FreezeConfig)


def build_config(settings: Mapping[str, Any]) -> JobConfig:
    """Check `settings` (keys are `JobConfig`'s fields).

    Raises:
        ConfigError: naming each key that is unknown, missing or of a wrong value, and what was expected.
    """
    return _build(settings, JobConfig)


def build_freeze_config(settings: Mapping[str, Any]) -> FreezeConfig:
    """Check `settings` (keys are `FreezeConfig`'s fields).

    Raises:
        ConfigError: as `build_config` does.
    """
    return _build(settings, FreezeConfig)


def _build(settings: Mapping[str, Any], kind: type[Config]) -> Config:
    unknown = [name for name in settings if name not in kind.model_fields]
    if unknown:
        raise ConfigError("; ".join(_unknown_key(name, list(kind.model_fields)) for name in unknown))
    try:
        return kind(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(dict(problem), kind) for problem in error.errors())) from error


def _unknown_key(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
    return f"unknown key {name!r}; {hint}"


def _sentence(problem: dict[str, Any], kind: type[BaseModel]) -> str:
    name = str(problem["loc"][0])
    flag = "--" + name.replace("_", "-")
    if problem["type"] == "missing":
        return f"{flag} is missing: {str(kind.model_fields[name].description).rstrip('.')}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{flag}: {message}, found {problem['input']!r}"
