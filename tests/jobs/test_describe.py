import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import graphs
import pytest
from descriptions import training
from graphs import graph, linear, node, placeholder

from engine.model.protos import MetaGraphDef, saved_model_class
from jobs.__main__ import app
from jobs.command_line import run

KEYS = {
    *("kind", "path", "size_bytes", "is_text", "producer", "tensorflow_version", "inputs", "optional_inputs"),
    *("unused_inputs", "outputs", "other_outputs", "ports_from", "signature", "signatures", "init_ops", "parameters"),
    *("parameter_bytes", "layers", "outside_parameters", "outside_bytes", "operations", "num_nodes"),
    *("num_function_nodes", "num_functions", "variables", "leftovers", "random_operations", "unknown_operations"),
    *("findings", "num_findings_outside", "notes", "keras", "loaded", "command"),
}


def module(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "jobs.describe", *words], capture_output=True, text=True, check=False)


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_module_describes_without_tensorflow(model: str) -> None:
    code = f"import sys, jobs.describe; jobs.describe.describe({model!r}); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    done = module(model)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Model\nmodel          {model}\nkind           frozen graph\n")


def test_json_holds_all_of_it_under_stable_keys(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["describe", model, "--json"]) == 0
    found = document(capsys)
    assert set(found) == KEYS
    assert (found["kind"], found["path"]) == ("frozen_graph", model)
    assert found["layers"] == [{"operation": "MatMul", "num_tensors": 1, "parameters": 12, "num_bytes": 48}]
    assert (found["keras"], found["loaded"]) == (None, None)
    assert shlex.split(found["command"])[:4] == ["icefloe", "score", "--model", model]


def test_findings_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = graph(placeholder("x", "string", [None]), node("y", "ReadFile", "x"))
    assert run(app, ["describe", graphs.write(tmp_path / "m.pb", made), "--json"]) == 0
    assert document(capsys)["findings"] == [
        {"node": "y", "operation": "ReadFile", "effect": "reads files", "place": ""},
    ]


def test_every_kind_of_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta = MetaGraphDef(graph_def=training())
    (tmp_path / "ck.meta").write_bytes(meta.SerializeToString())
    (tmp_path / "ck.index").write_bytes(b"values")
    (tmp_path / "alone.meta").write_bytes(meta.SerializeToString())
    (tmp_path / "m.pbtxt").write_text(str(linear()))
    (tmp_path / "saved").mkdir()
    saved = saved_model_class()(saved_model_schema_version=1, meta_graphs=[meta])
    (tmp_path / "saved" / "saved_model.pb").write_bytes(saved.SerializeToString())
    for name, kind in (
        *(("ck", "checkpoint"), ("ck.index", "checkpoint"), ("alone.meta", "meta_graph")),
        *(("m.pbtxt", "frozen_graph"), ("saved", "saved_model"), ("saved/saved_model.pb", "saved_model")),
        (graphs.write(tmp_path / "training.pb", training()), "unfrozen_graph"),
    ):
        assert run(app, ["describe", str(tmp_path / name), "--json"]) == 0
        assert document(capsys)["kind"] == kind
        assert run(app, ["describe", str(tmp_path / name)]) == 0
        assert "prediction:0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "an HTML or XML page"),
        (linear().SerializeToString()[:-20], "cut short"),
        (b"PK\x03\x04 not really", "a zip archive that is no Keras model"),
        (b"\x89HDF\r\n\x1a\n not really", "an HDF5 file that is damaged"),
    ],
    ids=["empty", "pointer", "page", "cut", "zip", "hdf5"],  # the bytes of a message differ from process to process
)
def test_what_is_no_model_is_one_message(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "m.pb").write_bytes(data)
    done = module(str(tmp_path / "m.pb"))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"icefloe: error: {tmp_path / 'm.pb'}: ")
    assert expected in done.stderr


def test_a_log_for_tensorboard(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    assert run(app, ["describe", model, "--tensorboard", str(folder), "--json"]) == 0
    assert [file.name.split(".tfevents.")[0] for file in folder.iterdir()] == ["events.out"]
    out, err = capsys.readouterr()
    assert json.loads(out)["kind"] == "frozen_graph"
    assert err == f"the graph is in {folder}; tensorboard --logdir shows it\n"


def test_a_log_where_none_can_be(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["describe", model, "--tensorboard", f"{model}/logs"]) == 2
    assert f"--tensorboard {model}/logs: cannot be written" in capsys.readouterr().err


def test_a_graph_that_reaches_outside_is_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = graph(placeholder("x", "string", [None]), node("y", "WriteFile", "x"))
    assert run(app, ["describe", graphs.write(tmp_path / "m.pb", made), "--load", "--json"]) == 0
    found = document(capsys)["loaded"]
    assert found["tensorflow"] == ""
    assert "y (WriteFile) writes files" in found["refusal"]


@pytest.mark.tf
def test_loading_tells_shapes_and_cost(model: str) -> None:
    done = module(model, "--load")
    assert (done.returncode, done.stderr) == (0, "")
    assert "multiply-adds         12 a row\n" in done.stdout
    done = module(model, "--load", "--json")
    found = json.loads(done.stdout)["loaded"]
    assert found["outputs"] == [{"name": "prediction:0", "dtype": "float32", "shape": [None, 3]}]
    assert (found["multiply_adds"], found["at_least"], found["refusal"]) == (12, "", "")
