"""A Ray cluster of several nodes on this machine, whose nodes come and go and whose actors meet with scripted faults.

Each process of a node has the node's own token in its environment; only those are ever signalled. What befalls the
actors is in files that `faults/sitecustomize.py` reads (`Script`). Start at `Nodes`.
"""

import json
import os
import shutil
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.scripts import FAULTS, KILL_SECONDS, kill_processes, processes_of, send_signal, wait_until
from ray.cluster_utils import Cluster

CLUSTER, NODE = "ICEFLOE_TEST_CLUSTER", "ICEFLOE_TEST_NODE"
# The least that Ray takes is 75 MiB.
STORE_BYTES = 80 * 2**20
# A node is taken for gone when it has not answered for some 20 s, if its connection does not show it before.
SEEN_SECONDS = 60.0
ORDINARY, ODD = "ordinary", "odd"


@dataclass(frozen=True)
class Begun:
    """An attempt at a shard that an actor has begun."""

    shard_id: int
    nth: int
    """Which attempt at the shard it is, from 1."""
    pid: int


@dataclass(frozen=True)
class Node:
    """A node of the cluster."""

    token: str
    """What its processes have in their environment."""
    kind: str
    """Whose script its actors follow: ORDINARY or ODD."""
    handle: Any
    """What Ray knows it by."""


class Nodes:
    """A head without CPUs, and nodes of one CPU each."""

    def __init__(self, folder: Path) -> None:
        """Start the head; `folder` takes the scripts."""
        self._folder = folder
        self._token = uuid.uuid4().hex
        (folder / "marks").mkdir(parents=True)
        self.script(), self.script(kind=ODD)
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **self._options("head")}
        )
        self._nodes: list[Node] = []

    @property
    def address(self) -> str:
        """What `--address` is given."""
        return self._cluster.address

    @property
    def living(self) -> list[Node]:
        """The nodes that have CPUs, the oldest first."""
        return list(self._nodes)

    def __getitem__(self, index: int) -> Node:
        """Return one of the nodes that have CPUs, the oldest first."""
        return self._nodes[index]

    def script(self, kind: str = ORDINARY, **script: Any) -> None:
        """Say what befalls the actors of such nodes from now on; see `Script` for what there is."""
        path = self._folder / f"{kind}.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(script))
        new.replace(path)

    def add(self, kind: str = ORDINARY, **environment: str) -> Node:
        """Add a node; `environment` is for its processes alone."""
        token = uuid.uuid4().hex
        node = Node(token, kind, self._cluster.add_node(num_cpus=1, **self._options(kind, token, environment)))
        self._nodes.append(node)
        return node

    def remove(self, node: Node) -> None:
        """Take a node away at once, as when its machine goes; Ray takes some seconds to see it."""
        self._nodes.remove(node)
        self._cluster.remove_node(node.handle, allow_graceful=False)
        kill_processes(NODE, node.token)

    def wait_until_seen(self) -> None:
        """Wait until Ray knows which nodes have gone: until then it gives actors a place there."""

        def is_seen() -> bool:
            return sum(node["Alive"] for node in self._cluster.global_state.node_table()) == 1 + len(self._nodes)

        wait_until(is_seen, SEEN_SECONDS, "that Ray knows its nodes")

    def reset(self, num_nodes: int = 2) -> None:
        """Make it as if new: so many ordinary nodes, no actors, nothing scripted."""
        self.script(), self.script(kind=ODD)
        for pid in self.actors():
            self.signal(pid, signal.SIGKILL)
        for node in list(self._nodes):
            if node.kind != ORDINARY or len(self._nodes) > num_nodes:
                self.remove(node)
        while len(self._nodes) < num_nodes:
            self.add()
        wait_until(lambda: not self.actors(), KILL_SECONDS, "the end of the actors")
        self.wait_until_seen()
        shutil.rmtree(self._folder / "marks")
        (self._folder / "marks").mkdir()

    def actors(self) -> list[int]:
        """Return the actors that live on any of its nodes, or did on one that has gone."""
        return sorted(pid for pid in processes_of(CLUSTER, self._token) if _is_actor(pid))

    def begun(self) -> list[Begun]:
        """Return the attempts that were begun since the last `reset`, the latest last."""
        found = []
        for path in self._folder.glob("marks/shard-*"):
            _, shard_id, nth = path.name.split("-")
            pid = path.read_text()  # empty for a moment
            found += [(path.stat().st_mtime_ns, Begun(int(shard_id), int(nth), int(pid)))] if pid else []
        return [begun for _, begun in sorted(found, key=lambda each: each[0])]

    def scoring(self) -> list[int]:
        """Return the living actors that have begun a shard."""
        return sorted({each.pid for each in self.begun()}.intersection(self.actors()))

    def signal(self, pid: int, number: signal.Signals) -> bool:
        """Signal a process of the cluster; returns whether it was there."""
        return send_signal(pid, number, CLUSTER, self._token)

    def end(self) -> None:
        """End it; nothing of it is left."""
        try:
            self._cluster.shutdown()
        finally:
            kill_processes(CLUSTER, self._token)

    def _options(self, kind: str, token: str = "head", environment: dict[str, str] | None = None) -> dict[str, Any]:
        paths = [str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])]
        env_vars = {
            CLUSTER: self._token,
            NODE: token,
            "SPT_NOENV": "1",  # else the names that Ray's processes take overwrite the environment
            "ICEFLOE_SCRIPT": str(self._folder / f"{kind}.json"),
            "PYTHONPATH": os.pathsep.join(paths),
            **(environment or {}),
        }
        return {"object_store_memory": STORE_BYTES, "env_vars": env_vars}


def _is_actor(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::ScoringActor")
    except OSError:
        return False
