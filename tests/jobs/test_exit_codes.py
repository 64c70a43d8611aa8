import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.__main__ import app
from jobs.command_line import run

VERBS = [name for name in app if not name.startswith("-")]


@pytest.mark.parametrize("words", [[], *([verb] for verb in VERBS)])
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_0_for_help_and_version(words: list[str], flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, [*words, flag]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["no-such-verb"], *([verb, "--no-such-flag"] for verb in VERBS)])
def test_2_for_a_word_that_nobody_knows(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("icefloe: error: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("score --model none.pb --input in --output out", 2),
        ("score --init --model none.pb --input in", 2),
        ("plan --model none.pb --input in --output out", 2),
        ("describe none.pb", 2),
        ("describe", 2),
        ("freeze none made.pb", 2),
        ("freeze none", 2),
        ("tune none.pb --input in", 2),
        ("verify none --sample -1", 2),
        ("verify none", 2),
        ("verify", 2),
        ("score --model model.pb --input broken --output out", 1),
        ("plan --model model.pb --input broken --output out", 1),
    ],
)
def test_what_each_verb_ends_with(
    words: str, code: int, model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "f.parquet").write_bytes(b"PAR1 and no more")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(app, shlex.split(words)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("icefloe: error: ")
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", ["--help", "describe {m} --json"])
def test_a_reader_that_went_away(words: str, model: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m jobs {words.format(m=shlex.quote(model))}"
    script = f"set -o pipefail; {command} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode in (0, 1)) == ("", True)
