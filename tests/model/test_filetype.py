from pathlib import Path

import pytest

from engine.model.filetype import explain_file

EXPECTED = "expected a frozen graph (.pb), found "
SAVED_MODEL = b"\x08\x01\x12\xd7\x17\n\xa6\x01\x12\x7d"  # schema version 1, then a meta graph


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("m.pb", b"", "an empty file, or one that cannot be read"),
        ("m.pb", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer"),
        ("m.pb", b"<!DOCTYPE html><html>404</html>", "an HTML page; the download went wrong"),
        ("m.pb", b"\n  <html><body>", "an HTML page"),
        ("m.pb", b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an HTML page"),
        ("m.pb", b'node {\n  name: "x"\n}', "a graph as text (.pbtxt); convert it to the binary form first"),
        ("m.pb", b"node{name:'x'}", "a graph as text"),
        ("m.pbtxt", b"versions { producer: 22 }", "a graph as text"),
        ("m.keras", b"PK\x03\x04\x14\x00", "a Keras model; freeze it to a .pb first"),
        ("m.h5", b"\x89HDF\r\n\x1a\n\x00", "a Keras model; freeze it to a .pb first"),
        ("m.index", b"\x00\x00\x01", "a part of a checkpoint; freeze it to a .pb first"),
        ("m.meta", b"\n\x8f\x02", "a part of a checkpoint"),
        ("m.data-00000-of-00001", b"\x00\x01", "a part of a checkpoint"),
        ("m.ckpt", b"\x00\x01", "a part of a checkpoint"),
        ("saved_model.pb", SAVED_MODEL, "a SavedModel; freeze it to a .pb first"),
        ("renamed.pb", SAVED_MODEL, "a SavedModel; freeze it to a .pb first"),
        ("m.pb", b"\x00\x01\x02 what is this", "something else, or a graph that was cut short"),
    ],
)
def test_each_kind_of_wrong_file_is_called_by_its_name(tmp_path: Path, name: str, data: bytes, kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    assert explain_file(str(path), data).startswith(EXPECTED + kind)


@pytest.mark.parametrize("inside", ["saved_model.pb", "saved_model.pbtxt"])
def test_a_saved_model_folder(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).write_bytes(SAVED_MODEL)
    assert explain_file(str(tmp_path), b"") == EXPECTED + "a SavedModel folder; freeze it to a .pb first"


def test_another_folder(tmp_path: Path) -> None:
    assert explain_file(str(tmp_path), b"") == EXPECTED + "a folder, not a file"


def test_the_prefix_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.index").write_bytes(b"\x00")
    assert explain_file(str(tmp_path / "model"), b"") == (
        EXPECTED + "the prefix of a checkpoint; freeze it to a .pb first"
    )


def test_a_missing_file_shows_what_is_beside_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "modle.pb")
    assert explain_file(missing, b"") == "no such file"
    for name in ("c.pb", "a.pb", "b.pb", "d.pb", "e.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert explain_file(missing, b"") == "no such file; in that folder there is a.pb, b.pb, c.pb"


def test_a_missing_folder(tmp_path: Path) -> None:
    assert explain_file(str(tmp_path / "nowhere" / "m.pb"), b"") == "no such file"
