"""How many actors, and what each of them gets. Pure. Start at `size_pool`."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ClusterError

# A smaller share than this is no share: the actors would only get in each other's way.
MIN_CPU_SHARE = 0.1
# What an actor holds beside its rows: TensorFlow and Ray, and the graph as GraphDef, in TensorFlow's runtime, and as
# constants that were folded or laid out anew (measured: docs/performance.md).
ACTOR_BYTES, COPIES_OF_MODEL = 7 * 2**30 // 10, 4


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What one node of the cluster offers in all."""

    cpus: float
    """CPUs that Ray may hand out there."""
    gpus: float
    """GPUs that Ray may hand out there."""
    node_id: str = ""
    """The node, as the cluster names it."""
    memory_bytes: float = 0.0
    """Memory that Ray may hand out there; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Actors to hold, and the share of each."""

    min_actors: int
    """Actors to hold at least while there is work for them; so many are asked for at the start."""
    max_actors: int
    """Actors to hold at most; as many as at least for a pool of a fixed number."""
    cpus: float
    """CPUs of one actor; a fraction below 1 or a whole number."""
    gpus: float
    """GPUs of one actor; a fraction below 1 or a whole number."""

    @property
    def threads(self) -> int:
        """Threads of one actor's session: its whole CPUs, at least 1 (0 would mean every core)."""
        return max(1, math.floor(self.cpus))

    def __str__(self) -> str:
        """Write the demand as messages show it."""
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        number = str(self.min_actors)
        if self.min_actors < self.max_actors:
            number = f"{self.min_actors} to {self.max_actors}"
        actors = "actor" if number == "1" else "actors"
        return f"{number} {actors} of {self.cpus:g} CPU{gpus}"


def size_pool(
    actors: int | str,
    cpus_per_actor: float | None,
    gpus_per_actor: float | None,
    nodes: Sequence[NodeSize],
    num_shards: int,
    can_grow: bool,
    model_bytes: int = 0,
) -> PoolSize:
    """Choose the number of actors and their shares.

    `auto` fills all GPUs, or all CPUs where there are none; never more actors than shards. Where no nodes may be
    added, MIN of MIN:MAX must fit and MAX is cut to what fits. The CPU share is 1, for two actors of one
    thread each score more rows than one of two; it is less where the actors asked for would not fit otherwise, and 2,
    4, 8... where `auto` would fill a node's memory with copies of a large model.

    Args:
        actors: a number, MIN:MAX, or auto.
        cpus_per_actor: the share asked for, None for the rule above.
        gpus_per_actor: the share asked for, None for one where there are GPUs.
        nodes: what each node has.
        num_shards: shards to score.
        can_grow: whether nodes may be added by the cluster, so that what does not fit now may fit later.
        model_bytes: size of the frozen graph; 0 where that is not known yet.

    Raises:
        ClusterError: if the cluster shows neither CPUs nor GPUs, or can never hold what was asked.
    """
    if (gpus_per_actor is None or actors == "auto") and not any(node.cpus or node.gpus for node in nodes):
        raise ClusterError(_nothing_there(actors, gpus_per_actor, nodes))
    has_gpus = any(node.gpus for node in nodes)
    gpus = gpus_per_actor if gpus_per_actor is not None else float(has_gpus)
    cpus = cpus_per_actor or (1.0 if gpus or actors != "auto" else _roomy_cpus(nodes, model_bytes))
    low, high = _bounds(actors) or _fill(PoolSize(1, 1, cpus, gpus), nodes, can_grow)
    low, high = min(low, num_shards), min(high, num_shards)
    pool = PoolSize(low, high, cpus, gpus)
    # On a cluster that grows, what is there now says nothing of what will hold the actors asked for.
    if cpus_per_actor is None and count_rooms(pool, nodes) < low and (actors == "auto" or not can_grow):
        pool = _shrink(pool, nodes)
    if can_grow:
        return pool
    num_rooms = count_rooms(pool, nodes)
    if num_rooms < low:
        asked = "was" if pool.max_actors == 1 else "were"
        raise ClusterError(f"{pool} {asked} asked, {_show(nodes)}; {_less(pool, nodes)}")
    return dataclasses.replace(pool, max_actors=min(high, num_rooms))


def count_rooms(pool: PoolSize, nodes: Sequence[NodeSize]) -> int:
    """Return how many actors of `pool`'s size the nodes have room for in all, each node on its own.

    Actors that take nothing fit everywhere: `max_actors` a node.
    """
    shares = [[(node.cpus, pool.cpus), (node.gpus, pool.gpus)] for node in nodes]
    return sum(
        min((_num_shares(whole, share) for whole, share in each if share), default=pool.max_actors) for each in shares
    )


def _num_shares(whole: float, share: float) -> int:
    return math.floor(whole / share + 1e-9)  # 1 / 0.1 may come out below 10


def _roomy_cpus(nodes: Sequence[NodeSize], model_bytes: int) -> float:
    """Return the least power of two of CPUs with which actors that fill each node's CPUs have room in its memory."""
    actor_bytes, cpus = ACTOR_BYTES + COPIES_OF_MODEL * model_bytes, 1.0
    while any(
        node.memory_bytes and node.cpus >= 2 * cpus and node.cpus // cpus * actor_bytes > node.memory_bytes
        for node in nodes
    ):
        cpus *= 2
    return cpus


def _bounds(actors: int | str) -> tuple[int, int] | None:
    """Return the least and the most actors asked for; None for `auto`."""
    if actors == "auto":
        return None
    low, _, high = str(actors).partition(":")
    return int(low), int(high or low)


def _fill(one: PoolSize, nodes: Sequence[NodeSize], can_grow: bool) -> tuple[int, int]:
    """Return the number of actors that fill all GPUs, or all CPUs where none is wanted; the least is the most."""
    num_actors = sum(
        _num_shares(node.gpus, one.gpus) if one.gpus else _num_shares(node.cpus, one.cpus) for node in nodes
    )
    if num_actors < 1:
        share = f"{one.gpus:g} GPU" if one.gpus else f"{one.cpus:g} CPU"
        wait = ", or say how many to wait for (--actors N or MIN:MAX)" if can_grow else ""
        raise ClusterError(f"no node has room for one actor of {share} ({_show(nodes)}); {_less(one, nodes)}{wait}")
    return num_actors, num_actors


def _less(pool: PoolSize, nodes: Sequence[NodeSize]) -> str:
    """Say what to type where there is no room for what was asked."""
    if pool.gpus and not any(node.gpus for node in nodes):
        return "type --gpus-per-actor 0 to score on CPUs"
    if pool.min_actors > 1:
        return "ask for fewer (--actors) or smaller ones (--gpus-per-actor, --cpus-per-actor)"
    return "ask for less (--gpus-per-actor, --cpus-per-actor)"


def describe_demand(pool: PoolSize, nodes: Sequence[NodeSize], free: str) -> str:
    """Say what is asked for, what the cluster has, and what of it is free."""
    return f"asked were {pool}; {_show(nodes)}, room for {count_rooms(pool, nodes)} such actors, and free {free}"


def _nothing_there(actors: int | str, gpus: float | None, nodes: Sequence[NodeSize]) -> str:
    """Say what to type where there is nothing to choose a number or a share by."""
    number = "1:64" if actors == "auto" else actors
    choice = (
        "--gpus-per-actor 1 for GPUs, or --gpus-per-actor 0 for CPUs" if gpus is None else f"--gpus-per-actor {gpus:g}"
    )
    return f"nothing to choose actors by: {_show(nodes)}; for nodes that will come type --actors {number} {choice}"


def _shrink(pool: PoolSize, nodes: Sequence[NodeSize]) -> PoolSize:
    """Give every actor the largest share of a CPU with which all of them fit; leave it as it is if there is none."""
    counts = range(1, math.ceil(1 / MIN_CPU_SHARE) + 1)
    per_node = {math.floor(node.cpus / n * 100) / 100 for node in nodes for n in {*counts, pool.min_actors}}
    shares = sorted((share for share in per_node if MIN_CPU_SHARE <= share < 1), reverse=True)
    smaller = (dataclasses.replace(pool, cpus=share) for share in shares)
    return next((each for each in smaller if count_rooms(each, nodes) >= each.min_actors), pool)


def _show(nodes: Sequence[NodeSize]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    number = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return f"the cluster has {number} with {cpus:g} CPUs and {gpus:g} GPUs in all"
