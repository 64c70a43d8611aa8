"""What a job would do, for `icefloe plan`: shards, binding, memory, output and time. Runs and writes nothing.

Start at `preview`; `DataInFlight` is the memory promise, `engine.preparing.forecast` tells the time.
"""

from dataclasses import asdict, dataclass
from typing import Any

from engine.config import JobConfig
from engine.data.binding import FeedBinding
from engine.data.columns import leaf_names, select_columns
from engine.data.decoding import decoding_bytes
from engine.data.fetching import AHEAD_BYTES, FETCH_BUFFER_BYTES, FETCH_BYTES
from engine.data.ledger import Ledger
from engine.data.row_groups import SLICE_BYTES, cut_slices, largest_group_bytes, read_row_groups, row_width
from engine.data.sink import GROUP_BYTES
from engine.data.source import READ_BUFFER_BYTES
from engine.data.storage.places import is_local
from engine.errors import PlanError
from engine.model.infer import infer_tensor
from engine.model.tensor import TensorSpec
from engine.preparing.forecast import Forecast, forecast
from engine.preparing.prepare import Job, encoding_rules, expects_gpu, prepare
from engine.preparing.resuming import find_done
from engine.run.plan import part_name
from engine.run.pool import PoolSize
from engine.run.scheduling.fleet import SHARDS_PER_WORKER

# Arrow's mimalloc hands freed memory back late, for handing it back at once costs 40 to 70 % more CPU time; glibc keeps
# some for each thread. `bench/memory.py` measures what both come to (docs/decisions.md).
RETAINED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class DataInFlight:
    """The most memory that one actor's rows take, beside the graph's own working set and the fetched columns.

    A bound where all columns read are fixed-width and their pages no larger than writers make them by themselves; the
    fetches' dtypes and shapes are known when the graph is loaded. A slice that holds bad rows is copied without them,
    which comes on top.
    """

    shards_at_once: int
    """Shards that one actor works on side by side."""
    holding_at_once: int
    """Those of them that hold rows: as many as it has CPUs; all where a GPU computes or a store is read."""
    slice_bytes: int
    """The largest slice that can be, as Arrow memory; twice that where rows of it are selected (--where)."""
    decoding_bytes: int
    """What decoding it takes: the slice before, where a row group is cut; pages, dictionaries, levels, read buffers."""
    converted_bytes: int
    """Arrays made from that slice where a column is not fed as it lies."""
    batch_bytes: int
    """One batch of the fed tensors."""
    part_bytes: int
    """Kept columns of one slice, and rows that wait until they fill a row group of the output."""
    fetched_bytes: int
    """What is fetched of a shard ahead of its reader, as it lies in a store; 0 for local files."""
    is_exact: bool
    """Whether all columns read are fixed-width; else the bytes are what the footer says."""

    @property
    def shard_bytes(self) -> int:
        """Bytes of one shard that holds rows."""
        read = self.fetched_bytes + self.slice_bytes + self.decoding_bytes
        return read + self.converted_bytes + self.batch_bytes + self.part_bytes

    @property
    def retained_bytes(self) -> int:
        """What allocators hold of memory that was freed, by measurement: as much as is in use, and 64 MiB at first."""
        return self.holding_at_once * self.shard_bytes + RETAINED_BYTES

    @property
    def total_bytes(self) -> int:
        """Bytes in flight in one actor."""
        return self.holding_at_once * self.shard_bytes + self.retained_bytes


@dataclass(frozen=True, slots=True)
class Preview:
    """What a job would do."""

    plan_id: str
    """Identity of the job."""
    model: str
    """Model, and whether it will be frozen first."""
    num_files: int
    """Input files."""
    num_pruned: int
    """Files beside them that are left out because no row in their folders could hold for a condition."""
    where: tuple[str, ...]
    """Conditions that rows have to hold for."""
    input_bytes: int
    """Their bytes on disk."""
    num_shards: int
    """Shards, each of which becomes one part."""
    shard_bytes: int
    """Input bytes per shard, at most."""
    num_done: int
    """Parts that the output folder holds already."""
    is_finished: bool
    """Whether nothing is left to do."""
    generation: int
    """Which time that files are added (--add), from 0."""
    has_more: bool
    """Whether more files are scored once this generation, which was cut off, is done."""
    refusal: str
    """Why the output folder would be refused, if it would."""
    batch_rows: int
    """Rows per graph call."""
    precision: str
    """What the graph would be computed in."""
    xla: bool
    """Whether it would be compiled with XLA."""
    feeds: tuple[tuple[str, str, str], ...]
    """For each feed: column, its Arrow type, and the tensor."""
    fetches: tuple[tuple[str, str], ...]
    """For each fetch: tensor and column."""
    kept: tuple[tuple[str, str], ...]
    """For each kept column: name and Arrow type."""
    memory: DataInFlight
    """Data in flight in one actor."""
    output: str
    """Output folder."""
    parts: tuple[str, ...]
    """First and last part."""
    simulated: Forecast | None = None
    """How long it would take, where that is asked."""

    def to_json(self) -> dict[str, Any]:
        """Return the preview as JSON takes it."""
        document = asdict(self)
        document["memory"] |= {"retained_bytes": self.memory.retained_bytes, "total_bytes": self.memory.total_bytes}
        return document


def preview(config: JobConfig, *, simulate: int | None = None, rate: float | None = None) -> Preview:
    """Say what `score` would do with these settings.

    Args:
        config: the job.
        simulate: number of actors to work out the wall time for; None for no simulation.
        rate: rows per second of each of them; None for what the output folder's last summary says.

    Raises:
        Mistake: as `score` would, before Ray is touched; or if nothing tells the rate of the simulated actors.
    """
    job = prepare(config)
    shards, ledger = job.plan.shards, Ledger(job.config.output)
    refusal, done = "", None
    try:
        done = find_done(job, ledger)
    except PlanError as error:
        refusal = str(error)
    return Preview(
        plan_id=job.plan.plan_id,
        model=_model_text(job),
        num_files=len(job.plan.files),
        num_pruned=job.inputs.num_pruned,
        where=job.config.where,
        input_bytes=sum(file.size_bytes for file in job.plan.files),
        num_shards=len(shards),
        shard_bytes=job.plan.shard_bytes,
        num_done=len(done.parts) if done else 0,
        is_finished=done is not None and done.is_finished,
        generation=job.plan.generation,
        has_more=job.target.has_more,
        refusal=refusal,
        precision=job.config.precision,
        xla=job.config.xla,
        batch_rows=job.plan.batch_rows,
        feeds=tuple((f.column, _type_text(f), str(f.tensor)) for f in job.feeds),
        fetches=tuple((str(_fetched(job, name)), column) for name, column in job.model.fetch.items()),
        kept=tuple((str(path), str(path.type)) for path in job.inputs.keep),
        memory=measure_memory(job),
        output=ledger.folder.place,
        parts=tuple(part_name(shards[i], len(shards), job.plan.generation) for i in sorted({0, len(shards) - 1})),
        simulated=None if simulate is None else forecast(job, ledger, done.parts if done else (), simulate, rate),
    )


def _model_text(job: Job) -> str:
    known = job.model.known
    if known.remark:
        return f"{known.found.given} ({known.remark})"
    return (
        known.found.given if known.graph else f"{known.found.given} (a {known.found.kind}: frozen first, on a worker)"
    )


def _type_text(feed: FeedBinding) -> str:
    """Return the Arrow type of what fills a tensor, and how many columns of it are stacked."""
    columns = feed.source.columns
    kinds = ", ".join(dict.fromkeys(str(path.type) for path in columns))
    return f"{len(columns)} columns of {kinds}" if feed.source.is_stacked else kinds


def _fetched(job: Job, name: str) -> TensorSpec:
    """Return what the model's files tell of a fetched tensor."""
    graph, known = job.model.known.graph, job.model.specs.get(name)
    return known or (TensorSpec(name, None, None) if graph is None else infer_tensor(graph, name))


def measure_memory(job: Job) -> DataInFlight:
    """Work out an actor's data in flight from the first file's footer and the rule by which slices are cut.

    How many shards hold rows follows from --cpus-per-actor and --gpus-per-actor, or what an actor gets without them.
    """
    metadata, schema, selection = job.inputs.metadata, job.inputs.first.schema, job.inputs.selection
    groups = read_row_groups(metadata, selection.columns)
    slices = cut_slices(groups, job.plan.batch_rows)
    row_bytes = sum(group.num_bytes for group in groups) / max(1, metadata.num_rows)
    rows = max((each.rows_per_read for each in slices), default=0)
    if len(job.plan.files) > 1 and row_bytes:  # others may have larger row groups; no slice is larger than this
        rows = max(job.plan.batch_rows, int(SLICE_BYTES / row_bytes))
    is_cut = len(job.plan.files) > 1 or any(each.rows_per_read < each.num_rows for each in slices)
    kept = [path for path in job.inputs.keep if path.names[0] in schema.names]
    kept_groups = read_row_groups(metadata, select_columns(schema, kept))
    kept_row_bytes = sum(group.num_bytes for group in kept_groups) / max(1, metadata.num_rows)
    group_rows = encoding_rules(job.config).group_rows
    waiting = GROUP_BYTES if group_rows is None else group_rows * kept_row_bytes
    fed_row_bytes = [feed.row_bytes() or 0.0 for feed in job.feeds]
    converted = [width for feed, width in zip(job.feeds, fed_row_bytes, strict=True) if not feed.is_view]
    at_hand = is_local(job.plan.files[0].path)
    is_fetched = not at_hand and largest_group_bytes(metadata) <= FETCH_BYTES
    of_shard = job.plan.shard_bytes + largest_group_bytes(metadata)  # which lies in it by its midpoint
    buffer_bytes = READ_BUFFER_BYTES if at_hand else 0 if is_fetched else FETCH_BUFFER_BYTES
    decoding = decoding_bytes(metadata, selection.columns, rows, buffer_bytes)
    return DataInFlight(
        shards_at_once=SHARDS_PER_WORKER,
        holding_at_once=_holding_at_once(job.config) if at_hand else SHARDS_PER_WORKER,
        slice_bytes=round(rows * row_bytes) * (2 if selection.conditions else 1),
        decoding_bytes=decoding + is_cut * round(rows * row_bytes),
        converted_bytes=round(rows * sum(converted)),
        batch_bytes=round(job.plan.batch_rows * sum(fed_row_bytes)),
        part_bytes=round(rows * kept_row_bytes + waiting),
        fetched_bytes=0 if at_hand else min(AHEAD_BYTES, of_shard),
        is_exact=all(row_width(kind) is not None for _, kind in leaf_names(selection.columns)),
    )


def _holding_at_once(config: JobConfig) -> int:
    """Return how many shards of local files hold rows at once, by the shares that an actor is given.

    No node is known here: an actor of a large model may be given more CPUs than the one that is assumed.
    """
    share = PoolSize(1, 1, 1.0 if config.cpus_per_actor is None else config.cpus_per_actor, 0.0)
    return SHARDS_PER_WORKER if expects_gpu(config) else min(SHARDS_PER_WORKER, share.threads)
