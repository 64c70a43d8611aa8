"""What tests need that stop a job at a scripted point: its start, its end by SIGKILL, and a look at its output.

A job is known by a token in its environment, which all of its processes inherit; only those are ever killed. The
output is reached through a file system, so that a test is the same wherever the output lies. Start at `Jobs`, `Given`
and `check_output`.
"""

import fnmatch
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import graphs
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from object_store import ObjectStore

from engine.data.ledger import Ledger
from engine.run.verify import verify_output

FAULTS = Path(__file__).parent / "faults"
TOKEN = "ICEFLOE_TEST_TOKEN"
REACH_SECONDS = 60.0
JOB_SECONDS = 120.0
KILL_SECONDS = 15.0

NUM_FILES, ROWS, NUM_FEATURES = 48, 50, 4
NUM_SHARDS = NUM_FILES // 2
GOOD = [row for row in range(NUM_FILES * ROWS) if row // ROWS % 3 or row % ROWS not in (7, 31)]
BAD = sorted(set(range(NUM_FILES * ROWS)).difference(GOOD))
# Their names differ from those of the parts that the other jobs write.
FEWER_PARTS = ["--batch-size", "32", "--shard-size", "100000"]


@dataclass(frozen=True)
class Output:
    """An output folder, wherever it lies."""

    uri: str
    """What `--output` is given."""
    filesystem: pafs.FileSystem
    path: str
    """The folder within the file system."""

    @classmethod
    def local(cls, folder: Path) -> Self:
        """Return a folder of this machine."""
        return cls(str(folder), pafs.LocalFileSystem(), folder.as_posix())

    @classmethod
    def stored(cls, store: ObjectStore, folder: str, endpoint: str | None = None) -> Self:
        """Return a folder of the store; with `endpoint`, jobs reach it there, and this process does directly."""
        uri = store.uri(path=folder)
        uri = uri if endpoint is None else uri.replace(quote(store.endpoint), quote(endpoint))
        return cls(uri, store.filesystem(), f"{store.bucket}/{folder}")

    def names(self, pattern: str = "*") -> list[str]:
        """Return the files below, by their sorted paths; `*` in `pattern` goes through folders."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True, recursive=True))
        names = sorted(info.path[len(self.path) + 1 :] for info in found if info.type == pafs.FileType.File)
        return fnmatch.filter(names, pattern)

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""
        return self.filesystem.get_file_info(f"{self.path}/{name}").type == pafs.FileType.File

    def hashes(self) -> dict[str, str]:
        """Return the sha-256 of every part and of every file in quarantine."""
        return {name: self._sha256(name) for name in [*self.parts(), *self.quarantine()]}

    def parts(self) -> list[str]:
        """Return the names of the parts, in the order of the input."""
        return [name for name in self.names("*part-*-of-*.parquet") if not name.startswith((".", "_"))]

    def quarantine(self) -> list[str]:
        """Return the names of the files in quarantine, in the order of the input."""
        return self.names("_icefloe/quarantine/bad-*.parquet")

    def ids(self, names: Sequence[str]) -> list[int]:
        """Return the ids of the rows of these files."""
        read = (pq.read_table(f"{self.path}/{name}", filesystem=self.filesystem, columns=["id"]) for name in names)
        return [row for table in read for row in table["id"].to_pylist()]

    def _sha256(self, name: str) -> str:
        with self.filesystem.open_input_stream(f"{self.path}/{name}") as file:
            return hashlib.sha256(file.read()).hexdigest()


@dataclass(frozen=True)
class Quiet:
    """What a job leaves that nothing disturbed."""

    names: list[str]
    """All files."""
    hashes: dict[str, str]
    """Parts and quarantine."""
    good: list[int]
    """Ids of the rows that can be scored, in order."""
    bad: list[int]
    """Ids of the others."""


def check_output(output: Output, quiet: Quiet) -> None:
    """Check that a finished output is the one that an undisturbed job leaves."""
    assert output.exists("_SUCCESS")
    assert not [name for name in output.names() if ".icefloe-" in name], "temporary files are left"
    assert output.ids(output.parts()) == quiet.good, "a row is missing, twice there or out of order"
    assert output.ids(output.quarantine()) == quiet.bad, "quarantine has other rows"
    assert output.hashes() == quiet.hashes, "parts or quarantine have other bytes"
    assert output.names() == quiet.names
    found = verify_output(Ledger(output.uri))
    assert not found.problems, found.problems


@dataclass(frozen=True)
class Given:
    """What jobs are given, and what comes of it undisturbed."""

    model: str
    inputs: Path
    quiet: Quiet

    def command(self, output: Output, *options: str, inputs: str | None = None) -> list[str]:
        """Return the words of a job; those of `options` stand instead of its own."""
        return command(self.model, self.inputs, output, *options, inputs=inputs)


def write_inputs(folder: Path) -> None:
    """Write small files, a shard of two each; every third has two rows that cannot be scored."""
    folder.mkdir()
    for number in range(NUM_FILES):
        ids = np.arange(number * ROWS, (number + 1) * ROWS)
        values = (np.sin(ids[:, None] * 7.0 + np.arange(NUM_FEATURES)) * 3).astype(np.float32)
        rows = [None if row in BAD else value.tolist() for row, value in zip(ids.tolist(), values, strict=True)]
        inputs = pa.array(rows, pa.list_(pa.float32(), NUM_FEATURES))
        pq.write_table(pa.table({"id": ids, "inputs": inputs}), folder / f"f{number:02}.parquet")


def command(model: str, folder: Path, output: Output, *options: str, inputs: str | None = None) -> list[str]:
    """Return the words of a job that reads `inputs`, or else `folder`, two files a shard."""
    shard_bytes = 2 * max(path.stat().st_size for path in folder.iterdir())
    places = ["--model", model, "--input", inputs or str(folder), "--output", output.uri]
    sizes = {"--shard-size": str(shard_bytes), "--batch-size": "16", "--actors": "2"}
    others = [word for name, value in sizes.items() if name not in options for word in (name, value)]
    return [sys.executable, "-m", "jobs.score", *places, *others, "--max-bad-rows", "100", "--json", *options]


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait for a condition to hold, and no longer than that."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)


def processes_of(variable: str, value: str) -> list[int]:
    """Return the ids of the living processes that were started with this in their environment."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and is_of(int(name), variable, value)]


def is_of(pid: int, variable: str, value: str) -> bool:
    """Return whether a living process was started with this in its environment."""
    try:
        return f"{variable}={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def send_signal(pid: int, number: signal.Signals, variable: str, value: str) -> bool:
    """Signal a process, if it is still one of those; returns whether it was."""
    try:
        handle = os.pidfd_open(pid)  # a number that another process takes over in the meantime is not signalled
    except ProcessLookupError:
        return False
    try:
        if not is_of(pid, variable, value):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def kill_processes(variable: str, value: str) -> None:
    """Kill all processes that were started with this in their environment, and wait until they are gone."""

    def is_gone() -> bool:
        left = processes_of(variable, value)
        for pid in left:
            send_signal(pid, signal.SIGKILL, variable, value)
        return not left

    wait_until(is_gone, KILL_SECONDS, "the end of all processes")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    told: str
    """What it wrote to stderr."""
    seconds: float
    """From when it was waited for."""

    def check_refusal(self, code: int, words: str) -> None:
        """Check that it said in one line, and no traceback, why it did not do what it was asked to."""
        errors = [line for line in self.told.splitlines() if line.startswith("icefloe: error: ")]
        assert (self.code, len(errors)) == (code, 1), f"exit code {self.code}: {self.told[-4000:]}"
        assert re.search(words, errors[0]), errors[0]
        assert "Traceback" not in self.told
        print(f"{self.seconds:.1f} s, exit {self.code}: {errors[0]}")


class Job:
    """A job in processes of its own; with a fault, one of them stops at a point."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        point: str | None = None,
        nth: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; where it stops at a point, it does so when a process of it gets there for the `nth` time.

        `folder` takes what it prints, and the marks of having got there; `environment` adds to that of this process.
        """
        self.token = uuid.uuid4().hex
        self._folder = folder / self.token
        self._markers = self._folder / "markers"
        self._markers.mkdir(parents=True)
        # Ray's processes take names of their own, for which setproctitle would take the room of the environment.
        environment = os.environ | (environment or {}) | {TOKEN: self.token, "SPT_NOENV": "1"}
        if point is not None:
            environment["ICEFLOE_FAULT"] = json.dumps({"point": point, "nth": nth, "markers": str(self._markers)})
            paths = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        with (self._folder / "stdout").open("wb") as out, (self._folder / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
            )

    def wait(self, seconds: float = JOB_SECONDS) -> dict[str, Any]:
        """Wait for it to succeed within that time, and return its summary."""
        code = self.wait_for_end(seconds).code
        assert code == 0, f"exit code {code}: {self.told()[-4000:]}"
        return json.loads(self.printed())

    def wait_for_end(self, seconds: float = JOB_SECONDS) -> Ended:
        """Wait for it to end, however it does, and no longer than that."""
        started = time.monotonic()
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not at its end within {seconds:.0f} s: {self.told()[-4000:]}") from None
        return Ended(code, self.told(), time.monotonic() - started)

    def wait_for_point(self) -> int:
        """Wait for one of its processes to reach the point, and return its id."""

        def is_there() -> bool:
            assert self.process.poll() is None, f"ended, exit code {self.process.returncode}: {self.told()[-4000:]}"
            return any(self._markers.glob("reached-*"))

        wait_until(is_there, REACH_SECONDS, "the point of the fault")
        return json.loads(min(self._markers.glob("reached-*")).read_bytes())["pid"]

    def release(self) -> None:
        """Let those of its processes go on that have reached the point."""
        (self._markers / "release").touch()

    def release_late(self) -> list[dict[str, Any]]:
        """Let the actors go on that outlived it, and return how each fared."""
        self.release()
        wait_until(lambda: len(self._outcomes()) == self.num_reached, KILL_SECONDS, "the end of the late actors")
        return [json.loads(path.read_bytes()) for path in self._outcomes()]

    @property
    def num_reached(self) -> int:
        """How many of its processes have reached the point."""
        return len(list(self._markers.glob("reached-*")))

    def _outcomes(self) -> list[Path]:
        return sorted(self._markers.glob("outcome-*"))

    def processes(self) -> list[int]:
        """Return the ids of its processes that live, those of its Ray too."""
        return processes_of(TOKEN, self.token)

    def kill_driver(self) -> None:
        """Kill the process that was started, and no other."""
        self.process.kill()
        self.process.wait(KILL_SECONDS)

    def kill(self) -> None:
        """Kill every process of it, and wait until they are gone."""
        if self.process.poll() is None:
            self.kill_driver()

        kill_processes(TOKEN, self.token)

    def printed(self) -> str:
        """Return what it has written to stdout so far."""
        return (self._folder / "stdout").read_text(errors="replace")

    def told(self) -> str:
        """Return what it has written to stderr so far."""
        return (self._folder / "stderr").read_text(errors="replace")


class Jobs:
    """The jobs of a test, none of which outlives it."""

    def __init__(self, folder: Path) -> None:
        """Keep their logs and marks in `folder`."""
        self._folder = folder
        self._started: list[Job] = []

    def start(
        self,
        command: Sequence[str],
        point: str | None = None,
        nth: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Start a job; see `Job`."""
        job = Job(command, self._folder, point, nth, environment)
        self._started.append(job)
        return job

    def end(self) -> None:
        """Kill what is left."""
        for job in self._started:
            job.kill()


def make_given(folder: Path) -> Given:
    """Write inputs and a model, and find out what a local job that nothing disturbs makes of them."""
    model, output = graphs.write(folder / "model.pb", graphs.linear(NUM_FEATURES)), Output.local(folder / "quiet")
    write_inputs(folder / "in")
    jobs = Jobs(folder)
    try:
        summary = jobs.start(command(model, folder / "in", output)).wait()
    finally:
        jobs.end()
    assert (summary["parts"], summary["rows_out"], summary["rows_quarantined"]) == (NUM_SHARDS, len(GOOD), len(BAD))
    quiet = Quiet(output.names(), output.hashes(), GOOD, BAD)
    check_output(output, quiet)
    return Given(model, folder / "in", quiet)


@dataclass(frozen=True)
class Disk:
    """A file system of its own, as small as a test wants it."""

    folder: Path

    def resize(self, size: str) -> None:
        """Make it of `size`, as `mount` writes sizes."""
        self.remount(f"size={size}")

    def remount(self, options: str) -> None:
        """Change it while it is in use."""

        def is_done() -> bool:
            try:
                mount("-o", f"remount,{options}", str(self.folder))
            except subprocess.CalledProcessError:  # a process that has just been killed closes its files late
                return False
            return True

        wait_until(is_done, KILL_SECONDS, f"a mount with {options}")


def mount(*words: str) -> None:
    """Call `mount`, which never waits for anything here."""
    subprocess.run(["mount", *words], check=True, capture_output=True, text=True, timeout=KILL_SECONDS)
