"""Models of every kind, scored: checkpoints, SavedModels and Keras files frozen by a worker, text, own operations."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine import JobConfig, score
from engine.errors import GraphError, JobFailedError, PlanError
from engine.model.sidecar import read_sidecar
from engine.run.summary import Summary

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

ROWS = np.random.default_rng(3).normal(size=(24, 4)).astype(np.float32)
MAKE = Path(__file__).with_name("make_models.py")
OPERATION = """
#include <stdbool.h>
#include <stdint.h>
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeHandle TF_ShapeHandle;
typedef struct TF_DimensionHandle TF_DimensionHandle;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
#include "tensorflow/c/ops.h"
#include "tensorflow/c/kernels.h"
static void compute(void* kernel, TF_OpKernelContext* context) {
  TF_Status* status = TF_NewStatus();
  TF_Tensor* in = 0;
  TF_GetInput(context, 0, &in, status);
  int64_t count = TF_TensorElementCount(in), dims[8];
  int rank = TF_NumDims(in);
  for (int i = 0; i < rank; i++) dims[i] = TF_Dim(in, i);
  TF_Tensor* out = TF_AllocateOutput(context, 0, TF_FLOAT, dims, rank, count * sizeof(float), status);
  for (int64_t i = 0; i < count; i++) ((float*)TF_TensorData(out))[i] = 2 * ((float*)TF_TensorData(in))[i];
  TF_DeleteTensor(in);
  TF_DeleteTensor(out);
  TF_DeleteStatus(status);
}
static void shape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* handle = TF_NewShapeHandle();
  TF_ShapeInferenceContextGetInput(context, 0, handle, status);
  TF_ShapeInferenceContextSetOutput(context, 0, handle, status);
  TF_DeleteShapeHandle(handle);
}
__attribute__((constructor)) static void define(void) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* builder = TF_NewOpDefinitionBuilder("IcefloeTwice");
  TF_OpDefinitionBuilderAddInput(builder, "x: float");
  TF_OpDefinitionBuilderAddOutput(builder, "y: float");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, shape);
  TF_RegisterOpDefinition(builder, status);
  TF_RegisterKernelBuilder("IcefloeTwice", TF_NewKernelBuilder("IcefloeTwice", "CPU", 0, compute, 0), status);
  TF_DeleteStatus(status);
}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model in many forms, made by a process of its own, and what it predicts for ROWS."""
    folder = tmp_path_factory.mktemp("models")
    np.save(folder / "rows.npy", ROWS)
    inputs = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 4)
    (folder / "in").mkdir()
    for start, stop in ((0, 10), (10, 24)):
        table = pa.table({"id": range(start, stop), "inputs": inputs[start:stop], "x": inputs[start:stop]})
        pq.write_table(table, folder / "in" / f"{start}.parquet")
    subprocess.run([sys.executable, str(MAKE), str(folder)], check=True, capture_output=True)
    return folder


def scored(made: Path, out: Path, model: str, **settings: Any) -> tuple[np.ndarray, Summary]:
    config = {"model": model, "input": (str(made / "in"),), "output": str(out), "actors": 1, **settings}
    summary = score(JobConfig(**config))
    table = pa.concat_tables(pq.read_table(part) for part in sorted(out.glob("part-*")))
    assert table["id"].to_pylist() == list(range(len(ROWS)))
    return np.stack(table["prediction"].to_numpy()), summary


@pytest.mark.parametrize("form", ["checkpoint", "saved1", "saved2"])
def test_a_model_is_frozen_by_a_worker_and_scored(form: str, made: Path, tmp_path: Path) -> None:
    found, summary = scored(made, tmp_path / "out", str(made / form))
    expected = np.load(made / ("keras.npy" if form == "saved2" else "plain.npy"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    plan = json.loads((tmp_path / "out" / "_icefloe" / "plan.json").read_text())
    assert summary.model_sha256 == plan["scored_sha256"]
    assert summary.model_sha256 != plan["settings"]["model_sha256"]  # that is over the source's files


@pytest.mark.parametrize(("form", "feed"), [("model.keras", "inputs"), ("model.h5", "pixels")])
def test_a_keras_file_is_frozen_by_a_worker_and_scored(form: str, feed: str, made: Path, tmp_path: Path) -> None:
    found, _ = scored(made, tmp_path / "out", str(made / form), feed=(f"{feed}=inputs",))
    np.testing.assert_allclose(found, np.load(made / "keras.npy"), rtol=1e-5, atol=1e-6)


def test_a_graph_that_freeze_wrote_needs_no_flags(made: Path, tmp_path: Path) -> None:
    """Its ports are called in/pixels and out/score, and lie beside it."""
    from engine.freezing import freeze_to_file
    from engine.model.freezing.plan import FreezeOptions

    model = str(tmp_path / "m.pb")
    frozen = freeze_to_file(str(made / "checkpoint"), model, FreezeOptions(("out/score=prediction",), ("in/x=inputs",)))
    ports, _ = read_sidecar(model, Path(model).read_bytes())
    assert ports is not None
    assert [spec.name for spec in (*ports.inputs, *ports.outputs)] == ["in/x:0", "out/score:0"]
    assert frozen.comparison.startswith("compared on 4 random rows")
    (tmp_path / "out").mkdir()
    config = {"model": model, "input": (str(made / "in"),), "output": str(tmp_path / "out"), "actors": 1}
    summary = score(JobConfig(**config))
    assert summary.model_sha256 == frozen.sha256
    table = pa.concat_tables(pq.read_table(part) for part in sorted((tmp_path / "out").glob("part-*")))
    assert table.column_names == ["id", "inputs", "score"]
    np.testing.assert_allclose(np.stack(table["score"].to_numpy()), np.load(made / "plain.npy"), rtol=1e-5, atol=1e-6)


def test_a_resumed_job_freezes_to_the_same_graph(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = {"model": str(made / "saved2"), "shard_size": 500}
    found, first = scored(made, out, **settings)
    part = sorted(out.glob("part-*"))[0]
    before = part.read_bytes()
    part.unlink()
    again, second = scored(made, out, **settings)
    assert part.read_bytes() == before
    assert (second.parts_earlier, second.model_sha256) == (first.parts - 1, first.model_sha256)
    np.testing.assert_array_equal(again, found)
    plan = out / "_icefloe" / "plan.json"
    document = json.loads(plan.read_text())
    plan.write_text(json.dumps({**document, "scored_sha256": "0" * 64}))
    part.unlink()
    with pytest.raises(PlanError, match="frozen again, gives another graph than the one that the parts there"):
        scored(made, out, **settings)


def test_a_changed_source_is_another_job(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "saved2"
    shutil.copytree(made / "saved2", copy)
    scored(made, tmp_path / "out", str(copy))
    data = copy / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-4] + b"\x00\x00\x00\x3f")
    with pytest.raises(PlanError, match="model_sha256"):
        scored(made, tmp_path / "out", str(copy))


def test_a_source_that_cannot_be_frozen_leaves_the_output_alone(made: Path, tmp_path: Path) -> None:
    broken = tmp_path / "saved2"
    shutil.copytree(made / "saved2", broken)
    data = broken / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-40])
    with pytest.raises(GraphError, match=f"{broken}: .*is damaged or was cut short"):
        scored(made, tmp_path / "out", str(broken))
    assert not (tmp_path / "out").exists()


def test_a_keras_file_with_code_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"is Python code \(Lambda\).*neither is run"):
        scored(made, tmp_path / "out", str(made / "lambda.keras"))


def test_text_is_scored_as_the_binary_is(made: Path, tmp_path: Path) -> None:
    graph_def = graphs.linear()
    (tmp_path / "m.pbtxt").write_text(str(graph_def))
    text, _ = scored(made, tmp_path / "text", str(tmp_path / "m.pbtxt"))
    binary, _ = scored(made, tmp_path / "binary", graphs.write(tmp_path / "m.pb", graph_def))
    np.testing.assert_array_equal(text, binary)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to build an operation with")
def test_an_operation_of_ones_own(made: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    (tmp_path / "twice.c").write_text(OPERATION)
    library = tmp_path / "twice.so"
    include = tf.sysconfig.get_include()
    subprocess.run(["gcc", "-shared", "-fPIC", "-I", include, "-o", library, tmp_path / "twice.c"], check=True)
    graph_def = graphs.graph(
        graphs.placeholder("inputs", "float32", [None, 4]), graphs.node("prediction", "IcefloeTwice", "inputs")
    )
    model = graphs.write(tmp_path / "m.pb", graph_def)
    found, _ = scored(made, tmp_path / "out", model, op_library=(str(library),))
    np.testing.assert_array_equal(found, ROWS * 2)
    plan = json.loads((tmp_path / "out" / "_icefloe" / "plan.json").read_text())
    assert len(plan["settings"]["op_library_sha256"][0]) == 64
    (tmp_path / "broken.so").write_bytes(b"\x7fELF and no more")
    with pytest.raises((GraphError, JobFailedError), match=r"broken\.so: TensorFlow 2\.21.* cannot load it"):
        scored(made, tmp_path / "other", model, op_library=(str(tmp_path / "broken.so"),))


def test_an_operation_let_through_is_kept_in_the_plan(made: Path, tmp_path: Path) -> None:
    (tmp_path / "factor.txt").write_text("3.0")
    path = graphs.constant("path", np.array(0, np.float32))
    path.attr["dtype"].type = path.attr["value"].tensor.dtype = graphs.dtype_number("string")
    path.attr["value"].tensor.tensor_content = b""
    path.attr["value"].tensor.string_val.append(str(tmp_path / "factor.txt").encode())
    graph_def = graphs.graph(
        graphs.placeholder("inputs", "float32", [None, 4]),
        path,
        graphs.node("text", "ReadFile", "path"),
        graphs.node("factor", "StringToNumber", "text", out_type="float32"),
        graphs.node("prediction", "Mul", "inputs", "factor", T="float32"),
    )
    model = graphs.write(tmp_path / "m.pb", graph_def)
    with pytest.raises(GraphError, match=r"text \(ReadFile\) reads files"):
        scored(made, tmp_path / "out", model)
    found, _ = scored(made, tmp_path / "out", model, allow_op=("ReadFile",))
    np.testing.assert_array_equal(found, ROWS * 3)
    plan = json.loads((tmp_path / "out" / "_icefloe" / "plan.json").read_text())
    assert plan["settings"]["allow_op"] == ["ReadFile"]
