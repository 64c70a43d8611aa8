"""The ports of a frozen graph, kept beside it: `model.json` next to `model.pb`.

`icefloe freeze` writes it; `score` and `describe` take their defaults from it where it belongs to the graph's very
bytes. Start at `sidecar_bytes` and `read_sidecar`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import GraphError
from engine.model.tensor import TensorSpec

FORMAT = "icefloe ports 1"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where rows go into a frozen graph, where predictions come out, and what to run first."""

    inputs: tuple[TensorSpec, ...]
    """Tensors that need a value."""
    outputs: tuple[TensorSpec, ...]
    """Tensors that it was frozen to."""
    init_ops: tuple[str, ...] = ()
    """Operations to run once after loading."""

    def spec(self, tensor: str) -> TensorSpec | None:
        """Return what is known of one of the ports; None for any other tensor."""
        return next((each for each in (*self.inputs, *self.outputs) if each.name == tensor), None)


def sidecar_path(model: str) -> Path:
    """Return where the ports of the frozen graph at `model` are kept."""
    return Path(model).with_suffix(".json")


def read_sidecar(model: str, data: bytes) -> tuple[Ports | None, str]:
    """Return the ports kept beside the graph at `model`, and why they are not used, if they are not.

    Args:
        model: path of the graph.
        data: its bytes, whose hash has to be the one kept with the ports.
    """
    path = sidecar_path(model)
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            return None, ""  # somebody else's file
        if document["sha256"] != hashlib.sha256(data).hexdigest():
            return None, f"{path.name} was written for another graph (its sha-256 differs) and is not used"
        specs = [tuple(map(_spec, document[name])) for name in ("inputs", "outputs")]
        return Ports(specs[0], specs[1], tuple(map(str, document["init_ops"]))), ""
    except OSError:
        return None, ""
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return None, f"{path.name} is damaged ({type(error).__name__}: {error}) and is not used"


def _spec(item: Any) -> TensorSpec:
    shape = item["shape"]
    return TensorSpec(str(item["name"]), item["dtype"], None if shape is None else tuple(shape))


def sidecar_bytes(data: bytes, ports: Ports, remarks: dict[str, Any]) -> bytes:
    """Return what is kept beside the frozen graph `data`; `remarks` are kept with it, as JSON takes them."""
    document = {"format": FORMAT, "sha256": hashlib.sha256(data).hexdigest(), **asdict(ports), **remarks}
    return json.dumps(document, indent=1).encode()


def check_place(destination: str) -> None:
    """Check that a frozen graph can be written to `destination`, and its ports beside it.

    Raises:
        GraphError: if that is a folder, or if a file that is not ours would be lost.
    """
    if Path(destination).is_dir():
        raise GraphError(f"{destination} is a folder; name the file to write, {destination.rstrip('/')}/model.pb")
    path = sidecar_path(destination)
    if path == Path(destination):
        raise GraphError(f"{destination}: the graph and its ports ({path.name}) need two names; name the graph .pb")
    if path.exists() and not _is_ours(path):
        raise GraphError(f"{path} is there and is no file of ours; name another DEST.pb, whose ports go beside it")


def _is_ours(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT
