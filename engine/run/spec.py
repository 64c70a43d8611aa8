"""What goes to an actor and what comes back: the job as a scorer has to know it, and a shard that is done.

Values only. Start at `ScoringSpec` and `ShardResult`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.data.columns import ColumnPath, FeedSource
from engine.data.manifest import PartFacts
from engine.data.pieces import Piece
from engine.data.sink import EncodingRules
from engine.data.source import Selection
from engine.data.storage.folder import PublishedPart
from engine.run.budget import Budget
from engine.run.numeric_drift import Drift


@dataclass(frozen=True, slots=True)
class RowRules:
    """How rows become tensors and predictions columns, besides which is which."""

    fills: Mapping[str, str]
    """What stands in for nulls, by path of the fed column."""
    utf8: tuple[str, ...]
    """Output columns of strings that are written as text."""
    provenance: bool
    """Whether `_file` and `_row` are added to the output."""
    nan_is_bad: bool
    """Whether rows with NaN or Inf in a prediction go to quarantine."""
    unbatched: bool
    """Whether the graph takes one row at a time and has no batch axis."""
    budget: Budget
    """Bad rows past which a shard gives up."""


@dataclass(frozen=True, slots=True)
class ScoringSpec:
    """What an actor needs to know of the job, besides the model's bytes."""

    plan_id: str
    """Plan that its parts belong to."""
    generation: int
    """Generation of that plan; part of every part's name from the second one on."""
    output: str = field(repr=False)
    """Output folder, absolute, with the credentials that were given in its URI."""
    num_shards: int
    """Shards of the plan; part of every part's name."""
    feeds: tuple[tuple[str, FeedSource], ...]
    """Pairs of tensor name and columns."""
    fetches: tuple[tuple[str, str], ...]
    """Pairs of tensor name and column."""
    constants: Mapping[str, Any]
    """Values fed with every batch, by tensor name."""
    init_ops: tuple[str, ...]
    """Operations run once after loading."""
    op_libraries: tuple[str, ...]
    """Libraries of custom operations, loaded first."""
    selection: Selection
    """What to read of every input file."""
    keep: tuple[ColumnPath, ...]
    """Input columns carried to the output, in its order."""
    rules: RowRules
    """How rows are treated."""
    encoding: EncodingRules
    """How parts are encoded."""
    batch_rows: int
    """Rows per graph call."""
    precision: str
    """What the graph computes in: float32, bfloat16 or float16."""
    xla: bool
    """Whether the graph is compiled with XLA, so that every batch is padded to `batch_rows`."""
    samples: tuple[Piece, ...]
    """Some whole input files; every actor opens the first, and looks at rows of them."""
    versions: Mapping[str, str]
    """Versions of engine, tensorflow, pyarrow and ray at the driver."""
    drift_shard: int | None = None
    """The shard with which the values are compared with those of the plain graph; None where they are not."""

    @property
    def is_plain(self) -> bool:
        """Whether the graph computes as it says, in float32 and without XLA."""
        return self.precision == "float32" and not self.xla


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard that is done: its part lies in the output folder."""

    part: str
    """Path of the part below the output folder."""
    facts: PartFacts
    """What the part's footer says of it."""
    published: PublishedPart
    """The part as it lies there."""
    bad_rows: tuple[str, ...]
    """The first few rows in quarantine, in words."""
    batches_split: int
    """Batches that the graph refused as a whole, of which rows were scored in smaller calls."""
    seconds: Mapping[str, float]
    """Seconds by phase: read, wait (for a turn), bind, session, write; and total, without the waiting."""
    batches_halved: int
    """Times that this actor has halved a batch so far."""
    busy_seconds: float
    """Seconds that this actor's session has been computing so far, for any of its shards."""
    drift: Mapping[str, Drift] = field(default_factory=dict)
    """How far values lie from those of the plain graph, by column; empty where this was not measured."""
