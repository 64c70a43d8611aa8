"""A model as a function of a pipeline of Ray Data: `dataset.map_batches(GraphPredictor, ...)`.

Binding, audit, session and conversion are those of a job; reading, writing and retrying are Ray Data's. Rows stay in
their order and none is left out. Start at `GraphPredictor`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import numpy as np
import pyarrow as pa
import ray
import ray.exceptions

from engine.config import JobConfig, build_config
from engine.data.assembly import ScoredRows, assemble, output_schema
from engine.data.binding import FeedBinding, bind_feed
from engine.data.columns import ColumnPath, InputSchema, resolve_feed
from engine.data.faults import Faults
from engine.data.feeding.conversion import FedRows, convert_rows
from engine.data.feeding.fills import match_fills
from engine.data.output import OutputColumn, bind_output, check_output_names
from engine.data.ray_batches import add_predictions, column_names, read_columns, to_numpy
from engine.data.source import Slice
from engine.data.verdicts import set_bad_aside
from engine.errors import ConfigError, DataError, WorkerLostError
from engine.model.session import SessionOptions, load_session
from engine.model.tensor import TensorSpec
from engine.preparing.call import check_together, settle_paths
from engine.preparing.inputs import check_columns_named, kept_columns
from engine.preparing.prepare import bind_job_model
from engine.run.batches import BatchCaller, join_rows, score_batch
from engine.run.freezing import freeze_on_worker, scored_model
from engine.run.plan import resolve_batch_rows
from engine.run.probing import PROBE_ROWS, is_open, observe
from engine.run.shard import JOINED_ROWS

ERROR = "_error"


class PredictorSettings(TypedDict, total=False):
    """The settings of a job that mean something here, with the meaning and the checks that they have there."""

    feed: Mapping[str, str]
    fetch: Mapping[str, str]
    set: Mapping[str, Any]
    init_op: str | Sequence[str]
    keep: str | Sequence[str]
    fill: Mapping[str, Any]
    utf8: str | Sequence[str]
    nan_is_bad: bool
    unbatched: bool
    batch_size: int | str
    precision: str
    xla: bool
    gpus_per_actor: float
    cpus_per_actor: float
    allow_cpu: bool
    op_library: str | Sequence[str]
    allow_op: str | Sequence[str]


@dataclass(frozen=True, slots=True)
class _Bound:
    """The feeds, bound to columns of certain types."""

    schema: pa.Schema
    """The fed columns."""
    feeds: tuple[FeedBinding, ...]
    """Each with its tensor."""
    batch_rows: int
    """Rows of a graph call."""
    call: BatchCaller
    """Scores one batch."""


class GraphPredictor:
    """Scores tables, dicts of arrays or data frames with a model that is loaded once."""

    def __init__(self, model: str, bad_rows: str = "error", **settings: Unpack[PredictorSettings]) -> None:
        """Load the model into a graph and session of its own.

        Args:
            model: path or URI, as every node sees it. What is not frozen yet is frozen first, once an actor.
            bad_rows: what becomes of a row that cannot be scored: `error` ends the pipeline with its reason, `null`
                keeps it with null predictions and the reason in the column `_error`.
            settings: as of `JobConfig`. CPUs (threads) and GPU share are by default what Ray gave to the actor.

        Raises:
            Mistake: for settings or a model that a job would refuse, in the same words.
        """
        if bad_rows not in ("error", "null"):
            raise ConfigError(f"bad_rows: expected one of error, null, found {bad_rows!r}")
        odd = sorted(settings.keys() & JobConfig.model_fields.keys() - PredictorSettings.__annotations__.keys())
        if odd:
            raise ConfigError(f"{odd[0]}: is a job's; Ray Data reads, writes and retries by itself here")
        # What a job reads and writes, a pipeline does not; the rest is checked as a job's is.
        config = build_config({**settings, "model": model, "input": "/batches", "output": "/batches"})
        self._config = config = settle_paths(config)
        check_together(config)
        bound = bind_job_model(config, settings.keys())
        check_columns_named(config, list(bound.fetch.values()))
        given = _assigned_resources()
        cpus = config.cpus_per_actor or given.get("CPU", 1.0)
        gpus = given.get("GPU", 0.0) if config.gpus_per_actor is None else config.gpus_per_actor
        scored = scored_model(bound, config.set) or freeze_on_worker(_call_in_worker, bound, config.model)
        options = SessionOptions(max(1, int(cpus)), gpus, config.allow_cpu, config.precision, config.xla)
        self._has_gpu, self._is_lenient = gpus > 0, bad_rows == "null"
        self._texts = dict(scored.feeds)
        self._columns = [column for _, column in scored.fetches]
        tensors = [name for name, _ in scored.feeds], [name for name, _ in scored.fetches]
        self._session = load_session(
            scored.data, *tensors, scored.constants, scored.init_ops, options, config.op_library
        )
        self._keep: tuple[ColumnPath, ...] = ()
        self._fed: list[str] = []
        self._bound: _Bound | None = None
        self._outputs: tuple[OutputColumn, ...] | None = None

    def __call__(self, batch: Any) -> Any:
        """Return the kept columns and the predictions of a batch, as the kind that it came as, its rows in order.

        Raises:
            SchemaError, GraphError: for columns that cannot fill their tensors, or fetches that are no columns.
            DataError: for a row that cannot be scored, unless these are kept.
        """
        if not self._fed:
            self._choose_columns(batch)
        table = read_columns(batch, self._fed)
        bound = self._bind(table)
        groups, faults = convert_rows(bound.feeds, table)
        outputs = self._settle_outputs(bound, groups, faults)
        good = [] if outputs is None else self._score(bound, outputs, groups, faults)
        if len(faults) and not self._is_lenient:
            first = faults.in_order()[0]
            raise DataError(
                f"row {first.row_index} of a batch of {len(table)}, one of {len(faults)} that cannot be scored: "
                f"{first.message}; bad_rows='null' keeps such rows, with the reason in {ERROR}",
                first.reason,
            )
        predictions: dict[str, pa.ChunkedArray | pa.Array] = {}
        if outputs is None:
            predictions = {name: pa.nulls(len(table)) for name in self._columns}
        else:
            read = Slice(table, "", "", np.arange(len(table)), len(table))
            rows = assemble(output_schema((), outputs, has_provenance=False), (), outputs, read, good)
            predictions = {name: _spread(rows[name], faults) for name in self._columns}
        if self._is_lenient:
            reasons = {bad.row_index: f"{bad.reason}: {bad.message}" for bad in faults.in_order()}
            predictions[ERROR] = pa.array([reasons.get(i) for i in range(len(table))], pa.string())
        return add_predictions(batch, {str(path): _kept(batch, path) for path in self._keep}, predictions)

    def _choose_columns(self, batch: Any) -> None:
        """Find the columns that the settings name in the first batch."""
        first = InputSchema("a batch", read_columns(batch, column_names(batch), known=()).schema, ())
        paths = [path for text in self._texts.values() for path in resolve_feed(first, text).columns]
        self._keep = kept_columns(self._config, first, paths)
        own = [ERROR] if self._is_lenient else []
        check_output_names([*map(str, self._keep), *self._columns, *own])
        self._fed = list(dict.fromkeys(path.names[0] for path in paths))

    def _bind(self, table: pa.Table) -> _Bound:
        """Bind the feeds to the columns of a batch, which may have other types than those of the last one."""
        if self._bound is not None and table.schema.equals(self._bound.schema):
            return self._bound
        columns, config = InputSchema("a batch", table.schema, ()), self._config
        sources = {tensor: resolve_feed(columns, text) for tensor, text in self._texts.items()}
        fills = match_fills(config.fill, list(sources.values()))
        tensors = self._session.inputs
        feeds = tuple(bind_feed(sources[tensor.name], tensor, fills, config.unbatched) for tensor in tensors)
        fixed = next(
            (feed.fixed_rows for feed in feeds if feed.fixed_rows is not None), 1 if config.unbatched else None
        )
        known = [feed.row_bytes() if feed.tensor.dtype != "string" else None for feed in feeds]
        read = table.nbytes / max(1, len(table)) if None in known else 0.0
        size = sum(each or 0.0 for each in known) + read
        batch_rows = resolve_batch_rows(config.batch_size, fixed, size, self._has_gpu)
        call = BatchCaller(self._session, feeds, batch_rows if config.xla else None)
        self._bound = _Bound(table.schema, feeds, batch_rows, call)
        return self._bound

    def _settle_outputs(
        self, bound: _Bound, groups: Sequence[FedRows], faults: Faults
    ) -> tuple[OutputColumn, ...] | None:
        """Fix the types of the predictions, once; None while no row shows what the graph leaves open."""
        if self._outputs is None:
            tensors: tuple[TensorSpec, ...] | None = self._session.outputs
            if self._config.unbatched:
                shapes = [None if t.shape is None else (None, *t.shape) for t in self._session.outputs]
                named = zip(self._session.outputs, shapes, strict=True)
                tensors = tuple(TensorSpec(tensor.name, tensor.dtype, shape) for tensor, shape in named)
            if tensors is not None and any(map(is_open, tensors)):
                trial = Faults(faults.num_rows)
                tensors = _observe_any(bound, tensors, groups, trial)
                faults.extend(trial.in_order() if tensors is None else (), np.arange(faults.num_rows))
            if tensors is None:
                return None
            pairs = zip(tensors, self._columns, strict=True)
            self._outputs = tuple(bind_output(tensor, name, name in self._config.utf8) for tensor, name in pairs)
        return self._outputs

    def _score(
        self, bound: _Bound, outputs: Sequence[OutputColumn], groups: Sequence[FedRows], faults: Faults
    ) -> list[ScoredRows]:
        step, scored = bound.batch_rows, list[ScoredRows]()
        for fed in groups:
            stops = ((start, min(start + step, len(fed.rows))) for start in range(0, len(fed.rows), step))
            found = [each for start, stop in stops for each in score_batch(bound.call, fed, range(start, stop), faults)]
            scored += join_rows(found, JOINED_ROWS if self._config.unbatched else step)
        good = [set_bad_aside(each, outputs, faults, self._config.nan_is_bad) for each in scored]
        return [each for each in good if len(each.rows)]


def _observe_any(
    bound: _Bound, tensors: Sequence[TensorSpec], groups: Sequence[FedRows], faults: Faults
) -> tuple[TensorSpec, ...] | None:
    """Return the fetches with the extents that the first rows which can be scored show; None if no row can be.

    Ray Data makes a batch dense whenever its rows happen to agree, so what the graph leaves open of a feed, the next
    batch may have otherwise. The feeds of columns that are stacked are as wide as there are columns.
    """
    can_vary = any(feed.has_open_shape and not feed.source.is_stacked for feed in bound.feeds)
    step = min(PROBE_ROWS, bound.batch_rows)
    for fed in groups:
        for start in range(0, len(fed.rows), step):
            span = range(start, min(start + step, len(fed.rows)))
            seen = observe(bound.feeds, tensors, bound.call, fed, faults, span, can_vary)
            if seen is not None:
                return seen
    return None


def _assigned_resources() -> dict[str, float]:
    """Return what Ray gave to this actor; nothing elsewhere."""
    if not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return {}
    return dict(ray.get_runtime_context().get_assigned_resources())


def _call_in_worker(function: Callable[[Any], Any], argument: Any) -> Any:
    """Call `function` in a process of its own, whose session decides nothing here; without Ray, in this one."""
    if not ray.is_initialized():
        return function(argument)
    remote: Any = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(function)
    try:
        return ray.get(remote.remote(argument))
    except ray.exceptions.RayError as error:
        raise WorkerLostError(str(error)) from error


def _kept(batch: Any, path: ColumnPath) -> Any:
    """Return a column to carry along: as it came, but for fields of structs."""
    if len(path.names) == 1:
        return batch[path.names[0]]
    column = path.of(read_columns(batch, path.names[:1]))
    return column if isinstance(batch, pa.Table) else to_numpy(column)


def _spread(column: pa.ChunkedArray, faults: Faults) -> pa.ChunkedArray | pa.Array:
    """Return a value for every row of the batch, null where a row is bad."""
    if not len(faults):
        return column
    is_bad = np.ones(faults.num_rows, bool)
    is_bad[faults.good_rows()] = False
    if is_bad.all():
        return pa.nulls(faults.num_rows, column.type)
    return column.take(pa.array(np.maximum(np.cumsum(~is_bad) - 1, 0), mask=is_bad))
