import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import graphs
import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from graphs import graph, linear, node, placeholder

from engine.config import JobConfig, Theme
from engine.job_toml import SCHEMA, SCHEMA_LINE
from engine.model.protos import saved_model_class
from jobs.__main__ import app
from jobs.command_line import run


def write(folder: Path, columns: dict[str, Any]) -> str:
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return str(folder)


def digits(tmp_path: Path) -> tuple[str, str]:
    """The ports and columns of the digits example: images as lists of 64, a label and an id beside them."""
    made = graph(
        placeholder("inputs", "float32", [None, 8, 8]), placeholder("labels", "int64", [None]),
        node("prediction", "Softmax", "inputs", T="float32"),
    )  # fmt: skip
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * 64)), 64)
    rows = write(tmp_path / "in", {"id": np.arange(3), "label": np.arange(3), "inputs": pixels})
    return graphs.write(tmp_path / "digits.pb", made), rows


def other_names(tmp_path: Path) -> tuple[str, str]:
    """Ports of other names, a switch for dropout, two inputs, stacked columns and a struct."""
    made = graph(
        *linear(name="net/features", output="mean").node, placeholder("net/word", "string", [None]),
        placeholder("keep_prob", "float32", []), node("scaled", "Mul", "mean", "keep_prob", T="float32"),
        node("net/length", "StringLength", "net/word"), node("net/softmax", "Softmax", "scaled", T="float32"),
    )  # fmt: skip
    columns: dict[str, Any] = {"key": np.arange(3), **{f"x{i}": np.zeros(3) for i in range(4)}}
    columns["text"] = pa.array([{"word": "a"}, {"word": "b"}, {"word": "c"}])
    return graphs.write(tmp_path / "other.pb", made), write(tmp_path / "in", columns)


def saved_model(tmp_path: Path) -> tuple[str, str]:
    """A SavedModel, whose signature names the ports."""
    made = saved_model_class()()
    meta = made.meta_graphs.add()
    meta.graph_def.CopyFrom(linear(name="serving_default_x", output="PartitionedCall"))
    meta.meta_info_def.tags.append("serve")
    signature = meta.signature_def["serving_default"]
    for port, name in ((signature.inputs["x"], "serving_default_x:0"), (signature.outputs["y"], "PartitionedCall:0")):
        port.name, port.dtype = name, 1
        for extent in (-1, 4 if name.startswith("s") else 3):
            port.tensor_shape.dim.add(size=extent)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(made.SerializeToString())
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(12, np.float32)), 4)
    return str(tmp_path / "saved"), write(tmp_path / "in", {"id": np.arange(3), "values": values})


def draft(tmp_path: Path, given: tuple[str, str], *more: str) -> dict[str, Any]:
    """Draft a job file, and check that it is one that can be planned as it stands."""
    path = tmp_path / "job.toml"
    words = ["--model", given[0], "--input", given[1], "--output", str(tmp_path / "out"), "--config", str(path)]
    assert run(app, ["score", "--init", *words, *more]) == 0
    read = tomllib.loads(path.read_text())
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(read)
    assert not (tmp_path / "out").exists()
    return read


def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    code = run(app, ["plan", "--config", str(tmp_path / "job.toml"), "--json"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_the_digits_example_is_drafted_and_planned_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = draft(tmp_path, digits(tmp_path))
    assert (read["feed"], read["fetch"]) == ({"inputs:0": "inputs"}, {"prediction:0": "prediction"})
    assert "guessed" in capsys.readouterr().out
    found = plan(tmp_path, capsys)
    assert [name for name, _ in found["kept"]] == ["id", "label"]


def test_ports_of_other_names_are_filled_by_name_and_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = draft(tmp_path, other_names(tmp_path), "--fetch", "net/softmax=p", "net/length=n")
    assert read["feed"] == {"net/features:0": "x*", "net/word:0": "text.word"}
    assert read["fetch"] == {"net/softmax:0": "p", "net/length:0": "n"}
    assert read["set"] == {"keep_prob:0": 1.0}
    assert "x0,x1,x2,x3" in (tmp_path / "job.toml").read_text(), "what else would fit stands beside it"
    assert len(plan(tmp_path, capsys)["feeds"]) == 2


def test_a_saved_model_has_the_names_that_score_gives_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = draft(tmp_path, saved_model(tmp_path))
    assert (read["feed"], read["fetch"]) == ({"inputs:0": "values"}, {"prediction:0": "prediction"})
    assert plan(tmp_path, capsys)["feeds"][0][0] == "values"


def test_every_option_stands_there_with_its_meaning_by_theme(tmp_path: Path) -> None:
    draft(tmp_path, digits(tmp_path))
    lines = (tmp_path / "job.toml").read_text().splitlines()
    assert lines[0] == SCHEMA_LINE
    titles = [line.strip("# -") for line in lines if line.startswith("# ----")]
    assert titles == [theme for theme in Theme if theme in titles]
    assert len(titles) > 6
    text = " ".join(line.lstrip("# ") for line in lines)
    for name, field in JobConfig.model_fields.items():
        assert sum(line.removeprefix("# ").startswith((f"{name} = ", f'{name}."')) for line in lines) == 1, name
        assert " ".join(str(field.description).split()) in text


def test_what_is_commented_out_may_be_let_in(tmp_path: Path) -> None:
    """Each option's line, without its mark, is TOML of the schema: nothing has to be looked up to use it."""
    draft(tmp_path, digits(tmp_path))
    schema = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    names = tuple(f"# {name}{sign}" for name in JobConfig.model_fields for sign in (" = ", '."'))
    lines = [line for line in (tmp_path / "job.toml").read_text().splitlines() if line.startswith(names)]
    assert len(lines) > 20
    for line in lines:
        schema.validate(tomllib.loads(line.removeprefix("# ")))


def test_what_the_call_says_stays(tmp_path: Path) -> None:
    given = digits(tmp_path)
    read = draft(tmp_path, given, "--feed", "inputs=inputs", "--batch-size", "16", "--where", "id > 1", "--overwrite")
    assert (read["feed"], read["batch_size"], read["where"]) == ({"inputs:0": "inputs"}, 16, ["id > 1"])
    assert "overwrite" not in read


def test_where_nothing_fits_the_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = digits(tmp_path)
    read = draft(tmp_path, (model, write(tmp_path / "words", {"word": ["a"], "other": ["b"]})))
    assert read["feed"] == {"inputs:0": "COLUMN"}
    assert "no column fits" in capsys.readouterr().out
    assert "no column fits; name one" in (tmp_path / "job.toml").read_text()
    assert run(app, ["plan", "--config", str(tmp_path / "job.toml")]) == 2
    assert "no column 'COLUMN'; it has word, other" in capsys.readouterr().err


def test_a_constant_that_nothing_tells_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = graph(*linear(output="mean").node, placeholder("temperature", "float32", []),
                 node("prediction", "Mul", "mean", "temperature", T="float32"))  # fmt: skip
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, np.float32)), 4)
    rows = write(tmp_path / "in", {"inputs": values})
    read = draft(tmp_path, (graphs.write(tmp_path / "m.pb", made), rows))
    assert "set" not in read
    assert "temperature:0 takes one value for all rows" in capsys.readouterr().out
    assert '# "temperature:0" takes one value for all rows' in (tmp_path / "job.toml").read_text()


def test_a_file_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = digits(tmp_path)
    (tmp_path / "job.toml").write_text("mine = 1")
    words = ["score", "--init", "--model", given[0], "--input", given[1], "--config", str(tmp_path / "job.toml")]
    assert run(app, words) == 2
    assert (
        f"--config {tmp_path}/job.toml: is there already; name another, or type --overwrite" in capsys.readouterr().err
    )
    assert (tmp_path / "job.toml").read_text() == "mine = 1"
    assert run(app, [*words, "--overwrite"]) == 0
    assert tomllib.loads((tmp_path / "job.toml").read_text())["model"] == given[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.pb", "in", "job.toml"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--input", "{in}"], "--model is missing"),
        (["--model", "{m}"], "--input is missing"),
        (["--model", "{m}x", "--input", "{in}"], "no such file"),
        (["--model", "{m}", "--input", "{in}x"], "no such file or folder"),
        (["--model", "{m}", "--input", "{in}", "--config", "s3://b/job.toml"], "expected a file of this machine"),
        (["--model", "{m}", "--input", "{in}", "--config", "{m}/job.toml"], "cannot be written ("),
    ],
)
def test_mistakes_write_nothing(
    words: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = digits(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(app, ["score", "--init", *(word.replace("{m}", model).replace("{in}", rows) for word in words)]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.pb", "in"]


def test_names_that_would_break_a_line_are_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = digits(tmp_path)
    pixels = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(64)), 64)
    name = 'a"\n]b'
    read = draft(tmp_path, (model, write(tmp_path / "odd", {name: pixels, "c\nd = 1": ["x"]})))
    assert read["feed"] == {"inputs:0": name} or read["feed"] == {"inputs:0": "COLUMN"}
    assert set(read) == {"model", "input", "output", "feed", "fetch"}


def test_neither_ray_nor_tensorflow_is_loaded(tmp_path: Path) -> None:
    model, rows = digits(tmp_path)
    code = (
        "import sys; from jobs.score import app; from jobs.command_line import run; code = run(app, sys.argv[1:]); "
        "print(code, [name for name in ('ray', 'tensorflow', 'matplotlib') if name in sys.modules], file=sys.stderr)"
    )
    words = ["--init", "--model", model, "--input", rows, "--config", str(tmp_path / "job.toml")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0 []"


def test_secrets_stay_out_of_the_file(tmp_path: Path) -> None:
    given = digits(tmp_path)
    path = tmp_path / "job.toml"
    words = [
        "--model",
        given[0],
        "--input",
        given[1],
        "--output",
        "s3://key:hushhush@bucket/out?region=us-east-1",
        "--config",
        str(path),
    ]
    assert run(app, ["score", "--init", *words]) == 0
    assert "hushhush" not in path.read_text()


def test_what_reaches_outside_is_left_to_be_decided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = graph(placeholder("inputs", "string", []), node("text", "ReadFile", "inputs"),
                 node("prediction", "StringLength", "text"))  # fmt: skip
    given = graphs.write(tmp_path / "m.pb", made), write(tmp_path / "in", {"inputs": ["a"]})
    assert "allow_op" not in draft(tmp_path, given)
    assert "ReadFile reaches outside the graph" in capsys.readouterr().out
    path = tmp_path / "job.toml"
    lines = path.read_text().splitlines()
    assert lines[lines.index('# allow_op = ["ReadFile"]') - 1].startswith('# "ReadFile" reaches outside the graph')
    assert run(app, ["plan", "--config", str(path)]) == 2
    assert "text (ReadFile) reads files" in capsys.readouterr().err
    assert draft(tmp_path, given, "--allow-op", "ReadFile", "--overwrite")["allow_op"] == ["ReadFile"]
    assert "reaches outside" not in capsys.readouterr().out + path.read_text()


def test_a_link_goes_on_leading_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    target = tmp_path / "jobs" / "mine.toml"
    target.write_text("mine = 1")
    (tmp_path / "job.toml").symlink_to("jobs/mine.toml")
    given = digits(tmp_path)
    draft(tmp_path, given, "--overwrite")
    assert (tmp_path / "job.toml").is_symlink()
    assert tomllib.loads(target.read_text())["model"] == given[0]
    assert [path.name for path in target.parent.iterdir()] == ["mine.toml"]


def test_a_job_file_is_utf_8_whatever_the_locale_is(tmp_path: Path) -> None:
    code = (
        "import sys; from engine.drafting import write_job_file; from jobs.command_line import read_job_file; "
        "write_job_file(sys.argv[1], 'keep = \\'na\\u00efve\\'\\n'); print(ascii(read_job_file(sys.argv[1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job.toml")], capture_output=True, text=True, check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("{'keep': 'na\\xefve'}\n", "")
    assert (tmp_path / "job.toml").read_bytes() == "keep = 'na\u00efve'\n".encode()
