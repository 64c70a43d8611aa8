"""What can be set, and what was measured with it. Values only; pure.

Start at `Setting` and `Measurement`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.run.numeric_drift import Drift

FLOAT32 = "float32"


@dataclass(frozen=True, slots=True)
class Machine:
    """What may be used of this machine."""

    cores: int
    """CPUs that this process may run on."""
    gpus: int = 0
    """GPUs to compute on; 0 for CPUs alone."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a machine is shared out among actors."""

    actors: int
    """Actors on the machine."""
    threads: int
    """Threads of each actor's session; its CPUs."""
    gpu_share: float = 0.0
    """GPUs of each actor."""

    def __str__(self) -> str:
        """Write it for people: `2 actors x 1 thread`."""
        actors = "1 actor" if self.actors == 1 else f"{self.actors} actors"
        gpus = f", {self.gpu_share:g} GPU" if self.gpu_share else ""
        return f"{actors} x {self.threads} thread{'' if self.threads == 1 else 's'}{gpus}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What the processes of an actor are started with; the batch size may change within one."""

    layout: Layout
    """Actors, and what each has."""
    precision: str = FLOAT32
    """What is computed in: float32, bfloat16 or float16."""
    xla: bool = False
    """Whether the graph is compiled with XLA."""

    @property
    def is_plain(self) -> bool:
        """Whether the graph is computed as it is: float32, without XLA."""
        return self.precision == FLOAT32 and not self.xla

    @property
    def numbers(self) -> str:
        """Write how it is computed: `bfloat16 with XLA`."""
        return self.precision + " with XLA" * self.xla

    def __str__(self) -> str:
        """Write it for people."""
        return f"{self.layout}, {self.numbers}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one setting does with one batch size."""

    setting: Setting
    """The setting."""
    batch_rows: int
    """Rows per graph call."""
    rows_per_second: float
    """Input rows read, scored and written by all actors together."""
    session_seconds: float
    """Seconds of one row in the session, with all other actors at rest: of CPU; on a GPU of the clock."""
    peak_bytes: int
    """The most memory that one actor's process has had by then, that of the largest one: TensorFlow keeps what a batch
    took, so a batch size below `auto` has what `auto` took before it."""
    load_seconds: float
    """Seconds to import TensorFlow and load the graph, all actors at once; of the slowest."""
    first_call_seconds: float
    """Seconds of the process's first call, and of those with this batch size until it runs as it will (XLA compiles);
    of the slowest actor."""
    drift: Mapping[str, Drift] = field(default_factory=dict)
    """How far the values lie from those of float32, by output column of floats; empty for float32 itself."""

    @property
    def worst_drift(self) -> Drift | None:
        """Of all output columns, the largest of each figure; None where none was compared."""
        drifts = list(self.drift.values())
        if not drifts:
            return None
        changed = [each.argmax_changed for each in drifts if each.argmax_changed is not None]
        return Drift(
            min(each.rows for each in drifts),
            max(each.max_absolute for each in drifts),
            max(each.p999_absolute for each in drifts),
            max(each.max_relative for each in drifts),
            max(each.p999_relative for each in drifts),
            max(changed, default=None),
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be measured."""

    setting: Setting
    """The setting."""
    batch_rows: int | None
    """Rows per graph call; None where the setting failed as a whole."""
    reason: str
    """Why, in words."""
    is_left_out: bool = False
    """Whether nothing has gone wrong: the machine does not offer it, it does not suit the graph, or the time was up."""


@dataclass(frozen=True, slots=True)
class RowCosts:
    """What one row costs one thread beside the graph, in seconds of CPU."""

    decode_seconds: float
    """To read it and turn it into tensors."""
    encode_seconds: float
    """To make columns of it and write them."""


def rows_limit(costs: RowCosts, session_seconds: float, machine: Machine) -> float:
    """Return the rows per second that no arrangement of the same work on this machine can pass.

    On CPUs reading, scoring and writing share the cores; a GPU scores while CPUs read and write.
    """
    around = (costs.decode_seconds + costs.encode_seconds) / machine.cores
    slowest = max(around, session_seconds / machine.gpus) if machine.gpus else around + session_seconds / machine.cores
    return 1 / slowest if slowest else 0.0
