import io
import re
from dataclasses import replace

import pytest

from engine.preparing.forecast import Forecast
from engine.preview import DataInFlight, Preview
from engine.run.numeric_drift import Drift
from engine.run.summary import Summary
from engine.view.tables import bytes_text, device_texts, print_preview, print_summary, seconds_text

LONG = "/data/" + "a-rather-long-folder-name/" * 12 + "model.pb"

SUMMARY = Summary(
    model_sha256="ab" * 32,
    plan_id="0123abcd",
    output=LONG,
    rows_in=1_234_567,
    rows_out=1_234_560,
    rows_quarantined=7,
    rows_filtered=0,
    files_pruned=0,
    nan_values={},
    inf_values={},
    parts=42,
    parts_earlier=0,
    seconds_total=12.34,
    seconds_ray_start=3.21,
    seconds_load=2.5,
    scoring_seconds=6.0,
    rows_per_second=205_761.2,
    rows_per_actor_second=110_000.0,
    session_share=0.876,
    bottleneck="the graph is the limit: 60% of actor time",
    phase_seconds={"read": 1.0, "wait": 0.6, "bind": 0.5, "session": 4.0, "write": 0.5},
    attempts=43,
    second_attempts=0,
    actors=2,
    actors_lost=1,
    devices=(),
    model_load_bytes=2**20,
    batch_size=4096,
    precision="float32",
    xla=False,
    drift={},
    batches_split=0,
    batches_halved=0,
    bytes_stable=True,
    bytes_stable_reason="",
    versions={},
)

PREVIEW = Preview(
    plan_id="0123abcd",
    model=LONG,
    num_files=1234,
    num_pruned=0,
    where=(),
    input_bytes=5 * 2**30,
    num_shards=321,
    shard_bytes=16 * 2**20,
    num_done=17,
    is_finished=False,
    generation=0,
    has_more=False,
    refusal="",
    batch_rows=4096,
    precision="float32",
    xla=False,
    feeds=(("pixels", "fixed_size_list<item: float>[4]", "inputs:0 (float32 [?, 4])"),),
    fetches=(("prediction:0", "score"),),
    kept=(("id", "int64"), ("name", "string")),
    memory=DataInFlight(3, 1, 8 * 2**20, 9 * 2**20, 0, 2**20, 2**19, 0, True),
    output="/o",
    parts=("part-00000-of-00321.parquet", "part-00320-of-00321.parquet"),
)


def summary_text(**changes: object) -> str:
    stream = io.StringIO()
    print_summary(replace(SUMMARY, **changes), stream)
    return stream.getvalue()


def preview_text(**changes: object) -> str:
    stream = io.StringIO()
    print_preview(replace(PREVIEW, **changes), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (64 * 2**20, "64.0 MiB"),
        (2.5 * 2**30, "2.5 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_bytes(num_bytes: float, text: str) -> None:
    assert bytes_text(num_bytes) == text


def test_a_summary_tells_of_rows_and_values_that_are_not_as_they_should_be() -> None:
    assert "/_icefloe/quarantine: rows, where they came from, and why" in summary_text()
    clean = summary_text(rows_quarantined=0)
    assert not any(word in clean for word in ("_icefloe", "filtered", "not finite", "split"))
    odd = summary_text(rows_filtered=1200, nan_values={"p": 3}, inf_values={"q": 1000}, batches_split=8)
    assert "7 quarantined, 1,200 filtered" in odd
    assert "3 NaN and 0 Inf in p" in odd
    assert "0 NaN and 1,000 Inf in q" in odd
    assert "batches split" in odd
    assert "batches split" not in summary_text(batches_split=7)


def test_a_preview_tells_its_conditions() -> None:
    text = preview_text(where=("year > 2020", "id = 3"), num_pruned=12)
    assert "year > 2020" in text
    assert "id = 3 (12 files left out for their folders)" in text


def test_a_summary() -> None:
    text = summary_text()
    assert text.startswith("Scored")
    for part in (
        "1,234,567 in, 1,234,560 out, 7 quarantined",
        f"42 in {LONG}",
        "0123abcd",
        "205,761 over 6.00 s of scoring",
        "12.3 in all, 3.2 for Ray to start, 2.5 to load the model",
        "2, 1 lost, 43 attempts, batches of 4096",
        "88% of actor time",
        "the graph 61%, reading 15%, waiting for shards 9%",
        SUMMARY.bottleneck,
    ):
        assert part in text
    assert "earlier run" not in text
    assert "not stable" not in text


def test_a_summary_of_a_resumed_run() -> None:
    assert "42 (40 of them by an earlier run) in" in summary_text(parts_earlier=40)


def test_a_summary_of_a_finished_job() -> None:
    text = summary_text(attempts=0, parts_earlier=42)
    assert text.startswith("Already scored")
    assert "nothing was left to score" in text
    assert "rows per second" not in text


def test_a_summary_says_why_bytes_are_not_stable() -> None:
    text = summary_text(bytes_stable=False, bytes_stable_reason="random operation noise (RandomUniform)")
    assert "random operation noise (RandomUniform)" in text


def test_a_preview() -> None:
    text = preview_text()
    assert text.startswith("Plan")
    for part in (
        "0123abcd",
        LONG,
        "1,234 files, 5.0 GiB",
        "321 of at most 16.0 MiB; 17 done already",
        "4096 rows",
        "pixels (fixed_size_list<item: float>[4]) -> inputs:0 (float32 [?, 4])",
        "prediction:0 -> score",
        "id (int64)",
        "name (string)",
        "101.0 MiB an actor, at most: 1 of 3 shards x (slice 8.0 MiB + decoding 9.0 MiB + converted 0 B + "
        "batch 1.0 MiB + part 512.0 KiB) + 82.5 MiB that allocators retain, and the fetches' columns",
        "/o/",
        *PREVIEW.parts,
    ):
        assert part in text


def test_a_preview_of_a_job_that_would_be_refused() -> None:
    assert "refused         batch_size 8 -> 16" in preview_text(refusal="batch_size 8 -> 16")


def test_a_preview_of_columns_of_varying_width_is_not_called_a_bound() -> None:
    text = preview_text(memory=replace(PREVIEW.memory, is_exact=False))
    assert "at most:" not in text
    assert "by the first footer" in text


@pytest.mark.parametrize(
    "model", [LONG, "/data/[bold]/m.pb", "/data/[/]/m.pb", "/data/ü b/m.pb", "/data/:100:/m.pb", "/data/:cat:.pb"]
)
def test_files_and_pipes_get_whole_paths(model: str) -> None:
    assert model in preview_text(model=model)
    assert model in summary_text(output=model)


def test_tables_for_files_hold_no_escape_codes() -> None:
    assert "\x1b" not in summary_text() + preview_text()


def test_a_terminal_folds_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    print_preview(PREVIEW, stream)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert max(len(line) for line in lines) <= 60
    assert LONG in "".join(line[16:].strip() for line in lines)


FORECAST = Forecast(
    num_actors=64,
    num_shards=321,
    num_rows=1_234_567,
    is_estimated=True,
    rate=1234.5,
    is_rate_given=True,
    load_seconds=10.0,
    is_load_assumed=True,
    wall_seconds=3_725.0,
    utilisation=0.9876,
    useful_actors=107,
)


def test_a_simulation() -> None:
    assert "simulated" not in preview_text()
    text = preview_text(simulated=FORECAST)
    for part in (
        "1 h 2 min on 64 actors, at work for 98.8% of their time: 321 shards, 1,234,567 rows (estimated by bytes",
        "1,234 rows/s an actor (as given), 10 s to load the model (assumed); no faults",
        "up to 107 actors are fully used",
    ):
        assert part in text
    known = preview_text(
        simulated=replace(FORECAST, is_estimated=False, is_rate_given=False, is_load_assumed=False, wall_seconds=99.4)
    )
    assert "estimated" not in known
    assert known.count("(as in the last summary)") == 2
    assert "1 min 39 s on 64 actors" in known
    assert "0.125 rows/s an actor" in preview_text(simulated=replace(FORECAST, rate=0.125))


def test_a_simulation_of_nothing() -> None:
    assert "simulated       nothing is left to do\n" in preview_text(simulated=replace(FORECAST, num_shards=0))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.25 s"),
        (59.4, "59.4 s"),
        (59.9, "1 min 0 s"),
        (3599.7, "1 h 0 min"),
        (4e6, "1,111 h 6 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_gpus_are_told_by_name_and_share_and_cpus_only_beside_them() -> None:
    half = {"device": "GPU", "device_name": "NVIDIA H100", "device_memory_bytes": 36 * 2**30}
    cpu = {"device": "CPU", "device_name": "", "device_memory_bytes": 0}
    assert device_texts([half, half]) == ["2 on NVIDIA H100, 36.0 GiB an actor"]
    assert device_texts([half, cpu]) == ["1 on NVIDIA H100, 36.0 GiB an actor", "1 on CPU"]
    assert device_texts([cpu, cpu]) == []
    assert device_texts([]) == []


def test_drift_is_a_line_a_column() -> None:
    drift = {"score": Drift(5000, 0.0123, 0.01, 0.2, 0.1, 0.0042), "size": Drift(5000, 1.5, 1.25, 1e-3, 1e-4, None)}
    text = summary_text(precision="bfloat16", xla=True, drift=drift)
    assert re.search(r"^computed in +bfloat16, compiled with XLA$", text, re.MULTILINE)
    assert "score: at most 0.012 absolute (0.01 for 99.9%), 0.2 relative (0.1); another largest entry in 0.420%" in text
    assert re.search(
        r"size: at most 1.5 absolute \(1.2 for 99.9%\), 0.001 relative \(0.0001\), of 5,000 rows$", text, re.M
    )


def test_drift_that_was_not_measured_is_said() -> None:
    assert "float32, compiled with XLA; no drift could be measured" in summary_text(xla=True)
    assert "drift" not in summary_text()
    assert "drift" not in summary_text(xla=True, attempts=0)


def test_a_plan_says_what_is_computed_in() -> None:
    assert "computed in" not in preview_text()
    assert re.search(r"^computed in +float16$", preview_text(precision="float16"), re.MULTILINE)
