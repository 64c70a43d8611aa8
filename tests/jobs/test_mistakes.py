import json
import os
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
from conftest import write_rows
from graphs import graph, linear, node, placeholder

import engine
from jobs.__main__ import app
from jobs.command_line import run

BIN = Path(sys.executable).parent
# No mistake below gets as far as Ray; one that did would end here instead of starting it.
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def world(model: str, inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good model and good inputs, and with everything that can be wrong beside them."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    variable = [node("w", "VariableV2", dtype="float32"), node("read", "Identity", "w", T="float32")]
    unfrozen = graph(
        placeholder("inputs", "float32", [None, 4]), *variable, node("prediction", "Add", "inputs", "read")
    )
    keep_prob = placeholder("keep_prob", "float32", [])
    dropout = graph(*linear(output="mean").node, keep_prob, node("prediction", "Mul", "mean", "keep_prob", T="float32"))
    graphs.write(tmp_path / "unfrozen.pb", unfrozen)
    graphs.write(tmp_path / "dropout.pb", dropout)
    (tmp_path / "text.pb").write_text('node {\n  name: "inputs"\n}')
    (tmp_path / "page.pb").write_text("<!DOCTYPE html>")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    rows = np.arange(5)
    columns = {
        "text": pa.array([str(i) for i in rows]),
        "dates": pa.array([0] * 5, pa.date32()),
        "three": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(15, np.float32)), 3),
        "scalar": pa.array(rows.astype(np.float32)),
    }
    for name, column in columns.items():
        (tmp_path / f"of-{name}").mkdir()
        pq.write_table(pa.table({"id": rows, "inputs": column}), tmp_path / f"of-{name}" / "f.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_bytes(b"")
    for number, text in enumerate(("{}", "[]", "[1]")):
        (tmp_path / f"foreign{number}" / "_icefloe").mkdir(parents=True)
        (tmp_path / f"foreign{number}" / "_icefloe" / "plan.json").write_text(text)
    (tmp_path / "a-file").write_bytes(b"")
    shutil.copy(tmp_path / "in" / "f0.parquet", tmp_path / "copy.parquet")
    os.symlink(tmp_path / "copy.parquet", tmp_path / "link.parquet")
    (tmp_path / "unknown.toml").write_text("batchsize = 3")
    (tmp_path / "broken.toml").write_text("batch_size = \n")
    (tmp_path / "value.toml").write_text("batch_size = 0")
    (tmp_path / "date.toml").write_text("[set]\nkeep_prob = 2020-01-01")
    return tmp_path


def command(verb: str, world: Path, changes: dict[str, Any]) -> list[str]:
    flags = {"--model": "{w}/model.pb", "--input": "{w}/in", "--output": "{w}/out", "--address": NOWHERE, **changes}
    words = [verb]
    for flag, values in flags.items():
        for value in values if isinstance(values, list) else [values]:
            words += [flag, value.replace("{w}", str(world))]
    return words


MISTAKES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "missing model": ({"--model": "{w}/modle.pb"}, ["--model {w}/modle.pb: no such file", "dropout.pb, model.pb"]),
    "model is text": ({"--model": "{w}/text.pb"}, ["--model {w}/text.pb", "lack a name or an operation"]),
    "model is a page": ({"--model": "{w}/page.pb"}, ["--model {w}/page.pb", "an HTML or XML page"]),
    "model is a folder": ({"--model": "{w}/in"}, ["--model {w}/in", "neither a SavedModel nor holds a checkpoint"]),
    "model is a SavedModel": ({"--model": "{w}/saved"}, ["--model {w}/saved", "a SavedModel without any graph"]),
    "model has variables": ({"--model": "{w}/unfrozen.pb"}, ["{w}/unfrozen.pb", "(w, VariableV2)", "freeze it"]),
    "feed is not there": ({"--feed": "input:0=inputs"}, ["no tensor input:0", "did you mean inputs:0?"]),
    "fetch is not there": ({"--fetch": "predicton=p"}, ["no tensor predicton:0", "did you mean prediction:0?"]),
    "set is not there": ({"--set": "keep_prob=1.0"}, ["no tensor keep_prob:0"]),
    "init op is not there": ({"--init-op": "init"}, ["{w}/model.pb has no", "init"]),
    "placeholder left unfed": (
        {"--model": "{w}/dropout.pb"},
        ["needs keep_prob:0 (float32 [])", "--set keep_prob:0=VALUE"],
    ),
    "missing column": ({"--feed": "inputs:0=pixels"}, ["{w}/in/f0.parquet", "no column 'pixels'", "it has id, inputs"]),
    "missing kept column": ({"--keep": "id,name"}, ["{w}/in/f0.parquet", "no column 'name'", "it has id, inputs"]),
    "column of text": ({"--input": "{w}/of-text"}, ["column 'inputs' holds text (string)", "takes numbers"]),
    "column of dates": ({"--input": "{w}/of-dates"}, ["column 'inputs' (date32[day])", "cast it to int32 (days)"]),
    "column of threes": (
        {"--input": "{w}/of-three"},
        ["column 'inputs'", "holds 3 values a row where inputs:0 (float32 [?, 4]) takes 4"],
    ),
    "column of scalars": ({"--input": "{w}/of-scalar"}, ["holds 1 values a row", "takes 4"]),
    "missing folder": ({"--input": "{w}/inn"}, ["--input {w}/inn: no such file or folder"]),
    "empty folder": ({"--input": "{w}/empty"}, ["--input {w}/empty: no input files", "*.parquet"]),
    "glob without match": ({"--input": "{w}/in/*.csv"}, ["--input {w}/in/*.csv: no input files"]),
    "input elsewhere": ({"--input": "nowhere://b/in"}, ["--input nowhere://b/in: cannot be reached", "nowhere"]),
    "dictionary": (
        {"--dictionary": "lable"}, ["--dictionary lable: no column of the output; these are id, prediction"]
    ),
    "a store's option": (
        {"--output": "s3://k:secret@b/out?endpoint=h:1"},
        ["--output s3://b/out: unknown option 'endpoint'", "endpoint_override"],
    ),
    "same file twice": (
        {"--input": ["{w}/in", "{w}/in/f2.parquet"]},
        ["--input {w}/in/f2.parquet", "is the same file as {w}/in/f2.parquet", "name it once"],
    ),
    "same file by a link": (
        {"--input": ["{w}/copy.parquet", "{w}/link.parquet"]},
        ["{w}/link.parquet is the same file as {w}/copy.parquet"],
    ),
    "output inside an input": ({"--output": "{w}/in/out"}, ["--output {w}/in/out lies inside the input {w}/in"]),
    "output is the input": ({"--output": "{w}/in"}, ["--output {w}/in lies inside the input {w}/in"]),
    "input inside output": ({"--output": "{w}"}, ["--output {w} ", "{w}/in/f0.parquet"]),
    "input file inside output": (
        {"--input": "{w}/in/f0.parquet", "--output": "{w}/in"},
        ["--output {w}/in holds the input file {w}/in/f0.parquet"],
    ),
    "output holds something else": (
        {"--output": "{w}/full"},
        ["--output {w}/full holds something else (thesis.doc)", "name a new or an empty folder"],
    ),
    "output with a plan of nobody": ({"--output": "{w}/foreign0"}, ["--output {w}/foreign0"]),
    "output with a list for a plan": ({"--output": "{w}/foreign1"}, ["--output {w}/foreign1"]),
    "output with numbers for a plan": ({"--output": "{w}/foreign2"}, ["--output {w}/foreign2"]),
    "output is a file": ({"--output": "{w}/a-file"}, ["--output {w}/a-file: expected a folder, found a file"]),
    "two fetches of one column": (
        {"--fetch": ["prediction=p", "logits=p"]},
        ["two output columns are called 'p'", "--fetch TENSOR=OTHER"],
    ),
    "fetch named as a kept column": (
        {"--fetch": "prediction=id"},
        ["two output columns are called 'id'", "--keep"],
    ),
    "feed and set": ({"--set": "inputs=1"}, ["inputs:0 is both fed (--feed) and set (--set)"]),
    "set of another dtype": (
        {"--model": "{w}/dropout.pb", "--set": 'keep_prob="often"'},
        ["--set keep_prob:0", "'often'", "float32"],
    ),
    "set of another shape": (
        {"--model": "{w}/dropout.pb", "--set": "keep_prob=[1, 2]"},
        ["--set keep_prob:0", "[1, 2]", "keep_prob:0 (float32 [])"],
    ),
    "set of a date": ({"--model": "{w}/dropout.pb", "--config": "{w}/date.toml"}, ["keep_prob"]),
    "batch size": ({"--batch-size": "many"}, ["--batch-size: expected a whole number", "or auto, found 'many'"]),
    "shard size": ({"--shard-size": "5 parsecs"}, ["--shard-size: expected bytes, as in 64MiB", "'5 parsecs'"]),
    "gpus": ({"--gpus-per-actor": "1.5"}, ["--gpus-per-actor: expected a fraction below 1", "found '1.5'"]),
    "feed without a column": ({"--feed": "inputs"}, ["--feed: expected TENSOR=COLUMN", "inputs:0=pixels"]),
    "set without json": ({"--set": "k=word"}, ["--set: expected VALUE in JSON", "keep_prob:0=1.0"]),
    "unknown key": ({"--config": "{w}/unknown.toml"}, ["unknown key 'batchsize'; did you mean batch_size?"]),
    "value in the file": ({"--config": "{w}/value.toml"}, ["--batch-size", "at least 1", "found 0"]),
    "broken file": ({"--config": "{w}/broken.toml"}, ["--config {w}/broken.toml: no TOML", "line 1"]),
    "missing file": ({"--config": "{w}/nowhere.toml"}, ["--config {w}/nowhere.toml: No such file"]),
}  # fmt: skip


def listing(folder: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize("verb", ["score", "plan"])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_at_once(verb: str, name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, expected = MISTAKES[name]
    before = listing(world)
    assert run(app, command(verb, world, changes)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("icefloe: error: ")
    assert len(err.splitlines()) == 1
    for part in expected:
        assert part.replace("{w}", str(world)) in err
    assert listing(world) == before, "something was written"


@pytest.mark.parametrize("verb", ["score", "plan"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_first_input_fails_the_job(
    verb: str, damage: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = world / "in" / "f0.parquet"
    data = {"cut": first.read_bytes()[:-9], "empty": b"", "text": b"id,inputs\n1,2\n"}[damage]
    first.write_bytes(data)
    assert run(app, command(verb, world, {})) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"icefloe: error: {first}: no readable Parquet file")
    assert len(err.splitlines()) == 1
    assert not (world / "out").exists()


RUN = """
import contextlib, io, json, os, sys
from jobs.__main__ import app
from jobs.command_line import run

class Stream(io.StringIO):
    def isatty(self):
        return os.environ["TERMINAL"] == "yes"

results = []
for environment, words in json.loads(sys.argv[1]):
    os.environ.update(environment)
    out, err = io.StringIO(), Stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(app, words)
    results.append([code, out.getvalue(), err.getvalue()])
loaded = sorted({"ray", "tensorflow"} & set(sys.modules))
started = "ray" in loaded and sys.modules["ray"].is_initialized()
print(json.dumps([results, loaded, started]))
"""


def in_a_process_of_its_own(calls: list[tuple[dict[str, str], list[str]]]) -> Any:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"TERMINAL": "no"}
    words = [sys.executable, "-c", RUN, json.dumps(calls)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_mistake_loads_neither_ray_nor_tensorflow(world: Path) -> None:
    names = ["missing model", "placeholder left unfed", "column of text", "output holds something else"]
    calls: list[Any] = [({}, command("score", world, MISTAKES[name][0])) for name in names]
    results, loaded, started = in_a_process_of_its_own(calls)
    assert [code for code, _, _ in results] == [2] * len(names)
    assert (loaded, started) == ([], False)


ADDRESSES = {
    NOWHERE: ["no Ray cluster answers there", "leave --address out"],
    "ray://x:1": ["expected HOST:PORT", "ray job submit"],
    "nonsense": ["expected HOST:PORT, as in 10.0.0.5:6379"],
    "host:port": ["expected HOST:PORT, as in 10.0.0.5:6379"],
    "127.0.0.1:99999": ["no Ray cluster answers there"],
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Exit code, stdout and stderr for each wrong address, for one on a terminal, and for one of the environment.

    Made in a process of its own, for one in which Ray runs already joins that; in one, for Ray takes 0.4 s to import.
    """
    folder = tmp_path_factory.mktemp("addresses")
    graphs.write(folder / "model.pb", linear())
    write_rows(folder / "in" / "f0.parquet", 0, 10)
    calls = {address: ({}, command("score", folder, {"--address": address})) for address in ADDRESSES}
    terminal = {"TERMINAL": "yes", "TERM": "xterm"}
    calls["on a terminal"] = (terminal, command("score", folder, {"--address": "nonsense"}))
    without = command("score", folder, {"--address": []})
    calls["of the environment"] = ({"TERMINAL": "no", "RAY_ADDRESS": "nonsense"}, without)
    results, _, started = in_a_process_of_its_own(list(calls.values()))
    assert not started
    return dict(zip(calls, results, strict=True))


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_wrong_address_is_told_before_ray_starts(address: str, refused: dict[str, tuple[int, str, str]]) -> None:
    code, out, err = refused[address]
    assert (code, out) == (2, "")
    *progress, message = err.splitlines()
    assert all(not line.startswith("icefloe: error") for line in progress)
    assert message.startswith(f"icefloe: error: --address {address}: ")
    assert all(part in message for part in ADDRESSES[address])


def test_a_wrong_address_of_the_environment_is_called_so(refused: dict[str, tuple[int, str, str]]) -> None:
    code, _, err = refused["of the environment"]
    assert code == 2
    assert "RAY_ADDRESS" in err


def test_a_mistake_after_the_bar_began_gives_the_terminal_back(refused: dict[str, tuple[int, str, str]]) -> None:
    code, _, err = refused["on a terminal"]
    assert code == 2
    hidden, shown = err.rfind("\x1b[?25l"), err.rfind("\x1b[?25h")
    assert shown >= hidden, "the cursor stays hidden"
    assert err.rfind("icefloe: error") > shown, "the bar is drawn over the message"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("engine", [sys.executable, "-m", "jobs.score"]),
        ("engine", [str(BIN / "icefloe"), "score"]),
        ("jobs", [str(BIN / "icefloe"), "score"]),
    ],
)
def test_a_foreign_package_in_the_working_folder_is_refused(tmp_path: Path, name: str, words: list[str]) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = subprocess.run([*words, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / name / "__init__.py") in done.stderr
    assert str(Path(engine.__file__).parent.parent / name / "__init__.py") in done.stderr


def test_a_folder_of_that_name_without_a_package_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "notes.txt").write_text("")
    done = subprocess.run([BIN / "icefloe", "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_good_words_make_no_mistake(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = command("plan", world, {"--model": "{w}/dropout.pb", "--set": "keep_prob=1.0"})
    assert run(app, words) == 0, capsys.readouterr().err


def test_a_working_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    words = f"cd {tmp_path}; mkdir gone; cd gone; rmdir ../gone; exec {BIN / 'icefloe'} score"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "icefloe: error: the working folder is gone; run icefloe from one that is there\n"
