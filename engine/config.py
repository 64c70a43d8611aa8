"""JobConfig: one definition gives the flags, the TOML keys, their checks and their help.

Every field's docstring is the flag's help, and its theme says where help, reference and job file show it; every check
(`engine.options`) raises a sentence that says what was expected. Pure: nothing here reads a file or the environment.
Start at `JobConfig` and `build_config`.
"""

import difflib
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo

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
    Placeholder,
    Ports,
    PositiveNumber,
    PositiveShare,
    Precision,
    Precisions,
    RowBudget,
    Share,
    Switches,
)


class Theme(StrEnum):
    """What options are about, in the order in which a person meets them."""

    ARGUMENTS = "Arguments"
    SCORED = "What to score"
    PORTS = "Inputs and outputs of the graph"
    COMPARED = "Rows to compare on"
    MEASURED = "What to measure"
    LOOKED_AT = "What is looked at"
    COLUMNS = "Columns"
    ROWS = "Rows"
    GRAPH = "The model and its operations"
    SPEED = "Speed"
    CLUSTER = "Actors and cluster"
    FILES = "Files of the output"
    AGAIN = "Running again"
    SIMULATED = "A run that is imagined"
    JOB_FILE = "The job file"
    SHOWN = "What is shown"
    HELP = "Help"


class Settings(BaseModel):
    """What is told by flags, TOML keys or Python; whatever is wrong in it is a ConfigError."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, value: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        """Turn pydantic's words into ours: errors that are no ValueError pass through it."""
        known = list(cls.model_fields)
        unknown = [name for name in value if name not in known] if isinstance(value, Mapping) else []
        if unknown:
            raise ConfigError("; ".join(_unknown_key(name, known) for name in unknown))
        try:
            return check(value)
        except ValidationError as error:
            raise ConfigError("; ".join(_sentence(dict(problem), cls) for problem in error.errors())) from error


class JobConfig(Settings):
    """Everything that a job is told: the flags of `score` and `plan`, and the keys of `job.toml`."""

    model: Annotated[PathText, Theme.SCORED]
    """Frozen graph (.pb, .pbtxt), checkpoint prefix, SavedModel folder or Keras file to score with: a path or URI."""
    input: Annotated[Paths, Theme.SCORED]
    """Parquet files, folders and globs: paths, or URIs (s3://, gs://, hdfs://, or what fsspec knows)."""
    output: Annotated[PathText, Theme.SCORED]
    """Folder that the parts are written to: a path or URI."""
    feed: Annotated[Ports, Theme.COLUMNS] = Field(default={"inputs:0": "inputs"})
    """Fill this tensor from that column. Any tensor, placeholder or not. COLUMN,COLUMN... or a glob (f_*)
    stacks scalar columns on the last axis; a.b reaches into a struct. [default: the model's own ports where it
    tells them, else inputs:0=inputs]"""
    fetch: Annotated[Ports, Theme.COLUMNS] = Field(default={"prediction:0": "prediction"})
    """Write this tensor as that column. [default: the model's own ports where it
    tells them, else prediction:0=prediction]"""
    keep: Annotated[Columns, Theme.COLUMNS] = Field(default=None, examples=["all"])
    """Input columns carried to the output: names, a.b, all or none. [default: every column not fed]"""
    fill: Annotated[Fills, Theme.COLUMNS] = Field(default={}, examples=[{"age": 0}])
    """Stands in for nulls of a fed column; without it a null is a bad row."""
    utf8: Annotated[Names, Theme.COLUMNS] = Field(default=(), examples=[["label"]])
    """Output column of strings to write as text instead of bytes; repeatable."""
    provenance: Annotated[bool, Theme.COLUMNS] = False
    """Add _file and _row (row number in its file) to the output."""
    where: Annotated[Conditions, Theme.ROWS] = Field(default=(), examples=[["country in de,fr"]])
    """COLUMN OP VALUE: score only rows for which this holds; OP is = != < <= > >= in not-in is-null is-not-null.
    Repeatable, all must hold; folders that cannot hold such rows are not read."""
    nan_is_bad: Annotated[bool, Theme.ROWS] = False
    """Rows whose prediction holds NaN or Inf go to quarantine; without it they are counted and kept."""
    max_bad_rows: Annotated[RowBudget, Theme.ROWS] = 0
    """Bad rows (in quarantine) to put up with: a number, which ends the job early, or P%, judged at the end.
    [default: 0]"""
    limit: Annotated[OptionalCount, Theme.ROWS] = Field(default=None, examples=[1000])
    """Score only the first N rows, counted before --where."""
    set: Annotated[Constants, Theme.GRAPH] = Field(default={}, examples=[{"keep_prob:0": 1.0}])
    """Feed this constant with every batch (keep_prob:0=1.0); VALUE is JSON."""
    init_op: Annotated[Names, Theme.GRAPH] = Field(default=(), examples=[["init_all_tables"]])
    """Operation to run once after loading (lookup tables). [default: what was kept beside the frozen graph]"""
    unbatched: Annotated[bool, Theme.GRAPH] = False
    """The graph takes one row at a time and has no batch axis."""
    op_library: Annotated[Names, Placeholder("PATH..."), Theme.GRAPH] = Field(
        default=(), examples=[["/opt/ops/custom_ops.so"]]
    )
    """Library of custom operations (.so), loaded first; repeatable."""
    allow_op: Annotated[Names, Theme.GRAPH] = Field(default=(), examples=[["ReadFile"]])
    """Let an operation through that reads or writes files, or reaches network or Python (ReadFile); repeatable."""
    batch_size: Annotated[CountOrAuto, Theme.SPEED] = "auto"
    """Rows per graph call, or auto: about 256 KiB of input, 4 MiB on GPUs. A fixed batch axis in the graph wins.
    [default: auto]"""
    precision: Annotated[Precision, Theme.SPEED] = "float32"
    """What the graph computes in: float32 as it says, bfloat16 (on CPUs) or float16 (on GPUs) where TensorFlow holds
    that to be safe; the summary tells the drift. [default: float32]"""
    xla: Annotated[bool, Theme.SPEED] = False
    """Compile the graph with XLA; the summary tells the drift."""
    shard_size: Annotated[BytesOrAuto, Theme.SPEED] = "auto"
    """Input bytes per shard (64MiB), or auto: a 512th of the input, no less than a row group of the first file, from
    16 to 256 MiB. [default: auto]"""
    actors: Annotated[ActorCount, Theme.CLUSTER] = "auto"
    """Number of actors; MIN:MAX lets the pool grow and shrink with the work and the cluster; auto: all GPUs over the
    share, else all CPUs over the share. [default: auto]"""
    gpus_per_actor: Annotated[Share, Theme.CLUSTER] = Field(default=None, examples=[0.5])
    """GPUs of one actor: a fraction below 1 or a whole number. [default: one where there are GPUs]"""
    cpus_per_actor: Annotated[PositiveShare, Theme.CLUSTER] = Field(default=None, examples=[1])
    """CPUs of one actor: a fraction below 1 or a whole number. [default: 1; less where the actors asked for would not
    fit, more where copies of a large model would not]"""
    allow_cpu: Annotated[bool, Theme.CLUSTER] = False
    """Go on when TensorFlow on a node does not see the GPU share that its actor was given."""
    max_attempts: Annotated[Count, Theme.CLUSTER] = 4
    """Attempts at a shard for errors that a retry may mend. [default: 4]"""
    stall_timeout: Annotated[PositiveNumber, Placeholder("SECONDS"), Theme.CLUSTER] = 600.0
    """Seconds after which an actor that finished no batch and changed no phase is replaced. [default: 600]"""
    address: Annotated[str | None, Placeholder("HOST:PORT"), Theme.CLUSTER] = Field(
        default=None, examples=["10.0.0.5:6379"]
    )
    """Ray cluster (HOST:PORT or auto); else RAY_ADDRESS, else a new one on this machine."""
    compression: Annotated[Codec, Theme.FILES] = "zstd"
    """Codec of the output: zstd, snappy, gzip, brotli, lz4 or none. [default: zstd]"""
    row_group_size: Annotated[CountOrAuto, Theme.FILES] = "auto"
    """Rows per row group of the output, or auto: about 8 MiB of them in memory. [default: auto]"""
    dictionary: Annotated[Columns, Theme.FILES] = Field(default=None, examples=[["country"]])
    """Output columns to encode with a dictionary: names, all or none. [default: text that is carried along]"""
    overwrite: Annotated[bool, Theme.AGAIN] = False
    """Discard what the output folder's earlier job wrote."""
    add: Annotated[bool, Theme.AGAIN] = False
    """Score the input files that are new since, as a new generation beside what is there; files that are gone are put
    up with."""


class FreezeConfig(Settings):
    """What `freeze` is told besides source and destination."""

    outputs: Annotated[Names, Theme.PORTS] = ()
    """Tensors to freeze to, names of the signature, or NEW=EITHER. [default: all that the signature has]"""
    inputs: Annotated[Names, Theme.PORTS] = ()
    """NEW=TENSOR: another name for an input. [default: the signature's, a lone one as inputs]"""
    signature: Annotated[str | None, Theme.PORTS] = None
    """Signature of a SavedModel. [default: serving_default, or the only one]"""
    sample: Annotated[OptionalPathText, Theme.COMPARED] = None
    """Parquet file on whose first rows to compare. [default: random numbers, where these mean something]"""
    feed: Annotated[Ports, Theme.COMPARED] = Field(default={})
    """Column of the sample that fills this input. [default: the column of the input's own name]"""
    set: Annotated[Constants, Theme.GRAPH] = Field(default={})
    """Replace an input by this constant for good (keep_prob:0=1.0); VALUE is JSON."""
    init_op: Annotated[Names, Theme.GRAPH] = ()
    """Operation to keep, to be run once after loading. [default: what fills the lookup tables]"""
    op_library: Annotated[Names, Placeholder("PATH..."), Theme.GRAPH] = ()
    """Library of custom operations (.so), loaded first; repeatable."""
    allow_op: Annotated[Names, Theme.GRAPH] = ()
    """Let an operation through that reads or writes files, or reaches network or Python (ReadFile); repeatable."""


class SimulationConfig(Settings):
    """What `plan` is told of a run that it is to imagine."""

    simulate: Annotated[OptionalCount, Theme.SIMULATED] = None
    """Number of actors to work out the wall time for."""
    rate: Annotated[OptionalPositiveNumber, Theme.SIMULATED] = None
    """Rows per second of each of them. [default: what the output folder's last summary says]"""


class TuneConfig(Settings):
    """What `tune` is told besides the job."""

    output: Annotated[PathText, Theme.MEASURED] = "tune"
    """Folder for job.toml, tune.json and tune.svg. [default: tune]"""
    overwrite: Annotated[bool, Theme.AGAIN] = False
    """Replace these files where they are there."""
    rows: Annotated[OptionalCount, Theme.MEASURED] = None
    """Rows of the sample, from the beginning of the input. [default: about 64 MiB of them]"""
    seconds: Annotated[PositiveNumber, Placeholder("SECONDS"), Theme.MEASURED] = 180.0
    """Seconds that all of it may take. [default: 180]"""
    precision: Annotated[Precisions, Theme.MEASURED] = ("float32", "bfloat16", "float16")
    """What to try to compute in: float32, bfloat16, float16; float32 is measured in any case. [default: all that the
    device admits]"""
    xla: Annotated[Switches, Theme.MEASURED] = ("off", "on")
    """Whether to try XLA: on, off, or both. [default: both]"""


def theme_of(field: FieldInfo) -> Theme:
    """Return what an option is about."""
    return next(each for each in field.metadata if isinstance(each, Theme))


def build_config(settings: Mapping[str, Any]) -> JobConfig:
    """Check `settings` (keys are `JobConfig`'s fields).

    Raises:
        ConfigError: naming each key that is unknown, missing or of a wrong value, and what was expected.
    """
    return JobConfig(**settings)


def build_freeze_config(settings: Mapping[str, Any]) -> FreezeConfig:
    """Check `settings` (keys are `FreezeConfig`'s fields).

    Raises:
        ConfigError: as `build_config` does.
    """
    return FreezeConfig(**settings)


def build_simulation_config(settings: Mapping[str, Any]) -> SimulationConfig:
    """Check `settings` (keys are `SimulationConfig`'s fields).

    Raises:
        ConfigError: as `build_config` does, or if a rate is given for no actors.
    """
    config = SimulationConfig(**settings)
    if config.rate is not None and config.simulate is None:
        raise ConfigError(f"--rate {config.rate:g}: is that of simulated actors; say how many with --simulate N")
    return config


def build_tune_config(settings: Mapping[str, Any]) -> TuneConfig:
    """Check `settings` (keys are `TuneConfig`'s fields).

    Raises:
        ConfigError: as `build_config` does.
    """
    return TuneConfig(**settings)


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
    found = problem["input"]  # words of a flag that takes several come as a tuple
    shown = " ".join(map(str, found)) if isinstance(found, tuple) and found else repr(found)
    return f"{flag}: {message}, found {shown}"
