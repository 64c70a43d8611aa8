"""Jobs whose model, input and output lie in a store: the same as local ones, whatever the store does meanwhile."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import NUM_FEATURES, write_rows
from object_store import ACCESS_KEY, FOREVER, SECRET_KEY, Fault, FaultyProxy, ObjectStore

import engine.job
import engine.run.cluster
from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.data.storage import connecting, retrying
from engine.errors import ConfigError, EngineError, GraphError, JobFailedError, Mistake, PlanError
from engine.freezing import write_frozen
from engine.model.checkpoint import save_checkpoint
from engine.model.freezing.freeze import freeze_session
from engine.preview import preview
from engine.run.summary import Summary
from engine.run.verify import verify_output

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

SETTINGS: dict[str, Any] = {"actors": 1, "shard_size": 3000, "batch_size": 32}
JOB_FILES = (
    "plan.json", "inputs.parquet", "schema.arrow", "manifest.parquet", "summary.json", "status.json",
    "timeline.parquet", "report.html",
)  # fmt: skip


class Case:
    """One job, locally and in a store; the store is reached through a proxy."""

    def __init__(self, root: Path, store: ObjectStore, proxy: FaultyProxy) -> None:
        self.root, self.store, self.proxy = root, store, proxy
        store.make_bucket(root.name)
        self.model = write_files(root)
        for path in (root / "model.pb", *(root / "in").rglob("*.parquet")):
            self.put(path.relative_to(root).as_posix(), path.read_bytes())

    def add_file(self, name: str, start: int, rows: int = 50) -> None:
        write_rows(self.root / "in" / name, start, start + rows)
        self.put(f"in/{name}", (self.root / "in" / name).read_bytes())

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data, self.root.name)

    def uri(self, path: str) -> str:
        return self.proxy.uri(self.root.name, path)

    def place(self, path: str) -> str:
        return f"s3://{self.root.name}/{path}"

    def config(self, **more: Any) -> JobConfig:
        settings = {"model": self.uri("model.pb"), "input": (self.uri("in"),), "output": self.uri("out")}
        return JobConfig(**{**settings, **SETTINGS, **more})

    def score(self, **more: Any) -> Summary:
        return score(self.config(**more))

    def objects(self) -> dict[str, bytes]:
        """What the output holds in the store, but for markers of folders."""
        keys = self.store.sizes("out/", self.root.name)
        return {key.removeprefix("out/"): self.store.get(key, self.root.name) for key in keys if key[-1] != "/"}

    def parts(self) -> dict[str, str]:
        return {name: digest(data) for name, data in self.objects().items() if "/part-" in name}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parts_in(output: Path) -> dict[str, str]:
    return {path.relative_to(output).as_posix(): digest(path.read_bytes()) for path in output.rglob("part-*")}


def write_files(root: Path) -> str:
    for number in range(6):
        write_rows(root / "in" / f"dt=2026-01-0{number % 2 + 1}/f{number}.parquet", number * 50, number * 50 + 50)
    return graphs.write(root / "model.pb", graphs.linear(NUM_FEATURES))


@dataclass
class Local:
    """The same job on local files."""

    summary: Summary
    parts: dict[str, str]


@pytest.fixture(scope="module")
def local(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Local:
    root = tmp_path_factory.mktemp("local")
    uris = {"model": write_files(root), "input": (str(root / "in"),), "output": str(root / "out")}
    return Local(score(JobConfig(**{**uris, **SETTINGS})), parts_in(root / "out"))


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with ObjectStore() as store:
        yield store


@pytest.fixture
def case(tmp_path: Path, store: ObjectStore) -> Iterator[Case]:
    (tmp_path / tmp_path.name.replace("_", "-").lower()).mkdir()
    with FaultyProxy(store, page_size=2) as proxy:
        yield Case(tmp_path / tmp_path.name.replace("_", "-").lower(), store, proxy)
    connecting.forget_clients()


@pytest.mark.chaos
def test_a_job_in_a_store_is_the_local_job_whatever_happens(
    case: Case, local: Local, capfd: pytest.CaptureFixture[str]
) -> None:
    case.proxy.set_faults(
        Fault("internal_error", "PUT", path="part-", times=2),
        Fault("slow_down", "GET", path=r"in/.*parquet", times=2, skip=1),
        Fault("cut_response", "GET", path=r"in/.*parquet", times=2, after_bytes=700),
        Fault("cut_request", "PUT", path="part-00002", times=1, after_bytes=500),
        Fault("slow_down", "GET", query="list-type", times=1, skip=4),
        Fault("internal_error", "HEAD", path="plan.json", times=1, skip=3),
        Fault("lose_response", "PUT", path="part-00004", times=1),
        Fault("internal_error", "PUT", path="(_SUCCESS|manifest)", times=2),
    )
    remote = case.score()
    assert sum(request.fault is not None for request in case.proxy.requests) >= 11
    case.proxy.set_faults()
    assert remote.plan_id == local.summary.plan_id
    assert (remote.rows_out, remote.parts) == (300, 6)
    assert case.parts() == local.parts
    found = verify_output(Ledger(case.uri("out")))
    assert (found.problems, found.parts, found.inputs) == ((), 6, 6)
    assert case.store.open_uploads(case.root.name) == []
    assert set(case.objects()) - case.parts().keys() == {"_SUCCESS", *(f"_icefloe/{name}" for name in JOB_FILES)}
    for name, data in case.objects().items():
        assert SECRET_KEY.encode() not in data, name
        assert ACCESS_KEY.encode() + b":" not in data, name
    paths = pa.BufferReader(case.objects()["_icefloe/inputs.parquet"])
    assert pq.read_table(paths)["path"].to_pylist()[0] == case.place("in/dt=2026-01-01/f0.parquet")
    assert case.score().attempts == 0
    lost = sorted(case.parts())[2]
    case.store.delete(f"out/{lost}", case.root.name)
    again = case.score()
    assert (again.attempts, again.parts_earlier) == (1, 5)
    assert case.parts() == local.parts
    assert SECRET_KEY not in "".join(capfd.readouterr())
    case.add_file("dt=2026-01-03/f9.parquet", 900)
    with pytest.raises(PlanError, match=r"1 input files new, first: dt=2026-01-03/f9\.parquet") as caught:
        case.score()
    assert SECRET_KEY not in str(caught.value)
    added = case.score(add=True)
    assert (added.rows_out, added.attempts) == (350, 1)
    assert local.parts.items() < case.parts().items()
    case.put("out/notes.txt", b"mine")
    anew = case.score(overwrite=True, batch_size=16)
    assert (anew.rows_out, anew.attempts) == (350, 7)
    assert verify_output(Ledger(case.uri("out"))).problems == ()
    assert case.objects()["notes.txt"] == b"mine"


def test_an_input_replaced_between_planning_and_reading_is_named(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = engine.job.claim_output

    def replace(*args: Any) -> set[str]:
        case.add_file("dt=2026-01-02/f3.parquet", 700, rows=60)
        return claim(*args)

    monkeypatch.setattr(engine.job, "claim_output", replace)
    with pytest.raises(EngineError, match=rf"{case.place('in/dt=2026-01-02/f3.parquet')}.*changed") as caught:
        case.score()
    assert SECRET_KEY not in str(caught.value)


def test_a_refusal_ends_the_job_and_is_not_asked_again_and_again(case: Case) -> None:
    method, path = "PUT", "part-"
    case.proxy.set_faults(Fault("access_denied", method, path=path, times=FOREVER))
    started = time.monotonic()
    with pytest.raises(EngineError, match="ACCESS_DENIED") as caught:
        case.score()
    assert time.monotonic() - started < 25
    assert not isinstance(caught.value, Mistake)
    assert f"s3://{case.root.name}/" in str(caught.value)
    assert SECRET_KEY not in str(caught.value)
    assert case.proxy.count(method, path) <= 6
    assert "_SUCCESS" not in case.objects()


def test_mistakes_are_told_before_ray(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Ray is touched")

    monkeypatch.setattr(engine.run.cluster, "Cluster", refuse)
    wrong = case.proxy.uri("nosuch", "x")
    for settings, kind, message in (
        ({"model": wrong}, GraphError, "--model s3://nosuch/x: no such file"),
        ({"input": (wrong,)}, PlanError, "--input s3://nosuch/x: no such file or folder"),
        ({"output": wrong}, PlanError, "--output s3://nosuch/x: there is no bucket nosuch; make it first"),
        ({"output": case.uri("in/below")}, PlanError, "input"),
        ({"input": (case.uri("in").replace("region", "regoin"),)}, ConfigError, "--input .*unknown option 'regoin'"),
        ({"model": "nosuch://me:hunter2@x/m.pb"}, ConfigError, "--model nosuch://x/m.pb: .*Protocol not known"),
    ):
        with pytest.raises(kind, match=message) as caught:
            case.score(**settings)
        assert SECRET_KEY not in str(caught.value)
        assert "hunter2" not in str(caught.value)
    case.proxy.set_faults(Fault("access_denied", times=FOREVER))
    with pytest.raises(Mistake, match=rf"--model s3://{case.root.name}.*ACCESS_DENIED"):
        case.score()
    assert case.objects() == {}


def test_planning_takes_a_dozen_requests(case: Case) -> None:
    case.proxy.page_size = None
    preview(case.config())
    requests = [(request.method, request.path, request.query) for request in case.proxy.requests]
    assert len(requests) <= 14
    assert sum("prefix=in" in query and "max-keys=1&" not in query for _, _, query in requests) == 1  # one listing
    assert sum(method == "GET" and "in/" in path for method, path, _ in requests) == 1  # one footer
    assert case.objects() == {}


def test_what_fsspec_knows_by_its_own_name(case: Case, local: Local) -> None:
    uris = {"input": (f"local://{case.root}/in",), "output": f"local://{case.root}/copy"}
    remote = case.score(model=f"local://{case.model}", **uris)
    assert remote.plan_id == local.summary.plan_id
    assert parts_in(case.root / "copy") == local.parts
    assert verify_output(Ledger(str(uris["output"]))).problems == ()
    assert case.score(model=case.model, **uris).attempts == 0


def test_models_of_other_kinds_in_a_store(case: Case) -> None:
    """A checkpoint is scored; of a SavedModel and of a graph with its ports beside it, planning tells enough."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, NUM_FEATURES], name="inputs")
        w = v1.get_variable("w", [NUM_FEATURES, 3], initializer=v1.constant_initializer(0.5))
        prediction = tf.nn.softmax(x @ w, name="softmax")
        session.run(v1.global_variables_initializer())
        save_checkpoint(session, str(case.root / "made/run/model-7"), inputs=["inputs"], outputs=["softmax"])
        v1.saved_model.simple_save(session, str(case.root / "made/saved"), {"inputs": x}, {"softmax": prediction})
        write_frozen(str(case.root / "made/m.pb"), freeze_session(session, ["softmax"]))
    for path in (case.root / "made").rglob("*"):
        if path.is_file():
            case.put(path.relative_to(case.root).as_posix(), path.read_bytes())
    for name in ("made/m.pb", "made/saved", "made/run", "made/run/model-7.index"):
        assert case.place(name) in repr(preview(case.config(model=case.uri(name))))
    assert case.score(model=case.uri("made/run/model-7")).rows_out == 300
    with pytest.raises(GraphError, match=rf"--model {case.place('in')}") as caught:
        case.score(model=case.uri("in"))
    assert "icefloe-model-" not in str(caught.value)


def test_an_outage_ends_the_job_as_the_storages(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "S3_ATTEMPTS", 1)
    monkeypatch.setattr(retrying, "MAX_WAIT_SECONDS", 0.01)
    case.proxy.set_faults(Fault("slow_down", times=FOREVER))
    with pytest.raises(EngineError, match="503|SLOW_DOWN") as caught:
        case.score()
    assert not isinstance(caught.value, Mistake | JobFailedError)
