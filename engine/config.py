"""JobConfig: one definition gives the flags, the TOML keys, their checks and their help.

Every field's docstring is the flag's help; every check (`engine.options`) raises a sentence that says what was
expected. Pure: nothing here reads a file or the environment. Start at `JobConfig` and `build_config`.
"""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import ConfigError
from engine.options import (
    ActorCount,
    BytesOrAuto,
    Codec,
    Columns,
    Conditions,
    Constants,
    Count,
    CountOrAuto,
    Fills,
    Names,
    OptionalCount,
    OptionalPathText,
    OptionalPositiveNumber,
    Paths,
    PathText,
    Ports,
    PositiveNumber,
    PositiveShare,
    Precision,
    Precisions,
    RowBudget,
    Share,
    Switches,
)


class JobConfig(BaseModel):
    """Everything that a job is told: the flags of `score` and `plan`, and the keys of `job.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: PathText
    """Frozen graph (.pb, .pbtxt), checkpoint prefix, SavedModel folder or Keras file to score with: a path or URI."""
    input: Paths
    """Parquet files, folders and globs: paths, or URIs (s3://, gs://, hdfs://, or what fsspec knows)."""
    output: PathText
    """Folder that the parts are written to: a path or URI."""
    feed: Ports = Field(default={"inputs:0": "inputs"})
    """TENSOR=COLUMN: fill this tensor from that column. Any tensor, placeholder or not. COLUMN,COLUMN... or a glob
    (f_*) stacks scalar columns on the last axis; a.b reaches into a struct. [default: the model's own ports where it
    tells them, else inputs:0=inputs]"""
    fetch: Ports = Field(default={"prediction:0": "prediction"})
    """TENSOR=COLUMN: write this tensor as that column. [default: the model's own ports where it
    tells them, else prediction:0=prediction]"""
    set: Constants = Field(default={})
    """TENSOR=VALUE: feed this constant with every batch (keep_prob:0=1.0); VALUE is JSON."""
    init_op: Names = ()
    """Operation to run once after loading (lookup tables). [default: what was kept beside the frozen graph]"""
    keep: Columns = None
    """Input columns carried to the output: names, a.b, all or none. [default: every column not fed]"""
    where: Conditions = ()
    """COLUMN OP VALUE: score only rows for which this holds; OP is = != < <= > >= in not-in is-null is-not-null.
    Repeatable, all must hold; folders that cannot hold such rows are not read."""
    fill: Fills = Field(default={})
    """COLUMN=VALUE: stands in for nulls of a fed column; without it a null is a bad row."""
    utf8: Names = ()
    """Output column of strings to write as text instead of bytes; repeatable."""
    provenance: bool = False
    """Add _file and _row (row number in its file) to the output."""
    nan_is_bad: bool = False
    """Rows whose prediction holds NaN or Inf go to quarantine; without it they are counted and kept."""
    max_bad_rows: RowBudget = 0
    """Bad rows (in quarantine) to put up with: a number, which ends the job early, or P%, judged at the end.
    [default: 0]"""
    unbatched: bool = False
    """The graph takes one row at a time and has no batch axis."""
    batch_size: CountOrAuto = "auto"
    """Rows per graph call, or auto: about 256 KiB of input, 4 MiB on GPUs. A fixed batch axis in the graph wins.
    [default: auto]"""
    precision: Precision = "float32"
    """What the graph computes in: float32 as it says, bfloat16 (on CPUs) or float16 (on GPUs) where TensorFlow holds
    that to be safe; the summary tells the drift. [default: float32]"""
    xla: bool = False
    """Compile the graph with XLA; the summary tells the drift."""
    actors: ActorCount = "auto"
    """Number of actors; MIN:MAX lets the pool grow and shrink with the work and the cluster; auto: all GPUs over the
    share, else all CPUs over the share. [default: auto]"""
    gpus_per_actor: Share = None
    """GPUs of one actor: a fraction below 1 or a whole number. [default: one where there are GPUs]"""
    cpus_per_actor: PositiveShare = None
    """CPUs of one actor: a fraction below 1 or a whole number. [default: 1; less where the actors asked for would not
    fit, more where copies of a large model would not]"""
    allow_cpu: bool = False
    """Go on when TensorFlow on a node does not see the GPU share that its actor was given."""
    max_attempts: Count = 4
    """Attempts at a shard for errors that a retry may mend. [default: 4]"""
    stall_timeout: PositiveNumber = 600.0
    """Seconds after which an actor that finished no batch and changed no phase is replaced. [default: 600]"""
    shard_size: BytesOrAuto = "auto"
    """Input bytes per shard (64MiB), or auto: a 512th of the input, no less than a row group of the first file, from
    16 to 256 MiB. [default: auto]"""
    limit: OptionalCount = None
    """Score only the first N rows, counted before --where."""
    op_library: Names = ()
    """Library of custom operations (.so), loaded first; repeatable."""
    allow_op: Names = ()
    """Let an operation through that reads or writes files, or reaches network or Python (ReadFile); repeatable."""
    address: str | None = None
    """Ray cluster (HOST:PORT or auto); else RAY_ADDRESS, else a new one on this machine."""
    overwrite: bool = False
    """Discard what the output folder's earlier job wrote."""
    add: bool = False
    """Score the input files that are new since, as a new generation beside what is there; files that are gone are put
    up with."""
    compression: Codec = "zstd"
    """Codec of the output: zstd, snappy, gzip, brotli, lz4 or none. [default: zstd]"""
    row_group_size: CountOrAuto = "auto"
    """Rows per row group of the output, or auto: about 8 MiB of them in memory. [default: auto]"""
    dictionary: Columns = None
    """Output columns to encode with a dictionary: names, all or none. [default: text that is carried along]"""


class FreezeConfig(BaseModel):
    """What `freeze` is told besides source and destination."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    outputs: Names = ()
    """Tensors to freeze to, names of the signature, or NEW=EITHER. [default: all that the signature has]"""
    inputs: Names = ()
    """NEW=TENSOR: another name for an input. [default: the signature's, a lone one as inputs]"""
    signature: str | None = None
    """Signature of a SavedModel. [default: serving_default, or the only one]"""
    sample: OptionalPathText = None
    """Parquet file on whose first rows to compare. [default: random numbers, where these mean something]"""
    feed: Ports = Field(default={})
    """TENSOR=COLUMN of the sample. [default: the column of the input's own name]"""
    set: Constants = Field(default={})
    """TENSOR=VALUE: replace an input by this constant for good (keep_prob:0=1.0); VALUE is JSON."""
    init_op: Names = ()
    """Operation to keep, to be run once after loading. [default: what fills the lookup tables]"""
    op_library: Names = ()
    """Library of custom operations (.so), loaded first; repeatable."""
    allow_op: Names = ()
    """Let an operation through that reads or writes files, or reaches network or Python (ReadFile); repeatable."""


class SimulationConfig(BaseModel):
    """What `plan` is told of a run that it is to imagine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    simulate: OptionalCount = None
    """Number of actors to work out the wall time for."""
    rate: OptionalPositiveNumber = None
    """Rows per second of each of them. [default: what the output folder's last summary says]"""


class TuneConfig(BaseModel):
    """What `tune` is told besides the job."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    output: PathText = "tune"
    """Folder for job.toml, tune.json and tune.svg. [default: tune]"""
    overwrite: bool = False
    """Replace these files where they are there."""
    rows: OptionalCount = None
    """Rows of the sample, from the beginning of the input. [default: about 64 MiB of them]"""
    seconds: PositiveNumber = 180.0
    """Seconds that all of it may take. [default: 180]"""
    precision: Precisions = ("float32", "bfloat16", "float16")
    """What to try to compute in: float32, bfloat16, float16; float32 is measured in any case. [default: all that the
    device admits]"""
    xla: Switches = ("off", "on")
    """Whether to try XLA: on, off, or both. [default: both]"""


Config = TypeVar("Config", JobConfig, FreezeConfig, SimulationConfig, TuneConfig)


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


def build_simulation_config(settings: Mapping[str, Any]) -> SimulationConfig:
    """Check `settings` (keys are `SimulationConfig`'s fields).

    Raises:
        ConfigError: as `build_config` does, or if a rate is given for no actors.
    """
    config = _build(settings, SimulationConfig)
    if config.rate is not None and config.simulate is None:
        raise ConfigError(f"--rate {config.rate:g}: is that of simulated actors; say how many with --simulate N")
    return config


def build_tune_config(settings: Mapping[str, Any]) -> TuneConfig:
    """Check `settings` (keys are `TuneConfig`'s fields).

    Raises:
        ConfigError: as `build_config` does.
    """
    return _build(settings, TuneConfig)


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
