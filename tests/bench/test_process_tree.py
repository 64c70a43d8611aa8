"""The tree of a process holds what it started, also when what lies between has ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))  # its modules import each other by their names

from process_tree import PeakMemory, read_pss

MIB = 2**20
HOLD = "import time; held = bytearray(b'x') * (64 << 20); print(flush=True); time.sleep(60)"
SPAWN = f"""
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", {HOLD!r}]).pid, flush=True)
time.sleep(60)
"""


def test_peak_holds_what_a_child_held() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with PeakMemory(os.getpid()) as memory:
            while not memory.num_samples:
                time.sleep(0.01)
        process.kill()
    assert memory.peak_bytes > 64 * MIB


def test_a_grandchild_stays_in_the_tree_when_its_parent_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", SPAWN], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        grandchild = int(process.stdout.readline())
        process.stdout.readline()  # it holds its memory now
        memory = PeakMemory(process.pid)
        assert memory.find_survivors() == sorted([process.pid, grandchild])
        process.kill()
    tree = memory.find_survivors()
    assert tree == [grandchild]
    assert read_pss(grandchild) > 64 * MIB
    memory.end_tree()
    while memory.find_survivors():
        time.sleep(0.01)
