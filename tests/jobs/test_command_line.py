import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import cyclopts
import graphs
import pytest

import jobs.describe
import jobs.plan
import jobs.score
from engine.config import JobConfig, SimulationConfig, build_config
from engine.errors import (
    ClusterError,
    ConfigError,
    DataError,
    EngineError,
    GraphError,
    JobFailedError,
    JobInterrupted,
    PlanError,
    SchemaError,
    StorageError,
    WorkerLostError,
)
from jobs.__main__ import app
from jobs.command_line import read_job_file, run, with_job_options
from jobs.help import new_app

REQUIRED = ["--model", "m.pb", "--input", "in", "--output", "out"]


class Recorder:
    """An application with one verb, which keeps what it was called with."""

    def __init__(self) -> None:
        self.config: JobConfig | None = None
        self.dry: bool | None = None
        self.app = new_app()

        def verb(config: JobConfig, *, dry: bool = False) -> None:
            """Keep the call."""
            self.config, self.dry = config, dry

        self.app.default(with_job_options(verb))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text("""
        model = "file.pb"
        input = ["a", "b"]
        output = "file-out"
        batch_size = 32
        overwrite = true
        [feed]
        x = "pixels"
        [fetch]
        y = "score"
        [set]
        keep_prob = 1.0
    """)
    return path


def test_flags_become_a_config(recorder: Recorder) -> None:
    words = [
        *("--model", "m.pb", "--input", "a", "b", "--input", "c", "--output", "out"),
        *("--feed", "x=pixels", "y:1=size", "--fetch", "p=score", "--fetch", "q=other"),
        *("--set", "keep_prob=1.0", "--set", 'word="a b"', "--init-op", "init", "--keep", "id,name"),
        *("--batch-size", "64", "--actors", "2:8", "--gpus-per-actor", "0.5", "--cpus-per-actor", "1"),
        *("--allow-cpu", "--max-attempts", "2", "--stall-timeout", "90"),
        *("--shard-size", "64MiB", "--limit", "10", "--address", "h:1", "--overwrite", "--dry"),
    ]
    assert run(recorder.app, words) == 0
    assert recorder.dry is True
    assert recorder.config == JobConfig(
        model="m.pb",
        input=("a", "b", "c"),
        output="out",
        feed={"x:0": "pixels", "y:1": "size"},
        fetch={"p:0": "score", "q:0": "other"},
        set={"keep_prob:0": 1.0, "word:0": "a b"},
        init_op=("init",),
        keep=("id", "name"),
        batch_size=64,
        actors="2:8",
        gpus_per_actor=0.5,
        cpus_per_actor=1.0,
        allow_cpu=True,
        max_attempts=2,
        stall_timeout=90.0,
        shard_size=64 * 2**20,
        limit=10,
        address="h:1",
        overwrite=True,
    )


@pytest.mark.parametrize(
    "words",
    [["--input", "a", "--input", "b", "c"], ["--input", "a", "b", "c"], ["--input=a", "--input=b", "--input=c"]],
)
def test_many_inputs(recorder: Recorder, words: list[str]) -> None:
    assert run(recorder.app, ["--model", "m", *words, "--output", "o"]) == 0
    assert recorder.config is not None
    assert recorder.config.input == ("a", "b", "c")


@pytest.mark.parametrize(
    ("words", "keep"),
    [(["--keep", "all"], "all"), (["--keep", "none"], "none"), (["--keep", "a", "b,c"], ("a", "b", "c")), ([], None)],
)
def test_keep(recorder: Recorder, words: list[str], keep: object) -> None:
    assert run(recorder.app, [*REQUIRED, *words]) == 0
    assert recorder.config is not None
    assert recorder.config.keep == keep


def test_what_is_not_said_has_its_default(recorder: Recorder) -> None:
    assert run(recorder.app, REQUIRED) == 0
    assert recorder.config == build_config({"model": "m.pb", "input": "in", "output": "out"})
    assert recorder.dry is False


@pytest.mark.parametrize("value", ["-1", "-0.5"])
def test_a_negative_number_is_a_value_and_no_flag(
    recorder: Recorder, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(recorder.app, [*REQUIRED, "--limit", value]) == 2
    assert f"--limit: expected a whole number of at least 1, found '{value}'" in capsys.readouterr().err


def test_a_job_file(recorder: Recorder, job_file: Path) -> None:
    assert run(recorder.app, ["--config", str(job_file)]) == 0
    assert recorder.config == JobConfig(
        model="file.pb",
        input=("a", "b"),
        output="file-out",
        batch_size=32,
        overwrite=True,
        feed={"x:0": "pixels"},
        fetch={"y:0": "score"},
        set={"keep_prob:0": 1.0},
    )


def test_flags_win_over_the_file(recorder: Recorder, job_file: Path) -> None:
    words = ["--config", str(job_file), "--batch-size", "7", "--input", "c", "--feed", "z=other"]
    assert run(recorder.app, words) == 0
    assert recorder.config is not None
    assert (recorder.config.batch_size, recorder.config.input, recorder.config.feed) == (7, ("c",), {"z:0": "other"})
    assert (recorder.config.model, recorder.config.fetch) == ("file.pb", {"y:0": "score"})


def test_an_own_option_may_stand_in_the_file_and_the_flag_wins(tmp_path: Path) -> None:
    found: list[tuple[bool, object]] = []
    made = new_app()

    def verb(config: JobConfig, *, dry: bool = False, word: str | None = None) -> None:
        """Keep the call."""
        found.append((dry, word))

    made.default(with_job_options(verb))
    (tmp_path / "job.toml").write_text("dry = true\nword = 8")
    from_file = [*REQUIRED, "--config", str(tmp_path / "job.toml")]
    for words in (REQUIRED, from_file, [*from_file, "--word", "9"]):
        assert run(made, words) == 0
    assert found == [(False, None), (True, 8), (True, "9")]
    (tmp_path / "job.toml").write_text("dry = 1")
    assert run(made, from_file) == 2


def test_no_job_file_is_an_empty_one() -> None:
    assert read_job_file(None) == {}


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"model = ", "no TOML"), (b'model = "\xe9"', "no TOML"), (b"[feed\n", "no TOML"), (b"a = 1\na = 2", "no TOML")],
)
def test_a_job_file_that_is_no_toml(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "job.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"--config {tmp_path}/job.toml: {expected}"):
        read_job_file(str(tmp_path / "job.toml"))


@pytest.mark.parametrize(("name", "expected"), [("nowhere.toml", "No such file"), (".", "Is a directory")])
def test_a_job_file_that_cannot_be_read(tmp_path: Path, name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        read_job_file(str(tmp_path / name))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["score", "--modle", "m.pb"], ["--modle", "--model"]),
        (["plan", "--jsn", *REQUIRED], ["--jsn", "--json"]),
        (["describe", "m.pb", "--jsn"], ["--jsn", "--json"]),
        (["scoer"], ["scoer", "score"]),
        (["discribe", "m.pb"], ["discribe", "describe"]),
        (["score", "--model"], ["--model"]),
        (["describe"], ["MODEL"]),
        (["score", *REQUIRED, "--limit", "1", "stray"], ["stray"]),
        (["plan", *REQUIRED, "--batch-size", "zero"], ["--batch-size", "found 'zero'"]),
        (["plan", *REQUIRED, "--actors", "8:2"], ["--actors", "MIN:MAX", "found '8:2'"]),
        (["plan", *REQUIRED, "--simulate", "0"], ["--simulate", "found '0'"]),
        (["plan", *REQUIRED, "--simulate", "8", "--rate", "-1"], ["--rate", "found '-1'"]),
        (["plan", *REQUIRED, "--rate", "100"], ["--rate 100", "--simulate N"]),
        (["score", *REQUIRED, "--simulate", "8"], ["--simulate"]),
        (["score"], ["--model is missing", "--input is missing", "--output is missing"]),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest(
    words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("icefloe: error: ")
    assert len(err.splitlines()) == 1
    assert all(part in err for part in expected)


def test_an_unknown_key_of_the_file_is_named_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text("batchsize = 3")
    assert run(app, ["score", *REQUIRED, "--config", str(tmp_path / "job.toml")]) == 2
    assert "unknown key 'batchsize'; did you mean batch_size?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["score", "plan"])
def test_help_shows_every_option_s_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, [verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, field in JobConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert " ".join(str(field.description).split()) in text
    assert "--config" in text
    assert "flags win over it" in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("what happened"), 2),
        (GraphError("what happened"), 2),
        (SchemaError("what happened"), 2),
        (PlanError("what happened"), 2),
        (ClusterError("what happened"), 2),
        (DataError("what happened", 3), 1),
        (StorageError("what happened"), 1),
        (WorkerLostError("what happened"), 1),
        (JobFailedError("what happened"), 1),
        (JobInterrupted("what happened"), 130),
        (EngineError("what happened"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_an_error_becomes_one_message_and_its_exit_code(
    error: EngineError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(failing(error), ["fail"]) == code
    assert capsys.readouterr() == ("", "icefloe: error: what happened\n")


def failing(error: BaseException) -> cyclopts.App:
    made = new_app()

    def fail() -> None:
        raise error

    made.command(fail)
    return made


def test_an_interrupt_before_the_job_began(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(KeyboardInterrupt()), ["fail"]) == 130
    assert capsys.readouterr().err.startswith("icefloe: error: interrupted")


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(failing(ZeroDivisionError()), ["fail"])


def test_a_reader_that_went_away_is_no_traceback(model: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m jobs.describe {shlex.quote(model)} --json | true"
    script = f"set -o pipefail; {command}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def document(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_describe_as_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["describe", model, "--json"]) == 0
    found = document(capsys)
    assert found["inputs"] == [{"name": "inputs:0", "dtype": "float32", "shape": [None, 4]}]
    assert [item["name"] for item in found["outputs"]] == ["prediction:0"]
    assert found["parameters"] == 12
    assert found["size_bytes"] == Path(model).stat().st_size
    assert shlex.split(found["command"])[:4] == ["icefloe", "score", "--model", model]


def test_plan_as_json(model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", model, "--input", inputs, "--output", str(tmp_path / "out")]
    assert run(app, ["plan", *words, "--json"]) == 0
    found = document(capsys)
    assert (found["num_files"], found["num_shards"], found["parts"]) == (4, 1, ["part-00000-of-00001.parquet"])
    assert found["memory"]["total_bytes"] > 0
    assert not (tmp_path / "out").exists()


def test_how_actors_are_held_is_no_part_of_the_plan_id(
    model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--model", model, "--input", inputs, "--output", str(tmp_path / "out"), "--json"]
    ids = set()
    more = [["--actors", "2:8"], ["--max-attempts", "9"], ["--stall-timeout", "5"], ["--allow-cpu"]]
    for each in ([], *more):
        assert run(app, [*words, *each]) == 0
        ids.add(document(capsys)["plan_id"])
    assert len(ids) == 1


def test_plan_takes_a_simulation(model: str, inputs: str, tmp_path: Path) -> None:
    words = ["plan", "--model", model, "--input", inputs, "--output", str(tmp_path / "out")]
    assert run(app, [*words, "--simulate", "8", "--rate", "1e6"]) == 0


def test_help_of_plan_shows_the_simulation(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["plan", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, field in SimulationConfig.model_fields.items():
        assert f"--{name}" in text
        assert " ".join(str(field.description).split()) in text
    assert run(app, ["score", "--help"]) == 0
    assert "--simulate" not in capsys.readouterr().out


def test_tables_go_to_stdout(model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["describe", model]) == 0
    assert run(app, ["plan", "--model", model, "--input", inputs, "--output", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert model in out
    assert f"{tmp_path}/out/" in out
    assert err == ""


def test_the_command_that_describe_shows_is_accepted(
    model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(app, ["describe", model, "--json"]) == 0
    words = shlex.split(document(capsys)["command"])[2:]
    places = {"INPUT": inputs, "OUTPUT": str(tmp_path / "out")}
    assert run(app, ["plan", *(places.get(word, word) for word in words)]) == 0


@pytest.mark.parametrize("module", [jobs.score, jobs.plan, jobs.describe])
def test_a_verb_s_own_module_takes_the_same_words(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(module.app, ["--help"]) == 0
    own = capsys.readouterr().out
    assert "--json" in own
    assert run(module.app, ["--no-such-flag"]) == 2


def test_describe_a_model_of_another_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphs.write(tmp_path / "m.pb", graphs.linear())
    assert run(app, ["describe", str(tmp_path)]) == 2
    assert f"{tmp_path}: a folder that is neither a SavedModel nor holds a checkpoint" in capsys.readouterr().err
