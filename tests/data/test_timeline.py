from pathlib import Path

import pytest

from engine.data import timeline
from engine.data.storage.local_folder import LocalFolder
from engine.data.timeline import ATTEMPT, OK, TIMELINE, Span, read_timeline, read_timeline_table, write_timeline


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    folder = LocalFolder(str(tmp_path / "out"))
    folder.make()
    return folder


def spans(count: int) -> list[Span]:
    return [
        Span("plan", 1.5, ATTEMPT, 0.5, float(i), OK, i % 3, f"node-{i % 3}", i, 1, message="") for i in range(count)
    ]


def test_a_timeline_is_read_as_it_was_written(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "ROWS_AT_ONCE", 7)
    write_timeline(folder, spans(20))
    assert read_timeline(folder) == spans(20)
    write_timeline(folder, spans(3), read_timeline_table(folder))
    assert read_timeline(folder) == spans(20) + spans(3)


def test_equal_texts_are_held_once(folder: LocalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million spans would hold five million texts otherwise, half a gigabyte."""
    monkeypatch.setattr(timeline, "ROWS_AT_ONCE", 7)
    write_timeline(folder, spans(20))
    found = read_timeline(folder)
    for name, count in (("plan_id", 1), ("kind", 1), ("outcome", 1), ("node", 3)):
        assert len({id(getattr(span, name)) for span in found}) == count


@pytest.mark.parametrize("data", [b"", b"no parquet", None])
def test_what_is_no_timeline_holds_no_spans(folder: LocalFolder, data: bytes | None) -> None:
    if data is not None:
        folder.write(TIMELINE, data)
    assert read_timeline(folder) == []
    assert read_timeline_table(folder) is None
