"""An actor in a plain process: what it checks, what it gives back, and that it never raises."""

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.config import build_config
from engine.data.fetching import Fetcher
from engine.data.ledger import Ledger
from engine.data.pieces import Piece
from engine.data.source import Selection, Slice, read_slices
from engine.errors import ClusterError, ConfigError, DataError, EngineError, GraphError, JobFailedError
from engine.job import scoring_spec
from engine.model.session import ModelSession, SessionOptions
from engine.preparing.prepare import Job, prepare
from engine.preparing.resuming import claim_output
from engine.run.actor import LoadReport, ScoringActor
from engine.run.freezing import scored_model
from engine.run.spec import ShardResult

pytestmark = pytest.mark.tf


@pytest.fixture
def job(model: str, inputs: str, tmp_path: Path) -> Job:
    return started({"model": model, "input": inputs, "output": str(tmp_path / "out"), "batch_size": 32})


def started(settings: dict[str, object]) -> Job:
    job = prepare(build_config({"shard_size": 4000, **settings}))
    ledger = Ledger(job.config.output)
    ledger.folder.make()
    claim_output(job, ledger, None, "ab")
    return job


def load(job: Job, data: bytes = b"", **changes: object) -> tuple[ScoringActor, LoadReport | EngineError]:
    actor, model = ScoringActor(), scored_model(job.model, job.config.set)
    assert model is not None
    spec = replace(scoring_spec(job, model), **changes)
    options = SessionOptions(precision=spec.precision, xla=spec.xla)
    return actor, actor.load(spec, np.frombuffer(data or model.data, np.uint8), options)


def loaded(job: Job) -> ScoringActor:
    actor, report = load(job)
    assert isinstance(report, LoadReport), report
    return actor


def test_it_loads_once_and_scores_shards(job: Job) -> None:
    actor, report = load(job)
    assert isinstance(report, LoadReport)
    assert (report.devices[0].kind, report.visible_gpus, report.threads) == ("CPU", "", 1)
    assert report.schema.names == ["id", "prediction"]
    assert report.peak_bytes > 100e6
    assert pickle.loads(pickle.dumps(report)) == report
    ids = []
    for shard in job.plan.shards:
        result = actor.score(shard)
        assert isinstance(result, ShardResult)
        assert pickle.loads(pickle.dumps(result)) == result
        assert set(result.seconds) == {"read", "wait", "bind", "session", "write", "total"}
        ids += pq.read_table(Path(job.config.output) / result.part)["id"].to_pylist()
    assert ids == list(range(400))


def test_the_named_shard_tells_how_far_compiled_values_are_from_plain_ones(job: Job) -> None:
    plain, compiled = loaded(job), load(job, xla=True, drift_shard=2)[0]
    twins = {shard.shard_id: [actor.score(shard) for actor in (plain, compiled)] for shard in job.plan.shards}
    drifts = {shard_id: each.drift for shard_id, pair in twins.items() for each in pair if each.drift}
    assert drifts.keys() == {2}
    drift = drifts[2]["prediction"]
    assert (drift.rows, drift.argmax_changed) == (100, 0.0)
    assert drift.max_absolute < 1e-5
    assert compiled.score(job.plan.shards[2]).drift == drifts[2]


def test_a_precision_that_the_device_does_not_compute_in_is_a_mistake_of_the_call(job: Job) -> None:
    _, error = load(job, precision="float16")
    assert isinstance(error, ConfigError)
    assert re.match(r"node \S+: --precision float16: TensorFlow .* type --precision bfloat16", str(error))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_id": "another"}, "was taken over by another job"),
        ({"output": "/nowhere/at/all"}, "does not see the output folder /nowhere/at/all"),
        ({"versions": {"pyarrow": "1.0"}}, "pyarrow .* where the driver has 1.0"),
    ],
)
def test_what_only_a_node_can_see_is_told_when_loading(job: Job, changes: dict[str, object], message: str) -> None:
    _, error = load(job, **changes)
    assert isinstance(error, ClusterError)
    with pytest.raises(ClusterError, match=message):
        raise error


def test_an_input_that_this_node_does_not_mount(job: Job) -> None:
    Path(job.plan.files[0].path).rename(Path(job.config.output) / "elsewhere")
    _, error = load(job)
    assert isinstance(error, ClusterError)
    assert "does not see" in str(error)
    assert job.plan.files[0].path in str(error)


def test_a_model_that_cannot_be_loaded_is_a_value_not_an_exception(job: Job) -> None:
    actor, error = load(job, b"\x0a\xff\xff")
    assert isinstance(error, GraphError)
    result = actor.score(job.plan.shards[0])
    assert isinstance(result, JobFailedError)
    assert "before it had loaded the model" in str(result)


def test_a_replaced_plan_publishes_nothing(job: Job) -> None:
    actor = loaded(job)
    plan = Path(job.config.output) / "_icefloe" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "plan_id": "newer"}))
    error = actor.score(job.plan.shards[0])
    assert isinstance(error, JobFailedError)
    assert not error.retryable
    assert "belongs to another job now" in str(error)
    assert not list(Path(job.config.output).rglob("*.parquet.*"))
    assert not list(Path(job.config.output).glob("part-*"))


def test_a_twin_finds_its_part_there(job: Job) -> None:
    first, second = (loaded(job).score(job.plan.shards[0]) for _ in range(2))
    assert isinstance(first, ShardResult)
    assert isinstance(second, ShardResult)
    assert (first.published, first.facts) == (second.published, second.facts)


def test_a_changed_input_is_named_with_its_shard(job: Job) -> None:
    actor = loaded(job)
    Path(job.plan.files[1].path).write_bytes(b"PAR1")
    shard = next(each for each in job.plan.shards if each.pieces[0].path == job.plan.files[1].path)
    error = actor.score(shard)
    assert isinstance(error, DataError)
    assert str(error).startswith(f"shard {shard.shard_id}: {job.plan.files[1].path} changed since")


def test_bad_rows_are_passed_over_while_looking_at_open_shapes(tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, None]))
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"inputs": pa.array([None] * 9, pa.list_(pa.float32()))}), tmp_path / "in" / "a.parquet")
    rows = pa.array([None] * 40 + [[1.0], [2.0]], pa.list_(pa.float32()))
    pq.write_table(pa.table({"inputs": rows}), tmp_path / "in" / "b.parquet")
    job = started({"model": model, "input": str(tmp_path / "in"), "output": str(tmp_path / "out")})
    _, report = load(job)
    assert isinstance(report, LoadReport)
    assert report.schema.field("prediction").type == pa.list_(pa.float32())


def test_open_shapes_that_no_row_shows_are_a_mistake(tmp_path: Path) -> None:
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, None]))
    pq.write_table(pa.table({"inputs": pa.array([None] * 9, pa.list_(pa.float32()))}), tmp_path / "in.parquet")
    job = started({"model": model, "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out")})
    _, error = load(job)
    assert isinstance(error, GraphError)
    assert "only scored rows show" in str(error)
    assert "in.parquet, row 0: column 'inputs': a null" in str(error)


def test_a_row_that_the_graph_refuses_is_told_by_file_and_row(tmp_path: Path) -> None:
    numbers = graphs.graph(
        graphs.placeholder("inputs", "string", [None]),
        graphs.node("prediction", "StringToNumber", "inputs", out_type="float32"),
    )
    model = graphs.write(tmp_path / "m.pb", numbers)
    texts = [str(i) for i in range(100)]
    texts[70] = "no number"
    pq.write_table(pa.table({"inputs": texts}), tmp_path / "in.parquet")
    settings = {"model": model, "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out")}
    job = started({**settings, "batch_size": 16})
    error = loaded(job).score(job.plan.shards[0])
    assert isinstance(error, DataError)
    assert "1 bad row where --max-bad-rows allows 0" in str(error)
    assert f"{settings['input']}, row 70: the graph refuses these values" in str(error)
    assert "no number" in str(error)
    (row,) = pq.read_table(tmp_path / "out/_icefloe/quarantine/bad-00000-of-00001.parquet").to_pylist()
    assert (row["inputs"], row["_file"], row["_row"]) == ("no number", "in.parquet", 70)
    assert row["_error"] == "InvalidArgument"


@pytest.mark.parametrize("kind", ["fixed-size list", "raw bytes"])
def test_what_lies_right_reaches_the_session_as_a_view_of_arrows_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    values = np.arange(200 * 16, dtype=np.float32).reshape(200, 16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 16)
    if kind == "raw bytes":
        column = pa.array([row.tobytes() for row in values])
    pq.write_table(pa.table({"inputs": column}), tmp_path / "in.parquet")
    model = graphs.write(tmp_path / "m.pb", graphs.identity("float32", [None, 16]))
    job = started({"model": model, "input": str(tmp_path / "in.parquet"), "output": str(tmp_path / "out")})
    actor = loaded(job)
    tables: list[pa.Table] = []
    batches: list[np.ndarray] = []

    def recording_slices(piece: Piece, selection: Selection, batch_rows: int, *ahead: Fetcher) -> Iterator[Slice]:
        for read in read_slices(piece, selection, batch_rows, *ahead):
            tables.append(read.table)
            yield read

    def recording_run(session: ModelSession, batch: dict[str, np.ndarray], **given: bool) -> list[np.ndarray]:
        batches.append(batch["inputs:0"])
        return run(session, batch, **given)

    run = ModelSession.run
    monkeypatch.setattr("engine.run.shard.read_slices", recording_slices)
    monkeypatch.setattr(ModelSession, "run", recording_run)
    assert all(isinstance(actor.score(shard), ShardResult) for shard in job.plan.shards)
    data = np.frombuffer(tables[0]["inputs"].chunk(0).buffers()[-1], np.uint8)
    assert sum(map(len, batches)) == 200
    assert all(np.shares_memory(batch, data) for batch in batches)
    assert all(batch.ctypes.data % 64 == 0 for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches), values)
