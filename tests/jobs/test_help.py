import importlib
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import cyclopts
import pytest
from rich.console import Console

from engine.config import JobConfig, Theme, theme_of
from jobs.__main__ import app
from jobs.command_line import run
from jobs.help import Moment, placeholder_of

VERBS = [name for name in app if not name.startswith("-")]
TITLES = [str(theme) for theme in Theme]


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    app.console = Console()  # which keeps the width that it was made with
    assert run(app, [*words, "--help"]) == 0
    return capsys.readouterr().out


def panels(text: str) -> dict[str, str]:
    """The text of each panel, by title, in their order."""
    found: dict[str, str] = {}
    title = ""
    for line in text.splitlines():
        if line.startswith("╭─ "):
            title = line.strip("╭─╮ ")
        elif line.startswith("│"):
            found[title] = f"{found.get(title, '')} {line.strip('│ ')}"
    return found


def examples_of(verb: str) -> list[str]:
    lines = str(app[verb].help_epilogue).splitlines()
    return [line.strip() for line in lines if line.startswith("  ")]


def test_the_command_s_help_groups_verbs_by_when_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of([], capsys)
    found = panels(text)
    assert list(found) == [*Moment, Theme.HELP]
    assert {"describe", "freeze", "plan", "tune"} <= set(found[Moment.BEFORE].split())
    assert found[Moment.SCORE].startswith(" score ")
    assert "verify" in found[Moment.AFTER].split()
    assert all(any(verb in panel.split() for panel in found.values()) for verb in VERBS)
    assert "icefloe score --model model.pb" in text


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_shows_its_options_by_theme_and_ends_with_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of([verb], capsys)
    found = panels(text)
    assert list(found) == [title for title in TITLES if title in found], "themes in their order, and nothing else"
    flags = [
        "--" + each.name.replace("_", "-")
        for each in inspect.signature(app[verb].default_command).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for flag in flags:
        assert sum(flag in panel.split() for panel in found.values()) >= 1, flag
    examples = examples_of(verb)
    assert 1 <= len(examples) <= 3
    assert text.rstrip().endswith(examples[-1])


@pytest.mark.parametrize("verb", ["score", "plan"])
def test_an_option_stands_under_its_own_theme(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = panels(help_of([verb], capsys))
    for name, field in JobConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        words = found[theme_of(field)].split()
        assert flag in words
        if field.annotation is not bool:
            assert words[words.index(flag) + 1] == placeholder_of(field)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("columns", ["80", "60"])
def test_a_narrow_terminal_shows_whole_flags(
    verb: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = help_of([verb], capsys).splitlines()
    assert max(map(len, lines)) <= int(columns)
    words = {word for line in lines for word in line.split()}
    for each in inspect.signature(app[verb].default_command).parameters.values():
        if each.kind is inspect.Parameter.KEYWORD_ONLY:
            assert "--" + each.name.replace("_", "-") in words


@pytest.mark.parametrize("verb", VERBS)
def test_the_verb_s_own_module_shows_the_same(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = importlib.import_module(f"jobs.{verb}").app
    assert run(own, ["--help"]) == 0
    alone = capsys.readouterr().out
    shown = {title: text for title, text in panels(alone).items() if title != Theme.HELP}
    assert shown == panels(help_of([verb], capsys))
    assert alone.splitlines()[0] == f"Usage: {app[verb].usage}"


@pytest.mark.parametrize("line", [line for verb in VERBS for line in examples_of(verb)])
def test_an_example_has_words_that_its_verb_takes(line: str) -> None:
    name, *words = shlex.split(line)
    assert name == "icefloe"
    command, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command is app[words[0]].default_command


def test_the_examples_that_start_nothing_work(
    model: str, inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(inputs).rename(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    init = [line for line in examples_of("score") if "--init" in line]
    lines = [*init, *examples_of("plan"), "icefloe describe model.pb"]
    assert len(lines) >= 4
    for line in lines:
        assert run(app, shlex.split(line)[1:]) == 0, (line, capsys.readouterr().err)


LIGHT = """
import sys
from jobs.command_line import run
from jobs.__main__ import app
for words in (["--help"], ["--version"], ["score", "--help"], ["tune", "--help"], ["plan", "--version"]):
    assert run(app, words) == 0
print([name for name in ("ray", "tensorflow", "pyarrow", "matplotlib") if name in sys.modules], file=sys.stderr)
"""


def test_help_and_version_load_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("words", [["--version"], ["score", "--version"], ["verify", "--version"]])
def test_the_versions(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    import importlib.metadata
    import platform

    import engine

    assert run(app, words) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"icefloe {engine.__version__}",
        f"TensorFlow {importlib.metadata.version('tensorflow')}",
        f"Ray {importlib.metadata.version('ray')}",
        f"pyarrow {importlib.metadata.version('pyarrow')}",
        f"Python {platform.python_version()}",
    ]


def test_the_versions_of_a_verb_s_own_module(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        assert run(importlib.import_module(f"jobs.{verb}").app, ["--version"]) == 0
        assert capsys.readouterr().out.startswith("icefloe ")


def test_an_option_without_a_theme_is_no_option() -> None:
    assert all(isinstance(theme_of(field), Theme) for field in JobConfig.model_fields.values())
    assert isinstance(app, cyclopts.App)
