"""Memory of a process and all that it started: sampled from /proc, as peak of their sum. Start at `PeakMemory`.

What counts is PSS (`/proc/<pid>/smaps_rollup`): a process's own pages, and of each shared page its share, so that
the sum over a tree counts every page once. That includes Ray's daemons (raylet, GCS, agents, log monitor), workers,
and what of Ray's object store (shared memory) is mapped and was touched; it excludes the page cache of plain files
that nobody maps. Processes whose parent has died stay in the tree.
"""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

MIN_INTERVAL = 0.1
# A sample of a large tree takes some 20 ms and holds locks of the processes: at most this share of one core.
MAX_SHARE = 0.05
STATE, PARENT, STARTED = 0, 1, 19  # fields of /proc/<pid>/stat behind the name


def read_parents() -> dict[int, tuple[int, int]]:
    """Return the parent and the start time, in clock ticks since boot, of every process that has not ended."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            if fields[STATE] != "Z":
                found[int(folder.name)] = int(fields[PARENT]), int(fields[STARTED])
    return found


def read_pss(pid: int) -> int:
    """Return the bytes of a process by PSS; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


class ProcessTree:
    """A process and its descendants, those included whose parents have ended since they were seen."""

    def __init__(self, root: int) -> None:
        """Watch `root` and what it starts."""
        self._root = root
        self._known: dict[int, int] = {}

    def find(self) -> list[int]:
        """Return the processes that live now."""
        parents = read_parents()
        alive = {pid for pid, started in self._known.items() if parents.get(pid, (0, 0))[1] == started}
        alive |= {self._root} & parents.keys()
        while more := {pid for pid, (parent, _) in parents.items() if parent in alive} - alive:
            alive |= more
        self._known = {pid: parents[pid][1] for pid in alive}
        return sorted(alive)

    def sum_pss(self) -> int:
        """Return the bytes of all of them."""
        return sum(map(read_pss, self.find()))


class PeakMemory:
    """Samples a tree in a thread of its own while a `with` block runs; `peak_bytes` holds what was found."""

    def __init__(self, root: int) -> None:
        """Be ready to watch the tree below `root`."""
        self.peak_bytes = 0
        """The largest sum seen."""
        self.num_samples = 0
        """How often it was looked at."""
        self._tree = ProcessTree(root)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Sample no more."""
        self._stop.set()
        self._thread.join()

    def find_survivors(self) -> list[int]:
        """Return processes of the tree that still live."""
        return self._tree.find()

    def end_tree(self) -> None:
        """Kill what of the tree lives."""
        for pid in self._tree.find():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _sample(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            started = time.thread_time()
            self.peak_bytes = max(self.peak_bytes, self._tree.sum_pss())
            self.num_samples += 1
            pause = max(MIN_INTERVAL, (time.thread_time() - started) / MAX_SHARE)
