import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.data.listing import list_inputs
from engine.errors import PlanError


def touch(root: Path, *names: str, data: bytes = b"PAR1") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def names(root: Path, *uris: str | Path) -> list[str]:
    """What is listed, below `root`."""
    return [os.path.relpath(file.path, root) for file in list_inputs([str(uri) for uri in uris or [root]])]


def test_a_folder_is_walked_and_sorted_by_path(tmp_path: Path) -> None:
    touch(tmp_path, "b.parquet", "a/z.parquet", "a/b/c.parquet", "a.parquet", "10.parquet", "9.parquet")
    listed = list_inputs([str(tmp_path)])
    assert [file.path for file in listed] == sorted(file.path for file in listed)
    assert len(listed) == 6
    assert {file.relative_path for file in listed} >= {"a/b/c.parquet", "b.parquet"}


def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/b.parquet", data=b"x" * 123)
    os.utime(tmp_path / "in/a/b.parquet", ns=(5, 1_234_567_890_123_456_789))
    (file,) = list_inputs([str(tmp_path / "in")])
    assert file.path == str(tmp_path / "in/a/b.parquet")
    assert file.relative_path == "a/b.parquet"
    assert file.size_bytes == 123
    assert file.mtime_ns == 1_234_567_890_123_456_789
    assert file.partition == ""


def test_folders_take_three_suffixes(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.parquet", "b.parq", "c.pq", "d.csv", "e.parquet.tmp", "f.parquet.crc", "README", "pq", "g.PARQUET"
    )
    assert names(tmp_path) == ["a.parquet", "b.parq", "c.pq"]


def test_a_file_that_is_named_may_be_called_anything(tmp_path: Path) -> None:
    touch(tmp_path, "a.bin", "_b.parquet", ".c")
    uris = [tmp_path / "a.bin", tmp_path / "_b.parquet", tmp_path / ".c"]
    assert sorted(names(tmp_path, *uris)) == [".c", "_b.parquet", "a.bin"]


def test_hidden_names_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet", "_b.parquet", ".c.parquet", "_temporary/0/d.parquet", ".e/f.parquet", "g/_h.parquet")
    assert names(tmp_path) == ["a.parquet"]
    assert names(tmp_path, tmp_path / "*") == ["a.parquet"]
    assert names(tmp_path, tmp_path / "*.parquet") == ["a.parquet"]
    assert names(tmp_path, tmp_path / "**" / "*.parquet") == ["a.parquet"]


def test_a_root_may_be_hidden_itself(tmp_path: Path) -> None:
    touch(tmp_path, "_in/a.parquet", ".cache/b.parquet")
    assert names(tmp_path, tmp_path / "_in", tmp_path / ".cache") == ["_in/a.parquet", ".cache/b.parquet"]
    assert names(tmp_path, tmp_path / "_in" / "*.parquet") == ["_in/a.parquet"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["a1.parquet", "a2.parquet", "b1.parquet"]),
        ("a?.parquet", ["a1.parquet", "a2.parquet"]),
        ("[ab]1.parquet", ["a1.parquet", "b1.parquet"]),
        ("*", ["a1.parquet", "a2.parquet", "b1.parquet", "sub/c.parquet"]),  # a folder that matches is walked
        ("s*", ["sub/c.parquet"]),
        ("*/c.parquet", ["sub/c.parquet"]),
        ("**/*.parquet", ["a1.parquet", "a2.parquet", "b1.parquet", "sub/c.parquet"]),
        ("**/*", ["a1.parquet", "a2.parquet", "b1.parquet", "sub/c.parquet"]),  # matches `sub` and what is in it
        ("**", ["a1.parquet", "a2.parquet", "b1.parquet", "sub/c.parquet"]),
    ],
)
def test_globs(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "a1.parquet", "a2.parquet", "b1.parquet", "sub/c.parquet")
    assert names(tmp_path, tmp_path / pattern) == expected


def test_a_glob_that_matches_folders_called_like_files(tmp_path: Path) -> None:
    touch(tmp_path, "table.parquet/part-0.parquet", "table.parquet/part-1.parquet")  # as Spark and Dask write them
    expected = ["table.parquet/part-0.parquet", "table.parquet/part-1.parquet"]
    assert names(tmp_path, tmp_path / "*.parquet") == expected
    assert names(tmp_path, tmp_path / "**" / "*.parquet") == expected


def test_paths_below_the_fixed_part_of_a_glob(tmp_path: Path) -> None:
    touch(tmp_path, "in/x1/a.parquet", "in/x2/a.parquet")
    assert [file.relative_path for file in list_inputs([f"{tmp_path}/in/x*/*.parquet"])] == [
        "x1/a.parquet",
        "x2/a.parquet",
    ]


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.parquet")
    monkeypatch.chdir(tmp_path)
    for uri in ("in", "./in/", "in/*.parquet", "in/../in/a.parquet"):
        assert [file.path for file in list_inputs([uri])] == [str(tmp_path / "in/a.parquet")]


@pytest.mark.parametrize(
    "name",
    ["with space", "[brackets]", "[1-2]", "question?", "st*r", "ünïcödé-日本", "quote'\"s", "percent%20", "a#b", "a:b"],
)
def test_odd_names_are_names_not_patterns(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"{name}/{name}.parquet", "other/1.parquet")
    assert names(tmp_path, tmp_path / name) == [f"{name}/{name}.parquet"]
    assert names(tmp_path, tmp_path / name / f"{name}.parquet") == [f"{name}/{name}.parquet"]


def test_a_delta_table_in_a_folder_with_brackets(tmp_path: Path) -> None:
    touch(tmp_path, "[1]/metadata/v1.metadata.json", "[1]/a.parquet")
    with pytest.raises(PlanError, match="Iceberg"):
        list_inputs([str(tmp_path / "[1]")])


@pytest.mark.parametrize(
    "uris",
    [
        ("in", "in/a.parquet"),
        ("in/a.parquet", "in/a.parquet"),
        ("in", "in/../in"),
        ("in/*.parquet", "in/a.parquet"),
        ("in", "link.parquet"),
        ("in", "linked"),
        ("in/a.parquet", "linked/a.parquet"),
        ("with-link",),
    ],
)
def test_the_same_file_twice_is_a_mistake(tmp_path: Path, uris: Sequence[str]) -> None:
    touch(tmp_path, "in/a.parquet", "with-link/a.parquet")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "in/a.parquet")
    (tmp_path / "linked").symlink_to(tmp_path / "in")
    (tmp_path / "with-link/b.parquet").symlink_to("a.parquet")
    with pytest.raises(PlanError, match=r"is the same file as .*name it once"):
        list_inputs([str(tmp_path / uri) for uri in uris])


def test_files_of_one_name_in_two_roots(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.parquet", "y/a.parquet")
    assert names(tmp_path, tmp_path / "y", tmp_path / "x") == ["x/a.parquet", "y/a.parquet"]


def test_a_symlink_to_a_file_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "store/a.parquet", data=b"12345")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.parquet").symlink_to(tmp_path / "store/a.parquet")
    (file,) = list_inputs([str(tmp_path / "in")])
    assert (file.relative_path, file.size_bytes) == ("b.parquet", 5)


def test_a_broken_symlink_is_a_mistake_not_a_gap(tmp_path: Path) -> None:
    touch(tmp_path, "a.parquet")
    (tmp_path / "b.parquet").symlink_to(tmp_path / "gone.parquet")
    with pytest.raises(PlanError, match=r"b\.parquet: No such file"):
        list_inputs([str(tmp_path)])


def test_a_linked_folder_is_no_gap(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.parquet", "store/b.parquet")
    (tmp_path / "in/linked").symlink_to(tmp_path / "store")
    assert names(tmp_path, tmp_path / "in") == ["in/a.parquet", "in/linked/b.parquet"]


def test_a_folder_that_cannot_be_read_is_a_mistake_not_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "in/a.parquet")
    monkeypatch.chdir(tmp_path / "in")
    for _ in range(20):  # a path longer than the system takes cannot be listed, not even by root
        os.mkdir("x" * 250)
        os.chdir("x" * 250)
    Path("b.parquet").write_bytes(b"PAR1")
    monkeypatch.undo()
    try:
        with pytest.raises(PlanError, match="name too long"):
            list_inputs([str(tmp_path / "in")])
    finally:
        shutil.rmtree(tmp_path / "in")


@pytest.mark.parametrize(
    ("marker", "table_format"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/v1.metadata.json", "Iceberg"),
        ("metadata/00001-9c2f.metadata.json", "Iceberg"),
    ],
)
@pytest.mark.parametrize("place", [".", "sub/table"])
def test_tables_of_other_formats_are_refused(tmp_path: Path, marker: str, table_format: str, place: str) -> None:
    touch(tmp_path, f"in/{place}/{marker}", f"in/{place}/data/a.parquet", "in/b.parquet")
    for uri in ("in", "i*"):
        with pytest.raises(PlanError, match=rf"is a {table_format} table.*export a snapshot"):
            list_inputs([str(tmp_path / uri)])


def test_a_folder_called_metadata_is_no_table(tmp_path: Path) -> None:
    touch(tmp_path, "metadata/a.parquet", "metadata/readme.json")
    assert names(tmp_path) == ["metadata/a.parquet"]


@pytest.mark.parametrize(
    ("uri", "name", "partition"),
    [
        ("in", "in/dt=2026-01-01/a.parquet", "dt=2026-01-01"),
        ("in", "in/dt=2026-01-01/country=de/a.parquet", "dt=2026-01-01/country=de"),
        ("in", "in/year/dt=1/x/c=2/a.parquet", "dt=1/c=2"),  # plain folders on the way are left out
        ("in", "in/a=b.parquet", ""),  # a file, no folder
        ("in/dt=1", "in/dt=1/a.parquet", ""),  # the root itself is no partition
        ("in/dt=1/a.parquet", "in/dt=1/a.parquet", ""),
        ("in/dt=*", "in/dt=1/a.parquet", "dt=1"),
        ("in/*/*.parquet", "in/dt=1/a.parquet", "dt=1"),
        ("in/dt=1/*.parquet", "in/dt=1/a.parquet", ""),
        ("in", "in/dt=a%20b=c/x y.parquet", "dt=a%20b=c"),
    ],
)
def test_partitions(tmp_path: Path, uri: str, name: str, partition: str) -> None:
    touch(tmp_path, name)
    (file,) = list_inputs([str(tmp_path / uri)])
    assert file.partition == partition


@pytest.mark.parametrize("uri", ["empty", "csv", "csv/*.parquet", "none*", "hidden", "hidden/*"])
def test_nothing_found_is_a_mistake(tmp_path: Path, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "csv/a.csv", "hidden/_a.parquet", "good/a.parquet")
    with pytest.raises(PlanError, match=r"no input files; expected \*\.parquet, \*\.parq, \*\.pq") as caught:
        list_inputs([str(tmp_path / "good"), str(tmp_path / uri)])
    assert f"--input {tmp_path / uri}:" in str(caught.value)


def test_no_such_path(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"--input .*/none\.parquet: no such file or folder"):
        list_inputs([str(tmp_path / "none.parquet")])
