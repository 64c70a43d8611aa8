"""What real tables hold: photographs, words, serialised examples, values that a graph asserts; some of them broken."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from engine import JobConfig, score
from engine.run.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

NUM_ROWS = 24
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def run(model: Path, inputs: Path, output: Path, **settings: Any) -> Summary:
    return score(JobConfig(model=str(model), input=(str(inputs),), output=str(output), actors=1, **settings))


def read_parts(output: Path, pattern: str = "part-*") -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(output.rglob(pattern)))


def part_hashes(output: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.rglob("part-*"))}


def write_halves(table: pa.Table, folder: Path) -> None:
    """Write two files, `a.parquet` and `b.parquet`."""
    folder.mkdir(parents=True)
    half = len(table) // 2
    pq.write_table(table.slice(0, half), folder / "a.parquet")
    pq.write_table(table.slice(half), folder / "b.parquet")


def place(row: int, num_rows: int = NUM_ROWS) -> tuple[str, int]:
    """Return file and row in it of a row of a table that `write_halves` wrote."""
    half = num_rows // 2
    return ("a.parquet", row) if row < half else ("b.parquet", row - half)


def set_aside(output: Path) -> list[tuple[str, int, str]]:
    """Return file, row and class of fault of every row in quarantine; each has a message."""
    bad = read_parts(output, "bad-*").to_pylist()
    assert all(row["_message"] for row in bad)
    return [(row["_file"], row["_row"], row["_error"]) for row in bad]


def score_one_by_one(
    model: Path, values: Sequence[Any], fetches: Sequence[str], feed: str, is_unbatched: bool
) -> dict[int, list[Any]]:
    """Score row by row in a plain session; rows that TensorFlow refuses are left out."""
    import tensorflow as tf

    v1 = tf.compat.v1
    graph_def = v1.GraphDef.FromString(model.read_bytes())
    found: dict[int, list[Any]] = {}
    with tf.Graph().as_default(), v1.Session() as session:
        tf.import_graph_def(graph_def, name="")
        for row, value in enumerate(values):
            if value is None:
                continue
            try:
                arrays = session.run(list(fetches), {feed: value if is_unbatched else [value]})
            except tf.errors.InvalidArgumentError:
                continue
            found[row] = [array if is_unbatched else array[0] for array in arrays]
    return found


@dataclass(frozen=True)
class Photos:
    """Images in a struct column beside their ids, in two files; five of them cannot be decoded."""

    folder: Path
    rows: list[dict[str, Any]]
    faults: dict[int, str]
    models: dict[str, Path]
    """The same decoding graph: `batched` over a vector, `unbatched` for a scalar, `ragged` without a common size."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)

    def photo(row: int) -> bytes:
        pixels = rng.integers(0, 256, (8 + row % 5, 6 + row % 7, 3)).astype(np.uint8)
        return bytes(tf.io.encode_jpeg(pixels).numpy())

    images: list[bytes | None] = [photo(row) for row in range(NUM_ROWS)]
    whole = images[9] or b""
    images[2], images[9], images[10] = b"no photo at all", whole[: len(whole) // 2], b""
    images[13], images[23] = None, None
    faults = {2: "InvalidArgument", 9: "InvalidArgument", 10: "InvalidArgument", 13: "Null", 23: "Null"}
    rows: list[dict[str, Any]] = [
        {"id": row, "image": {"bytes": each, "path": f"{row}.jpg"}} for row, each in enumerate(images)
    ]
    rows[23]["image"] = None
    schema = pa.schema([("id", pa.int64()), ("image", IMAGE)])
    write_halves(pa.Table.from_pylist(rows, schema), folder / "in")
    good = [row for row in rows if row["id"] not in faults]
    write_halves(pa.Table.from_pylist(good, schema), folder / "good")

    def decode(data: Any) -> Any:
        return tf.io.decode_jpeg(data, channels=3)

    def shrink(data: Any) -> Any:
        pixels = tf.image.resize(tf.cast(decode(data), tf.float32), [4, 4])
        return tf.reduce_mean(pixels, axis=[0, 1]), tf.shape(decode(data))

    models = {}
    for name in ("batched", "unbatched", "ragged"):
        graph, shape = tf.Graph(), [] if name == "unbatched" else [None]
        with graph.as_default():
            data = tf.compat.v1.placeholder(tf.string, shape, name="data")
            if name == "ragged":
                tf.identity(tf.map_fn(decode, data, fn_output_signature=tf.uint8), name="pixels")
            else:
                kinds = (tf.float32, tf.int32)
                both = shrink(data) if name == "unbatched" else tf.map_fn(shrink, data, fn_output_signature=kinds)
                tf.identity(both[0], name="rgb")
                tf.identity(both[1], name="size")
        models[name] = folder / f"{name}.pb"
        models[name].write_bytes(graph.as_graph_def().SerializeToString())
    return Photos(folder / "in", rows, faults, models)


PHOTO_SETTINGS: dict[str, Any] = {
    "feed": {"data": "image.bytes"},
    "fetch": {"rgb": "rgb", "size": "size"},
    "keep": ("id", "image.path"),
    "max_bad_rows": 5,
}


@pytest.fixture(scope="module")
def batched(photos: Photos) -> tuple[Path, Summary]:
    output = photos.folder.parent / "batched"
    return output, run(photos.models["batched"], photos.folder, output, batch_size=8, **PHOTO_SETTINGS)


@pytest.fixture(scope="module")
def unbatched(photos: Photos) -> tuple[Path, Summary]:
    output = photos.folder.parent / "unbatched"
    return output, run(photos.models["unbatched"], photos.folder, output, unbatched=True, **PHOTO_SETTINGS)


@pytest.mark.parametrize("kind", ["batched", "unbatched"])
def test_broken_images_go_to_quarantine_and_all_others_are_scored(
    photos: Photos, kind: str, request: pytest.FixtureRequest
) -> None:
    output, summary = request.getfixturevalue(kind)
    images = [(row["image"] or {}).get("bytes") for row in photos.rows]
    plain = score_one_by_one(photos.models[kind], images, ["rgb:0", "size:0"], "data:0", kind == "unbatched")
    assert sorted(set(range(NUM_ROWS)) - set(plain)) == sorted(photos.faults)
    assert (summary.rows_in, summary.rows_out, summary.rows_quarantined) == (NUM_ROWS, NUM_ROWS - 5, 5)
    assert summary.batch_size == (1 if kind == "unbatched" else 8)
    scored = read_parts(output)
    assert scored["id"].to_pylist() == list(plain)
    assert scored["image.path"].to_pylist() == [f"{row}.jpg" for row in plain]
    assert scored.schema.field("rgb").type == pa.list_(pa.float32(), 3)
    assert scored["size"].to_pylist() == [size.tolist() for _, size in plain.values()]
    np.testing.assert_allclose(np.stack(scored["rgb"].to_numpy()), [rgb for rgb, _ in plain.values()], rtol=1e-6)
    assert set_aside(output) == [(*place(row), error) for row, error in photos.faults.items()]
    bad = read_parts(output, "bad-*")
    assert bad.select(["id", "image"]).to_pylist() == [photos.rows[row] for row in photos.faults]
    messages = dict(zip(photos.faults, bad["_message"].to_pylist(), strict=True))
    assert "Unknown image file format" in messages[2]
    assert "Invalid JPEG data" in messages[9]
    assert "Input is empty" in messages[10]
    assert "column 'image.bytes': a null where data:0" in messages[13]


def test_the_graphs_of_one_row_and_of_many_agree(
    batched: tuple[Path, Summary], unbatched: tuple[Path, Summary]
) -> None:
    one, other = read_parts(batched[0]), read_parts(unbatched[0])
    assert one.schema == other.schema
    assert one.drop_columns("rgb") == other.drop_columns("rgb")
    np.testing.assert_allclose(np.stack(one["rgb"].to_numpy()), np.stack(other["rgb"].to_numpy()), rtol=1e-6)
    assert set_aside(batched[0]) == set_aside(unbatched[0])


def test_broken_images_change_no_byte_from_run_to_run(
    photos: Photos, batched: tuple[Path, Summary], tmp_path: Path
) -> None:
    summary = run(photos.models["batched"], photos.folder, tmp_path / "out", batch_size=8, **PHOTO_SETTINGS)
    assert (summary.plan_id, summary.bytes_stable) == (batched[1].plan_id, True)
    assert part_hashes(tmp_path / "out") == part_hashes(batched[0])
    assert read_parts(tmp_path / "out", "bad-*") == read_parts(batched[0], "bad-*")


def test_rows_are_scored_alike_without_the_broken_ones_beside_them(
    photos: Photos, batched: tuple[Path, Summary], tmp_path: Path
) -> None:
    settings = {**PHOTO_SETTINGS, "max_bad_rows": 0}
    summary = run(photos.models["batched"], photos.folder.parent / "good", tmp_path / "out", batch_size=8, **settings)
    assert (summary.rows_in, summary.rows_quarantined) == (NUM_ROWS - 5, 0)
    alone, beside = read_parts(tmp_path / "out"), read_parts(batched[0])
    assert alone.drop_columns("rgb") == beside.drop_columns("rgb")
    np.testing.assert_allclose(np.stack(alone["rgb"].to_numpy()), np.stack(beside["rgb"].to_numpy()), rtol=1e-6)


def test_images_that_do_not_go_together_in_a_batch_are_all_scored(photos: Photos, tmp_path: Path) -> None:
    settings = {**PHOTO_SETTINGS, "fetch": {"pixels": "pixels"}, "max_bad_rows": 0}
    summary = run(photos.models["ragged"], photos.folder.parent / "good", tmp_path / "out", batch_size=8, **settings)
    assert (summary.rows_out, summary.rows_quarantined) == (NUM_ROWS - 5, 0)
    good = [row for row in photos.rows if row["id"] not in photos.faults]
    images = [row["image"]["bytes"] for row in good]
    plain = score_one_by_one(photos.models["ragged"], images, ["pixels:0"], "data:0", is_unbatched=False)
    scored = read_parts(tmp_path / "out")
    assert scored["id"].to_pylist() == [row["id"] for row in good]
    assert scored["pixels"].to_pylist() == [pixels.tolist() for (pixels,) in plain.values()]
    assert len({pixels.shape for (pixels,) in plain.values()}) > 10


def test_words_become_words_through_a_table_as_bytes_and_as_text(tmp_path: Path) -> None:
    import tensorflow as tf

    words = {"ice": "Eis", "floe": "Scholle", "bear": "Eisbär", "": "leer", "a\0b": "zwei\0Teile"}
    graph = tf.Graph()
    with graph.as_default():
        given = tf.compat.v1.placeholder(tf.string, [None], name="word")
        keys, values = tf.constant(list(words)), tf.constant(list(words.values()))
        table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.string)
        load = tf.raw_ops.LookupTableImportV2(table_handle=table, keys=keys, values=values)
        found = tf.raw_ops.LookupTableFindV2(table_handle=table, keys=given, default_value=tf.constant("—"))
        tf.identity(found, name="text")
        tf.strings.join([found, "!"], name="loud")
    (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    given_words = ["bear", "", "snow", "a\0b", None, "ice", "floe", "bear"]
    write_halves(pa.table({"id": range(8), "word": pa.array(given_words, pa.string())}), tmp_path / "in")
    settings = {"feed": {"word": "word"}, "fetch": {"text": "text", "loud": "loud"}, "init_op": (load.name,)}
    run(tmp_path / "m.pb", tmp_path / "in", tmp_path / "out", utf8="text", max_bad_rows=1, **settings)
    scored = read_parts(tmp_path / "out")
    expected = [words.get(word, "—") for word in given_words if word is not None]
    assert scored["id"].to_pylist() == [0, 1, 2, 3, 5, 6, 7]
    assert scored.schema.field("text").type == pa.string()
    assert scored["text"].to_pylist() == expected
    assert scored.schema.field("loud").type == pa.binary()
    assert scored["loud"].to_pylist() == [f"{word}!".encode() for word in expected]
    assert set_aside(tmp_path / "out") == [("b.parquet", 0, "Null")]


def test_serialised_examples_with_malformed_ones_among_them(tmp_path: Path) -> None:
    import tensorflow as tf

    def example(number: int, **more: Any) -> bytes:
        features = {
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=[number, number + 0.5])),
            "label": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"n{number}".encode()])),
        }
        made = {name: feature for name, feature in {**features, **more}.items() if feature is not None}
        return bytes(tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString())

    graph = tf.Graph()
    with graph.as_default():
        given = tf.compat.v1.placeholder(tf.string, [None], name="example")
        parsed = tf.io.parse_example(
            given, {"x": tf.io.FixedLenFeature([2], tf.float32), "label": tf.io.FixedLenFeature([], tf.string)}
        )
        tf.multiply(parsed["x"], 2.0, name="twice")
        tf.identity(parsed["label"], name="label")
    (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    rows: list[bytes | None] = [example(number) for number in range(16)]
    rows[0] = b"\xff\xff no proto"
    rows[5] = (rows[5] or b"")[:-3]
    rows[9] = example(9, x=None)
    rows[10] = b""  # a proto, of no features
    rows[15] = None
    write_halves(pa.table({"id": range(16), "example": pa.array(rows, pa.binary())}), tmp_path / "in")
    settings = {"feed": {"example": "example"}, "fetch": {"twice": "twice", "label": "label"}, "utf8": "label"}
    summary = run(tmp_path / "m.pb", tmp_path / "in", tmp_path / "out", max_bad_rows="40%", **settings)
    good = [row for row in range(16) if row not in (0, 5, 9, 10, 15)]
    assert (summary.rows_out, summary.rows_quarantined) == (11, 5)
    scored = read_parts(tmp_path / "out")
    assert scored["id"].to_pylist() == good
    assert scored["twice"].to_pylist() == [[row * 2.0, row * 2.0 + 1] for row in good]
    assert scored["label"].to_pylist() == [f"n{row}" for row in good]
    refused = "InvalidArgument"
    expected = [(0, refused), (5, refused), (9, refused), (10, refused), (15, "Null")]
    assert set_aside(tmp_path / "out") == [(*place(row, 16), error) for row, error in expected]
    messages = read_parts(tmp_path / "out", "bad-*")["_message"].to_pylist()
    assert "Could not parse example" in messages[0]
    assert "Feature: x (data type: float) is required" in messages[2]


def test_a_graph_that_asserts_sets_the_rows_aside_that_it_refuses(tmp_path: Path) -> None:
    import tensorflow as tf

    graph = tf.Graph()
    with graph.as_default():
        age = tf.compat.v1.placeholder(tf.float32, [None], name="age")
        checks = [
            tf.debugging.assert_non_negative(age, message="an age below 0"),
            tf.debugging.Assert(tf.reduce_all(age < 150), [age], name="below_150"),
        ]
        with tf.control_dependencies(checks):
            tf.sqrt(age, name="root")
    (tmp_path / "m.pb").write_bytes(graph.as_graph_def().SerializeToString())
    ages = pa.array([(row * 7) ** 2 % 150 for row in range(NUM_ROWS)], pa.float64()).to_pylist()
    ages[3], ages[4], ages[20] = -1.0, 151.0, -0.5
    write_halves(pa.table({"id": range(NUM_ROWS), "age": ages}), tmp_path / "in")
    settings = {"feed": {"age": "age"}, "fetch": {"root": "root"}, "max_bad_rows": 3}
    run(tmp_path / "m.pb", tmp_path / "in", tmp_path / "out", batch_size=6, **settings)
    scored = read_parts(tmp_path / "out")
    good = [row for row in range(NUM_ROWS) if row not in (3, 4, 20)]
    assert scored["id"].to_pylist() == good
    np.testing.assert_allclose(scored["root"].to_numpy(), np.sqrt([ages[row] for row in good]), rtol=1e-6)
    assert set_aside(tmp_path / "out") == [(*place(row), "InvalidArgument") for row in (3, 4, 20)]
    bad = read_parts(tmp_path / "out", "bad-*")
    assert bad["age"].to_pylist() == [-1.0, 151.0, -0.5]
    assert pc.match_substring(bad["_message"], "an age below 0").to_pylist() == [True, False, True]
