"""What cores and GPUs this machine lets a process have. Start at `find_machine`."""

import os
import re
from pathlib import Path

from engine.run.memory import CGROUP
from engine.run.tuning.settings import Machine

DEVICES = Path("/dev")


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
