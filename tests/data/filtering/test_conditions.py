import datetime
import io
import math
import operator
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.filtering.conditions import BoundCondition, bind_condition, parse_condition
from engine.data.filtering.parsing import Word
from engine.errors import ConfigError, PlanError

# Each example writes a file and tries all operators on it.
QUICK = settings(max_examples=25, deadline=None, derandomize=True, database=None)
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = (*COMPARISONS, "in", "not-in", "is-null", "is-not-null")


def bind(text: str, field_type: pa.DataType, is_partition: bool = False) -> BoundCondition:
    return bind_condition(parse_condition(text), field_type, is_partition)


def kept(text: str, column: pa.Array) -> list[Any]:
    mask = bind(text, column.type).mask(column)
    assert (mask.type, mask.null_count, len(mask)) == (pa.bool_(), 0, len(column))
    return mask.to_pylist()


def statistics_of(column: pa.Array, **options: Any) -> Any:
    file = io.BytesIO()
    pq.write_table(pa.table({"x": column}), file, **options)
    return pq.read_metadata(file).row_group(0).column(0).statistics


def can_match(text: str, column: pa.Array) -> bool:
    return bind(text, column.type).can_match(statistics_of(column), len(column))


# --- what is written


@pytest.mark.parametrize(
    ("text", "column", "name", "words"),
    [
        ("x>=5", "x", ">=", [("5", False)]),
        ("x <= 5", "x", "<=", [("5", False)]),
        (" x==5 ", "x", "=", [("5", False)]),
        ("x != -1.5e3", "x", "!=", [("-1.5e3", False)]),
        ("user.age<5", "user.age", "<", [("5", False)]),
        ("name = 'de'", "name", "=", [("de", True)]),
        ("name = New York", "name", "=", [("New York", False)]),
        ("name = O'Brien", "name", "=", [("O'Brien", False)]),
        ("name = 'it''s'", "name", "=", [("it's", True)]),
        ("name = ''", "name", "=", [("", True)]),
        ("name = 'salt and pepper'", "name", "=", [("salt and pepper", True)]),
        ("'a <= b' > 2024-01-31 12:30:00", "a <= b", ">", [("2024-01-31 12:30:00", False)]),
        ('"a b"in(1,2)', "a b", "in", [("1", False), ("2", False)]),
        ("country in de,fr", "country", "in", [("de", False), ("fr", False)]),
        ("country NOT-IN [de, 'f,r' ]", "country", "not-in", [("de", False), ("f,r", True)]),
        (r'country in ["d\"e", "f,r", 1.50, true]', "country", "in", None),
        ("in in in", "in", "in", [("in", False)]),
        ("plugin=5", "plugin", "=", [("5", False)]),
        ("x is-null", "x", "is-null", []),
        ("x Is-Not-Null", "x", "is-not-null", []),
        ("x = 'null'", "x", "=", [("null", True)]),
    ],
)
def test_condition_is_read(text: str, column: str, name: str, words: list[tuple[str, bool]] | None) -> None:
    condition = parse_condition(text)
    json_words = [('d"e', True), ("f,r", True), ("1.50", False), ("true", False)]
    expected = tuple(Word(*word) for word in (json_words if words is None else words))
    assert (condition.text, condition.column, condition.operator, condition.values) == (text, column, name, expected)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "none of the operators = != < <= > >= in not-in is-null is-not-null after a column"),
        ("x", "none of the operators"),
        ("x 5", "none of the operators"),
        ("x like 'a%'", "none of the operators"),
        ("x is-nullable", "none of the operators"),
        ("=5", "none of the operators"),
        ("'' = 5", "found no column"),
        ("x = ", "found no value"),
        ("x in", "found no value"),
        ("x in ()", "found no value"),
        ("x in a,,b", "found no value"),
        ("x in []", "found an empty list"),
        ("x in (a", "found '(' without ')' at the end"),
        ("x in [[1]]", "a list or an object inside the list"),
        ("x <> 5", "found the value '> 5'"),
        ("x => 5", "found the value '> 5'"),
        ("x > 5 and y < 6", "found 'and' in '5 and y < 6'; give one condition"),
        ("x = 'a' or y = 'b'", "whose quotes do not end where the value does"),
        ("x in 'a,b", "whose quotes do not end where the value does"),
        ("x is-null 5", "is-null takes no value, found '5'"),
        ("x = NULL", "type --where 'x is-null', or \"null\" in quotes"),
        ("'a b' not-in 1,null", "type --where '\"a b\" is-not-null'"),
        ("x in [null]", "type --where 'x is-null'"),
    ],
)
def test_what_is_misread_is_told_with_an_example(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_condition(text)
    expected = f"--where '{text}': expected COLUMN OP VALUE, such as --where 'score >= 0.5' or --where"
    assert str(caught.value).startswith(expected)
    assert problem in str(caught.value)


# --- mask and pruning against a plain loop


@dataclass(frozen=True)
class Kind:
    """A type, values of it, and words with what they mean, to be compared with `key` of a value."""

    type: pa.DataType
    values: st.SearchStrategy[Any]
    words: st.SearchStrategy[tuple[str, Any]]
    key: Callable[[pa.ChunkedArray], list[Any]] = pa.ChunkedArray.to_pylist


def integer_kind(field_type: pa.DataType) -> Kind:
    info = np.iinfo(field_type.to_pandas_dtype())
    low, high = int(info.min), int(info.max)
    near = [low, low + 1, high - 1, high, min(high, 2**53 + 1), min(high, 2**53)]
    around = st.one_of(st.sampled_from(near), st.integers(-3, 3))
    integers = st.one_of(around.map(lambda i: i + 1), around, st.sampled_from([2**70, -(2**70), high + 1, low - 1]))
    odd = st.sampled_from(["0.5", "-0.5", "1.0", "1e2", "9007199254740992.5", "1e400", "-1e999999999", "1e-9999999"])
    words = st.one_of(integers.map(str), odd).map(lambda word: (word, Decimal(word)))
    return Kind(field_type, around.filter(lambda i: low <= i <= high), words)


def float_kind(field_type: pa.DataType) -> Kind:
    scalar_type = field_type.to_pandas_dtype()
    some = st.sampled_from([0.0, -0.0, 0.1, 1.5, -1.5, float("inf"), float("-inf"), float(np.finfo(scalar_type).max)])
    values = st.one_of(some, some, st.floats(width=field_type.bit_width)).map(scalar_type)

    def meaning(word: str) -> tuple[str, Any]:
        with np.errstate(over="ignore"):
            rounded = float(scalar_type(float(word)))
        return word, Decimal(word) if np.isinf(rounded) and "inf" not in word else rounded

    odd = st.sampled_from(["0", "-0", "+0.1", "1.", ".5", "1e400", "-1e400", "inf", "-inf"])
    words = st.one_of(some.map(lambda value: repr(float(scalar_type(value)))), odd).map(meaning)
    return Kind(field_type, values, words, lambda column: [None if v is None else float(v) for v in column.to_pylist()])


def decimal_kind(field_type: pa.DataType) -> Kind:
    limit = Decimal((0, (9,) * field_type.precision, -2))
    some = st.sampled_from(
        [Decimal("0.00"), Decimal("1.25"), Decimal("-1.25"), Decimal("1.26"), limit, limit.copy_negate()]
    )
    odd = ["1.255", "-1.255", "0", "1.250", "1e99", "-1e99", "1e-99", "inf", "-inf", str(limit) + "1"]
    words = st.one_of(some.map(str), st.sampled_from(odd)).map(lambda word: (word, Decimal(word)))
    return Kind(field_type, some, words)


def text_kind(field_type: pa.DataType) -> Kind:
    texts = st.text(alphabet="a'\"é😀", max_size=3)
    words = texts.map(lambda text: ("'" + text.replace("'", "''") + "'", text))
    return Kind(field_type, texts, words)


def bytes_kind(field_type: pa.DataType, length: int | None = None) -> Kind:
    values = st.binary(max_size=3) if length is None else st.binary(min_size=length, max_size=length)
    texts = st.one_of(st.text(alphabet="a'é", max_size=3), st.text(alphabet="ab", min_size=2, max_size=2))
    some = st.one_of(values, st.text(alphabet="ab", min_size=2, max_size=2).map(str.encode))
    words = texts.map(lambda text: ('"' + text.replace('"', '""') + '"', text.encode()))
    return Kind(field_type, some, words)


def counts(unit_nanoseconds: int) -> Callable[[pa.ChunkedArray], list[Any]]:
    """Times as Python integers of nanoseconds, which no datetime rounds."""

    def key(column: pa.ChunkedArray) -> list[Any]:
        integers = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist()
        return [None if count is None else count * unit_nanoseconds for count in integers]

    return key


def instant_kind(field_type: pa.DataType) -> Kind:
    unit = {"ms": 10**6, "us": 10**3, "ns": 1}[field_type.unit]
    zone = "" if field_type.tz is None else "Z"
    far = [] if field_type.unit == "ns" else [253402300799 * 10**9 // unit, 2**61]  # 9999-12-31T23:59:59, and beyond
    some = st.one_of(st.integers(-2, 2), st.sampled_from([-(10**15), 10**15, *far]))
    written = st.one_of(st.integers(-2, 2), st.integers(-3000, 3000), st.integers(-(10**6), 10**6))

    def spell(nanoseconds: int) -> tuple[str, int]:
        seconds, rest = divmod(nanoseconds, 10**9)
        start = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
        return f"{start.isoformat()}.{rest:09}{zone}", nanoseconds

    ends = [(f"9999-12-31T23:59:59{zone}", 253402300799 * 10**9), (f"0001-01-01 00:00:00{zone}", -62135596800 * 10**9)]
    words = st.one_of(written.map(spell), written.map(lambda i: spell(i * unit)), st.sampled_from(ends))
    return Kind(field_type, some.map(lambda i: pa.scalar(i, pa.int64()).cast(field_type)), words, counts(unit))


def time_kind(field_type: pa.DataType) -> Kind:
    unit = {"ms": 10**6, "us": 10**3, "ns": 1}[field_type.unit]
    integer = pa.int32() if field_type.bit_width == 32 else pa.int64()
    values = st.integers(0, 3).map(lambda i: pa.scalar(i, integer).cast(field_type))
    nanoseconds = st.one_of(st.integers(0, 3).map(lambda i: i * unit), st.integers(0, 10**7))
    words = nanoseconds.map(lambda i: (f"00:00:00.{i:09}", i))
    return Kind(field_type, values, st.one_of(words, st.just(("00:00", 0))), counts(unit))


def date_kind() -> Kind:
    days = st.integers(-2, 2).map(lambda i: datetime.date(1970, 1, 1) + datetime.timedelta(days=i))
    return Kind(pa.date32(), days, days.map(lambda day: (day.isoformat(), day)))


KINDS = [
    *map(integer_kind, (pa.int8(), pa.uint8(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64())),
    *map(float_kind, (pa.float16(), pa.float32(), pa.float64())),
    *map(decimal_kind, (pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(38, 2), pa.decimal256(60, 2))),
    *map(text_kind, (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))),
    *map(bytes_kind, (pa.binary(), pa.large_binary(), pa.binary_view())),
    bytes_kind(pa.binary(2), 2),
    *map(instant_kind, (pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"))),
    *map(instant_kind, (pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us", "America/New_York"))),
    *map(time_kind, (pa.time32("ms"), pa.time64("us"), pa.time64("ns"))),
    date_kind(),
    Kind(pa.bool_(), st.booleans(), st.sampled_from([("true", True), ("FALSE", False)])),
    Kind(pa.bool8(), st.integers(0, 1), st.sampled_from([("1", 1), ("0", 0)])),
]


def holds(name: str, value: Any, literals: list[Any]) -> bool:
    """The plain loop's body: SQL for nulls, IEEE 754 for NaN, Python for the rest."""
    if name in ("is-null", "is-not-null"):
        return (value is None) == (name == "is-null")
    if value is None:
        return False
    if isinstance(value, float) and math.isnan(value):
        return name in ("!=", "not-in")
    if name in ("in", "not-in"):
        return (value in literals) == (name == "in")
    return COMPARISONS[name](value, literals[0])


def spell(name: str, words: list[str]) -> str:
    if name in ("is-null", "is-not-null"):
        return f"x {name}"
    return f"x {name} ({', '.join(words)})" if name in ("in", "not-in") else f"x{name}{words[0]}"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.type))
@given(data=st.data())
@QUICK
def test_mask_is_a_plain_loop_and_what_is_pruned_has_no_row(kind: Kind, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.one_of(st.none(), kind.values, kind.values), min_size=1, max_size=8))
    words = data.draw(st.lists(kind.words, min_size=1, max_size=3))
    file = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array(values, kind.type)}), file, row_group_size=data.draw(st.integers(1, 4)))
    column = pq.read_table(file).column("x")
    metadata = pq.read_metadata(file)
    assert column.type == kind.type
    keys = kind.key(column)
    for name in OPERATORS:
        condition = bind(spell(name, [word for word, _ in words]), kind.type)
        mask = condition.mask(column)
        assert mask.null_count == 0
        assert mask.to_pylist() == [holds(name, key, [literal for _, literal in words]) for key in keys], condition
        start = 0
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            rows = mask.slice(start, group.num_rows).to_pylist()
            assert condition.can_match(group.column(0).statistics, group.num_rows) or not any(rows), condition
            start += group.num_rows


# --- what matters by itself


def test_integers_beyond_the_mantissa_of_a_double_are_exact() -> None:
    column = pa.array([2**53, 2**53 + 1, None], pa.int64())
    assert kept(f"x = {2**53 + 1}", column) == [False, True, False]
    assert kept(f"x in {2**53 + 1},7", column) == [False, True, False]
    assert kept(f"x > {2**53}.5", column) == [False, True, False]
    assert kept(f"x < {2**64 - 1}", pa.array([2**64 - 1, 2**64 - 2], pa.uint64())) == [False, True]


def test_integers_out_of_range_neither_fail_nor_wrap() -> None:
    column = pa.array([-128, 127, None], pa.int8())
    everything, nothing = [True, True, False], [False, False, False]
    for text in ("x < 300", "x <= 300", "x != 300", "x > -300", "x not-in 300,-300", "x < inf"):
        assert kept(text, column) == everything
    for text in ("x > 300", "x >= 300", "x = 300", "x < -300", "x in 300,-129", "x >= inf"):
        assert kept(text, column) == nothing
    assert kept("x >= -0.5", pa.array([0, 1], pa.uint8())) == [True, True]


def test_a_float32_column_finds_the_literal_as_it_would_store_it() -> None:
    assert kept("x = 0.1", pa.array([0.1, 0.2], pa.float32())) == [True, False]
    assert kept("x < 1e39", pa.array([float("inf"), 3e38], pa.float32())) == [False, True]


def test_nan_holds_for_what_is_unequal_alone_and_is_no_null() -> None:
    column = pa.array([float("nan"), 5.0, None])
    assert kept("x != 5", column) == [True, False, False]
    assert kept("x not-in 5,6", column) == [True, False, False]
    assert kept("x >= -inf", column) == [False, True, False]
    assert kept("x is-null", column) == [False, False, True]
    assert can_match("x != 5", pa.array([5.0, float("nan")]))
    with pytest.raises(ConfigError, match=r">= -inf keeps all but nan\), found 'nan'"):
        bind("x != nan", pa.float64())


def test_zeros_of_either_sign_are_equal() -> None:
    column = pa.array([0.0, -0.0])
    for text in ("x = 0", "x = -0.0", "x in 0,5", "x in 5,-0.0"):
        assert kept(text, column) == [True, True]
        assert can_match(text, column.slice(0, 1))
        assert can_match(text, column.slice(1))


def test_chunks_and_empty_columns() -> None:
    column = pa.chunked_array([["a", None], [], ["b"]], pa.string())
    mask = bind("x != a", column.type).mask(column)
    assert isinstance(mask, pa.ChunkedArray)
    assert mask.to_pylist() == [False, False, True]
    for field_type in (pa.string(), pa.int8(), pa.float16(), pa.dictionary(pa.int8(), pa.string())):
        empty = pa.chunked_array([], field_type)
        for text in ("x = 1", "x < 1", "x not-in 1,2", "x is-null"):
            assert bind(text, field_type).mask(empty).to_pylist() == []


def test_nulls_inside_a_dictionary_are_nulls() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    assert kept("x != b", column) == [True, False, False]
    assert kept("x is-null", column) == [False, True, True]


def test_extension_types_compare_as_their_storage() -> None:
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}", None]))
    assert kept("x = '{}'", column) == [True, False]
    assert kept("x is-null", column) == [False, True]


NESTED = [
    pa.list_(pa.int32()),
    pa.list_(pa.float32(), 4),
    pa.struct([("a", pa.int32())]),
    pa.map_(pa.string(), pa.int32()),
    pa.dense_union([pa.field("a", pa.int32())]),
    pa.duration("s"),
    pa.null(),
    pa.fixed_shape_tensor(pa.float32(), (2, 2)),
]


@pytest.mark.parametrize("field_type", NESTED, ids=str)
def test_types_without_an_order_have_null_tests_alone(field_type: pa.DataType) -> None:
    assert bind("x is-null", field_type).test == "is-null"
    with pytest.raises(ConfigError, match=r"column 'x' is .* expected is-null or is-not-null, such as --where 'x is-"):
        bind("x = 5", field_type)


def test_lists_and_structs_are_tested_for_null_and_never_pruned() -> None:
    lists = pa.array([[None], None])
    assert kept("x is-null", lists) == [False, True]
    for column in (lists.slice(0, 1), lists.slice(1), pa.array([{"a": None}]), pa.array([{"a": 5}])):
        for text in ("x is-null", "x is-not-null"):
            assert can_match(text, column)


@pytest.mark.parametrize(
    ("text", "field_type", "expected"),
    [
        ("x = five", pa.int8(), "column 'x' is int8: expected a number, such as 5, found 'five'"),
        ("x in 1,0x10", pa.int64(), "found '0x10'"),
        ("x < 1_000", pa.float64(), "found '1_000'"),
        ("x = 1e99999999999999999999", pa.float64(), "found '1e99999999999999999999'"),
        ("x = yes", pa.bool_(), "expected true or false, found 'yes'"),
        ("x = 1.2.3", pa.decimal128(5, 2), "expected a number, such as 1.25, found '1.2.3'"),
        ("x > yesterday", pa.date32(), "is date32[day]: expected a date, such as 2024-01-31, found 'yesterday'"),
        (
            "x > 2024-01-31T00:00:00Z",
            pa.timestamp("us"),
            "expected a time without offset, such as 2024-01-31T12:30:00,",
        ),
        ("x > 2024-01-31", pa.timestamp("us", "UTC"), "expected a time with its offset, such as 2024-01-31T12:30:00Z"),
        ("x > 25:00", pa.time64("us"), "expected a time of day, such as 12:30:00, found '25:00'"),
        ("x = \udcff", pa.string(), "expected UTF-8 text"),
        ("x = \udcff", pa.binary(), "expected UTF-8 text"),
    ],
)
def test_a_literal_of_another_type_is_told(text: str, field_type: pa.DataType, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(text, field_type)
    assert str(caught.value).startswith(f"--where '{text}': column 'x' is ")
    assert expected in str(caught.value)


def test_times_with_a_zone_are_instants() -> None:
    column = pa.array([0, 3_600_000], pa.timestamp("ms", "Europe/Berlin"))
    assert kept("x = 1970-01-01T02:00:00+01:00", column) == [False, True]
    assert kept("x < 9999-12-31T00:00:00Z", column.cast(pa.timestamp("ns", "UTC"))) == [True, True]


# --- row groups


@pytest.mark.parametrize(
    ("values", "field_type", "hits", "misses"),
    [
        ([3, 7, None], pa.int32(), ["x = 5", "x in 1,4", "x < 4", "x > 6", "x != 3"], ["x = 8", "x in 1,9", "x < 3"]),
        ([3, 7, None], pa.int32(), ["x >= 7", "x <= 3", "x is-null"], ["x > 7", "x >= 7.5", "x <= 2.5", "x = 3.5"]),
        ([5, 5], pa.uint64(), ["x != 6"], ["x != 5", "x not-in 4,5", "x is-null"]),
        ([2**64 - 1], pa.uint64(), [f"x > {2**63}"], [f"x < {2**63}", f"x = {2**64}"]),
        ([2**53 + 1], pa.int64(), [f"x != {2**53}"], [f"x = {2**53}", f"x > {2**53 + 1}"]),
        ([1.5], pa.float16(), ["x = 1.5", "x != 1.5"], ["x = 1", "x < 1.5", "x > 1e9"]),
        ([1.5], pa.float64(), ["x != 1.5"], ["x = 1", "x > 1.5"]),
        (["de", "fr"], pa.string(), ["x = el", "x < e"], ["x = us", "x in a,b", "x > fr", "x is-null"]),
        (["de"], pa.string(), ["x != de", "x not-in de,fr"], ["x = d", "x < de"]),
        (["de"], pa.dictionary(pa.int32(), pa.string()), ["x = de"], ["x = d"]),
        ([b"de"], pa.binary(2), ["x >= d", "x != de"], ["x = d"]),
        ([True], pa.bool_(), ["x = true"], ["x = false", "x != true", "x < true"]),
        ([Decimal("1.25")], pa.decimal128(5, 2), ["x = 1.25"], ["x = 1.255", "x > 1.25", "x != 1.250"]),
        ([datetime.date(2024, 1, 31)], pa.date32(), ["x = 2024-01-31"], ["x < 2024-01-31"]),
        ([5], pa.timestamp("ns"), ["x = 1970-01-01 00:00:00.000000005"], ["x < 1970-01-01 00:00:00.000000005"]),
        ([5], pa.timestamp("us", "UTC"), ["x > 1970-01-01T00:00:00Z"], ["x > 1970-01-01T00:00:01Z"]),
        ([5], pa.time64("ns"), ["x > 00:00:00.000000004"], ["x > 00:00:00.000000005", "x != 00:00:00.000000005"]),
        ([5], pa.time32("ms"), ["x < 00:00:01"], ["x > 00:00:00.005"]),
        ([None, None], pa.int32(), ["x is-null"], ["x = 5", "x != 5", "x < 5", "x not-in 5,6", "x is-not-null"]),
        ([float("nan")], pa.float32(), ["x != 5", "x = 5"], ["x is-null"]),
    ],
)
def test_row_groups_are_pruned(values: list[Any], field_type: pa.DataType, hits: list[str], misses: list[str]) -> None:
    column = pa.array(values, field_type)
    assert [text for text in hits if not can_match(text, column)] == []
    assert [text for text in misses if can_match(text, column)] == []


def test_bounds_in_another_unit_than_nanoseconds_prune_nothing() -> None:
    column = pa.array([5], pa.timestamp("us"))
    assert bind("x > 1970-01-02", pa.timestamp("ns")).can_match(statistics_of(column), 1)


def test_bounds_beyond_the_years_of_datetime_prune_nothing() -> None:
    assert can_match("x < 1970-01-01", pa.array([2**62], pa.timestamp("us")))


def test_a_field_of_a_struct_counts_the_nulls_of_its_parent() -> None:
    column = pa.array([{"a": 1}, None, {"a": None}])
    condition = bind("x.a is-null", pa.int64())
    assert condition.can_match(statistics_of(column), 3)
    assert not condition.can_match(statistics_of(column.slice(0, 1)), 1)
    assert not bind("x.a != 5", pa.int64()).can_match(statistics_of(column.slice(1)), 2)


@dataclass
class Footer:
    """Statistics as other writers leave them."""

    min: Any = None
    max: Any = None
    has_min_max: bool = True
    has_null_count: bool = True
    null_count: int = 0
    num_values: int = 2


class CutText(Footer):
    @property
    def min(self) -> str:  # type: ignore[override]
        return b"\xc3".decode()

    @min.setter
    def min(self, value: Any) -> None: ...


@pytest.mark.parametrize(
    ("text", "field_type", "footer"),
    [
        ("x = 5", pa.float64(), Footer(float("nan"), float("nan"))),
        ("x < 5", pa.float64(), Footer(float("nan"), 9.0)),
        ("x = 5", pa.int32(), Footer(9, 7)),
        ("x = 5", pa.int32(), Footer("a", "b")),
        ("x = 5", pa.int32(), Footer(None, None)),
        ("x = 5", pa.int8(), Footer(1000, 2000)),
        ("x = a", pa.string(), CutText()),
        ("x != a", pa.string(), Footer("a", "a")),
        ("x != a", pa.binary(), Footer(b"a", b"a")),
        ("x is-null", pa.int32(), Footer(has_null_count=False)),
        ("x is-null", pa.int32(), Footer(num_values=5)),
        ("x is-not-null", pa.int32(), Footer(null_count=2, num_values=2)),
        ("x = 5", pa.int32(), Footer(has_min_max=False)),
        ("x = 5", pa.int32(), None),
    ],
)
def test_statistics_in_doubt_prune_nothing(text: str, field_type: pa.DataType, footer: Any) -> None:
    assert bind(text, field_type).can_match(footer, 2)


def test_an_empty_row_group_has_no_row() -> None:
    assert not bind("x is-null", pa.int32()).can_match(None, 0)


# --- partitions


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("x = 5", "05", True),
        ("x in 4,5.0", "5", True),
        ("x not-in 4,5", "5", False),
        ("x != 4", "5", True),
        ("x < 10", "9", True),
        ("x >= 20240101", "20240102", True),
        (f"x = {2**53}", str(2**53 + 1), False),
        ("x < '10'", "9", False),
        ("x = '5'", "05", False),
        ("x in 5,de", "05", False),
        ("x in 5,de", "de", True),
        ("x >= 2024-01-31", "2024-02-01", True),
        ("x = inf", "inf", True),
        ("x is-null", None, True),
        ("x is-null", "5", False),
        ("x is-not-null", "de", True),
        ("x is-not-null", None, False),
        ("x != 5", None, False),
        ("x not-in de,fr", None, False),
        ("x < 5", None, False),
    ],
)
def test_partitions_are_numbers_where_all_literals_are(text: str, value: str | None, expected: bool) -> None:
    condition = bind(text, pa.string(), is_partition=True)
    assert condition.holds(value) is expected
    assert condition.mask(pa.array([value], pa.string())).to_pylist() == [expected]
    assert condition.can_match(None, 1)


@pytest.mark.parametrize("value", ["de", "", "nan", "1_0", "5 "])
def test_a_partition_that_is_no_number_is_told(value: str) -> None:
    condition = bind("'my day' in 5, 6", pa.string(), is_partition=True)
    with pytest.raises(PlanError) as caught:
        condition.holds(value)
    assert str(caught.value) == (
        f"--where ''my day' in 5, 6': partition my day={value} is no number, as 5, 6 is; quote the value "
        'to compare as text: --where \'"my day" in "5", "6"\''
    )


def test_conditions_travel_between_processes() -> None:
    condition = bind("x in 1,300", pa.int8())
    again = pickle.loads(pickle.dumps(condition))
    assert (again.condition, again.test, again.operands) == (condition.condition, "in", pa.array([1], pa.int8()))
