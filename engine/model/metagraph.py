"""Reads what a model has to be frozen from: graph, ports, variables and initialisers, without TensorFlow.

A checkpoint's `.meta` and a SavedModel hold the same message, a MetaGraphDef. Start at `read_meta_graph`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.meta_graph_pb2 import AssetFileDef

from engine.errors import GraphError
from engine.model.filetype import ModelKind, ModelPath, checkpoint_files
from engine.model.graphdef import read_graph
from engine.model.protos import MetaGraphDef, parse_message, read_bytes, saved_model_class

SERVE = "serve"
DEFAULT_SIGNATURE = "serving_default"
INIT_SIGNATURE = "__saved_model_init_op"
MAIN_OPS = ("saved_model_main_op", "legacy_init_op", "serving_init_op", "table_initializer")
ASSETS = "saved_model_assets"


@dataclass(frozen=True, slots=True)
class Signature:
    """Ports of a graph under names that people chose."""

    name: str
    """Name of the signature; empty where the graph has none."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """TensorInfo by name."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """TensorInfo by name."""


@dataclass(frozen=True, slots=True)
class MetaGraph:
    """A graph with variables, and where their values lie."""

    given: str
    """Path that the caller gave, for messages."""
    kind: ModelKind
    """What it was read from."""
    meta: Any
    """MetaGraphDef of `tensorboard.compat.proto`."""
    prefix: str
    """Prefix of the checkpoint that holds the variables; empty where there is none."""
    assets: str = ""
    """Folder of the files that its tables are read from; empty where there are none."""
    session: Any = None
    """The live session that holds its variables and tables; None where files do."""

    @property
    def graph_def(self) -> Any:
        """The graph, variables and training included."""
        return self.meta.graph_def

    def signature(self, name: str | None) -> Signature:
        """Return the signature `name`; without a name the default one, or the only one that has outputs.

        Raises:
            GraphError: if there is none of that name, or one has to be chosen.
        """
        known = {key: each for key, each in self.meta.signature_def.items() if each.outputs and key != INIT_SIGNATURE}
        chosen = name or (DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in known else next(iter(known), ""))
        names = ", ".join(sorted(known)) or "none"
        if name is not None and name not in known:
            raise GraphError(f"{self.given}: no signature {name}; its signatures are {names} (--signature)")
        if name is None and len(known) > 1 and DEFAULT_SIGNATURE not in known:
            raise GraphError(f"{self.given}: choose one of its signatures with --signature: {names}")
        found = known.get(chosen)
        return Signature("") if found is None else Signature(chosen, dict(found.inputs), dict(found.outputs))

    @property
    def restore_op(self) -> str:
        """The operation that fills the variables; empty where there is none."""
        return str(self.meta.saver_def.restore_op_name) if self.prefix else ""

    @property
    def init_ops(self) -> tuple[str, ...]:
        """Operations that the source wants to be run after restoring, which fill its lookup tables."""
        if INIT_SIGNATURE in self.meta.signature_def:
            outputs = self.meta.signature_def[INIT_SIGNATURE].outputs
            return tuple(str(info.name) for info in outputs.values())
        collections = self.meta.collection_def
        found = [collections[name].node_list.value for name in MAIN_OPS if name in collections]
        return next((tuple(map(str, names)) for names in found if names), ())

    @property
    def asset_files(self) -> dict[str, str]:
        """Path of each asset file, by the tensor that takes it."""
        assets = list(self.meta.asset_file_def)
        if not assets and ASSETS in self.meta.collection_def:  # as TensorFlow 1 noted them
            kept = self.meta.collection_def[ASSETS].any_list.value
            assets = [parse_message(AssetFileDef(), self.given, each.value) for each in kept]
        return {str(each.tensor_info.name): str(Path(self.assets) / Path(each.filename).name) for each in assets}


def read_meta_graph(model: ModelPath) -> MetaGraph:
    """Read the graph of a checkpoint or a SavedModel, or a graph that has no variables to restore.

    Raises:
        GraphError: if a part of it is missing or is something else.
    """
    if model.kind is ModelKind.SAVED_MODEL:
        return _read_saved_model(model)
    if model.kind in (ModelKind.GRAPH, ModelKind.TEXT):
        graph = read_graph(model.given)
        return MetaGraph(model.given, model.kind, MetaGraphDef(graph_def=graph.graph_def), "")
    return _read_checkpoint(model)


def _read_saved_model(model: ModelPath) -> MetaGraph:
    message = parse_message(saved_model_class()(), model.given, read_bytes(model.path))
    if not message.meta_graphs:
        raise GraphError(f"{model.given}: a SavedModel without any graph in it, or one that was cut short")
    served = [each for each in message.meta_graphs if SERVE in each.meta_info_def.tags]
    if not served and len(message.meta_graphs) > 1:
        tags = "; ".join(",".join(each.meta_info_def.tags) or "none" for each in message.meta_graphs)
        raise GraphError(f"{model.given}: none of its graphs has the tag '{SERVE}'; their tags are {tags}")
    # Beside the graph for CPUs there may be others for one kind of device, with one tag more.
    chosen = min(served or message.meta_graphs, key=lambda each: len(each.meta_info_def.tags))
    folder = Path(model.path).parent
    values = checkpoint_files(str(folder / "variables" / "variables"))
    prefix = str(folder / "variables" / "variables") if values else ""
    return MetaGraph(model.given, model.kind, chosen, prefix, str(folder / "assets"))


def _read_checkpoint(model: ModelPath) -> MetaGraph:
    path = model.path if model.kind is ModelKind.META_GRAPH else model.path + ".meta"
    if not Path(path).is_file():
        raise GraphError(
            f"{model.given}: this checkpoint holds values but no graph: {path} is missing; copy it beside the others, "
            "or export a SavedModel where the model is built (a tf.train.Checkpoint of TensorFlow 2 never has one)"
        )
    meta = parse_message(MetaGraphDef(), path, read_bytes(path))
    if not meta.graph_def.node:
        raise GraphError(f"{path}: a MetaGraph without a graph, or one that was cut short; copy it again")
    return MetaGraph(model.given, model.kind, meta, "" if model.kind is ModelKind.META_GRAPH else model.path)
