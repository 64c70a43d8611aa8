"""Runs jobs on a cluster of several nodes that does not leave them in peace, and counts what became of their rows.

Run as `python soak.py [MINUTES] [SEED]`: one job after another is disturbed at random until the time is over, each is
run again until it is done, and its output compared with that of a job that nothing disturbed. Prints a table, and exits
with 1 where anything was lost, double, other than it should be, or hung. Start at `Soak.run`.
"""

import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from chaos.nodes import Nodes
from chaos.scripts import NUM_SHARDS, Given, Job, Jobs, Output, check_output, make_given

# The longest that one command may take while everything goes wrong, and once nothing does any more.
COMMAND_SECONDS, CALM_SECONDS = 300.0, 120.0
STALL_SECONDS = 20
MAX_NODES = 3
DRIVER_SHARE = 0.1
ACTIONS = (
    "kill an actor",
    "stop an actor for a while",
    "stop an actor",
    "remove a node",
    "add a node",
    "kill the driver",
)
WEIGHTS = (6, 2, 1, 2, 3, 1)
OUTCOMES = (
    "exit in read", "exit in write", "segfault in session", "storage error in read", "hang in read",
    "sleep 30 in session",
)  # fmt: skip
# What a job may rightly give up for that is treated like this.
ENDS = (
    r"shard \d+ lost 3 actors while it ran alone",
    r"\d+ actors in a row were lost while loading the model",
    r"shard \d+: a store that was made to fail",
)


class Soak:
    """Jobs, what disturbs them, and the tally of both."""

    def __init__(self, given: Given, nodes: Nodes, folder: Path, seed: int) -> None:
        """Take the cluster; outputs are in `folder`."""
        self._given, self._nodes, self._folder = given, nodes, folder
        self._chance = random.Random(seed)
        self._jobs = Jobs(folder / "jobs")
        self._stopped: dict[int, float] = {}
        self.faults: Counter[str] = Counter()
        """What was done to jobs, by kind."""
        self.counts: Counter[str] = Counter()
        """What came of it."""
        self.problems: list[str] = []
        """What must not be."""

    def run(self, seconds: float) -> None:
        """Run one job after another for so long, and the last to its end."""
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline and not self.problems:
                self._run_job(deadline)
        finally:
            self._jobs.end()

    def _run_job(self, deadline: float) -> None:
        output = Output.local(self._folder / f"out-{self.counts['jobs begun']}")
        self.counts["jobs begun"] += 1
        self._nodes.reset()
        shards = self._chance.sample(range(NUM_SHARDS), self._chance.randint(0, 4))
        outcomes = {str(shard): [self._chance.choice(OUTCOMES)] for shard in shards}
        self._nodes.script(pace=self._chance.choice([0.1, 0.3, 0.6]), shards=outcomes)
        options = ["--address", self._nodes.address, "--stall-timeout", str(STALL_SECONDS), "--actors", "1:3"]
        while True:
            job = self._jobs.start(self._given.command(output, *options))
            self._disturb(job, deadline)
            if job.process.returncode == 0 or self.problems:
                break
            self.counts["reruns"] += 1
        self.faults.update(f"script: {outcomes[str(each.shard_id)][0]}" for each in self._begun_first(outcomes))
        if not self.problems:
            self._check(output)
            shutil.rmtree(output.path)

    def _begun_first(self, outcomes: dict[str, Any]) -> list[Any]:
        return [each for each in self._nodes.begun() if each.nth == 1 and str(each.shard_id) in outcomes]

    def _disturb(self, job: Job, deadline: float) -> None:
        """Disturb a command until it ends or time is over; then let it end in peace."""
        started, is_mine = time.monotonic(), False
        next_fault = started + self._chance.uniform(5, 15)
        last = max(deadline, started) + CALM_SECONDS
        while job.process.poll() is None:
            now = time.monotonic()
            if now > min(last, started + COMMAND_SECONDS):
                self.problems.append(f"hangs: {job.told()[-2000:]}")
                return
            self._wake(now)
            if now > deadline or now > started + COMMAND_SECONDS - CALM_SECONDS:
                self._calm()
            elif now > next_fault:
                next_fault = now + self._chance.uniform(1, 6)
                is_mine = self._do(job) or is_mine
            time.sleep(0.1)
        self._judge(job, is_mine)

    def _do(self, job: Job) -> bool:
        """Do one thing to a job; returns whether that ends its driver."""
        (action,) = self._chance.choices(ACTIONS, WEIGHTS)
        actors, nodes = self._nodes.actors(), self._nodes.living
        if action == "kill the driver" and job.told():  # by then it heeds signals
            number = self._chance.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
            self.faults[f"driver: {number.name}"] += 1
            job.process.send_signal(number)
            return True
        if action == "add a node" or not nodes:
            if len(nodes) < MAX_NODES:
                self._nodes.add()
                self.faults["node added"] += 1
        elif action == "remove a node":
            self._nodes.remove(self._chance.choice(nodes))
            self.faults["node removed"] += 1
        elif actors:
            pid = self._chance.choice(actors)
            number = signal.SIGKILL if action == "kill an actor" else signal.SIGSTOP
            self.faults[f"actor: {number.name}"] += self._nodes.signal(pid, number)
            if action == "stop an actor for a while":
                self._stopped[pid] = time.monotonic() + self._chance.uniform(1, STALL_SECONDS + 10)
        return False

    def _wake(self, now: float) -> None:
        for pid in [pid for pid, until in self._stopped.items() if until < now]:
            del self._stopped[pid]
            self._nodes.signal(pid, signal.SIGCONT)

    def _calm(self) -> None:
        self._nodes.script()
        while len(self._nodes.living) < 2:
            self._nodes.add()

    def _judge(self, job: Job, is_mine: bool) -> None:
        """Note how a command ended."""
        code, told = job.process.returncode, job.told()
        errors = [line for line in told.splitlines() if line.startswith("icefloe: error: ")]
        is_right = code == 0 or (is_mine and code in (130, -signal.SIGKILL))
        if code == 1 and len(errors) == 1 and any(re.search(end, errors[0]) for end in ENDS):
            self.counts["given up, rightly"] += 1
            is_right = True
        if not is_right or "Traceback" in told:
            self.problems.append(f"exit code {code}: {told[-4000:]}")

    def _check(self, output: Output) -> None:
        """Compare what a job left with what it should have left."""
        quiet = self._given.quiet
        ids = output.ids([*output.parts(), *output.quarantine()])
        self.counts["jobs finished"] += 1
        self.counts["rows scored"] += len(output.ids(output.parts()))
        self.counts["rows lost"] += len({*quiet.good, *quiet.bad}.difference(ids))
        self.counts["rows double"] += len(ids) - len(set(ids))
        self.counts["parts compared"] += len(output.parts())
        try:
            check_output(output, quiet)
        except AssertionError as error:
            self.problems.append(f"{output.uri}: {error}")


def main(minutes: float = 10, seed: int = 1) -> int:
    """Soak for so long, and print what came of it."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    given = make_given(folder)
    nodes = Nodes(folder / "cluster")
    try:
        soak = Soak(given, nodes, folder, seed)
        soak.run(minutes * 60)
    finally:
        nodes.end()
    print_table(soak)
    if soak.problems:
        print(*soak.problems, f"left: {folder}", sep="\n")
        return 1
    shutil.rmtree(folder)
    return 0


def print_table(soak: Soak) -> None:
    """Print the faults by kind, and then what came of them."""
    results = ("jobs begun", "jobs finished", "reruns", "given up, rightly", "rows scored", "rows lost", "rows double")
    table = [*sorted(soak.faults.items()), *((name, soak.counts[name]) for name in (*results, "parts compared"))]
    for name, count in table:
        print(f"{name:<32}{count:>9,}")


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(*map(float, words[:1]), *map(int, words[1:])))
