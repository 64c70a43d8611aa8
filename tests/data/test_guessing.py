import numpy as np
import pyarrow as pa
import pytest

from engine.data.columns import InputSchema
from engine.data.guessing import Guess, guess_feeds
from engine.model.ports import default_columns
from engine.model.tensor import TensorSpec

FOUR, FIVE = pa.list_(pa.float32(), 4), pa.list_(pa.float32(), 5)


def guess(columns: dict[str, pa.DataType], *tensors: TensorSpec, is_unbatched: bool = False) -> tuple[Guess, ...]:
    schema = pa.schema(list(columns.items()))
    names = default_columns([spec.name for spec in tensors])
    return guess_feeds(InputSchema("f.parquet", schema, ()), tensors, names, is_unbatched)


def floats(name: str, *shape: int | None) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


@pytest.mark.parametrize(
    ("columns", "tensor", "expected"),
    [
        ({"a": FOUR, "x": FOUR}, floats("x:0", None, 4), "x"),  # the very name
        ({"a": FOUR, "X": FOUR}, floats("net/x:0", None, 4), "X"),  # but for case, below a scope
        ({"a": FOUR, "user_age": FOUR}, floats("UserAge:0", None, 4), "user_age"),  # and signs
        ({"a": FOUR, "image_pixels": FOUR}, floats("pixels:0", None, 4), "image_pixels"),  # a part
        ({"x": FIVE, "a": FOUR}, floats("x:0", None, 4), "a"),  # the name alone is not enough
        ({"x": pa.string(), "a": FOUR}, floats("x:0", None, 4), "a"),
        ({"id": pa.int64(), "values": FOUR}, floats("q:0", None, 4), "values"),
        ({"ragged": pa.list_(pa.float32()), "exact": FOUR}, floats("q:0", None, 4), "exact"),  # of the very length
        ({"id": pa.int64(), "price": pa.float64()}, floats("q:0", None), "price"),  # its own kind of numbers
        ({"id": pa.int64(), "price": pa.float64()}, TensorSpec("q:0", "int64", (None,)), "id"),
        ({"id": pa.int64(), "text": pa.string()}, TensorSpec("q:0", "string", (None,)), "text"),
        ({"id": pa.int64(), **{f"f_{i}": pa.float64() for i in range(4)}}, floats("q:0", None, 4), "f_*"),
        ({"id": pa.int64(), "w": pa.float64(), "h": pa.float64()}, floats("q:0", None, 2), "w,h"),  # all floats
        ({"w": pa.int64(), "h": pa.float64()}, floats("q:0", None, 2), "w,h"),  # all numbers
        ({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})}, TensorSpec("bytes:0", "string", (None,)),
         "image.bytes"),
        ({"id": pa.string()}, floats("x:0", None, 4), ""),  # nothing fits
        ({"a,b": FOUR, "c": FOUR}, floats("a,b:0", None, 4), "c"),  # a name that a flag would take apart
    ],
)  # fmt: skip
def test_what_fills_a_tensor(columns: dict[str, pa.DataType], tensor: TensorSpec, expected: str) -> None:
    (found,) = guess(columns, tensor)
    assert found.column == expected


def test_no_column_fills_two_tensors_and_the_better_name_has_it() -> None:
    columns = {"left": FOUR, "right": FOUR}
    first, second = guess(columns, floats("q:0", None, 4), floats("left:0", None, 4))
    assert (first.column, second.column) == ("right", "left")
    assert first.others == ("left",)
    lone, none = guess({"only": FOUR}, floats("only:0", None, 4), floats("q:0", None, 4))
    assert (lone.column, none.column, none.others) == ("only", "", ("only",))


def test_others_are_told_the_likeliest_first() -> None:
    (found,) = guess({"b": pa.list_(pa.float32()), "x": FOUR, "x2": FOUR, "no": pa.string()}, floats("x:0", None, 4))
    assert (found.column, found.others) == ("x", ("x2", "b"))


def test_a_graph_of_one_row_a_call() -> None:
    (found,) = guess({"a": pa.string(), "b": pa.float64()}, floats("x:0"), is_unbatched=True)
    assert found.column == "b"


@pytest.mark.parametrize("seed", range(20))
def test_a_guess_fits_whatever_the_columns(seed: int) -> None:
    """Whatever is guessed can be fed: the binding that a job makes takes it."""
    from engine.data.binding import bind_feed
    from engine.data.columns import resolve_feed

    random = np.random.default_rng(seed)
    kinds = [FOUR, FIVE, pa.int8(), pa.float64(), pa.string(), pa.binary(), pa.date32(), pa.list_(pa.int32())]
    names = ["x", "X", "y_1", "y_2", "a b", "id", "f*", "é"]
    columns = {name: kinds[random.integers(len(kinds))] for name in names[: random.integers(1, 9)]}
    tensors = [floats("x:0", None, 4), floats("y:0", None, 2), TensorSpec("z:0", "string", (None,))]
    schema = InputSchema("f.parquet", pa.schema(list(columns.items())), ())
    for found in guess(columns, *tensors):
        for text in (*([found.column] if found.column else []), *found.others):
            bind_feed(resolve_feed(schema, text), found.tensor)
