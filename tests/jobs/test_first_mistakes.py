"""The first mistake in each of ten places: one message says where, what was expected and found, and what to type."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import graphs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_rows

ROOT = Path(__file__).resolve().parents[2]
DROP_RIGHTS = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: then root is denied what its mode bits deny
    assert not ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0), ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A good model and good rows, and what is wrong beside them."""
    folder = tmp_path_factory.mktemp("world")
    graphs.write(folder / "model.pb", graphs.linear())
    write_rows(folder / "in" / "f0.parquet", 0, 10)
    (folder / "text").mkdir()
    pq.write_table(pa.table({"inputs": ["a", "b"]}), folder / "text" / "f.parquet")
    (folder / "closed").mkdir(mode=0o555)
    (folder / "secret").mkdir()
    shutil.copy(folder / "in" / "f0.parquet", folder / "secret" / "f0.parquet")
    (folder / "secret" / "f0.parquet").chmod(0)
    yield folder
    (folder / "closed").chmod(0o755)


def call(world: Path, changes: dict[str, str], python: str = sys.executable) -> tuple[int, str]:
    """Run score with changes; return its exit code and its error, and check that it is one."""
    flags = {"--model": f"{world}/model.pb", "--input": f"{world}/in", "--output": f"{world}/out", **changes}
    words = [word for flag, value in flags.items() for word in (flag, value.replace("{w}", str(world)))]
    command = [python, "-m", "jobs.score", *words]
    if os.geteuid() == 0:
        command = [sys.executable, "-c", DROP_RIGHTS, *command]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        command, cwd=world, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("icefloe: error: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return done.returncode, errors[0]


PLACES = {
    "path": ({"--model": "{w}/modle.pb"}, ["--model {w}/modle.pb: no such file", "there is model.pb"]),
    "tensor": ({"--feed": "input=inputs"}, ["no tensor input:0", "did you mean inputs:0?"]),
    "column": ({"--feed": "inputs=pixel"}, ["{w}/in/f0.parquet has no column 'pixel'", "it has id, inputs", "--feed"]),
    "dtype": (
        {"--input": "{w}/text"},
        ["column 'inputs' holds text (string)", "takes numbers", "--feed inputs:0=COLUMN"],
    ),
    "cluster": ({"--address": "127.0.0.1:1"}, ["--address 127.0.0.1:1: no Ray cluster", "leave --address out"]),
    "storage to write": ({"--output": "{w}/closed/out"}, ["--output {w}/closed/out", "Permission denied", "chmod"]),
    "storage to read": ({"--input": "{w}/secret"}, ["{w}/secret/f0.parquet", "Permission denied", "chmod"]),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_first_mistake_says_what_to_type(place: str, world: Path) -> None:
    changes, expected = PLACES[place]
    code, error = call(world, changes)
    assert code == (1 if place == "storage to read" else 2)
    for part in expected:
        assert part.replace("{w}", str(world)) in error


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    """The device that is always full stands for it; jobs on a small disk are in tests/chaos/test_places.py."""
    from engine.data.arrow_errors import writing
    from engine.errors import StorageError

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(StorageError) as caught, writing("out/part-0.parquet"):
        Path("/dev/full").write_bytes(b"rows")
    assert str(caught.value) == (
        "out/part-0.parquet: cannot be written: No space left on device; make room, then type the same command again"
    )


def test_bad_rows_say_where_they_lie_and_what_to_type() -> None:
    from engine.errors import DataError
    from engine.run.budget import read_budget

    with pytest.raises(DataError) as caught:
        read_budget(2).check(3, ["f.parquet row 7: inputs is null"], "out/_icefloe/quarantine")
    for part in (
        "3 bad rows where --max-bad-rows allows 2",
        "row 7",
        "out/_icefloe/quarantine",
        "larger --max-bad-rows",
    ):
        assert part in str(caught.value)


def other_pythons() -> list[str]:
    """Pythons of this machine that are too old, by their own word."""
    places = [*Path.home().glob(".pyenv/versions/*/bin/python"), *map(Path, ("/usr/bin/python3", "/usr/bin/python2"))]
    ask = "import sys; sys.stdout.write(str(sys.version_info[:2] < (3, 11)))"
    found = []
    for place in places:
        if place.exists():
            done = subprocess.run([place, "-c", ask], capture_output=True, text=True, check=False)
            found += [str(place)] if done.stdout == "True" else []
    return found


def test_a_python_that_is_too_old_is_told_in_one_sentence(tmp_path: Path) -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no older Python on this machine")
    for python in pythons:
        for words in (["-m", "jobs.score"], ["-m", "jobs"]):
            done = subprocess.run(
                [python, *words, "--help"], env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
                cwd=tmp_path, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 2
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert "expected Python 3.11 or newer, found " in done.stderr
            assert "make setup PYTHON=python3.11" in done.stderr


def test_a_python_without_our_packages_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "jobs.score", "--help"]  # without site-packages
    done = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "has none of the packages that icefloe needs; type make setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_gpu_says_how_to_go_on_with_cpus() -> None:
    from engine.errors import ClusterError
    from engine.run.pool import NodeSize, size_pool

    with pytest.raises(ClusterError) as caught:
        size_pool("auto", None, 1.0, [NodeSize(2, 0)], 8, can_grow=False)
    for part in ("one actor of 1 GPU", "1 node with 2 CPUs and 0 GPUs", "type --gpus-per-actor 0 to score on CPUs"):
        assert part in str(caught.value)
