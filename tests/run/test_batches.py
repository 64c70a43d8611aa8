import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from graphs import constant, graph, node, placeholder
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.assembly import ScoredRows
from engine.data.binding import FeedBinding, bind_feed
from engine.data.columns import InputSchema, resolve_feed
from engine.data.faults import Faults
from engine.data.feeding.conversion import FedRows, FedTensor
from engine.errors import DataError, GraphError
from engine.model.session import ModelSession, SessionOptions, load_session
from engine.model.tensor import TensorSpec
from engine.run.batches import BatchCaller, join_rows, score_batch

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)


class Script:
    """A graph in numpy: twice its rows; refuses batches for which `refuses` holds, and remembers every call."""

    def __init__(self, refuses: Callable[[list[int]], bool]) -> None:
        self.refuses = refuses
        self.calls: list[list[int]] = []

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        values = arrays[0].tolist()
        self.calls.append(values)
        if self.refuses(values):
            raise DataError(f"refused {values}", "InvalidArgument")
        return [arrays[0] * 2, np.stack([arrays[0], -arrays[0]], axis=1)]


def rows_of(num_rows: int) -> FedRows:
    """Rows whose values are their positions here, and whose positions in the slice are others."""
    values = np.arange(num_rows)
    return FedRows(values * 3 + 1, (FedTensor(values, values),))


def score(script: Script, num_rows: int, span: range | None = None) -> tuple[list[ScoredRows], Faults]:
    faults = Faults(3 * num_rows + 1)
    scored = score_batch(script, rows_of(num_rows), span or range(num_rows), faults)
    for each in scored:
        values = (each.rows - 1) // 3
        assert each.arrays[0].tolist() == (values * 2).tolist()
        assert each.arrays[1].tolist() == np.stack([values, -values], axis=1).tolist()
    return scored, faults


def values_in(scored: Sequence[ScoredRows]) -> list[int]:
    return [(row - 1) // 3 for each in scored for row in each.rows.tolist()]


# --- a batch, and the rows that the graph refuses


def test_a_batch_without_fault_is_one_call_on_the_rows_as_they_lie() -> None:
    fed = rows_of(10)
    seen: list[np.ndarray] = []

    def call(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        seen.extend(arrays)
        return [arrays[0] * 2]

    (scored,) = score_batch(call, fed, range(2, 9), Faults(31))
    assert scored.rows.tolist() == fed.rows[2:9].tolist()
    assert scored.arrays[0].tolist() == [2 * n for n in range(2, 9)]
    assert len(seen) == 1
    assert np.shares_memory(seen[0], fed.arrays[0])


@QUICK
@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.data())
def test_exactly_the_rows_at_fault_are_refused_and_all_others_scored_once(
    num_rows: int, at_fault: set[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, num_rows - 1))
    span = range(start, data.draw(st.integers(start + 1, num_rows)))
    script = Script(lambda values: any(value in at_fault for value in values))
    scored, faults = score(script, num_rows, span)
    assert values_in(scored) == [value for value in span if value not in at_fault]
    assert [(row - 1) // 3 for row in faults.rows().tolist()] == [value for value in span if value in at_fault]
    for bad in faults.in_order():
        assert bad.reason == "InvalidArgument"
        assert bad.message == f"refused [{(bad.row_index - 1) // 3}]"  # what was said of it alone
    assert all(calls == sorted(calls) and set(calls) <= set(span) for calls in script.calls)
    assert all([value] in script.calls for value in span if value in at_fault)  # a single row is always tried


@QUICK
@given(st.lists(st.integers(0, 2), min_size=1, max_size=24))
def test_rows_that_only_do_not_go_together_are_all_scored(kinds: list[int]) -> None:
    script = Script(lambda values: len({kinds[value] for value in values}) > 1)
    scored, faults = score(script, len(kinds))
    assert values_in(scored) == list(range(len(kinds)))
    assert not len(faults)


@QUICK
@given(st.lists(st.integers(0, 5), min_size=1, max_size=24), st.integers(1, 9))
def test_a_batch_may_be_refused_for_its_sum_and_single_rows_as_well(weights: list[int], most: int) -> None:
    script = Script(lambda values: sum(weights[value] for value in values) > most)
    scored, faults = score(script, len(weights))
    too_heavy = [i for i, weight in enumerate(weights) if weight > most]
    assert [(row - 1) // 3 for row in faults.rows().tolist()] == too_heavy
    assert values_in(scored) == [i for i in range(len(weights)) if i not in too_heavy]


def num_calls(num_rows: int, *at_fault: int) -> int:
    script = Script(lambda values: any(value in at_fault for value in values))
    score(script, num_rows)
    return len(script.calls)


def test_one_bad_row_in_256_costs_at_most_17_calls() -> None:
    """Two for each of the eight times that a half is halved, after the first; rows in a first half cost both."""
    calls = [num_calls(256, at_fault) for at_fault in range(256)]
    assert max(calls) == 17
    assert min(calls) == 10  # a half that is known to hold the fault, for the other went through, is not tried whole
    assert sum(calls) / 256 <= 14


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 100, 1000, 4096])
def test_calls_grow_with_the_logarithm_of_the_rows(num_rows: int) -> None:
    most = 1 + 2 * math.ceil(math.log2(num_rows)) if num_rows > 1 else 1
    places = sorted({*range(0, num_rows, max(1, num_rows // 50)), num_rows - 1})
    assert max(num_calls(num_rows, place) for place in places) <= most


def test_where_every_row_is_at_fault_calls_are_bounded_by_twice_the_rows() -> None:
    assert num_calls(256, *range(256)) <= 2 * 256 - 1


def test_other_errors_are_not_searched_for() -> None:
    calls: list[int] = []

    def call(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(arrays[0]))
        raise GraphError("no such table")

    with pytest.raises(GraphError, match="no such table"):
        score_batch(call, rows_of(8), range(8), Faults(25))
    assert calls == [8]


# --- neighbours put together again


def scored_rows(start: int, num_rows: int, width: int = 1) -> ScoredRows:
    rows = np.arange(start, start + num_rows)
    return ScoredRows(rows, [np.repeat(rows, width).reshape(num_rows, width) * 1.0])


@QUICK
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2)), max_size=12), st.integers(1, 12))
def test_joined_rows_are_the_same_rows_in_pieces_of_one_shape(pieces: list[tuple[int, int]], max_rows: int) -> None:
    starts = np.cumsum([0, *(num_rows for num_rows, _ in pieces)]).tolist()
    before = [scored_rows(start, *piece) for start, piece in zip(starts, pieces, strict=False)]
    after = list(join_rows(before, max_rows))
    assert [row for each in after for row in each.rows.tolist()] == list(range(starts[-1]))
    for each in after:
        (array,) = each.arrays
        np.testing.assert_array_equal(array, np.broadcast_to(each.rows[:, np.newaxis], array.shape))
    most = max([max_rows, *(num_rows for num_rows, _ in pieces)])
    assert all(len(each.rows) <= most for each in after)
    widths = [each.arrays[0].shape[1] for each in after]
    for i in range(len(after) - 1):  # nothing is left apart that goes together
        if widths[i] == widths[i + 1]:
            assert len(after[i].rows) + len(after[i + 1].rows) > max_rows


def test_what_is_large_already_is_passed_on_as_it_is() -> None:
    before = [scored_rows(0, 255), scored_rows(255, 256), scored_rows(511, 256), scored_rows(767, 1)]
    after = list(join_rows(before, 256))
    assert [len(each.rows) for each in after] == [255, 256, 256, 1]
    assert all(a.arrays[0] is b.arrays[0] for a, b in zip(after, before, strict=True))


def test_single_rows_are_joined_in_time_that_grows_with_their_number() -> None:
    """4,096 of them, as a graph that takes one row at a time gives; 10 ms, where counting again for each took 280."""
    rows = [scored_rows(i, 1) for i in range(4096)]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        (joined,) = join_rows(rows, 4096)
        seconds.append(time.perf_counter() - start)
    assert joined.rows.tolist() == list(range(4096))
    assert min(seconds) < 0.1


# --- batches in a session

tf = pytest.mark.tf
ROWS = np.arange(20, dtype=np.float32).reshape(5, 4)


def binding(tensor: TensorSpec, is_unbatched: bool = False) -> FeedBinding:
    columns = InputSchema("in.parquet", pa.schema([("x", pa.list_(pa.float32()))]), ())
    return bind_feed(resolve_feed(columns, "x"), tensor, is_unbatched=is_unbatched)


def session_of(
    shape: list[int | None], *nodes: Any, fetches: Sequence[str] = ("y:0",), xla: bool = False
) -> ModelSession:
    graph_def = graph(placeholder("x", "float32", shape), *nodes)
    return load_session(graph_def.SerializeToString(), ["x:0"], list(fetches), {}, options=SessionOptions(xla=xla))


def caller(session: ModelSession, is_unbatched: bool = False, num_rows: int | None = None) -> BatchCaller:
    return BatchCaller(session, [binding(tensor, is_unbatched) for tensor in session.inputs], num_rows)


def doubled(dtype: str = "float32") -> Any:
    return node("y", "AddV2", "x", "x", T=dtype)


@tf
@pytest.mark.parametrize("num_rows", [1, 3, 4])
def test_a_fixed_batch_axis_is_padded_and_the_padding_cut_off(num_rows: int) -> None:
    session = session_of([4, 4], doubled())
    (found,) = caller(session)([ROWS[:num_rows]])
    np.testing.assert_array_equal(found, ROWS[:num_rows] * 2)
    session.close()


@tf
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
def test_batches_of_one_size_are_padded_with_their_last_row(num_rows: int) -> None:
    """The graph tells what it was given: it adds the sum of the batch to each row."""
    total = node("total", "Sum", "x", "axis", T="float32", Tidx="int32")
    session = session_of(
        [None], constant("axis", np.array([0], np.int32)), total, node("y", "AddV2", "x", "total", T="float32")
    )
    call = caller(session, num_rows=4)
    rows = np.array([0, 1, 2, 3], np.float32)[:num_rows]
    np.testing.assert_array_equal(call([rows])[0], rows + rows.sum() + rows[-1] * (4 - num_rows))
    session.close()


def checked_positive() -> list[Any]:
    """y = 2 * x, but a graph that refuses numbers that are no more: CheckNumerics."""
    checked = node("checked", "CheckNumerics", "x", T="float32")
    checked.attr["message"].s = b"a number was expected"
    return [checked, node("y", "AddV2", "checked", "checked", T="float32")]


@tf
@pytest.mark.parametrize(("batch", "xla"), [(None, False), (4, False), (None, True)])
def test_rows_that_a_graph_refuses_stand_alone_and_the_others_are_scored(batch: int | None, xla: bool) -> None:
    session = session_of([batch, 2], *checked_positive(), xla=xla)
    values = np.arange(22, dtype=np.float32).reshape(11, 2)
    values[[0, 6], 1] = np.nan
    fed, faults, scored = FedRows(np.arange(11), (FedTensor(values, np.arange(11)),)), Faults(11), list[ScoredRows]()
    for start in range(0, 11, 4):
        scored += score_batch(
            caller(session, num_rows=4 if xla else None), fed, range(start, min(start + 4, 11)), faults
        )
    assert faults.rows().tolist() == [0, 6]
    assert {bad.reason for bad in faults.in_order()} == {"InvalidArgument"}
    assert all("a number was expected" in bad.message for bad in faults.in_order())
    assert np.concatenate([each.rows for each in scored]).tolist() == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    for each in scored:
        np.testing.assert_array_equal(each.arrays[0], values[each.rows] * 2)
    session.close()


@tf
@pytest.mark.parametrize("shape", [[4], [None], []])
def test_a_graph_without_a_batch_axis_takes_one_row_at_a_time(shape: list[int | None]) -> None:
    session = session_of(shape, doubled())
    rows = ROWS if shape else ROWS[:, 0]
    call = caller(session, is_unbatched=True)
    (found,) = call([rows[2:3]])
    np.testing.assert_array_equal(found, rows[2:3] * 2)
    fed = FedRows(np.arange(5), (FedTensor(rows, np.arange(5)),))
    scored = [each for i in range(5) for each in score_batch(call, fed, range(i, i + 1), Faults(5))]
    (joined,) = join_rows(scored, 4096)
    np.testing.assert_array_equal(joined.arrays[0], rows * 2)
    session.close()


@tf
@pytest.mark.parametrize("shape", [[None, 4], [5, 4]])
def test_a_fetch_without_a_value_for_every_row_is_an_error_that_shows_both_shapes(shape: list[int | None]) -> None:
    session = session_of(
        shape, constant("y", np.zeros((2, 3), np.float32)), node("unused", "Identity", "x", T="float32")
    )
    with pytest.raises(GraphError, match=r"a batch of 5 rows gave \[2, 3\] where the first axis should be the 5 rows"):
        caller(session)([ROWS])
    session.close()
