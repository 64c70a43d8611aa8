"""A whole job on `gs://`, against an emulator of Google's store on loopback."""

import hashlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest
from conftest import WAIT_SECONDS

from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.data.storage.connecting import connect
from engine.run.verify import verify_output
from engine.sampling import score_sample

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]


@pytest.fixture(scope="module")
def options() -> Iterator[str]:
    """Start a store with the bucket `data`; gives what stands behind the question mark of its URIs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    emulator = Path(sys.executable).with_name("gcp-storage-emulator")
    words = [str(emulator), "start", "--host=127.0.0.1", f"--port={port}", "--in-memory", "--default-bucket=data"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"?endpoint_override=127.0.0.1:{port}&scheme=http&anonymous=true&retry_limit_seconds=5"
    finally:
        server.kill()
        server.wait()


def hashes(file_system: pafs.FileSystem, path: str) -> dict[str, str]:
    found = file_system.get_file_info(pafs.FileSelector(path, recursive=True))
    parts = [info.path for info in found if info.base_name.startswith("part-")]
    return {
        each[len(path) + 1 :]: hashlib.sha256(file_system.open_input_file(each).readall()).hexdigest() for each in parts
    }


def test_a_job_on_gs_gives_the_bytes_of_a_local_one(model: str, inputs: str, tmp_path: Path, options: str) -> None:
    there, _ = connect(f"gs://data/{options}")
    pafs.copy_files(inputs, "data/in", destination_filesystem=there)
    pafs.copy_files(model, "data/model.pb", destination_filesystem=there)
    uris = {name: f"gs://data/{name}{options}" for name in ("model.pb", "in", "out")}
    config = JobConfig(model=uris["model.pb"], input=(uris["in"],), output=uris["out"], shard_size=1000)
    first = score(config)
    again = score(config)
    local = score(JobConfig(model=model, input=(inputs,), output=str(tmp_path / "out"), shard_size=1000))
    assert (first.plan_id, first.rows_out, again.attempts) == (local.plan_id, 400, 0)
    assert hashes(there, "data/out") == hashes(pafs.LocalFileSystem(), str(tmp_path / "out"))
    ledger = Ledger(uris["out"])
    assert verify_output(ledger).problems == ()
    assert score_sample(ledger, 20).problems == ()
    (gone, *_) = sorted(hashes(there, "data/out"))
    there.delete_file(f"data/out/{gone}")
    assert score(config).attempts == 1
    assert hashes(there, "data/out") == hashes(pafs.LocalFileSystem(), str(tmp_path / "out"))
