import io
import re
import shlex
from dataclasses import replace

import pytest
from graphs import graph, linear, node, placeholder
from tensorboard.compat.proto.graph_pb2 import GraphDef

from engine.model.describe import GraphDescription, describe_graph
from engine.model.graphdef import Graph
from engine.preview import DataInFlight, Preview
from engine.run.summary import Summary
from engine.view.tables import bytes_text, command_to_paste, print_description, print_preview, print_summary

LONG = "/data/" + "a-rather-long-folder-name/" * 12 + "model.pb"

SUMMARY = Summary(
    model_sha256="ab" * 32,
    plan_id="0123abcd",
    output=LONG,
    rows_in=1_234_567,
    rows_out=1_234_560,
    rows_quarantined=7,
    rows_filtered=0,
    parts=42,
    parts_earlier=0,
    seconds_total=12.34,
    seconds_ray_start=3.21,
    seconds_load=2.5,
    scoring_seconds=6.0,
    rows_per_second=205_761.2,
    session_share=0.876,
    bottleneck="the graph: 60% of the shards' time",
    phase_seconds={"read": 1.0, "bind": 0.5, "session": 4.0, "write": 0.5},
    attempts=43,
    actors=2,
    actors_lost=1,
    devices=(),
    model_load_bytes=2**20,
    batch_size=4096,
    batches_halved=0,
    bytes_stable=True,
    bytes_stable_reason="",
    versions={},
)

PREVIEW = Preview(
    plan_id="0123abcd",
    model=LONG,
    num_files=1234,
    input_bytes=5 * 2**30,
    num_shards=321,
    shard_bytes=16 * 2**20,
    num_done=17,
    refusal="",
    batch_rows=4096,
    feeds=(("pixels", "fixed_size_list<item: float>[4]", "inputs:0 (float32 [?, 4])"),),
    fetches=(("prediction:0", "score"),),
    kept=(("id", "int64"), ("name", "string")),
    memory=DataInFlight(3, 8 * 2**20, 0, 2**20, 2**19, True),
    output="/o",
    parts=("part-00000-of-00321.parquet", "part-00320-of-00321.parquet"),
)


def described(graph_def: GraphDef) -> GraphDescription:
    nodes = {item.name: item for item in graph_def.node}
    return describe_graph(Graph("m.pb", graph_def.SerializeToString(), graph_def, nodes))


def summary_text(**changes: object) -> str:
    stream = io.StringIO()
    print_summary(replace(SUMMARY, **changes), stream)
    return stream.getvalue()


def preview_text(**changes: object) -> str:
    stream = io.StringIO()
    print_preview(replace(PREVIEW, **changes), stream)
    return stream.getvalue()


def description_text(model: str, graph_def: GraphDef) -> str:
    stream = io.StringIO()
    print_description(model, described(graph_def), stream)
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
        "28.5 MiB an actor, exact: 3 shards x (slice 8.0 MiB + converted 0 B + batch 1.0 MiB + part 512.0 KiB)",
        "/o/",
        *PREVIEW.parts,
    ):
        assert part in text


def test_a_preview_of_a_job_that_would_be_refused() -> None:
    assert "would be refused: batch_size 8 -> 16" in preview_text(refusal="batch_size 8 -> 16")


def test_a_preview_of_columns_of_varying_width_is_not_called_exact() -> None:
    text = preview_text(memory=replace(PREVIEW.memory, is_exact=False))
    assert "exact" not in text
    assert "by the first footer" in text


def test_a_description() -> None:
    text = description_text(LONG, linear())
    for part in (
        LONG,
        "4: ",
        "MatMul x1",
        "2000",
        "inputs:0 (float32 [?, 4])",
        "prediction:0 (float32 [?, 3])",
        command_to_paste(LONG, described(linear())),
    ):
        assert part in text
    assert next(line for line in text.splitlines() if line.startswith("parameters")).split()[1:] == ["12"]
    assert "not frozen" not in text


def test_a_description_of_a_graph_that_is_not_frozen() -> None:
    text = description_text("m.pb", graph(*linear().node, node("w", "VariableV2", dtype="float32")))
    assert "1 variables, first: w" in text


def test_a_description_counts_the_types_that_it_leaves_out() -> None:
    text = description_text("m.pb", graph(*(node(f"n{i}", f"Op{i}") for i in range(11))))
    assert "Op7 x1 and 3 other types" in text
    assert "Op8 x1" not in text


@pytest.mark.parametrize(
    "model", [LONG, "/data/[bold]/m.pb", "/data/[/]/m.pb", "/data/ü b/m.pb", "/data/:100:/m.pb", "/data/:cat:.pb"]
)
def test_files_and_pipes_get_whole_paths(model: str) -> None:
    assert model in description_text(model, linear()).splitlines()[1]
    assert model in preview_text(model=model)
    assert model in summary_text(output=model)


def test_tables_for_files_hold_no_escape_codes() -> None:
    assert "\x1b" not in summary_text() + preview_text() + description_text("m.pb", linear())


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


def test_the_command_scores_with_the_graph_s_own_names() -> None:
    found = described(linear(name="net/x", output="net/probabilities"))
    assert command_to_paste("m.pb", found) == (
        "icefloe score --model m.pb --input INPUT --output OUTPUT "
        "--feed net/x:0=x --fetch net/probabilities:0=probabilities"
    )


@pytest.mark.parametrize("model", ["/my models/m.pb", "it's.pb", "$HOME/m.pb", "a;b.pb", "m*.pb"])
def test_the_command_is_quoted_for_a_shell(model: str) -> None:
    command = command_to_paste(model, described(linear()))
    words = shlex.split(command)
    assert words[words.index("--model") + 1] == model
    assert shlex.join(words) == command


def test_the_command_gives_every_output_a_column_of_its_own() -> None:
    both = graph(
        placeholder("x", "float32", [None]),
        node("left/out", "Identity", "x", T="float32"),
        node("right/out", "Identity", "x", T="float32"),
    )
    words = shlex.split(command_to_paste("m.pb", described(both)))
    columns = [words[i + 1].split("=")[1] for i, word in enumerate(words) if word == "--fetch"]
    assert len(columns) == len(set(columns)) == 2


def test_the_command_sets_what_has_no_batch_axis() -> None:
    dropout = graph(
        placeholder("x", "float32", [None]),
        placeholder("keep_prob", "float32", []),
        node("y", "Mul", "x", "keep_prob", T="float32"),
    )
    words = shlex.split(command_to_paste("m.pb", described(dropout)))
    assert "x:0=x" in words
    assert "keep_prob:0=keep_prob" not in words, "a column cannot fill a scalar"
