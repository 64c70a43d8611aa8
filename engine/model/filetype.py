"""Tells from its path and bytes what a model is, and what was given instead of one.

Looks at the path, its folder and the ends of the file, and parses nothing. Start at `locate_model`; where a graph
turns out not to parse, `explain_bytes` says why.
"""

import os
import re
import struct
import zipfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine.errors import GraphError, system_text

MAX_GRAPH_BYTES = 2**31 - 1
HEAD_BYTES = 4096
# The last 8 bytes of a table file, which a checkpoint's .index and every V1 checkpoint are.
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
CHECKPOINT_ENDINGS = re.compile(r"(\.index|\.meta|\.data-\d{5}-of-\d{5}|-\d{5}-of-\d{5})$")
FREEZE = "icefloe freeze makes a frozen graph of it"


class ModelKind(StrEnum):
    """What a model can be kept as."""

    GRAPH = "graph"
    TEXT = "graph as text (.pbtxt)"
    META_GRAPH = "MetaGraph (.meta)"
    SAVED_MODEL = "SavedModel"
    CHECKPOINT = "checkpoint"
    KERAS = "Keras model"


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A model as it was found."""

    kind: ModelKind
    """What it is kept as."""
    path: str
    """The file; the prefix of a checkpoint; the `saved_model.pb` or `.pbtxt` of a SavedModel."""
    given: str
    """The path as the caller gave it, for messages."""

    @property
    def is_source(self) -> bool:
        """Whether it has to be frozen before it can be scored with."""
        return self.kind in (ModelKind.SAVED_MODEL, ModelKind.CHECKPOINT, ModelKind.KERAS)


def locate_model(path: str) -> ModelPath:
    """Find out what the model at `path` is; what is binary and unknown counts as a graph, which is then parsed.

    Raises:
        GraphError: if there is nothing, or something that is no model, saying what it is.
    """
    place = Path(path)
    if place.is_dir():
        return _locate_in_folder(place)
    if place.name == "checkpoint" and place.is_file():  # the file that names a folder's latest one
        return _locate_in_folder(place.parent)
    prefix = find_prefix(path)
    if prefix is not None and (not place.exists() or prefix != path):
        return ModelPath(ModelKind.CHECKPOINT, prefix, path)
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - len(TABLE_MAGIC)))
            tail = file.read()
    except FileNotFoundError as error:
        if Path(path + ".meta").is_file():
            raise GraphError(
                f"{path}: the graph of a checkpoint ({place.name}.meta) without its values; copy {place.name}.index "
                f"and {place.name}.data-00000-of-..., or the file {place.name}, beside it"
            ) from error
        beside = sorted(each.name for each in place.parent.glob("*.pb"))[:3] if place.parent.is_dir() else []
        hint = f"; in that folder there is {', '.join(beside)}" if beside else ""
        raise GraphError(f"{path}: no such file{hint}") from error
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({system_text(error)})") from error
    if prefix is not None and (tail == TABLE_MAGIC or not place.suffix.startswith(".pb")):  # V1 in one file
        return ModelPath(ModelKind.CHECKPOINT, prefix, path)
    return _recognise(path, head, tail)


def _locate_in_folder(folder: Path) -> ModelPath:
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        if (folder / name).exists():
            return ModelPath(ModelKind.SAVED_MODEL, str(folder / name), str(folder))
    if (folder / "checkpoint").is_file():
        text = (folder / "checkpoint").read_text("utf-8", "replace")
        latest = re.search(r'^model_checkpoint_path:\s*"(.*)"', text, re.M)
        # The path is often that of the machine it was trained on: its last part lies beside the file.
        name = "" if latest is None else re.sub(r"-\?{5}-of-\d{5}$", "", Path(latest[1].replace("\\", "/")).name)
        prefix = find_prefix(str(folder / name)) if name else None
        if prefix is not None:
            return ModelPath(ModelKind.CHECKPOINT, prefix, str(folder))
        named = "no checkpoint" if latest is None else f"{latest[1]}, which is not there"
        raise GraphError(f"{folder}: its file 'checkpoint' names {named}; name the prefix of one that is")
    prefixes = sorted({prefix for file in folder.glob("*.meta") if (prefix := find_prefix(str(file)))})
    if len(prefixes) == 1:
        return ModelPath(ModelKind.CHECKPOINT, prefixes[0], str(folder))
    if prefixes:
        shown = ", ".join(Path(prefix).name for prefix in prefixes[:8])
        raise GraphError(f"{folder}: this folder holds several checkpoints ({shown}); name one by its prefix")
    below = sorted(each.parent.name for each in folder.glob("*/saved_model.pb*"))
    inside = sorted(each.name for each in [*folder.glob("*.pb"), *folder.glob("*.keras"), *folder.glob("*.h5")])
    hint = f"; in it there is {', '.join((below or inside)[:8])}" if below or inside else ""
    raise GraphError(f"{folder}: a folder that is neither a SavedModel nor holds a checkpoint{hint}")


def find_prefix(path: str) -> str | None:
    """Return the prefix of the checkpoint that `path` belongs to: the prefix itself or any of its files."""
    for prefix in (path, CHECKPOINT_ENDINGS.sub("", path)):
        if Path(prefix + ".index").is_file() or (Path(prefix + ".meta").is_file() and checkpoint_files(prefix)):
            return prefix
    return None


def checkpoint_files(prefix: str) -> list[str]:
    """Return the files that hold a checkpoint's values: V2 (index and data), V1 sharded, or V1 in one file."""
    place = Path(prefix)
    if Path(prefix + ".index").is_file():
        return [prefix + ".index", *_shards(place, ".data-")]
    return _shards(place, "-") or ([prefix] if place.is_file() else [])


def _shards(prefix: Path, sign: str) -> list[str]:
    pattern = re.compile(re.escape(prefix.name + sign) + r"\d{5}-of-\d{5}$")
    if not prefix.parent.is_dir():
        return []
    return sorted(str(file) for file in prefix.parent.iterdir() if pattern.fullmatch(file.name))


# Fields that a message begins with in the text form.
TEXT_FIELDS = {
    **dict.fromkeys(("node", "versions", "version", "library"), ModelKind.TEXT),
    **dict.fromkeys(("meta_info_def", "graph_def", "saver_def", "collection_def"), ModelKind.META_GRAPH),
    **dict.fromkeys(("saved_model_schema_version", "meta_graphs"), ModelKind.SAVED_MODEL),
}


def text_field(head: bytes) -> str:
    """Return the field that a model in the text form begins with; empty where `head` begins no such text."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while start.startswith(b"#"):
        start = start.partition(b"\n")[2].lstrip()
    found = re.match(rb"([a-z_]+)\s*[:{<]", start)
    name = found[1].decode() if found else ""
    return name if name in TEXT_FIELDS else ""


def _recognise(path: str, head: bytes, tail: bytes) -> ModelPath:
    name = Path(path).name
    kind = TEXT_FIELDS.get(text_field(head))
    if kind is not None:
        return ModelPath(kind, path, path)
    if head[:3] in (b"\x08\x01\x12", b"\x08\x01\x1a") and _is_saved_model(head):
        return ModelPath(ModelKind.SAVED_MODEL, path, path)
    if _is_keras(path, head):
        return ModelPath(ModelKind.KERAS, path, path)
    foreign = _foreign_kind(head, tail, name)
    if foreign:
        raise GraphError(f"{path}: expected a model, found {foreign}")
    return ModelPath(ModelKind.META_GRAPH if name.endswith(".meta") else ModelKind.GRAPH, path, path)


def _is_saved_model(head: bytes) -> bool:
    """Field 1 is the schema version, field 2 a MetaGraph, whose field 1 or 2 is a message; ONNX has text there."""
    position = 3
    while position < len(head) and head[position] & 0x80:  # the length, 7 bits a byte
        position += 1
    return head[position + 1 : position + 2] in (b"\x0a", b"\x12")


def _is_keras(path: str, head: bytes) -> bool:
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return True
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, struct.error):
        return False


def _foreign_kind(head: bytes, tail: bytes, name: str) -> str:
    """Say what a file is that is no model of TensorFlow's, or a part of one; empty if nothing is known of it."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_data = re.search(r"\.data-\d{5}-of-\d{5}$", name) or name.endswith((".index", ".ckpt"))
    signs = (
        (not head, "an empty file"),
        (tail == TABLE_MAGIC, "a part of a checkpoint whose graph, PREFIX.meta, is not beside it"),
        (is_data, "a part of a checkpoint without the rest of it, PREFIX.index and PREFIX.meta"),
        (head[4:8] == b"TFL3", "a TensorFlow Lite model; give the SavedModel or checkpoint that it was made of"),
        (b"ustar" in head[257:265], "a tar archive; unpack it first"),
        (head[:1] == b"\x08" and re.search(rb"pytorch|onnx", head[:256]), "an ONNX model; give what it was made of"),
        *((start[: len(magic)].lower() == magic.lower(), kind) for magic, kind in MAGICS),
        # A binary graph has control characters within its first few bytes.
        (not re.search(rb"[\x00-\x08\x0e-\x1f]", head), "a text file that is no model"),
    )
    return next((kind for is_it, kind in signs if is_it), "")


PICKLE = "a Python pickle (PyTorch, scikit-learn?), which is never read"
PAGE = "an HTML or XML page; the download went wrong"
MAGICS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself (git lfs pull)"),
    *((each, PAGE) for each in (b"<!doctype", b"<html", b"<?xml")),
    (b"PK\x03\x04", "a zip archive that is no Keras model, or one that was cut short"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    *((each, PICKLE) for each in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")),
    (b"PAR1", "a Parquet file; is it the input?"),
    (b"{", "JSON (a Keras config, or TensorFlow.js?), which holds no weights"),
)


def explain_bytes(data: bytes) -> str:
    """Say what is wrong with bytes that do not parse as a GraphDef: cut short, or no graph at all."""
    fields, position = 0, 0
    while position < len(data):
        tag, at = _varint(data, position)
        if tag is None or tag >> 3 == 0 or tag & 7 not in (0, 1, 2, 5):
            break
        size: int | None = {1: 8, 5: 4}.get(tag & 7, 0)
        if tag & 7 in (0, 2):
            size, at = _varint(data, at)
        if size is None:
            break
        stop = at + (0 if tag & 7 == 0 else size)
        if stop > len(data):
            looks_right = fields > 0 or data[:1] == b"\x0a"
            missing = f"its last field wants {stop - len(data):,} bytes more"
            return f"a graph that was cut short ({missing}); copy or download it again" if looks_right else OTHER
        fields, position = fields + 1, stop
    if position == len(data):
        return "a protobuf message that is no graph of TensorFlow's, or a damaged one; copy or download it again"
    return OTHER if fields == 0 else "a graph that is damaged or was cut short; copy or download it again"


OTHER = "something that is no model: neither a graph, a SavedModel, a checkpoint nor a Keras file"


def _varint(data: bytes, position: int) -> tuple[int | None, int]:
    """Return the number at `position`, 7 bits a byte, and the position behind it; None where it is cut off."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(data):
            return None, position
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if not byte & 0x80:
            return value, position
    return None, position
