"""What memory a process has taken, and what is free, as Linux tells it; other systems tell less.

Start at `peak_bytes` and `free_bytes`.
"""

import re
import resource
from pathlib import Path

KIB = 1024
CGROUP = Path("/sys/fs/cgroup")


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


def _status_bytes(path: Path, name: str) -> int:
    """Return what a file of `NAME: N kB` lines says; 0 where it does not."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) * KIB if found else 0
