"""Which process wrote something, so that another on the same machine can tell whether it lives. Start at `is_dead`."""

import contextlib
import os
from pathlib import Path


def machine() -> str:
    """Name this boot of this machine, and the name space of its process ids; empty where the system does not tell."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def start_time(pid: int) -> str:
    """Return when a process of this machine began, as the system counts; empty where it is no more."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def is_dead(its_machine: object, pid: object, its_start: object) -> bool:
    """Whether a process ran on this very machine and is no more; False where that cannot be told."""
    return bool(its_machine) and its_machine == machine() and isinstance(pid, int) and its_start != start_time(pid)
