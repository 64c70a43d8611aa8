import importlib.util
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from measured import tuning
from test_errors import ALL

from engine.config import JobConfig, build_config
from engine.data.storage.places import is_local
from engine.job_toml import SCHEMA, SCHEMA_LINE
from engine.run.tuning.job_file import job_file
from jobs.__main__ import app
from jobs.command_line import KEYS_OF_VERBS, run

ROOT = Path(__file__).resolve().parents[1]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    import sys

    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE: dict[Path, str] = generator().documents()


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_a_made_file_is_what_the_code_says(path: Path) -> None:
    assert path.read_text() == MADE[path], "type make docs"


def test_every_error_has_a_cause_and_a_cure() -> None:
    text = (ROOT / "docs/errors.md").read_text()
    for kind in ALL:
        section = text.partition(f"## {kind.__name__}\n")[2].partition("\n## ")[0]
        assert f"Exit code {kind.exit_code}, " in section
        assert len(re.findall(r"^- \*\*(Cause|Cure)\*\*: \S.{20,}", section, re.M)) == 2
    assert len(re.findall(r"^## ", text, re.M)) == len(ALL)


def test_every_option_of_every_verb_is_in_the_reference() -> None:
    text = (ROOT / "docs/options.md").read_text()
    for name in JobConfig.model_fields:
        assert re.search(rf"^\| `--{name.replace('_', '-')}[ `].*`{name}`", text, re.M), name
    for verb in (name for name in app if not name.startswith("-")):
        assert re.search(rf"[|,] {verb}[ ,]", text)


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    found = json.loads(SCHEMA.read_text())
    jsonschema.Draft7Validator.check_schema(found)
    return jsonschema.Draft7Validator(found)


GOOD = """
model = "m.pb"
input = ["a", "s3://b/in"]
output = "out"
batch_size = 32
actors = "1:8"
shard_size = "64MiB"
max_bad_rows = "0.1%"
precision = "bfloat16"
compression = "none"
keep = ["id"]
where = ["country in de,fr"]
gpus_per_actor = 0.5
cpus_per_actor = 2
stall_timeout = 90
set = { "keep_prob:0" = 1.0, "flags:0" = [true, false] }
quiet = true
simulate = 8
rate = 100
log_level = "info"
[feed]
x = ["a", "b"]
y = "c"
[fill]
age = 0
name = "none"
"""


def test_the_schema_takes_what_a_job_takes(schema: jsonschema.Draft7Validator) -> None:
    read = tomllib.loads(GOOD)
    assert not list(schema.iter_errors(read))
    build_config({name: value for name, value in read.items() if name not in KEYS_OF_VERBS})


WRONG: list[dict[str, Any]] = [
    {"batchsize": 3},
    {"model": 3},
    {"model": ""},
    {"input": []},
    {"input": [3]},
    {"feed": "x=a"},
    {"feed": {"x": 3}},
    {"feed": {}},
    {"set": ["x=1"]},
    {"fill": {"a": [1]}},
    {"batch_size": 0},
    {"batch_size": "many"},
    {"batch_size": 1.5},
    {"actors": "8"},
    {"actors": "some"},
    {"actors": -1},
    {"shard_size": "5 parsecs"},
    {"shard_size": 0},
    {"precision": "int8"},
    {"compression": "rar"},
    {"gpus_per_actor": 1.5},
    {"gpus_per_actor": -1},
    {"cpus_per_actor": 0},
    {"max_bad_rows": -1},
    {"max_bad_rows": "1 percent"},
    {"xla": 1},
    {"xla": "yes"},
    {"limit": 0},
    {"stall_timeout": 0},
    {"quiet": 1},
    {"log_level": "loud"},
    {"address": 7},
]


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_the_schema_refuses_an_unknown_key_or_a_wrong_value(
    wrong: dict[str, Any], schema: jsonschema.Draft7Validator
) -> None:
    assert list(schema.iter_errors(wrong))


VALUES = (
    *(True, False, 0, 1, 7, -3, 0.5, 1.5, "", "auto", "7", "a", "1:8", "8:1", "64MiB", "1.5 GB", "0.1%", "zstd"),
    *("float32", "all", [], ["a"], ["a", "b"], [""], [3], {}, {"a": "b"}, {"a": 1}, {"a": ["b"]}, {"a": {"b": 1}}),
)
# It has the shape of bounds, and only the check can say more; to JSON 2.0 is a whole number, and it is left out.
SHAPES_ALONE = {("actors", "8:1")}


@pytest.mark.parametrize("name", JobConfig.model_fields)
def test_what_the_schema_takes_a_job_takes(name: str, schema: jsonschema.Draft7Validator) -> None:
    base = {"model": "m.pb", "input": ["in"], "output": "out"}
    num_taken = 0
    for value in VALUES:
        if list(schema.iter_errors({name: value})) or (isinstance(value, str) and (name, value) in SHAPES_ALONE):
            continue
        num_taken += 1
        build_config({**base, name: value})
    assert num_taken


def test_examples_and_defaults_are_what_a_job_takes(schema: jsonschema.Draft7Validator) -> None:
    base = {"model": "m.pb", "input": ["in"], "output": "out"}
    for name, field in JobConfig.model_fields.items():
        for value in field.examples or ():
            assert not list(schema.iter_errors({name: value})), name
            build_config({**base, name: value})


def test_the_schema_takes_the_file_that_tune_writes(schema: jsonschema.Draft7Validator) -> None:
    settings = {"model": "/m.pb", "input": ["/in"], "output": "/out", "feed": {"x:0": "a,b"}, "set": {"k:0": 1.0}}
    text = job_file(tuning(), {**settings, "keep": ["id"], "provenance": True}, is_named=True)
    assert text.splitlines()[0] == SCHEMA_LINE
    assert not list(schema.iter_errors(tomllib.loads(text)))


def test_the_first_line_names_a_schema_that_is_there() -> None:
    mark, _, path = SCHEMA_LINE.partition(" ")
    assert mark == "#:schema"
    assert is_local(path)
    assert json.loads(Path(path).read_text())["additionalProperties"] is False


def test_what_a_file_may_say_to_verbs_is_what_verbs_have(schema: jsonschema.Draft7Validator) -> None:
    import inspect

    own = {
        name
        for verb in ("score", "plan")
        for name in inspect.signature(app[verb].default_command).parameters
        if name not in (*JobConfig.model_fields, "config", "init")
    }
    assert own <= set(KEYS_OF_VERBS)
    known = json.loads(SCHEMA.read_text())["properties"]
    assert set(known) == {*JobConfig.model_fields, *own}


@pytest.mark.parametrize("verb", ["score", "plan", "tune"])
def test_one_file_serves_all_verbs(
    verb: str, model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(f'model = "{tmp_path}/none.pb"\ninput = "{inputs}"\noutput = "{tmp_path}/out"\n' + SAID)
    assert run(app, [verb, "--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"icefloe: error: --model {tmp_path}/none.pb: no such file")


SAID = 'json = true\nquiet = true\nlog_level = "error"\nsimulate = 2\nrate = 1.0\n'


@pytest.mark.parametrize("value", ["loud", 3])
def test_a_log_level_that_is_none(value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "job.toml").write_text(f"log_level = {json.dumps(value)}")
    words = ["score", "--model", "m", "--input", "i", "--output", "o", "--config", str(tmp_path / "job.toml")]
    assert run(app, words) == 2
    assert f"--log-level: expected one of debug, info, warning, error, found {value!r}" in capsys.readouterr().err


def blocks(language: str) -> list[str]:
    """What stands between fences of a language in README and docs."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    fenced = [re.split(r"^```(\w*)\n", page.read_text(), flags=re.M)[1:] for page in pages]
    return [text for each in fenced for name, text in zip(each[::4], each[1::4], strict=True) if name == language]


def test_blocks_of_toml_in_the_docs_are_taken(schema: jsonschema.Draft7Validator) -> None:
    found = [tomllib.loads(block) for block in blocks("toml")]
    assert found
    for read in found:
        assert not list(schema.iter_errors(read))
        build_config({name: value for name, value in read.items() if name not in KEYS_OF_VERBS})


def test_types_and_schema_go_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = project["tool"]["setuptools"]["package-data"]
    assert {"py.typed", "job.schema.json"} <= set(data["engine"])
    assert "py.typed" in data["jobs"]
    for package, patterns in data.items():
        assert all(list((ROOT / package).glob(pattern)) for pattern in patterns), patterns
    oldest = re.findall(r"^OLDEST = \(3, (\d+)\)", (ROOT / "jobs/__init__.py").read_text(), re.M)
    assert project["project"]["requires-python"] == f">=3.{oldest[0]}"
