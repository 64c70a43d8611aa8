"""`icefloe verify` as a user types it: what it prints, its exit codes, and that it needs no TensorFlow to look."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import graphs
import pytest
from conftest import write_rows

import jobs.verify
from engine import JobConfig, score
from jobs.command_line import run

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]

LOOK = """
import sys
import jobs.verify
from jobs.command_line import run
code = run(jobs.verify.app, ["out"])
heavy = {"tensorflow", "ray", "keras"} & set(sys.modules)
sys.exit(code if not heavy else f"imported {heavy}")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for number in range(2):
        write_rows(folder / "in" / f"f{number}.parquet", number * 20, number * 20 + 20)
    model = graphs.write(folder / "m.pb", graphs.linear())
    inputs = (str(folder / "in"),)
    score(JobConfig(model=model, input=inputs, output=str(folder / "out"), actors=1, shard_size=1000))
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "out", tmp_path / "out")
    return tmp_path / "out"


def verified(capsys: pytest.CaptureFixture[str], *given: object) -> tuple[int, str, str]:
    code = run(jobs.verify.app, [str(each) for each in given])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_clean_output(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    code, text, err = verified(capsys, out)
    assert (code, err) == (0, "")
    assert text.startswith("Verified\n")
    assert "40 in, 40 out, 0 quarantined" in text
    assert "scored again" not in text


def test_a_clean_output_with_rows_scored_again(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    code, text, err = verified(capsys, out, "--sample", 100, "--json")
    document = json.loads(text)
    assert (code, err) == (0, "")
    assert (document["rows_sampled"], document["problems"], document["notes"]) == (40, [], [])
    assert document["counts"] == {"rows_in": 40, "rows": 40, "rows_quarantined": 0, "rows_filtered": 0}
    code, text, err = verified(capsys, out, "--sample", 3)
    assert (code, err) == (0, "")
    assert "scored again" in text


def test_all_that_is_wrong_is_listed(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    (out / "_SUCCESS").unlink()
    code, text, err = verified(capsys, out)
    assert (code, err) == (1, f"icefloe: error: {out}: 1 thing is wrong, as listed\n")
    first = min(out.glob("part-*"))
    first.unlink()
    (out / "notes.parquet").write_bytes(b"mine")
    code, text, err = verified(capsys, out, "--sample", 100)
    assert text.startswith("Wrong\n")
    assert [line.split()[0] for line in text.splitlines()].count("wrong") == 2
    assert text.count(f"{first.name} is gone, with ") == 1
    assert "notes.parquet is no file of this job" in text
    assert (code, err) == (1, f"icefloe: error: {out}: 2 things are wrong, as listed\n")
    code, text, err = verified(capsys, out, "--json")
    document = json.loads(text)
    assert (code, len(document["problems"]), len(document["notes"])) == (1, 2, 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((".",), "is no output of icefloe: no _icefloe/plan.json is in it; name the folder that icefloe score wrote"),
        (("nowhere",), "is no output of icefloe: it is empty, or not there; name the folder that icefloe score wrote"),
        (("x",), "expected a folder, found a file"),
        (("out", "--sample", "-1"), "--sample -1: expected a number of rows"),
        (("out", "--sample", "ten"), "--sample"),
        ((), "output"),
    ],
)
def test_a_mistake_in_the_call(
    capsys: pytest.CaptureFixture[str],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    said: str,
) -> None:
    (out.parent / "x").write_bytes(b"x")
    monkeypatch.chdir(out.parent)
    code, text, err = verified(capsys, *given)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert err.startswith("icefloe: error: ")
    assert said.lower() in err.lower()


def test_a_look_needs_neither_tensorflow_nor_ray(out: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=out.parent, capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": str(Path(jobs.verify.__file__).parents[1])})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{out}/" in done.stdout
