"""What is known of a model from its files: the value types that `describe` fills and the view shows. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from engine.model.audit import Finding
from engine.model.describing.layers import Layer
from engine.model.describing.training import Leftover
from engine.model.keras_file import KerasFile
from engine.model.tensor import TensorSpec


class Kind(StrEnum):
    """What a model is."""

    FROZEN_GRAPH = "frozen_graph"
    UNFROZEN_GRAPH = "unfrozen_graph"
    SAVED_MODEL = "saved_model"
    META_GRAPH = "meta_graph"
    CHECKPOINT = "checkpoint"
    KERAS = "keras"


@dataclass(frozen=True, slots=True)
class SignatureEntry:
    """A port of a signature."""

    key: str
    """Its name in the signature."""
    tensor: TensorSpec
    """The tensor; without a name where it is sparse or composite."""


@dataclass(frozen=True, slots=True)
class SignatureDescription:
    """A signature of a SavedModel or checkpoint."""

    name: str
    """Its name, such as `serving_default`."""
    inputs: tuple[SignatureEntry, ...]
    """What it takes, by name."""
    outputs: tuple[SignatureEntry, ...]
    """What it gives, by name."""


@dataclass(frozen=True, slots=True)
class UnknownOperation:
    """An operation that this TensorFlow does not have."""

    operation: str
    """Its name."""
    count: int
    """How often the model holds it."""
    example: str
    """Name of a node, one between inputs and outputs if any is."""
    is_inside: bool
    """Whether one lies between inputs and outputs, where it stands in the way."""
    hint: str
    """What to do about it; empty if nothing is known."""


@dataclass(frozen=True, slots=True)
class LoadedGraph:
    """A graph as TensorFlow imported it."""

    tensorflow: str
    """Version of the TensorFlow; empty where the graph was not given to it."""
    inputs: tuple[TensorSpec, ...] = ()
    """Fed tensors."""
    outputs: tuple[TensorSpec, ...] = ()
    """Fetched tensors."""
    multiply_adds: int = 0
    """Multiply-adds of matrix products and convolutions for one row; the least where `at_least` says so."""
    at_least: str = ""
    """Why there are more of them; empty where that is all."""
    refusal: str = ""
    """Why the graph was not imported; empty where it was."""


@dataclass(frozen=True, slots=True)
class Description:
    """A model as its files tell it. What lies "inside" is what the outputs need, functions called there among it."""

    kind: Kind
    """What it is."""
    path: str
    """Path as the caller gave it."""
    size_bytes: int
    """Size of its files, weights included."""
    is_text: bool = False
    """Whether the graph is kept as text (.pbtxt)."""
    producer: int = 0
    """GraphDef version of the TensorFlow that wrote it; 0 in the oldest files."""
    tensorflow_version: str = ""
    """Version of the TensorFlow that wrote it; empty in a file that does not say."""
    inputs: tuple[TensorSpec, ...] = ()
    """Tensors that the outputs need and the graph does not compute."""
    optional_inputs: tuple[str, ...] = ()
    """Those of them that can be left at their default value."""
    unused_inputs: tuple[TensorSpec, ...] = ()
    """Placeholders that the outputs do not need."""
    outputs: tuple[TensorSpec, ...] = ()
    """Its outputs, or the likely ones, best first."""
    other_outputs: tuple[str, ...] = ()
    """Further tensors that nobody reads, such as losses and metrics of a graph saved from training."""
    ports_from: str = ""
    """What tells inputs and outputs: `ports`, `signature`, or `guess` from names and edges."""
    signature: str = ""
    """Name of the signature that they are from."""
    signatures: tuple[SignatureDescription, ...] = ()
    """All signatures."""
    init_ops: tuple[str, ...] = ()
    """Operations that fill the lookup tables inside, to be run once after loading."""
    parameters: int = 0
    """Numbers in its weights inside."""
    parameter_bytes: int = 0
    """Bytes of these in memory."""
    layers: tuple[Layer, ...] = ()
    """Weights inside by the type of layer that reads them, the largest first."""
    outside_parameters: int = 0
    """Numbers in weights that the outputs do not need, such as slots of optimizers."""
    outside_bytes: int = 0
    """Bytes of these in memory."""
    operations: tuple[tuple[str, int], ...] = ()
    """Operation types with their counts, most frequent first, those in functions included."""
    num_nodes: int = 0
    """Operations in all."""
    num_function_nodes: int = 0
    """Operations of these that are in functions."""
    num_functions: int = 0
    """Functions."""
    variables: tuple[str, ...] = ()
    """Variables inside; a frozen graph has none."""
    leftovers: tuple[Leftover, ...] = ()
    """What training left, what matters first."""
    random_operations: tuple[str, ...] = ()
    """Random operations inside: they end the promise that a rerun gives the same bytes."""
    unknown_operations: tuple[UnknownOperation, ...] = ()
    """Operations that this TensorFlow does not have."""
    findings: tuple[Finding, ...] = ()
    """What it does inside beside computing."""
    num_findings_outside: int = 0
    """What else it would do if it were not pruned."""
    notes: tuple[str, ...] = ()
    """What stands in the way of scoring or may surprise, with what to do, a sentence each."""
    keras: KerasFile | None = None
    """A Keras file's own description; None for any other model."""
    loaded: LoadedGraph | None = None
    """What TensorFlow says; None where it was not asked."""

    @property
    def is_source(self) -> bool:
        """Whether it has to be frozen before it can be scored with."""
        return self.kind is not Kind.FROZEN_GRAPH
