"""Checks and plans a job: everything that can be told from flags, model file, listing and the first footer.

Touches neither Ray, nor TensorFlow, nor the output folder. Start at `prepare`.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.config import JobConfig
from engine.data.binding import FeedBinding, bind_feed
from engine.data.columns import select_columns
from engine.data.ledger import Ledger
from engine.data.listing import list_inputs
from engine.data.output import bind_output
from engine.data.pieces import InputFile
from engine.data.row_groups import read_row_groups
from engine.data.sink import EncodingRules
from engine.data.source import open_parquet
from engine.data.storage.copying import local_copy
from engine.data.storage.places import place_of
from engine.data.storage.reading import Storage, storage_of
from engine.errors import ConfigError, GraphError, PlanError, system_text
from engine.model.constants import read_constant
from engine.model.devices import shows_gpu
from engine.model.infer import infer_tensor
from engine.model.known import BoundModel, Request, bind_model, read_model
from engine.model.tensor import TensorSpec
from engine.preparing.call import check_output_apart, check_together, settle_paths
from engine.preparing.generations import Target, choose_generation, read_history, shared_settings
from engine.preparing.inputs import JobInputs, check_columns_named, choose_inputs, prune_folders
from engine.run.plan import (
    Plan,
    cut_plan,
    explain_changes,
    explain_settings,
    inputs_digest,
    limit_rows,
    plan_id,
    resolve_batch_rows,
    resolve_shard_bytes,
)
from engine.run.versions import installed_versions

# Files of one writer differ by a few bytes; one that is a little larger than the first is not to be cut for that.
ALIKE = 1.05


@dataclass(frozen=True, slots=True)
class Job:
    """A job that was checked and planned, and has touched neither Ray nor its output folder."""

    config: JobConfig
    """Settings, with absolute paths."""
    model: BoundModel
    """The model, and which of its tensors are fed and fetched."""
    feeds: tuple[FeedBinding, ...]
    """Columns bound to tensors, as far as the model file tells."""
    inputs: JobInputs
    """Files, and which of their columns and rows are read."""
    target: Target
    """Which generation of the output folder this is."""
    plan: Plan
    """Shards, and the identity of the job."""

    @property
    def part_names(self) -> Mapping[str, int]:
        """Shard by name of its part."""
        return self.plan.part_names

    @property
    def compiles_as_it_goes(self) -> bool:
        """Whether XLA meets rows of several shapes: it compiles one when it comes again, which values depend on."""
        may_vary = (feed.can_vary() and feed.tensor.dtype != "string" for feed in self.feeds)
        return self.config.xla and any(may_vary)


def prepare(config: JobConfig) -> Job:
    """Describe the model, bind the columns and plan the shards, from the listing and one footer.

    Raises:
        Mistake: for whatever flags, model file, listing and the first footer show to be wrong.
        DataError: if the first input file is damaged.
    """
    given = config.model_fields_set
    config = settle_paths(config)
    check_together(config)
    bound = bind_job_model(config, given)
    check_columns_named(config, list(bound.fetch.values()))
    _check_fetches(bound, config.utf8)
    files = list_inputs(config.input)
    check_output_apart(config, files)
    ledger = Ledger(config.output)
    listed = prune_folders(config, files, storage_of(config.input))
    history = None if config.overwrite else read_history(ledger)
    target = choose_generation(history, listed.files, config.add, ledger.folder.place)
    inputs = choose_inputs(config, listed, target, bound.feed, list(bound.fetch.values()))
    feeds = bind_feeds(config, bound, inputs)
    stop_rows = None
    if config.limit is not None:
        stop_rows = limit_rows(files, _count_rows(files, listed.storage, config.limit), config.limit)
        if not any(file.path in stop_rows for file in inputs.files):
            raise PlanError(f"--limit {config.limit}: --where holds for none of the folders of these first rows")
    plan = make_plan(config, bound, inputs, target, _batch_rows(config, inputs, feeds, target), stop_rows)
    return Job(config=config, model=bound, feeds=feeds, inputs=inputs, target=target, plan=plan)


def bind_feeds(config: JobConfig, bound: BoundModel, inputs: JobInputs) -> tuple[FeedBinding, ...]:
    """Bind the columns to the tensors, as far as the model file tells.

    Raises:
        SchemaError: for a column that cannot fill its tensor.
    """
    return tuple(
        bind_feed(inputs.sources[name], bound.specs[name], inputs.fills, config.unbatched) for name in bound.feed
    )


def _batch_rows(config: JobConfig, inputs: JobInputs, feeds: tuple[FeedBinding, ...], target: Target) -> int:
    """Return the rows of a graph call; files that were added are scored as the first ones were."""
    if config.unbatched:
        if config.batch_size not in ("auto", 1):
            raise ConfigError(
                f"--batch-size {config.batch_size}: with --unbatched every row is a graph call of its own"
            )
        return 1
    if target.first_plan is not None and config.batch_size == "auto":
        return int(target.first_plan["settings"]["batch_size"])
    known = sum(feed.row_bytes() or 0.0 for feed in feeds if feed.tensor.dtype != "string")
    text = sum(feed.row_bytes() or 0.0 for feed in feeds if feed.tensor.dtype == "string")
    varying = [feed for feed in feeds if feed.row_bytes() is None or feed.tensor.dtype == "string"]
    columns = [path for feed in varying for path in feed.source.columns if str(path) not in inputs.first.partitions]
    groups = read_row_groups(inputs.metadata, select_columns(inputs.first.schema, columns))
    read_bytes = sum(group.num_bytes for group in groups) / max(1, inputs.metadata.num_rows)
    return resolve_batch_rows(config.batch_size, _fixed_rows(feeds), known + max(text, read_bytes), expects_gpu(config))


def expects_gpu(config: JobConfig) -> bool:
    """Whether batches are sized for GPUs: they were asked for, or nothing was said and this node shows one."""
    return shows_gpu() if config.gpus_per_actor is None else config.gpus_per_actor > 0


def make_plan(
    config: JobConfig,
    bound: BoundModel,
    inputs: JobInputs,
    target: Target,
    batch_rows: int,
    stop_rows: Mapping[str, int] | None,
) -> Plan:
    """Cut the files into shards and hash what decides the output."""
    files = inputs.files
    first_bytes = next((file.size_bytes for file in files if file.path == inputs.first.path), 0)
    group_bytes = math.ceil(ALIKE * first_bytes / max(1, inputs.metadata.num_row_groups))
    shard_bytes = resolve_shard_bytes(config.shard_size, sum(file.size_bytes for file in files), group_bytes)
    settings: dict[str, Any] = {
        "model_sha256": bound.known.sha256,
        "op_library_sha256": [_file_sha256(path) for path in config.op_library],
        "allow_op": sorted(config.allow_op),
        "inputs_sha256": inputs_digest(files),
        "feed": [f"{tensor}={column}" for tensor, column in bound.feed.items()],
        "fetch": [f"{tensor}={column}" for tensor, column in bound.fetch.items()],  # their order is the columns'
        "set": config.set,
        "init_op": list(bound.init_ops),
        "keep": [str(path) for path in inputs.keep],
        "where": list(config.where),
        "fill": config.fill,
        "utf8": sorted(config.utf8),
        "provenance": config.provenance,
        "nan_is_bad": config.nan_is_bad,
        "unbatched": config.unbatched,
        "limit": config.limit,
        "precision": config.precision,
        "xla": config.xla,
        "batch_size": batch_rows,
        "shard_size": shard_bytes,
        "encoding": encoding_rules(config).settings(),
        "versions": {name: version for name, version in installed_versions().items() if name != "ray"},
    }
    if target.generation:
        first_plan_id = target.first_plan["plan_id"] if target.first_plan else ""
        settings |= {"generation": target.generation, "first_plan_id": first_plan_id}
    # A hundred thousand shards take half a second, in which Ray can start.
    cutter = ThreadPoolExecutor(1)
    cut = cutter.submit(cut_plan, files, shard_bytes, stop_rows, target.generation).result
    cutter.shutdown(wait=False)
    return Plan(plan_id(settings), settings, files, cut, batch_rows, shard_bytes, target.generation)


def encoding_rules(config: JobConfig) -> EncodingRules:
    """Return how the call wants parts to be encoded."""
    group_rows = config.row_group_size if isinstance(config.row_group_size, int) else None
    return EncodingRules(config.compression, group_rows, config.dictionary)


def find_changes(job: Job, ledger: Ledger, earlier: Mapping[str, Any] | None) -> list[str]:
    """Say what differs between the output folder's plan and this job; empty where it is the same job.

    Args:
        job: the job.
        ledger: the output folder.
        earlier: the plan of the job's generation; None for one that is new, which agrees with the first one.
    """
    if earlier is None:
        before = {} if job.target.first_plan is None else shared_settings(job.target.first_plan["settings"])
        return explain_settings(before, shared_settings(job.plan.settings))
    listings = ledger.read_inputs()
    old = listings[job.plan.generation] if job.plan.generation < len(listings) else ()
    changes = explain_changes(earlier["settings"], job.plan.settings, old, job.plan.files)
    return changes or ([] if earlier["plan_id"] == job.plan.plan_id else ["its plan id"])


def bind_job_model(config: JobConfig, given: Collection[str]) -> BoundModel:
    """Bind the model; ports that the call does not name are the model's own."""
    request = Request(
        feed=config.feed if "feed" in given else None,
        fetch=config.fetch if "fetch" in given else None,
        constants=config.set,
        init_ops=config.init_op,
        allow_ops=config.allow_op,
        op_libraries=config.op_library,
        is_unbatched=config.unbatched,
    )
    remark = ""
    try:
        with local_copy(config.model) as path:
            known = read_model(path)
            remark = f"; {known.remark}" if known.remark else ""
            bound = bind_model(known, request)
            found = replace(known.found, given=place_of(config.model))
            bound = replace(bound, known=replace(known, found=found))
    except GraphError as error:
        raise GraphError(f"--model {error}{remark}") from error
    for name, value in config.set.items():
        if name in bound.specs:
            read_constant(value, bound.specs[name])
    return bound


def _check_fetches(bound: BoundModel, utf8: Collection[str]) -> None:
    """Refuse a fetch whose dtype no column holds, and text of what holds no strings, where the file tells it."""
    for name, column in bound.fetch.items():
        spec = bound.specs.get(name)
        if bound.known.graph is not None and (spec is None or spec.dtype is None):
            spec = infer_tensor(bound.known.graph, name)
        if spec is not None and spec.dtype is not None:
            bind_output(TensorSpec(name, spec.dtype, (None,)), column, column in utf8)


def _file_sha256(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"--op-library {path}: {system_text(error)}") from error


def _fixed_rows(feeds: tuple[FeedBinding, ...]) -> int | None:
    fixed = {feed.fixed_rows: feed for feed in feeds if feed.fixed_rows is not None}
    if len(fixed) > 1:
        raise GraphError(f"{' and '.join(str(feed.tensor) for feed in fixed.values())} fix different batch sizes")
    return next(iter(fixed), None)


def _count_rows(files: tuple[InputFile, ...], storage: Storage, limit: int) -> dict[str, int]:
    """Read footers until `limit` rows are covered."""
    num_rows: dict[str, int] = {}
    for file in files:
        if sum(num_rows.values()) >= limit:
            break
        with open_parquet(file.path, storage) as opened:
            num_rows[file.path] = opened.metadata.num_rows
    return num_rows
