"""Tells from its path and bytes what a file is that was given as a frozen graph and is none.

Pure but for a look at the path itself. Start at `explain_file`.
"""

from pathlib import Path

FREEZE = "freeze it to a .pb first"


def explain_file(path: str, data: bytes) -> str:
    """Say what the file at `path` is, holding `data` (empty if it could not be read), and what to give instead."""
    place = Path(path)
    if place.is_dir():
        is_saved_model = (place / "saved_model.pb").exists() or (place / "saved_model.pbtxt").exists()
        kind = f"a SavedModel folder; {FREEZE}" if is_saved_model else "a folder, not a file"
        return f"expected a frozen graph (.pb), found {kind}"
    if not place.exists():
        if Path(path + ".index").exists():
            return f"expected a frozen graph (.pb), found the prefix of a checkpoint; {FREEZE}"
        beside = sorted(file.name for file in place.parent.glob("*.pb"))[:3] if place.parent.is_dir() else []
        return "no such file" + (f"; in that folder there is {', '.join(beside)}" if beside else "")
    return f"expected a frozen graph (.pb), found {_kind(path, data)}"


def _kind(path: str, data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if not data:
        return "an empty file, or one that cannot be read"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the file itself (git lfs pull)"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML page; the download went wrong"
    if head.startswith((b"node {", b"node{")) or path.endswith(".pbtxt"):
        return "a graph as text (.pbtxt); convert it to the binary form first"
    if data[:4] == b"PK\x03\x04" or data[:8] == b"\x89HDF\r\n\x1a\n":
        return f"a Keras model; {FREEZE}"
    if path.endswith((".index", ".meta")) or ".data-" in path or path.endswith(".ckpt"):
        return f"a part of a checkpoint; {FREEZE}"
    if data[:1] == b"\x08":  # field 1 as a number: the schema version; a GraphDef begins with a message
        return f"a SavedModel; {FREEZE}"
    return "something else, or a graph that was cut short"
