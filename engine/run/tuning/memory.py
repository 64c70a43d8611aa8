"""What memory and cores there are, and what a process has taken of them, as Linux tells it; other systems tell less.

Start at `peak_bytes` and `find_machine`.
"""

import os
import re
import resource
from pathlib import Path

from engine.run.tuning.settings import Machine

KIB = 1024
CGROUP = Path("/sys/fs/cgroup")
DEVICES = Path("/dev")


def peak_bytes() -> int:
    """Return the most memory that this process has had.

    `ru_maxrss` counts in what the process that started this one had (Linux, fork and exec); VmHWM does not.
    """
    found = _status_bytes(Path("/proc/self/status"), "VmHWM")
    return found or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def free_bytes() -> int:
    """Return the memory that may be taken: what the machine has, or less where a container has a bound; 0 unknown."""
    free = _status_bytes(Path("/proc/meminfo"), "MemAvailable")
    try:
        bound, taken = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.search(r"^file (\d+)$", (CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):
        return free
    left = bound - taken + (int(cached.group(1)) if cached else 0)
    return max(0, min(free or left, left))


def find_machine(wants_gpus: bool | None) -> Machine:
    """Return the cores that this process may use, and the GPUs that it sees.

    Args:
        wants_gpus: whether to count GPUs though none is seen, to leave them out, or None for those that are there.
    """
    gpus = count_gpus(DEVICES, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Machine(count_cores(), 0 if wants_gpus is False else max(gpus, 1) if wants_gpus else gpus)


def count_cores() -> int:
    """Return the CPUs of this process, by its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def count_gpus(devices: Path, visible: str | None) -> int:
    """Return the NVIDIA GPUs of a machine, by its device files and what CUDA_VISIBLE_DEVICES leaves of them."""
    there = sum(1 for path in devices.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
    if visible is None:
        return there
    return min(there, len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]))


def _status_bytes(path: Path, name: str) -> int:
    """Return what a file of `NAME: N kB` lines says; 0 where it does not."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) * KIB if found else 0
