from pathlib import Path
from typing import Any

import pytest

from engine.config import JobConfig
from engine.data.pieces import InputFile
from engine.errors import ConfigError, PlanError
from engine.preparing.call import check_output_apart, check_together, settle_paths


def config(**settings: Any) -> JobConfig:
    return JobConfig(**{"model": "m.pb", "input": ("in",), "output": "out", **settings})


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = settle_paths(config(input=("in", "./b/../c/*.parquet", "/d"), op_library=("ops.so",)))
    assert (found.model, found.output) == (str(tmp_path / "m.pb"), str(tmp_path / "out"))
    assert found.input == (str(tmp_path / "in"), str(tmp_path / "c/*.parquet"), "/d")
    assert found.op_library == (str(tmp_path / "ops.so"),)
    assert settle_paths(found) == found


def test_a_file_uri_is_a_path() -> None:
    assert settle_paths(config(input=("file:///a/in",))).input == ("/a/in",)


@pytest.mark.parametrize("key", ["model", "input", "output", "op_library"])
def test_relative_paths_inside_a_ray_job(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    absolute = {"model": "/m.pb", "input": ("/in",), "output": "/out", "op_library": ("/ops.so",)}
    settle_paths(config(**absolute))
    relative = "some/path" if key in ("model", "output") else ("some/path",)
    with pytest.raises(ConfigError, match=rf"--{key.replace('_', '-')} some/path: a relative path inside a Ray job"):
        settle_paths(config(**{**absolute, key: relative}))


@pytest.mark.parametrize("key", ["model", "input", "output"])
def test_an_unknown_scheme_names_the_flag(key: str) -> None:
    uri = "nowhere://bucket/x"
    with pytest.raises(ConfigError, match=rf"--{key} nowhere://bucket/x"):
        settle_paths(config(**{key: (uri,) if key == "input" else uri}))


def test_libraries_come_from_here() -> None:
    with pytest.raises(ConfigError, match=r"--op-library s3://bucket/ops\.so: expected a local path"):
        settle_paths(config(op_library=("s3://bucket/ops.so",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feed": {"x:0": "x"}, "set": {"x:0": 1}}, "x:0 is both fed (--feed) and set (--set); leave one of them out"),
        ({"add": True, "limit": 3}, "--add scores all new files, --limit 3 only the first rows; type one of them"),
        ({"add": True, "overwrite": True}, "--add goes on with what is there, --overwrite discards it; type one of"),
    ],
)
def test_options_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_together(config(**settings))
    assert message in str(caught.value)


@pytest.mark.parametrize("settings", [{}, {"add": True}, {"limit": 3, "overwrite": True}, {"set": {"y:0": 1}}])
def test_options_that_do(settings: dict[str, Any]) -> None:
    check_together(config(**settings))


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        ("in", "in/out", "lies inside the input"),
        ("in", "in", "lies inside the input"),
        ("in", "link/out", "lies inside the input"),
        ("link", "in/out", "lies inside the input"),
        ("in/x.parquet", "in", "holds the input file"),
        ("link/x.parquet", "in", "holds the input file"),
        ("in", ".", "holds the input file"),
        ("in", "inout", ""),
        ("in/x.parquet", "in/out", ""),
        ("in/*.parquet", "in/out", ""),
    ],
)
def test_output_and_inputs_are_apart(tmp_path: Path, inputs: str, output: str, message: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.parquet").write_bytes(b"")
    (tmp_path / "link").symlink_to("in")
    folder = "link" if inputs.startswith("link") else "in"
    file = InputFile(str(tmp_path / folder / "x.parquet"), "x.parquet", 0, 0, "")
    found = settle_paths(config(input=(str(tmp_path / inputs),), output=str(tmp_path / output)))
    if not message:
        check_output_apart(found, [file])
        return
    with pytest.raises(PlanError) as caught:
        check_output_apart(found, [file])
    assert message in str(caught.value)
    assert str(caught.value).endswith("name a folder beside it")


def test_stores_and_folders_of_one_name_are_apart() -> None:
    file = InputFile("bucket/in/x.parquet", "x.parquet", 0, 0, "")
    check_output_apart(config(input=("s3://bucket/in",), output="/bucket/in"), [file])


def test_an_output_inside_an_input_in_a_store() -> None:
    file = InputFile("s3://bucket/in/x.parquet", "x.parquet", 0, 0, "")
    with pytest.raises(PlanError, match="lies inside the input"):
        check_output_apart(config(input=("s3://bucket/in",), output="s3://bucket/in/out"), [file])
    with pytest.raises(PlanError, match="holds the input file"):
        check_output_apart(config(input=("s3://bucket/in/x.parquet",), output="s3://bucket/in"), [file])
    check_output_apart(config(input=("s3://bucket/in",), output="s3://bucket/in2"), [file])
