"""The report as a file: what is in it, of jobs in every state, and that nothing of the data is taken for markup."""

import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from object_store import SECRET_KEY, ObjectStore
from told_jobs import PLAN_ID, STARTED, Timeline, big_spans, scored_table, write_job

import jobs.report
from engine.data.ledger import MANIFEST, SUMMARY, Ledger
from engine.data.status import SILENCE_SECONDS, ActorStatus, RunStatus, write_status
from engine.data.storage import connecting
from engine.data.timeline import TIMELINE, Span
from engine.errors import DataError, JobInterrupted, PlanError
from engine.view.report import write_report
from engine.view.reporting import bad_rows
from engine.view.reporting.bad_rows import read_bad_rows
from engine.view.reporting.predictions import _read_footer
from engine.view.reporting.reading import read_job
from jobs.command_line import run

NASTY = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a $b$ & c_1^2", "--><!-- {{ 7 * 7 }}")
VOID = {"meta", "link", "input"}


class Page(HTMLParser):
    """A page read back: its tags with their attributes, ids, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> list[str]:
        return [str(found["id"]) for _, found in self.tags if "id" in found]


def page(ledger: Ledger) -> Page:
    return Page(Path(write_report(ledger.folder)).read_text())


@pytest.fixture
def spans() -> list[Span]:
    return Timeline(4, 40, lost=(2,), seconds=5.0).make()


def test_a_finished_job(tmp_path: Path, spans: list[Span]) -> None:
    bad: dict[str, list[dict[str, Any]]] = {"Null": [{"id": 7}] * 5, "InvalidArgument": [{"id": 9}] * 12}
    config = {"actors": 4, "where": ["id > 3"]}
    ledger = write_job(tmp_path / "out", scored_table(1000), spans, fetch=("prediction", "score", "label"), bad=bad,
                       odd={"score": (3, 1)}, config=config)  # fmt: skip
    found = page(ledger)
    svgs = [attributes for tag, attributes in found.tags if tag == "svg"]
    assert [each["aria-label"] for each in svgs] == [
        "How many actors were in which state over time", "What each actor did over time", "Rows per second over time",
        "Seconds of each shard over time", "How many shards took how long", "Rows in quarantine by reason",
        "prediction: largest entry", "prediction: distribution", "score: distribution", "label: values",
    ]  # fmt: skip
    for text in ("1,000", "11,200", "71%", "the graph is the limit", "the actor died", "InvalidArgument",
                 "70.6%", "All 1,000 rows.", "a longer name of a bird", "--where 'id > 3'", "icefloe verify",
                 PLAN_ID):  # fmt: skip
        assert text in found.text, text
    assert "of 1,017 read, 17 set aside" in found.text


def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path, spans: list[Span]) -> None:
    found = page(write_job(tmp_path / "out", scored_table(100), spans))
    assert not {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object", "embed", "foreignobject"}
    for tag, attributes in found.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "action", "xlink:href"):
                assert str(value).startswith(("#", "data:,")), (tag, value)
    assert "url(http" not in Path(tmp_path / "out/_icefloe/report.html").read_text()


def test_ids_are_unique_and_links_lead_somewhere(tmp_path: Path, spans: list[Span]) -> None:
    ledger = write_job(tmp_path / "out", scored_table(1000), spans, fetch=("prediction", "score", "label"))
    text = Path(write_report(ledger.folder)).read_text()
    found = Page(text)
    assert len(set(found.ids)) == len(found.ids)
    targets = re.findall(r"url\(#([^)]+)\)", text)
    targets += [str(each["href"])[1:] for _, each in found.tags if str(each.get("href", "")).startswith("#")]
    assert len(targets) > 20
    assert set(targets) <= set(found.ids)


def test_what_data_and_files_are_called_is_no_markup(tmp_path: Path) -> None:
    """Column names, class names, file names, reasons, messages, nodes, settings, and cells of rows."""
    label = pa.array(list(NASTY) * 25)
    table = pa.table({"id": np.arange(100), NASTY[2]: np.arange(100.0), NASTY[1]: label})
    cells = {"id": 1, NASTY[0]: NASTY[1], "_file": NASTY[0], "_message": NASTY[1]}
    spans = Timeline(2, 12, node=NASTY[1] + "{}", message=NASTY[0], lost=(1,)).make()
    model = {"place": NASTY[0], "kind": NASTY[1], "findings": [NASTY[0]], "init_ops": [NASTY[3]], "allowed": [NASTY[0]],
             "inputs": [{"tensor": NASTY[0], "column": NASTY[1], "dtype": NASTY[0], "shape": [None, 3]}]}  # fmt: skip
    ledger = write_job(tmp_path / "<b>&'\"", table, spans, fetch=(NASTY[2], NASTY[1]), model=model,
                       bad={reason: [cells] for reason in NASTY}, config={"where": list(NASTY)},
                       summary={"bottleneck": NASTY[0], "bytes_stable": False,
                                "bytes_stable_reason": NASTY[1]})  # fmt: skip
    text = Path(write_report(ledger.folder)).read_text()
    found = Page(text)
    assert not {tag for tag, _ in found.tags} & {"script", "img", "b><"}
    assert not [each for tag, each in found.tags if any(name.startswith("on") for name in each)]
    for name in NASTY:
        assert found.text.count(name) >= 3, name
    assert "<b>&'\"" in found.text
    assert "49" not in re.findall(r"--><!-- (\w+)", found.text)
    labels = [str(each["aria-label"]) for tag, each in found.tags if tag == "svg"]
    assert f"{NASTY[1]}: values" in labels
    assert f"{NASTY[2]}: distribution" in labels


def test_texts_in_pictures_are_those_of_the_data(tmp_path: Path) -> None:
    names = ["a $b$ & c", "x_1^2 <i>", '"quoted" id="k"', "日本語 ✓", "line\nbreak\x00\u202e"]
    table = pa.table({"id": np.arange(50), "label": names * 10})
    text = Path(write_report(write_job(tmp_path / "out", table, [], fetch=("label",)).folder)).read_text()
    drawing = next(found for found in re.findall(r"<svg.*?</svg>", text, re.S) if "label: values" in found)
    shown = Page(drawing).text
    for name in (*names[:4], r"line\nbreak\x00\u202e"):
        assert name in shown


def test_a_big_job_stays_small(tmp_path: Path) -> None:
    ledger = write_job(
        tmp_path / "out", scored_table(20_000), big_spans(), num_parts=300, fetch=("prediction", "score")
    )
    place = Path(write_report(ledger.folder))
    assert place.stat().st_size < 2_000_000
    found = Page(place.read_text())
    assert "and 950 more actors" in found.text
    assert len([tag for tag, _ in found.tags if tag in ("path", "use")]) < 6000
    assert "Groups of actors" in found.text


@pytest.mark.parametrize(
    ("state", "texts"),
    [
        ("scoring", ("rows scored", "3 of them by an earlier run", "about 1 min 30 s left", "The job goes on")),
        ("failed", ("the store is gone", "Finished parts stay")),
        ("interrupted", ("the store is gone", "Finished parts stay")),
    ],
)
def test_a_job_that_goes_on_or_has_failed(
    tmp_path: Path, spans: list[Span], state: str, texts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "" if state == "scoring" else "the store is gone"
    status = RunStatus(PLAN_ID, state, "scoring", "host", 7, started=STARTED, updated=STARTED + 60, seconds=60.0,
                       scoring_seconds=50.0, shards=40, shards_done=10, shards_earlier=3, rows=5000, seconds_left=90.0,
                       rows_per_second=123.4, error=error,
                       actors=(ActorStatus(3, "a-node", "working", (7, 8), "session"),))  # fmt: skip
    monkeypatch.setattr("engine.view.report.time.time", lambda: STARTED + 61)
    found = page(write_job(tmp_path / "out", scored_table(100), spans, status=status, is_finished=False))
    for text in (*texts, state, "5,000", "Actor time so far", "All 100 rows.", "a-node", "7, 8"):
        assert text in found.text, text


def test_a_job_that_is_silent_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose store is slow says something every 30 s and more."""
    status = RunStatus(PLAN_ID, "scoring", updated=STARTED)
    ledger = write_job(tmp_path / "out", scored_table(10), [], status=status, is_finished=False)
    for seconds, is_silent in ((SILENCE_SECONDS - 1, False), (SILENCE_SECONDS + 1, True)):
        monkeypatch.setattr("engine.view.report.time.time", lambda seconds=seconds: STARTED + seconds)
        assert ("It has not said anything for" in page(ledger).text) == is_silent


def test_a_summary_of_an_earlier_run_is_not_taken_for_that_of_one_that_goes_on(tmp_path: Path) -> None:
    ledger = write_job(tmp_path / "out", scored_table(10), [], status=RunStatus(PLAN_ID, "scoring", rows=3))
    ledger.folder.remove("_SUCCESS")
    assert "rows scored" in page(ledger).text
    write_status(ledger.folder, RunStatus(PLAN_ID, "done"))
    assert "rows written" in page(ledger).text


def test_a_job_that_had_no_plan_yet(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "out"))
    ledger.folder.make()
    write_status(ledger.folder, RunStatus("", "failed", error="no room for an actor"))
    found = page(ledger)
    assert "no room for an actor" in found.text
    assert "The job ended before it had a plan." in found.text


def test_sections_without_data_say_so(tmp_path: Path) -> None:
    found = page(write_job(tmp_path / "out", scored_table(0), [], num_parts=1))
    assert not [tag for tag, _ in found.tags if tag == "svg"]
    for text in ("There is no timeline of this job", "No row was set aside.", "No part has a row yet."):
        assert text in found.text


def test_what_is_damaged_is_said_and_the_rest_is_told(tmp_path: Path, spans: list[Span]) -> None:
    ledger = write_job(tmp_path / "out", scored_table(100), spans, bad={"Null": [{"id": 7}]})
    for name in (MANIFEST, SUMMARY, TIMELINE, "part-00001-of-00004.parquet",
                 "_icefloe/quarantine/bad-00000-of-00004.parquet"):  # fmt: skip
        (tmp_path / "out" / name).write_bytes(b"no file of ours")
    found = page(ledger)
    assert f"{SUMMARY} cannot be read" in found.text
    assert "part-00001-of-00004.parquet" in found.text
    assert "from 3 of 4 parts" in found.text
    assert "There is no timeline of this job" in found.text


@pytest.mark.parametrize("name", ["plan.json", "summary.json", "status.json"])
@pytest.mark.parametrize("text", ["[]", "{}", '{"plan_id": 3, "settings": [], "config": 7}', "nonsense"])
def test_documents_of_others_end_in_an_error_of_ours_at_most(tmp_path: Path, name: str, text: str) -> None:
    ledger = write_job(tmp_path / "out", scored_table(10), [])
    (tmp_path / "out" / "_icefloe" / name).write_text(text)
    try:
        assert page(ledger).text
    except DataError as error:
        assert "no report can be made of it" in str(error)  # noqa: PT017 - either is right


def test_large_outputs_are_sampled_evenly_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.view.reporting.predictions.MAX_ROWS", 1000)
    ledger = write_job(tmp_path / "out", scored_table(10_000), [], num_parts=100)
    found = page(ledger)
    assert "1,000 of 10,000 rows, from 10 of 100 parts." in found.text
    again = page(ledger)
    assert again.text.partition("Written")[0] == found.text.partition("Written")[0]


def test_odd_values_are_those_of_the_manifest(tmp_path: Path) -> None:
    ledger = write_job(tmp_path / "out", scored_table(100), [], fetch=("score",), odd={"score": (4321, 17)})
    found = page(ledger)
    assert "4,321" in found.text
    assert "NaN and Inf are exact, of the whole output." in found.text


def test_secrets_in_messages_are_not_kept(tmp_path: Path) -> None:
    status = RunStatus(PLAN_ID, "failed", error="s3://key:hush77@bucket/x?token=hush88: gone")
    ledger = write_job(tmp_path / "out", scored_table(10), [], status=status, is_finished=False)
    text = Path(write_report(ledger.folder)).read_text()
    assert "s3://bucket/x" in text
    assert "hush" not in text


def test_a_folder_without_a_job_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.parquet").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name, what in (("none", "it is empty, or not there"), ("empty", "it is empty, or not there"),
                       ("other", "no _icefloe/plan.json is in it; name the folder that icefloe score wrote to"),
                       ("file", "expected a folder, found a file")):  # fmt: skip
        with pytest.raises(PlanError, match=what):
            write_report(Ledger(str(tmp_path / name)).folder)
        assert run(jobs.report.app, [str(tmp_path / name)]) == 2
        assert what in capsys.readouterr().err


def test_the_command_says_where_the_report_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_job(tmp_path / "out", scored_table(10), [])
    assert run(jobs.report.app, [str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/_icefloe/report.html\n"


EXTREME = 1.7e308
ODD_COLUMNS = {
    "all null": pa.nulls(1800, pa.int64()),
    "all empty": pa.array([[]] * 1800, pa.list_(pa.int64())),
    "the whole range": pa.array([-EXTREME, EXTREME, 0.0] * 600),
    "next to the end": pa.array([EXTREME, EXTREME / 2, 1e307] * 600),
    "denormal": pa.array([5e-324, 1e-323, 0.0] * 600),
    "tiny": pa.array([1e-300, 3e-300, 2e-300] * 600),
    "neighbours": pa.array(np.tile(np.array([1, np.nextafter(np.float32(1), np.float32(2))], np.float32), 900)),
    "a struct": pa.array([{"a": 1}, {"a": 2}, None] * 600),
    "behind all years": pa.array([2**62, 0, None] * 600, pa.timestamp("us")),
}


@pytest.mark.parametrize("name", ODD_COLUMNS)
def test_values_of_every_kind_are_drawn(tmp_path: Path, name: str) -> None:
    table = pa.table({"id": np.arange(1800), name: ODD_COLUMNS[name]})
    found = page(write_job(tmp_path / "out", table, [], fetch=(name,)))
    assert "cannot be drawn" not in found.text
    assert "All 1,800 rows." in found.text
    assert name in found.text


def test_cells_out_of_range_are_shown_as_they_are(tmp_path: Path) -> None:
    times = {"_row": 1, "t": pa.scalar(2**62, pa.timestamp("us")), "d": pa.scalar(2**31 - 1, pa.date32())}
    ledger = write_job(tmp_path / "out", scored_table(10), [], bad={"Null": [times]})
    found = page(ledger)
    assert f"timestamp[us] {2**62}" in found.text
    assert f"date32[day] {2**31 - 1}" in found.text


def test_of_many_reasons_the_most_frequent_are_shown(tmp_path: Path) -> None:
    """The thirtieth in the file is the most frequent."""
    bad: dict[str, list[dict[str, Any]]] = {f"r{i}": [{"id": i}] * (1 + 5 * (i == 29)) for i in range(30)}
    found = page(write_job(tmp_path / "out", scored_table(10), [], bad=bad))
    assert "cannot be drawn" not in found.text
    assert "r29 here" in found.text


def test_a_small_file_of_large_cells_is_read_in_part(tmp_path: Path) -> None:
    """600 MB of cells that compress to a few kilobytes; the first of each reason are far apart."""
    bad = {"First": [{"image": b"a" * 200_000}] * 2, "Last": [{"image": b"a" * 200_000}]}
    ledger = write_job(tmp_path / "out", scored_table(10), [], bad=bad)
    name = next(iter(read_job(ledger.folder).asides))
    table = pq.read_table(tmp_path / "out" / name)
    many = pa.concat_tables([*[table.slice(0, 2)] * 1500, table.slice(2)])
    pq.write_table(many, tmp_path / "out" / name, compression="zstd")
    size = (tmp_path / "out" / name).stat().st_size
    assert size < bad_rows.MAX_BYTES
    pool = pa.default_memory_pool()
    most = max(pool.max_memory(), pool.bytes_allocated() + 200 * 2**20)
    found = read_bad_rows(ledger.folder, {name: size})
    assert found.counts == (("First", 3000), ("Last", 1))
    assert found.firsts["First"][0].cells["image"] == "a" * 77 + "..."
    assert found.firsts["Last"][0].cells == {}
    assert pool.max_memory() <= most


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("tell_predictions", "Predictions"),
        ("read_bad_rows", "Quarantine"),
        ("tell_model", "Model"),
        ("tell_settings", "Settings and versions"),
        ("tell_headline", "Main figures"),
    ],
)
def test_a_part_that_fails_becomes_a_note_in_its_place(
    tmp_path: Path, spans: list[Span], monkeypatch: pytest.MonkeyPatch, name: str, title: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no one thought of s3://key:hush77@bucket/this")

    ledger = write_job(tmp_path / "out", scored_table(100), spans)
    whole = page(ledger)
    monkeypatch.setattr(f"engine.view.report.{name}", fail)
    found = page(ledger)
    assert f"{title}: cannot be drawn: RuntimeError: no one thought of s3://bucket/this" in found.text
    assert [each for tag, each in found.tags if tag == "section"] == [
        each for tag, each in whole.tags if tag == "section"
    ]
    assert len(found.text) > 0.3 * len(whole.text)


def test_a_timeline_that_no_one_thought_of_costs_its_own_sections(tmp_path: Path, spans: list[Span]) -> None:
    odd = [Span(PLAN_ID, STARTED, "attempt", float("nan"), float("inf"), "done", 2**62, "n", 3, 1, rows=-(2**62))]
    found = page(write_job(tmp_path / "out", scored_table(100), [*spans, *odd]))
    assert "All 100 rows." in found.text


def test_a_signal_is_no_odd_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise JobInterrupted("interrupted by SIGINT")

    ledger = write_job(tmp_path / "out", scored_table(10), [])
    monkeypatch.setattr("engine.view.report.tell_model", interrupt)
    with pytest.raises(JobInterrupted):
        write_report(ledger.folder)


def test_of_many_columns_it_is_said_which_are_shown(tmp_path: Path) -> None:
    table = pa.table({"id": np.arange(50)} | {f"c{i:02}": np.arange(50.0) + i for i in range(20)})
    ledger = write_job(tmp_path / "out", table, [], fetch=tuple(table.column_names[1:]))
    found = page(ledger)
    assert "These are 16 of 20 prediction columns." in found.text
    assert "Pictures are of the first 8." in found.text
    few = page(write_job(tmp_path / "few", table, [], fetch=("c00",)))
    assert "prediction columns" not in few.text
    assert "Pictures are of" not in few.text


def test_footers_of_many_columns_cost_hardly_more_than_to_decode_them(tmp_path: Path) -> None:
    """Four times as much where each column of each row group is asked for."""
    wide = pa.table({f"c{i}": np.zeros(40, np.float32) for i in range(1000)})
    ledger = write_job(tmp_path / "out", wide, [], num_parts=1)
    part = "part-00000-of-00001.parquet"
    pq.write_table(wide, tmp_path / "out" / part, row_group_size=1)

    def took(read: Callable[[], object]) -> float:
        began = time.process_time()
        read()
        return time.process_time() - began

    decoding = min(took(lambda: pq.read_metadata(tmp_path / "out" / part)) for _ in range(5))
    assert min(took(lambda: _read_footer(ledger.folder, part, ["c7"])) for _ in range(5)) < 2 * decoding
    found = _read_footer(ledger.folder, part, ["c7", "c8"])
    assert (len(found), sum(group.num_rows for group in found)) == (40, 40)
    assert found[0].num_bytes == 2 * _read_footer(ledger.folder, part, ["c7"])[0].num_bytes > 0


@pytest.mark.store
def test_an_output_in_a_store(tmp_path: Path, spans: list[Span], capsys: pytest.CaptureFixture[str]) -> None:
    """It tells the same as of the same output on a disk, and names the place without the key to it."""
    written = write_job(tmp_path / "out", scored_table(1000), spans, fetch=("prediction", "label"),
                        bad={"Null": [{"id": 7}] * 5})  # fmt: skip
    with ObjectStore() as store:
        pafs.copy_files(str(tmp_path / "out"), f"{store.bucket}/out", pafs.LocalFileSystem(), store.filesystem())
        assert run(jobs.report.app, [store.uri(path="out")]) == 0
        place = capsys.readouterr().out.strip()
        text = store.get("out/_icefloe/report.html").decode()
    connecting.forget_clients()
    assert place == f"s3://{store.bucket}/out/_icefloe/report.html"
    assert SECRET_KEY not in text
    here = Path(write_report(written.folder)).read_text()
    own, theirs = (re.findall(r"<svg.*?</svg>", each, re.S) for each in (here, text))
    assert own == theirs
    assert len(own) == 9


def test_later_generations_are_told(tmp_path: Path) -> None:
    ledger = write_job(tmp_path / "out", scored_table(10), [])
    document = json.loads((tmp_path / "out/_icefloe/plan.json").read_text())
    later = {**document, "plan_id": "feed" * 4, "num_inputs": 77}
    (tmp_path / "out/_icefloe/plan-0001.json").write_text(json.dumps(later))
    found = page(ledger)
    assert "feed" * 4 in found.text
    assert "Generations" in found.text
