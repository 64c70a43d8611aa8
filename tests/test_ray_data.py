"""The predictor of Ray Data: each kind of batch gives what plain numpy gives, and a pipeline what a job does."""

import re
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows

from engine import JobConfig, score
from engine.errors import ConfigError, DataError, GraphError, SchemaError
from engine.ray_data import GraphPredictor

pytestmark = pytest.mark.tf
# Ray Data 2.60 sets settings of its own that it has deprecated.
OF_RAY_DATA_ITSELF = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")

ROWS = np.sin(np.arange(40, dtype=np.float32)).reshape(10, 4)


def expected(rows: np.ndarray) -> np.ndarray:
    logits = rows @ np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    exps = np.exp(logits)
    return exps / exps.sum(axis=1, keepdims=True)


def lists(rows: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def test_tables(model: str) -> None:
    predictor = GraphPredictor(model, batch_size=4)
    table = pa.table({"id": np.arange(10), "inputs": lists(ROWS)})
    for batch in (table, table.slice(3, 5), table.slice(0, 0)):
        found = predictor(batch)
        assert found.column_names == ["id", "prediction"]
        assert found["id"].equals(batch["id"])
        assert found.schema.field("prediction").type == pa.list_(pa.float32(), 3)
        rows = np.array(batch["inputs"].to_pylist(), np.float32).reshape(-1, 4)
        np.testing.assert_allclose(np.array(found["prediction"].to_pylist()).reshape(-1, 3), expected(rows), rtol=1e-5)


def test_dicts_of_arrays(model: str) -> None:
    ids = np.arange(10)
    found = GraphPredictor(model)({"id": ids, "inputs": ROWS.reshape(10, 2, 2)})
    assert list(found) == ["id", "prediction"]
    assert found["id"] is ids
    assert found["prediction"].dtype == np.float32
    np.testing.assert_allclose(found["prediction"], expected(ROWS), rtol=1e-5)


def test_data_frames(model: str) -> None:
    frame = pd.DataFrame({"id": range(10), "inputs": list(ROWS)}, index=range(5, 15))
    found = GraphPredictor(model)(frame)
    assert list(found.columns) == ["id", "prediction"]
    assert list(found.index) == list(range(5, 15))
    np.testing.assert_allclose(np.stack(found["prediction"].tolist()), expected(ROWS), rtol=1e-5)


@pytest.mark.parametrize("kind", ["ArrowTensorType", "ArrowTensorTypeV2"])
def test_ray_data_s_own_tensors(tmp_path: Path, kind: str) -> None:
    from ray.data._internal.tensor_extensions import arrow

    rows = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    tensor_type = getattr(arrow, kind)((4, 3), pa.float32())
    flat = [row.reshape(-1).tolist() for row in rows]
    column = pa.ExtensionArray.from_storage(tensor_type, pa.array(flat, tensor_type.storage_type))
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, None, None]))
    found = GraphPredictor(model)(pa.table({"inputs": column}).slice(1))
    assert found["prediction"].to_pylist() == rows[1:].tolist()


def test_tensors_of_several_shapes(tmp_path: Path) -> None:
    from ray.data._internal.tensor_extensions.arrow import ArrowVariableShapedTensorArray

    rows = np.empty(3, object)
    rows[:] = [np.arange(n * 2, dtype=np.float32).reshape(n, 2) for n in (1, 3, 2)]
    column = ArrowVariableShapedTensorArray.from_numpy(rows)
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, None, None]))
    found = GraphPredictor(model)(pa.table({"inputs": column}))
    assert found["prediction"].to_pylist() == [row.tolist() for row in rows]


@pytest.mark.parametrize("widths", [(3, 4), (3, None), (None, 3), (None, None)])
def test_which_rows_come_first_decides_no_type(tmp_path: Path, widths: tuple[int | None, int | None]) -> None:
    """Ray makes a batch dense whenever its rows happen to agree."""
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, None]))
    predictor = GraphPredictor(model)
    types = set()
    for width in widths:
        rows = [np.arange(i % 3 + 1 if width is None else width, dtype=np.float32) for i in range(5)]
        batch = np.empty(5, object) if width is None else np.empty((5, width), np.float32)
        batch[:] = rows
        found = predictor({"inputs": batch})["prediction"]
        assert [row.tolist() for row in found] == [row.tolist() for row in rows]
        column = pa.array(rows) if width is None else lists(batch)
        types.add(predictor(pa.table({"inputs": column})).schema.field("prediction").type)
    assert types == {pa.list_(pa.float32())}


@pytest.mark.parametrize("num_bad", [2, 16, 40])
@pytest.mark.parametrize("batch_size", [4, 64])
def test_good_rows_behind_bad_ones_show_how_an_open_output_is_shaped(
    tmp_path: Path, num_bad: int, batch_size: int
) -> None:
    made = graphs.graph(
        graphs.placeholder("inputs", "string", [None]),
        graphs.node("prediction", "DecodeRaw", "inputs", out_type="float32"),
    )
    predictor = GraphPredictor(graphs.write(tmp_path / "m.pb", made), bad_rows="null", batch_size=batch_size)
    good = np.array([1.0, 2.0], np.float32)
    batch = pa.table({"inputs": pa.array([b"abc"] * num_bad + [good.tobytes()] * 10, pa.binary())})
    found = predictor(batch)
    assert found["prediction"].to_pylist() == [None] * num_bad + [good.tolist()] * 10
    assert [reason is None for reason in found["_error"].to_pylist()] == [False] * num_bad + [True] * 10


def test_a_bad_row_ends_the_pipeline_or_stays_with_its_reason(model: str) -> None:
    rows: list[Any] = [[1.0, 2.0, 3.0, 4.0], None, [0.0, 0.0, 0.0, 0.0]]
    batch = pa.table({"id": [1, 2, 3], "inputs": pa.array(rows, pa.list_(pa.float32(), 4))})
    with pytest.raises(DataError, match=r"row 1 of a batch of 3, .*column 'inputs': a null"):
        GraphPredictor(model)(batch)
    found = GraphPredictor(model, bad_rows="null")(batch)
    assert found["id"].to_pylist() == [1, 2, 3]
    assert [row is None for row in found["prediction"].to_pylist()] == [False, True, False]
    assert found["_error"].to_pylist()[1].startswith("Null: column 'inputs'")
    assert found["_error"].null_count == 2
    arrays = {"inputs": np.array([ROWS[0], None, ROWS[1]], object)}
    values = GraphPredictor(model, bad_rows="null")(arrays)["prediction"]
    np.testing.assert_allclose(values[[0, 2]], expected(ROWS[:2]), rtol=1e-5)
    assert np.isnan(values[1]).all()


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"feeds": {"x": "y"}}, ConfigError, "unknown key 'feeds'; did you mean feed?"),
        ({"batch_size": 0}, ConfigError, "--batch-size: expected a whole number"),
        ({"max_bad_rows": 3}, ConfigError, "max_bad_rows: is a job's"),
        ({"bad_rows": "drop"}, ConfigError, "bad_rows: expected one of error, null"),
        ({"fetch": {"nowhere": "p"}}, GraphError, "nowhere"),
    ],
)
def test_mistakes_are_told_as_a_job_tells_them(model: str, settings: Any, kind: type, message: str) -> None:
    with pytest.raises(kind) as raised:
        GraphPredictor(model, **settings)
    assert message in str(raised.value)


def test_a_column_that_is_not_there(model: str) -> None:
    with pytest.raises(SchemaError, match=r"a batch has no column 'inputs'; did you mean input"):
        GraphPredictor(model)({"input": ROWS})


@pytest.mark.ray
@OF_RAY_DATA_ITSELF
@pytest.mark.usefixtures("local_ray")
def test_a_pipeline_gives_what_a_job_gives(model: str, tmp_path: Path) -> None:
    import ray.data

    for number in range(2):
        write_rows(tmp_path / "in" / f"f{number}.parquet", number * 50, (number + 1) * 50)
    score(JobConfig(model=model, input=(str(tmp_path / "in"),), output=str(tmp_path / "out"), actors=1))
    wanted = pa.concat_tables(pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*.parquet")))
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(str(tmp_path / "in")).map_batches(
        GraphPredictor, fn_constructor_kwargs={"model": model}, concurrency=1, num_cpus=0.1, batch_size=30
    ).take_all()  # fmt: skip
    found = sorted(rows, key=lambda row: row["id"])
    assert [row["id"] for row in found] == wanted["id"].to_pylist()
    values = np.array([row["prediction"] for row in found])
    np.testing.assert_allclose(values, np.array(wanted["prediction"].to_pylist()), rtol=1e-5)


@pytest.mark.ray
@OF_RAY_DATA_ITSELF
@pytest.mark.usefixtures("local_ray")
def test_the_example_runs_as_it_stands(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "ray-data.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert '"/data/model.pb"' in code
    exec(code.replace("/data/model.pb", model))
    assert re.match(r"\[\{'id': \d+, 'prediction': .*'id': \d+, 'prediction': ", capsys.readouterr().out, re.DOTALL)
