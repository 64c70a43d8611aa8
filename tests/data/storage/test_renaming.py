"""What is done where a file can be renamed to its place, as on HDFS: tried on local files, reached by fsspec."""

import os
from pathlib import Path

import pytest

from engine.data.storage.folder import TEMPORARY_PREFIX
from engine.data.storage.remote_folder import RemoteFolder
from engine.errors import JobFailedError

NAME = "dt=1/part-00000-of-00001.parquet"


@pytest.fixture
def folder(tmp_path: Path) -> RemoteFolder:
    folder = RemoteFolder(f"local://{tmp_path}/out")
    folder.can_rename = True
    folder.make()
    return folder


def files_in(folder: RemoteFolder) -> list[str]:
    return sorted(name for name, _ in folder.files())


def test_a_file_lies_beside_its_place_until_it_is_renamed(folder: RemoteFolder, tmp_path: Path) -> None:
    seen: list[str] = []
    draft = folder.draft(NAME)
    draft.file.write(b"rows")
    part = draft.publish(lambda: seen.extend(files_in(folder)), lambda: True)
    draft.drop()
    (temporary,) = seen
    assert temporary.startswith(f"dt=1/{TEMPORARY_PREFIX}part-00000")
    assert (tmp_path / "out" / NAME).read_bytes() == b"rows"
    assert (files_in(folder), part.num_bytes) == ([NAME], 4)


def test_a_plan_that_was_replaced_leaves_nothing(folder: RemoteFolder) -> None:
    def refuse() -> None:
        raise JobFailedError("another job's now")

    draft = folder.draft(NAME)
    draft.file.write(b"rows")
    with pytest.raises(JobFailedError, match="another job"):
        draft.publish(refuse, lambda: True)
    draft.drop()
    assert files_in(folder) == []


@pytest.mark.parametrize(("is_twin", "expected"), [(True, b"earlier"), (False, b"rows")])
def test_a_twin_stays_and_what_a_discarded_job_left_goes(
    folder: RemoteFolder, tmp_path: Path, is_twin: bool, expected: bytes
) -> None:
    folder.write(NAME, b"earlier")
    draft = folder.draft(NAME)
    draft.file.write(b"rows")
    part = draft.publish(lambda: None, lambda: is_twin)
    draft.drop()
    assert (tmp_path / "out" / NAME).read_bytes() == expected
    assert (files_in(folder), part) == ([NAME], folder.hash(NAME))


def test_what_was_not_published_leaves_nothing(folder: RemoteFolder, tmp_path: Path) -> None:
    draft = folder.draft(NAME)
    draft.file.write(b"rows")
    draft.drop()
    assert files_in(folder) == []
    assert os.listdir(tmp_path / "out") == []
