"""What the tests of this folder share: one undisturbed job, jobs that none outlives, a store, and small disks."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.scripts import KILL_SECONDS, Disk, Given, Jobs, Output, make_given, mount
from object_store import ObjectStore


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Inputs, a model, and what a local job that nothing disturbs makes of them."""
    return make_given(tmp_path_factory.mktemp("given"))


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs that end with the test."""
    started = Jobs(tmp_path / "jobs")
    yield started
    started.end()


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """A folder of this machine."""
    return Output.local(tmp_path / "out")


@pytest.fixture(scope="session")
def store() -> Iterator[ObjectStore]:
    """One store for all tests, each of which has its own folder in it."""
    with ObjectStore() as started:
        yield started


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small disk, gone after the test; mounting takes rights that not everybody has."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"nothing can be mounted here: {getattr(error, 'stderr', error)}")
    yield Disk(folder)
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", str(folder)], check=True, capture_output=True, timeout=KILL_SECONDS)
        return
    # Something still has a file open in it; it goes with that.
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True, timeout=KILL_SECONDS)
