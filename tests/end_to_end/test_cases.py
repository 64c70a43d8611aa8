"""Every case beside this checkout, scored or refused as its outcome says; skipped where the cases are absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import JobConfig, score
from engine.errors import EngineError, Mistake
from engine.freezing import freeze_to_file
from engine.model.freezing.plan import FreezeOptions
from engine.model.graphdef import read_graph

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
INDEX = json.loads((CASES / "index.json").read_text()) if (CASES / "index.json").exists() else []
BY_NAME = {case["case"]: case for case in INDEX}
# A graph whose output is no row a row: rows of Parquet cannot be given to it as they are.
NO_ROWS = {"dl4j_awkward_conv_4": "the graph may want batches of one size"}
# Graphs of one row a run.
UNBATCHED = ("made_jpeg_bytes", "made_jpeg_bytes_broken")
# What a job is told of models that cannot be scored with, and of calls that leave something out.
REFUSED = {
    "tf2onnx_gru_keep_prob_unfed": r"needs keep_prob:0 .*--set keep_prob:0=VALUE",
    "made_jpeg_bytes_broken": r"first 2 rows are at fault .*a\.parquet, row 0: .*jpeg::Uncompress failed",
    "corrupt_truncated_at_node_boundary": "no tensor output:0.*cut short",
    "corrupt_truncated_mid_field": "cut short",
    "corrupt_empty_file": "an empty file",
    "lfs_pointer_identity_string": "Git LFS pointer",
    "tf2onnx_unfrozen_assign": "still has variables",
    "dl4j_awkward_compare_and_bitpack_float32": r"CompareAndBitpack\) is unknown to TensorFlow",
    **NO_ROWS,
}


def arrays(case: dict[str, Any], name: str) -> dict[str, np.ndarray]:
    path = CASES / case["case"] / f"{name}.npz"
    return dict(np.load(path, allow_pickle=False)) if path.exists() else {}


def is_scored(case: dict[str, Any]) -> bool:
    return bool(arrays(case, "inputs") and arrays(case, "expected")) and case["case"] not in NO_ROWS


def nested_type(array: np.ndarray) -> pa.DataType:
    leaf = pa.binary() if array.dtype.kind in "SO" else pa.from_numpy_dtype(array.dtype)
    for _ in array.shape[1:]:
        leaf = pa.list_(leaf)
    return leaf


def run(model: str, inputs: dict[str, np.ndarray], fetches: list[str], folder: Path, **more: Any) -> pa.Table:
    """Score `inputs`, split into two files, and return the output's rows in order."""
    columns = {key: array for key, array in inputs.items() if array.ndim} or inputs
    names = {key: key.split(":")[0].replace("/", "_") for key in [*columns, *fetches]}
    fields = [pa.field(names[key], nested_type(array)) for key, array in columns.items()]
    table = pa.table({names[key]: pa.array(np.atleast_1d(a).tolist()) for key, a in columns.items()})
    table = table.cast(pa.schema(fields))
    (folder / "in").mkdir()
    half = (len(table) + 1) // 2
    pq.write_table(table.slice(0, half), folder / "in" / "a.parquet")
    pq.write_table(table.slice(half), folder / "in" / "b.parquet")
    constants = {key: array.item() for key, array in inputs.items() if not array.ndim and key not in columns}
    settings = {
        "model": model,
        "input": (str(folder / "in"),),
        "output": str(folder / "out"),
        "feed": {key: names[key] for key in columns},
        "fetch": {key: f"out_{names[key]}" for key in fetches},
        "set": constants,
        "keep": "none",
        "actors": 1,
    }
    score(JobConfig(**{**settings, **more}))
    parts = sorted((folder / "out").glob("part-*"))
    scored = pa.concat_tables(pq.read_table(part) for part in parts)
    return scored.rename_columns(list(fetches))


def assert_as_expected(case: dict[str, Any], scored: pa.Table, expected: dict[str, np.ndarray]) -> None:
    for key, array in expected.items():
        if array.dtype.kind in "SO":
            assert np.array(scored[key].to_pylist(), object).tolist() == array.astype(object).tolist()
        else:
            found = np.array(scored[key].to_pylist(), array.dtype).reshape(array.shape)
            np.testing.assert_allclose(found, array, rtol=case["rtol"] or 1e-5, atol=case["atol"] or 1e-6)


@pytest.mark.parametrize("name", [case["case"] for case in INDEX if is_scored(case)])
def test_a_case_with_rows_gives_its_values(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    expected = arrays(case, "expected")
    model = str(CASES / name / "model.pb")
    scored = run(model, arrays(case, "inputs"), list(expected), tmp_path, unbatched=name in UNBATCHED)
    assert_as_expected(case, scored, expected)


@pytest.mark.parametrize("name", [case["case"] for case in INDEX if case["case"] in REFUSED])
def test_a_case_that_cannot_be_scored_names_the_cause(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    inputs = arrays(case, "inputs") or {"input:0": np.zeros(2, np.float32)}
    if case["outcome"] == "import_error":  # it has nothing to feed but its constants
        constants = [node for node in read_graph(str(CASES / name / "model.pb")).graph_def.node if node.op == "Const"]
        inputs = {f"{constants[0].name}:0": np.zeros(2, np.float32)}
    fetches = [each["name"] for each in case["outputs"]] or ["output:0"]
    if name in UNBATCHED:  # one row may be bad by itself; two in one file show that the graph takes none
        inputs = {key: np.repeat(array, 4) for key, array in inputs.items()}
    with pytest.raises((Mistake, EngineError), match=REFUSED[name]):
        run(str(CASES / name / "model.pb"), inputs, fetches, tmp_path, unbatched=name in UNBATCHED)


@pytest.mark.skipif(not INDEX, reason="the cases are not beside this checkout")
def test_one_row_a_run_has_to_be_asked_for(tmp_path: Path) -> None:
    inputs = arrays(BY_NAME["made_jpeg_bytes"], "inputs")
    with pytest.raises(Mistake, match=r"no batch axis .*--unbatched if the graph takes one row at a time"):
        run(str(CASES / "made_jpeg_bytes" / "model.pb"), inputs, ["mean_rgb:0"], tmp_path)


def test_no_case_was_forgotten() -> None:
    done = {case["case"] for case in INDEX if is_scored(case)} | set(REFUSED)
    left = {case["case"] for case in INDEX} - done
    assert left <= {
        "dl4j_dtype_tests_add_bfloat16_rank2",  # nothing to feed: loaded by tests/model
        *("serving_ckpt_v1_single_file", "serving_ckpt_v1_sharded", "tf2onnx_ckpt_v2_regression"),  # below
        "mlnet_savedmodel_types",
    }


HALF_PLUS_TWO = np.array([[0.0], [1.0], [2.0], [5.0]], np.float32)


@pytest.mark.skipif(not INDEX, reason="the cases are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "given", "output", "inputs", "expected"),
    [
        ("serving_ckpt_v1_single_file", "export", "Add:0", "Placeholder:0", None),
        ("serving_ckpt_v1_sharded", "", "y:0", "x:0", HALF_PLUS_TWO / 2 + 2),
        ("tf2onnx_ckpt_v2_regression", "model.index", "pred:0", "X:0", None),
    ],
)
def test_a_checkpoint_of_others_is_scored_and_frozen(
    name: str, given: str, output: str, inputs: str, expected: np.ndarray | None, tmp_path: Path
) -> None:
    source = str(CASES / name / given).rstrip("/")
    frozen = freeze_to_file(
        source, str(tmp_path / "m.pb"), FreezeOptions((output,), (f"{inputs.split(':', maxsplit=1)[0]}={inputs}",))
    )
    rows = HALF_PLUS_TWO if expected is not None else HALF_PLUS_TWO[:, 0]
    scored = run(source, {inputs: rows}, [output], tmp_path)
    from engine.model.session import load_session

    plain = load_session(frozen.data, [inputs], [output], {}).run({inputs: rows})[0]
    found = np.array(scored[output].to_pylist(), np.float32).reshape(plain.shape)
    np.testing.assert_array_equal(found, plain)
    if expected is not None:
        np.testing.assert_allclose(found, expected)


@pytest.mark.skipif(not INDEX, reason="the cases are not beside this checkout")
def test_a_saved_model_of_others_is_scored(tmp_path: Path) -> None:
    values = {"f32:0": np.array([[1, 2], [3, 4]], np.float32), "i64:0": np.array([[5, 6], [7, 8]], np.int64)}
    model = str(CASES / "mlnet_savedmodel_types" / "model.pb")
    scored = run(model, values, ["o_f32:0", "o_i64:0"], tmp_path)
    for (_, array), column in zip(values.items(), scored.columns, strict=True):
        assert np.array(column.to_pylist()).tolist() == array.tolist()
