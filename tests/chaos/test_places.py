"""Places that give out: a disk that is full, a folder that goes or may not be written to, inputs that change.

The job ends within bounded time, in one sentence that names place and cause; and once the place is mended, the same
command ends with the bytes of a job that nothing disturbed.
"""

import os
import shutil
import sys
import tempfile
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chaos.scripts import Disk, Given, Jobs, Output, check_output
from object_store import ObjectStore

pytestmark = [pytest.mark.ray, pytest.mark.tf]
chaos = pytest.mark.chaos
# What a test here has shown, and the engine does not hold yet.

FULL = "cannot be written: No space left on device"
# Ray and TensorFlow start within that, and a part is tried four times.
END_SECONDS = 90.0
DROP_RIGHTS = """
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: then root is denied what its mode bits deny
    assert not ctypes.CDLL(None, use_errno=True).prctl(24, capability, 0, 0, 0), ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"""


def check_nothing_half_written(output: Output) -> None:
    """Check that whatever lies under a name is whole."""
    for name in [*output.parts(), *output.quarantine()]:
        assert pq.read_metadata(f"{output.path}/{name}").num_rows > 0
    assert not output.exists("_SUCCESS")


@pytest.mark.parametrize(
    "size",
    [
        "80k",  # some parts
        pytest.param("8k", marks=chaos),  # not even the plan
        pytest.param("176k", marks=chaos),  # all parts
    ],
)
def test_a_full_disk(given: Given, jobs: Jobs, disk: Disk, size: str) -> None:
    output = Output.local(disk.folder / "out")
    words = given.command(output, "--actors", "1")
    disk.resize(size)
    jobs.start(words).wait_for_end(END_SECONDS).check_refusal(1, FULL)
    check_nothing_half_written(output)
    disk.resize("2m")
    jobs.start(words).wait()
    check_output(output, given.quiet)


@chaos
def test_a_disk_without_room_for_anything(given: Given, jobs: Jobs, disk: Disk) -> None:
    """Not even the lock can be written, which says who holds the folder."""
    output, filler = Output.local(disk.folder / "out"), disk.folder / "filler"
    disk.resize("8k")
    filler.write_bytes(bytes(8192))
    ended = jobs.start(given.command(output)).wait_for_end(END_SECONDS)
    ended.check_refusal(1, f"{output.path}.*No space left on device")
    assert [path.name for path in disk.folder.iterdir()] == [filler.name]
    filler.unlink()
    disk.resize("2m")
    jobs.start(given.command(output)).wait()
    check_output(output, given.quiet)


@chaos
def test_a_full_temporary_folder(given: Given, jobs: Jobs, disk: Disk, store: ObjectStore) -> None:
    output = Output.stored(store, f"out-{uuid.uuid4().hex}")
    disk.resize("4k")
    # Ray keeps its sockets and logs where it always does.
    environment = {"TMPDIR": str(disk.folder), "RAY_TMPDIR": tempfile.gettempdir()}
    ended = jobs.start(given.command(output), environment=environment).wait_for_end(END_SECONDS)
    ended.check_refusal(1, f"{disk.folder}: {FULL}")
    assert not output.exists("_SUCCESS")
    assert output.hashes().items() <= given.quiet.hashes.items()
    disk.resize("2m")
    jobs.start(given.command(output), environment=environment).wait()
    check_output(output, given.quiet)


@chaos
@pytest.mark.parametrize("is_there", [False, True])
def test_a_disk_that_is_read_only(given: Given, jobs: Jobs, disk: Disk, is_there: bool) -> None:
    output = Output.local(disk.folder / "out")
    if is_there:
        job = jobs.start(given.command(output), "part unpublished", 3)
        job.wait_for_point()
        job.kill()
    disk.remount("ro")
    ended = jobs.start(given.command(output)).wait_for_end(END_SECONDS)
    ended.check_refusal(2, f"{output.path}.*Read-only file system")
    disk.remount("rw")
    jobs.start(given.command(output)).wait()
    check_output(output, given.quiet)


@chaos
def test_an_output_that_vanishes(given: Given, jobs: Jobs, output: Output, tmp_path: Path) -> None:
    job = jobs.start(given.command(output), "part unpublished", 3)
    job.wait_for_point()
    gone = tmp_path / "gone"
    Path(output.path).rename(gone)  # at once, for the other shards go on
    shutil.rmtree(gone)
    job.release()
    job.wait_for_end(END_SECONDS).check_refusal(1, f"{output.path}.*gone")
    assert not output.names()
    jobs.start(given.command(output)).wait()
    check_output(output, given.quiet)


@chaos
@pytest.mark.parametrize("point", ["part unpublished", "before the manifest", None])
def test_an_output_whose_rights_are_taken_away(given: Given, jobs: Jobs, output: Output, point: str | None) -> None:
    words = [sys.executable, "-c", DROP_RIGHTS, *given.command(output)] if os.geteuid() == 0 else given.command(output)
    Path(output.path).mkdir()
    folders = [Path(output.path), Path(output.path, "_icefloe")]
    if point is None:
        folders[0].chmod(0o555)
        jobs.start(words).wait_for_end(END_SECONDS).check_refusal(2, f"{output.path}.*Permission denied")
    else:
        job = jobs.start(words, point, 3 if point == "part unpublished" else 1)
        job.wait_for_point()
        for folder in folders:
            folder.chmod(0o555)
        job.release()
        job.wait_for_end(END_SECONDS).check_refusal(1, f"{output.path}.*Permission denied")
        check_nothing_half_written(output)
    for folder in folders:
        if folder.exists():
            folder.chmod(0o755)
    jobs.start(words).wait()
    check_output(output, given.quiet)


@chaos
@pytest.mark.parametrize("same_size", [True, False])
def test_an_input_is_rewritten_while_the_job_runs(
    given: Given, jobs: Jobs, output: Output, tmp_path: Path, same_size: bool
) -> None:
    inputs = tmp_path / "in"
    shutil.copytree(given.inputs, inputs)
    job = jobs.start(given.command(output, inputs=str(inputs)), "before the schema")
    job.wait_for_point()
    changed = inputs / "f30.parquet"
    if same_size:
        changed.write_bytes(changed.read_bytes())
    else:
        pq.write_table(pq.read_table(changed).slice(1), changed)
    job.release()
    job.wait_for_end(END_SECONDS).check_refusal(1, "f30.parquet")
    check_nothing_half_written(output)
    again = jobs.start(given.command(output, inputs=str(inputs))).wait_for_end(END_SECONDS)
    again.check_refusal(2, "holds a job that differs: .*f30.parquet.*--overwrite")
