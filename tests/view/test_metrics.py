"""What Ray's own endpoint shows of a job: a real one, scraped as Prometheus does it."""

import logging
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import wait_for, write_rows
from prometheus_client.parser import text_string_to_metric_families

from engine import JobConfig, score
from engine.data.status import RunStatus
from engine.run.attempt import Attempt
from engine.view.metrics import ACTOR_COUNTERS, ActorMetrics, DriverMetrics, model_tag

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

RAYS_OWN = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}

Series = dict[str, dict[tuple[tuple[str, str], ...], float]]
"""Sums over workers, by name and by the tags that are ours."""


def scrape(model: str) -> Series:
    import ray

    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: Series = defaultdict(lambda: defaultdict(float))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            tags = {k: v for k, v in sample.labels.items() if k not in RAYS_OWN and not k.startswith("otel_")}
            if "icefloe" in sample.name and tags.pop("model") == model:
                found[sample.name][tuple(sorted(tags.items()))] += sample.value
    return found


def scraped(model: str, is_there: Callable[[Series], bool]) -> Series:
    """Ray sends what an actor has counted when it ends, and every ten seconds."""
    wait_for(lambda: is_there(scrape(model)))
    return scrape(model)


def test_a_job_as_prometheus_sees_it(tmp_path: Path) -> None:
    for number in range(3):
        write_rows(tmp_path / "in" / f"secret-{number}.parquet", number * 100, (number + 1) * 100, row_group_size=50)
    bad = pa.table({"id": [7, 8], "inputs": pa.array([[1.0, 2.0, 3.0, 4.0], None], pa.list_(pa.float32(), 4))})
    pq.write_table(bad, tmp_path / "in" / "secret-bad.parquet")
    model = graphs.write(tmp_path / "scraped model.pb", graphs.linear())
    driver = DriverMetrics(model)
    running = RunStatus(shards=1007, shards_done=2, actors_asked=1, actors_working=2, actors_lost=1, retries=3)
    driver.update(running)

    config = JobConfig(
        model=model, input=(str(tmp_path / "in"),), output=str(tmp_path / "out"), max_bad_rows=5,
        where=("id < 250",), batch_size=16, actors=1, shard_size=2000,
    )  # fmt: skip
    summary = score(config)
    driver.update(running)  # counters do not grow by being told again

    tag = "scraped_model.pb"
    left = "ray_icefloe_shards_left"  # of a long job, what it told of itself on its way may be sent before what we tell
    found = scraped(tag, lambda found: "ray_icefloe_shards_total" in found and sum(found[left].values()) == 1005)
    total = {name: sum(series.values()) for name, series in found.items()}
    assert total["ray_icefloe_rows_total"] == summary.rows_out == 251
    assert total["ray_icefloe_quarantined_rows_total"] == summary.rows_quarantined == 1
    assert total["ray_icefloe_filtered_rows_total"] == summary.rows_filtered == 50
    assert total["ray_icefloe_shards_total"] == summary.parts
    assert total["ray_icefloe_input_bytes_total"] == sum(f.stat().st_size for f in (tmp_path / "in").iterdir())
    assert total["ray_icefloe_batches_total"] == 5 * 4 + 1  # of 50 rows each in 16s, and one of the lone row
    for phase, told in (("read", "read"), ("bind", "convert"), ("session", "session"), ("write", "write")):
        assert total[f"ray_icefloe_{told}_seconds_total"] == pytest.approx(summary.phase_seconds[phase])
    assert total["ray_icefloe_model_bytes"] == Path(model).stat().st_size
    assert 0 < total["ray_icefloe_model_load_seconds"] <= summary.seconds_load
    observed = total["ray_icefloe_batch_latency_seconds_count"]
    assert 0 < observed <= total["ray_icefloe_batches_total"]
    assert found["ray_icefloe_batch_latency_seconds_bucket"][(("le", "+Inf"),)] == observed
    for name in ("ray_icefloe_batches_split_total", "ray_icefloe_batches_halved_total"):
        assert name not in found  # nothing was counted
    assert found["ray_icefloe_actors"] == {
        (("state", "asked"),): 1, (("state", "loading"),): 0, (("state", "working"),): 2, (("state", "idle"),): 0,
    }  # fmt: skip
    assert total[left] == 1005
    assert total["ray_icefloe_actors_lost_total"] == 1
    assert total["ray_icefloe_retries_total"] == 3
    known = {f"ray_{name}" for name in ACTOR_COUNTERS}
    assert {name for name in found if name.endswith("_total")} <= known | {
        "ray_icefloe_actors_lost_total", "ray_icefloe_retries_total",
    }  # fmt: skip
    assert {key for series in found.values() for tags in series for key, _ in tags} == {"state", "le"}
    assert "secret" not in str(found)


def test_nobody_has_to_listen() -> None:
    """Without any Ray in the process, as with one whose agent is gone, a shard is counted and nothing is raised."""
    code = """
from engine.run.attempt import Attempt
from engine.view.metrics import make_actor_metrics
meter = make_actor_metrics("/m.pb")()
meter.loaded(1.5, 100)
attempt = Attempt(rows=7, batches_split=1)
attempt.seconds["read"] = 0.5
assert meter.timed(lambda arrays: arrays)([1]) == [1]
meter.slice(attempt, 0)
print(attempt.metered["icefloe_rows_total"], len(meter._calls))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "7 0\n", done.stderr


def test_a_failure_of_metrics_is_told_once_and_fails_no_shard(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "engine.view.metrics")
    logger = logging.getLogger("engine.view.metrics")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])  # where --log-level was read, nothing goes further up
    monkeypatch.setattr(logger, "propagate", False)
    meter = ActorMetrics("failing")
    meter.loaded("long", 100)  # type: ignore[arg-type]  # Ray raises for what is no number
    for _ in range(3):
        attempt = Attempt(rows=7)
        del attempt.seconds["read"]
        meter.refresh()
        meter.slice(attempt, 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "metrics" in caplog.text
    assert caplog.records[0].exc_info


class Hesitant(deque[float]):
    """Lets other threads in between two steps of a reader."""

    def popleft(self) -> float:
        time.sleep(0.001)
        return super().popleft()


def test_shards_side_by_side_share_what_was_timed(caplog: pytest.LogCaptureFixture) -> None:
    meter = ActorMetrics("shared")
    meter._calls = Hesitant([0.1] * 50)
    with ThreadPoolExecutor(3) as shards:
        for told in [shards.submit(meter.slice, Attempt(), 0) for _ in range(3)]:
            told.result()
    assert not meter._calls
    assert not caplog.records


@pytest.mark.parametrize(
    ("uri", "tag"),
    [
        ("/models/net.pb", "net.pb"),
        ("s3://key:secret@bucket/a/net.pb?endpoint_override=x", "net.pb"),
        ("/models/saved model/", "saved_model"),
        ("/m/" + "x" * 300 + ".pb", "x" * 48),
        ('/m/naïve{"}.pb', "na_ve___.pb"),
    ],
)
def test_tag_of_a_model(uri: str, tag: str) -> None:
    assert model_tag(uri) == tag
