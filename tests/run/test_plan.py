import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.pieces import InputFile
from engine.run.plan import (
    MAX_SHARD_BYTES,
    MIB,
    MIN_SHARD_BYTES,
    Shard,
    explain_changes,
    inputs_digest,
    limit_rows,
    part_name,
    plan_id,
    plan_shards,
    resolve_batch_rows,
    resolve_shard_bytes,
)

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def file_of(name: str, size: int = 100, root: str = "/in", mtime_ns: int = 1) -> InputFile:
    partition = "/".join(part for part in name.split("/")[:-1] if "=" in part)
    return InputFile(f"{root}/{name}", name, size, mtime_ns, partition)


@st.composite
def listings(draw: st.DrawFn) -> list[InputFile]:
    files = []
    for number, size in enumerate(draw(st.lists(st.one_of(st.integers(0, 30), st.integers(0, 400)), max_size=20))):
        folder = draw(st.sampled_from(["", "dt=1/", "dt=1/c=2/", "dt=2/", "plain/"]))
        files.append(file_of(f"{folder}{number:02d}.parquet", size, mtime_ns=draw(st.integers(0, 3))))
    return sorted(files, key=lambda file: file.path)


@QUICK
@given(listings(), st.integers(1, 100))
def test_each_byte_of_each_file_is_in_one_piece_in_order(files: list[InputFile], shard_bytes: int) -> None:
    shards = list(plan_shards(files, shard_bytes))
    assert [shard.shard_id for shard in shards] == list(range(len(shards)))
    pieces = [piece for shard in shards for piece in shard.pieces]
    for file in files:
        mine = [pieces.pop(0)]
        while mine[-1].stop_byte < file.size_bytes:
            mine.append(pieces.pop(0))
        assert [piece.start_byte for piece in mine] == [0, *(piece.stop_byte for piece in mine[:-1])]
        assert mine[-1].stop_byte == file.size_bytes
        for piece in mine:
            assert (piece.path, piece.size_bytes, piece.mtime_ns) == (file.path, file.size_bytes, file.mtime_ns)
            assert piece.stop_row is None
            assert piece.start_byte < piece.stop_byte or not file.size_bytes
    assert not pieces


@QUICK
@given(listings(), st.integers(1, 100))
def test_no_shard_is_over_its_size_or_mixes_partitions(files: list[InputFile], shard_bytes: int) -> None:
    by_path = {file.path: file for file in files}
    shards = list(plan_shards(files, shard_bytes))
    for shard in shards:
        assert shard.pieces
        assert shard.num_bytes <= shard_bytes
        assert {by_path[piece.path].partition for piece in shard.pieces} == {shard.partition}
        if len(shard.pieces) > 1:
            assert all(piece.stop_byte - piece.start_byte == piece.size_bytes for piece in shard.pieces)
    for first, second in zip(shards, shards[1:], strict=False):  # nor smaller than it could be
        is_whole = all(p.stop_byte - p.start_byte == p.size_bytes for p in (*first.pieces, *second.pieces))
        if is_whole and first.partition == second.partition:
            assert first.num_bytes + second.pieces[0].size_bytes > shard_bytes


@QUICK
@given(listings(), st.integers(1, 100), st.integers(1, 60), st.data())
def test_a_limit_reads_the_first_rows_of_the_same_pieces(
    files: list[InputFile], shard_bytes: int, limit: int, data: st.DataObject
) -> None:
    num_rows = {file.path: data.draw(st.integers(0, 20)) for file in files}
    stop_rows = limit_rows(files, num_rows, limit)
    assert sum(stop_rows.values()) == min(limit, sum(num_rows.values()))
    read = [file for file in files if file.path in stop_rows]
    assert read == files[: len(read)]  # the first files, whole but for the last
    assert all(stop_rows[file.path] == num_rows[file.path] for file in read[:-1])
    shards = list(plan_shards(files, shard_bytes, stop_rows))
    assert [replace(p, stop_row=None) for s in shards for p in s.pieces] == [
        p for s in plan_shards(read, shard_bytes) for p in s.pieces
    ]
    assert all(p.stop_row == stop_rows[p.path] for s in shards for p in s.pieces)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, {"a": 1}),
        (10, {"a": 10}),  # the next file is not opened
        (11, {"a": 10, "b": 0, "c": 1}),
        (30, {"a": 10, "b": 0, "c": 20}),
        (99, {"a": 10, "b": 0, "c": 20}),
    ],
)
def test_limits(limit: int, expected: dict[str, int]) -> None:
    files = [file_of(name) for name in ("a", "b", "c")]
    num_rows = {"/in/a": 10, "/in/b": 0, "/in/c": 20}
    assert limit_rows(files, num_rows, limit) == {f"/in/{name}": stop for name, stop in expected.items()}


def test_footers_beyond_the_limit_need_not_be_known() -> None:
    assert limit_rows([file_of("a"), file_of("b")], {"/in/a": 10}, 10) == {"/in/a": 10}


def test_small_files_share_a_shard_and_large_ones_are_cut() -> None:
    files = [file_of("a", 40), file_of("b", 40), file_of("c", 40), file_of("d", 250), file_of("e", 10)]
    shards = list(plan_shards(files, 100))
    assert [[(p.path[-1], p.start_byte, p.stop_byte) for p in shard.pieces] for shard in shards] == [
        [("a", 0, 40), ("b", 0, 40)],
        [("c", 0, 40)],
        [("d", 0, 83)],
        [("d", 83, 166)],
        [("d", 166, 250)],
        [("e", 0, 10)],
    ]


def test_partitions_are_never_mixed() -> None:
    names = ["a", "dt=1/a", "dt=1/b", "dt=1/c=1/a", "dt=2/a", "dt=2/b", "e"]
    shards = list(plan_shards([file_of(name, 1) for name in names], 1000))
    assert [(shard.partition, len(shard.pieces)) for shard in shards] == [
        ("", 1), ("dt=1", 2), ("dt=1/c=1", 1), ("dt=2", 2), ("", 1),
    ]  # fmt: skip


def test_a_hundred_thousand_files() -> None:
    files = [file_of(f"dt={i // 1000}/{i:06d}.parquet", MIB) for i in range(100_000)]
    shards = list(plan_shards(files, resolve_shard_bytes("auto", 100_000 * MIB)))
    assert len(shards) == 100 * math.ceil(1000 / 195)  # 100 partitions, 196 MiB a shard: 195.3 rounded up in bytes
    assert sum(len(shard.pieces) for shard in shards) == 100_000
    assert len(inputs_digest(files)) == 64


@pytest.mark.parametrize(
    ("shard_id", "partition", "num_shards", "expected"),
    [
        (0, "", 1, "part-00000-of-00001.parquet"),
        (41, "", 42, "part-00041-of-00042.parquet"),
        (7, "dt=2026-01-01/c=de", 42, "dt=2026-01-01/c=de/part-00007-of-00042.parquet"),
        (123_456, "", 1_000_000, "part-123456-of-1000000.parquet"),
    ],
)
def test_part_names(shard_id: int, partition: str, num_shards: int, expected: str) -> None:
    assert part_name(Shard(shard_id, partition, ()), num_shards) == expected


@pytest.mark.parametrize(
    ("shard_size", "total_bytes", "expected"),
    [
        (1, 10**12, 1),
        (10**10, 10, 10**10),  # as asked, also out of auto's range
        ("auto", 0, MIN_SHARD_BYTES),
        ("auto", 512 * 16 * MIB, 16 * MIB),
        ("auto", 512 * 16 * MIB + 1, 16 * MIB + 1),  # never more than 512 shards
        ("auto", 512 * 100 * MIB, 100 * MIB),
        ("auto", 10**15, MAX_SHARD_BYTES),
    ],
)
def test_shard_bytes(shard_size: int | str, total_bytes: int, expected: int) -> None:
    assert resolve_shard_bytes(shard_size, total_bytes) == expected


@pytest.mark.parametrize(
    ("shard_size", "group_bytes", "expected"),
    [
        ("auto", 4 * MIB, 16 * MIB),
        ("auto", 64 * MIB, 64 * MIB),  # smaller ranges would hold no row group's middle
        ("auto", 10**12, MAX_SHARD_BYTES),
        (MIB, 64 * MIB, MIB),
    ],
)
def test_a_shard_is_no_smaller_than_a_row_group(shard_size: int | str, group_bytes: int, expected: int) -> None:
    assert resolve_shard_bytes(shard_size, 100 * MIB, group_bytes) == expected


@pytest.mark.parametrize(
    ("batch_size", "fixed_rows", "row_bytes", "expected"),
    [
        ("auto", None, 256.0, 1024),
        ("auto", None, 160.0, 2048),  # 1,638 rows: nearer to 2,048 by ratio
        ("auto", None, 3072.0, 64),  # 32 x 32 x 3 bytes: 85.3 rows
        ("auto", None, 16.0, 4096),  # 16,384 rows would fill 256 KiB
        ("auto", None, 150_528.0, 4),  # 224 x 224 x 3 bytes: 1.7 rows
        ("auto", None, 0.0, 4096),  # no column, or no row in the first file
        ("auto", None, 0.125, 4096),
        ("auto", None, 1e12, 4),
        (1, None, 256.0, 1),  # as asked, also out of auto's range
        (100_000, None, 1e9, 100_000),
        ("auto", 1, 256.0, 1),  # the graph's own wins
        (512, 7, 256.0, 7),
    ],
)
def test_batch_rows(batch_size: int | str, fixed_rows: int | None, row_bytes: float, expected: int) -> None:
    assert resolve_batch_rows(batch_size, fixed_rows, row_bytes, has_gpu=False) == expected


@pytest.mark.parametrize(
    ("row_bytes", "expected"),
    [
        (1024.0, 4096),
        (2048.0, 2048),
        (150_528.0, 32),  # 224 x 224 x 3 bytes: 27.9 rows
        (602_112.0, 16),  # the same as float32: 7.0 rows
        (1500.0, 2048),  # 2,796 rows: nearer to 2,048, by difference and by ratio
        (1300.0, 4096),  # 3,226 rows: nearer to 4,096 by both
    ],
)
def test_a_gpu_is_given_more_at_once(row_bytes: float, expected: int) -> None:
    assert resolve_batch_rows("auto", None, row_bytes, has_gpu=True) == expected


# --- identity

SETTINGS: dict[str, Any] = {
    "model_sha256": "ab",
    "inputs_sha256": "cd",
    "limit": None,
    "feed": {"x:0": "x"},
    "keep": [],
}


@QUICK
@given(listings(), st.randoms())
def test_the_same_listing_gives_the_same_plan(files: list[InputFile], random: Any) -> None:
    moved = [replace(file, path=file.path.replace("/in/", "/elsewhere/"), mtime_ns=99) for file in files]
    random.shuffle(moved)
    moved.sort(key=lambda file: (file.relative_path, file.path))  # as a listing is
    assert inputs_digest(moved) == inputs_digest(files)
    assert list(plan_shards(files, 50)) == list(plan_shards(list(files), 50))


@pytest.mark.parametrize(
    "other",
    [
        [file_of("a", 1), file_of("b", 3)],
        [file_of("a", 1)],
        [file_of("a", 1), file_of("c", 2)],
        [file_of("a", 1), file_of("b", 2), file_of("c", 0)],
        [file_of("a", 2), file_of("b", 1)],
        [],
    ],
)
def test_other_names_or_sizes_give_another_digest(other: list[InputFile]) -> None:
    assert inputs_digest(other) != inputs_digest([file_of("a", 1), file_of("b", 2)])


def test_a_plan_id_follows_from_the_settings_alone() -> None:
    first = plan_id(SETTINGS)
    assert first == plan_id(dict(reversed(SETTINGS.items()))) == plan_id(json.loads(json.dumps(SETTINGS)))
    assert len(first) == 32
    assert len({first, *(plan_id({**SETTINGS, name: "other"}) for name in SETTINGS)}) == 1 + len(SETTINGS)


# --- what changed

FILES = [file_of("a.parquet", 10), file_of("b.parquet", 20)]


def changes(files: list[InputFile], old_files: list[InputFile] | None = None, **after: Any) -> list[str]:
    return explain_changes(SETTINGS, {**SETTINGS, **after}, FILES if old_files is None else old_files, files)


@pytest.mark.parametrize(
    ("files", "after", "expected"),
    [
        (FILES, {}, []),
        (list(reversed(FILES)), {}, []),
        ([replace(file, path="/moved" + file.path) for file in FILES], {}, []),
        (FILES, {"limit": 5}, ["limit None -> 5"]),
        (FILES, {"limit": 5, "keep": ["id"]}, ["keep [] -> ['id']", "limit None -> 5"]),
        (FILES, {"more": 1}, ["more None -> 1"]),
        ([*FILES, file_of("c.parquet")], {"inputs_sha256": "x"}, ["1 input files new, first: c.parquet"]),
        (FILES[:1], {"inputs_sha256": "x"}, ["1 input files gone, first: b.parquet"]),
        ([], {"inputs_sha256": "x"}, ["2 input files gone, first: a.parquet"]),
        (
            [FILES[0], file_of("c.parquet")],
            {"inputs_sha256": "x"},
            ["1 input files new, first: c.parquet", "1 input files gone, first: b.parquet"],
        ),
        ([FILES[0], file_of("b.parquet", 20, mtime_ns=2)], {}, ["b.parquet touched, same size"]),
        ([FILES[0], file_of("b.parquet", 21, mtime_ns=2)], {"inputs_sha256": "x"}, ["b.parquet 20 -> 21 bytes"]),
    ],
)
def test_changes_are_named(files: list[InputFile], after: dict[str, Any], expected: list[str]) -> None:
    assert changes(files, **after) == expected


def test_a_setting_that_is_gone_is_named() -> None:
    assert explain_changes({"a": 1, "b": 2}, {"a": 1}, FILES, FILES) == ["b 2 -> None"]


@pytest.mark.parametrize("value", [(1, 2), {"x:0": (1.0, 2.0)}, float("nan"), {"x:0": [float("inf")]}, {"1": None}])
def test_settings_that_went_through_a_plan_file_are_no_change(value: Any) -> None:
    after = {**SETTINGS, "set": value}
    before = json.loads(json.dumps(after))
    assert plan_id(before) == plan_id(after)
    assert explain_changes(before, after, FILES, FILES) == []


def test_a_listing_that_was_never_written_is_no_change() -> None:
    assert changes(FILES, old_files=[]) == []


@pytest.mark.parametrize("changed", [0, 1])
def test_files_of_one_name_in_two_roots_are_told_apart(changed: int) -> None:
    old = [file_of("a.parquet", 10, "/x"), file_of("a.parquet", 20, "/y")]
    assert changes(list(old), old_files=old) == []
    touched, resized = list(old), list(old)
    touched[changed] = replace(old[changed], mtime_ns=2)
    resized[changed] = replace(old[changed], size_bytes=99)
    assert changes(touched, old_files=old) == ["a.parquet touched, same size"]
    assert changes(resized, old_files=old) == [f"a.parquet {10 + 10 * changed} -> 99 bytes"]
