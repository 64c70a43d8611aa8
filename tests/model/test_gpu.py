"""What a session does on a real GPU; each case in a process of its own, for TensorFlow's GPU options are the process's.

Needs a node with an NVIDIA driver and `requirements-gpu.lock`: `pytest -m gpu tests/model/test_gpu.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tf,
    pytest.mark.skipif(
        not (Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()), reason="no GPU here"
    ),
]

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
PRELUDE = """
import json, os, subprocess, time
import numpy as np
from graphs import constant, graph, linear, node, placeholder, wide
from engine.model.session import SessionOptions, load_session

def load(made, **options):
    return load_session(made.SerializeToString(), ["inputs:0"], ["prediction:0"], {}, options=SessionOptions(**options))

def used_mib():
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout)

def tell(**found):
    print("FOUND " + json.dumps(found))

rows = np.random.default_rng(1).normal(size=(4096, 4)).astype(np.float32)
"""


def run(code: str) -> dict[str, Any]:
    """Run `code` after PRELUDE in a fresh process, and return what it tells."""
    paths = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")]))
    gpu = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # the one that nvidia-smi is asked for
    variables = {**os.environ, **gpu, "PYTHONPATH": paths}
    command = [sys.executable, "-c", PRELUDE + code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return found


def ask_driver(field: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()


def test_a_whole_gpu_is_told_by_name_and_grows_as_needed() -> None:
    found = run("""
before = used_mib()
model = load(linear(), gpu_share=1.0)
model.run({"inputs:0": rows})
device, = model.devices
tell(kind=model.device, name=device.name, memory=device.memory_bytes, taken=used_mib() - before)
""")
    total_mib = int(ask_driver("memory.total"))
    assert found["kind"] == "GPU"
    assert found["name"] == ask_driver("name")
    assert 0.5 * total_mib < found["memory"] / MIB <= total_mib
    assert found["taken"] < 0.1 * total_mib, "the whole memory was taken at once"


def test_a_fraction_bounds_the_memory() -> None:
    found = run("tell(memory=load(linear(), gpu_share=0.25).devices[0].memory_bytes)")
    assert found["memory"] / MIB == pytest.approx(0.25 * 0.9 * int(ask_driver("memory.total")), rel=0.05)


def test_without_a_share_no_gpu_is_seen() -> None:
    found = run("""
before = used_mib()
model = load(linear(), gpu_share=0.0)
model.run({"inputs:0": rows})
import tensorflow as tf
seen = len(tf.config.list_physical_devices("GPU"))
tell(kind=model.device, seen=seen, visible=os.environ["CUDA_VISIBLE_DEVICES"], taken=used_mib() - before)
""")
    assert (found["kind"], found["seen"], found["visible"]) == ("CPU", 0, "")
    assert found["taken"] < 50


def test_more_gpus_than_are_seen_are_missing() -> None:
    found = run("""
from engine.errors import ConfigError
try:
    load(linear(), gpu_share=64.0)
except ConfigError as error:
    tell(message=str(error))
""")
    assert "the actor was given 64 GPUs" in found["message"]
    assert "--allow-cpu" in found["message"]


def test_looking_for_gpus_takes_no_memory_of_them() -> None:
    found = run("""
from engine.model.devices import check_gpus
from engine.model.session import import_tensorflow
before = used_mib()
check_gpus(import_tensorflow(1.0), 1.0)
tell(taken=used_mib() - before)
""")
    assert found["taken"] < 1024, "a context at most, no pool"


def test_a_product_agrees_with_that_of_the_cpu() -> None:
    code = """
made = graph(*linear(512, 256).node[:3], node("prediction", "Identity", "logits", T="float32"))
wide_rows = np.random.default_rng(2).normal(size=(333, 512)).astype(np.float32)
values = load(made, gpu_share={share}).run({{"inputs:0": wide_rows}})[0]
tell(values=values.tolist())
"""
    on_gpu, on_cpu = run(code.format(share=1.0)), run(code.format(share=0.0))
    for found, expected in zip(on_gpu["values"], on_cpu["values"], strict=True):
        assert found == pytest.approx(expected, rel=1e-2, abs=0.2)  # of some 22; TensorFloat-32 keeps 10 bits


def test_a_device_that_runs_out_of_memory_halves_the_batch() -> None:
    found = run("""
model = load(wide(4, 2**21), gpu_share=0.05)  # 8 MiB a row
started = time.perf_counter()
(values,) = model.run({"inputs:0": rows})
first = model.max_rows, model.batches_halved, time.perf_counter() - started
started = time.perf_counter()
(again,) = model.run({"inputs:0": rows})
second = time.perf_counter() - started
small = np.concatenate([model.run({"inputs:0": rows[i : i + 16]})[0] for i in range(0, len(rows), 16)])
tell(max_rows=first[0], halved=first[1], seconds=first[2], again=second, later=[model.max_rows, model.batches_halved],
     memory=model.devices[0].memory_bytes, is_same=bool(np.allclose(values, small, rtol=1e-5)),
     is_same_again=bool(np.array_equal(values, again)), kind=model.device)
""")
    print(found)
    assert found["kind"] == "GPU"
    assert 1 <= found["max_rows"] <= found["memory"] // (8 * MIB)
    assert found["halved"] >= 1
    assert found["later"] == [found["max_rows"], found["halved"]]
    assert found["is_same"]
    assert found["is_same_again"]
    assert found["again"] < found["seconds"]
