"""Freezes a model to a file, for `icefloe freeze`: rows of a Parquet sample to compare on, and files written whole.

Start at `freeze_to_file`; `write_frozen` is for a session that was frozen in Python.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.data.binding import bind_feed
from engine.data.columns import FeedSource, InputSchema, leaf_names, resolve_feed, select_columns
from engine.data.feeding.conversion import convert_rows
from engine.data.source import open_parquet
from engine.data.storage.copying import local_copy
from engine.data.storage.local_folder import write_whole
from engine.data.storage.places import is_local, place_of
from engine.errors import ConfigError, DataError, GraphError, SchemaError, StorageError, system_text
from engine.model.filetype import locate_model
from engine.model.freezing.plan import FreezeOptions, FreezePlan, plan_freeze
from engine.model.known import model_files
from engine.model.ports import default_columns
from engine.model.sidecar import Ports, check_place, sidecar_bytes, sidecar_path

if TYPE_CHECKING:
    from engine.model.freezing.freeze import FrozenModel

SAMPLE_ROWS = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to compare a frozen graph with its source on."""

    path: str
    """A Parquet file, of which the first rows are taken."""
    feed: Mapping[str, str]
    """Column by input tensor; inputs not named take the column of their own name."""


def freeze_to_file(
    source: str, destination: str, options: FreezeOptions, sample: Sample | None = None
) -> "FrozenModel":
    """Freeze the model at `source` to the file `destination`, its ports beside it; both appear whole or not at all.

    Args:
        source: a checkpoint (prefix, any of its files, folder), SavedModel, Keras file, or a graph to be mended.
        destination: the file to write; the ports go to the same name with `.json`.
        options: outputs, signature and the like.
        sample: rows to compare on; None for random numbers, where these mean something.

    Returns:
        The frozen model.

    Raises:
        Mistake: if it cannot be frozen, with the reason; nothing was written.
        StorageError: if a file cannot be written.
    """
    if not is_local(destination):
        raise GraphError(f"{place_of(destination)}: expected a local file; write it here and copy it to the store then")
    with local_copy(source) as copy:
        return _freeze_to_file(copy, destination, options, sample)


def _freeze_to_file(source: str, destination: str, options: FreezeOptions, sample: Sample | None) -> "FrozenModel":
    check_place(destination)
    kept = {file.resolve() for file in model_files(locate_model(source))}
    for place in (Path(destination), sidecar_path(destination)):
        if place.resolve() in kept:
            raise GraphError(f"{place} is a part of {source} itself; name another file to write the frozen graph to")
    if sample is not None and not Path(sample.path).is_file():
        raise ConfigError(f"--sample {sample.path}: no such file; expected a Parquet file")
    # TensorFlow takes 3 s to import; what can be told before it is told first.
    from engine.model.freezing.freeze import freeze, open_source

    with open_source(source) as (meta, reference):
        plan = plan_freeze(meta, options)
        rows = None if sample is None else read_sample(sample, plan)
        frozen = freeze(plan, rows, reference=reference)
    write_frozen(destination, frozen)
    return frozen


def write_frozen(destination: str, frozen: "FrozenModel") -> None:
    """Write a frozen graph, and its ports beside it, each whole or not at all.

    Raises:
        GraphError: if a file that is not ours would be lost.
        StorageError: if a file cannot be written.
    """
    check_place(destination)
    try:
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{destination}: its folder cannot be made ({system_text(error)})") from error
    remarks: dict[str, Any] = {"repairs": frozen.notes, "comparison": frozen.comparison}
    ports = Ports(frozen.inputs, frozen.outputs, frozen.init_ops)
    # Ports come first: beside an older graph of this name they are told by their hash not to be its own.
    write_whole(sidecar_path(destination), sidecar_bytes(frozen.data, ports, remarks))
    write_whole(Path(destination), frozen.data)


def read_sample(sample: Sample, plan: FreezePlan) -> dict[str, npt.NDArray[Any]]:
    """Return the first rows of the sample as arrays by input tensor.

    Raises:
        ConfigError: for a feed that is no input, or a file that is no Parquet.
        SchemaError: for a column that is missing or cannot become its tensor.
        DataError: for a row that cannot.
    """
    specs = {spec.name: spec for spec in plan.input_specs()}
    for name in sample.feed:
        if name not in specs:
            raise ConfigError(f"--feed {name}: no input of this model; its inputs are {', '.join(specs) or 'none'}")
    texts = {**default_columns(list(specs)), **sample.feed}
    try:
        opened = open_parquet(sample.path)
    except DataError as error:  # here the file is the caller's mistake, and no input's damage
        raise ConfigError(f"--sample {error}") from error
    with opened as file:
        columns = InputSchema(sample.path, file.schema_arrow, ())
        bindings = {name: bind_feed(_find_column(columns, name, texts[name]), spec) for name, spec in specs.items()}
        paths = [path for binding in bindings.values() for path in binding.source.columns]
        leaves = [name for name, _ in leaf_names(select_columns(file.schema_arrow, paths))]
        first = next(file.iter_batches(SAMPLE_ROWS, columns=leaves), None)
    if first is None or not len(first):
        raise SchemaError(f"--sample {sample.path} has no rows")
    groups, faults = convert_rows(list(bindings.values()), pa.Table.from_batches([first]))
    for bad in faults.in_order():
        raise DataError(f"--sample {sample.path}, row {bad.row_index}: {bad.message}")
    return {name: np.ascontiguousarray(array) for name, array in zip(bindings, groups[0].arrays, strict=True)}


def _find_column(columns: InputSchema, name: str, text: str) -> FeedSource:
    try:
        return resolve_feed(columns, text)
    except SchemaError as error:
        raise SchemaError(
            f"--sample {columns.path} lacks the column for {name}={text}; it has {', '.join(columns.schema.names)}; "
            "name it with --feed TENSOR=COLUMN, or give a constant with --set"
        ) from error
