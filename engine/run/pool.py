"""How many actors, and what each of them gets. Pure. Start at `size_pool`."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ClusterError

# A smaller share than this is no share: the actors would only get in each other's way.
MIN_CPU_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What one node of the cluster offers in all."""

    cpus: float
    """CPUs that Ray may hand out there."""
    gpus: float
    """GPUs that Ray may hand out there."""


@dataclass(frozen=True, slots=True)
class PoolSize:
    """Actors to hold, and the share of each."""

    num_actors: int
    """Number of actors."""
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
        actors = "actor" if self.num_actors == 1 else "actors"
        return f"{self.num_actors} {actors} of {self.cpus:g} CPU{gpus}"


def size_pool(
    actors: int | str,
    cpus_per_actor: float | None,
    gpus_per_actor: float | None,
    nodes: Sequence[NodeSize],
    num_shards: int,
    can_grow: bool,
) -> PoolSize:
    """Choose the number of actors and their shares.

    `auto` fills all GPUs, or all CPUs where there are none; never more actors than shards. The CPU share is 1, for
    two sessions of one thread score an MLP at 8M rows/s where one of two threads reaches 4.8M; it is less where
    the actors asked for would not fit otherwise.

    Args:
        actors: a number, or auto.
        cpus_per_actor: the share asked for, None for the rule above.
        gpus_per_actor: the share asked for, None for one where there are GPUs.
        nodes: what each node has.
        num_shards: shards to score.
        can_grow: whether nodes may be added by the cluster, so that what does not fit now may fit later.

    Raises:
        ClusterError: if the cluster shows neither CPUs nor GPUs, or can never hold what was asked.
    """
    all_gpus = sum(node.gpus for node in nodes)
    if gpus_per_actor is None and not any(node.cpus or node.gpus for node in nodes):
        raise ClusterError(
            f"{_show(nodes)}, so there is nothing to choose a share by; type --gpus-per-actor 1 --actors N for GPU "
            "nodes that will come, or --gpus-per-actor 0 --actors N for CPUs"
        )
    gpus = gpus_per_actor if gpus_per_actor is not None else float(bool(all_gpus))
    if isinstance(actors, int):
        num_actors = actors
    elif gpus:
        num_actors = sum(math.floor(node.gpus / gpus + 1e-9) for node in nodes)
    else:
        num_actors = sum(math.floor(node.cpus / (cpus_per_actor or 1.0) + 1e-9) for node in nodes)
    if num_actors < 1:
        share = f"{gpus:g} GPU" if gpus else f"{cpus_per_actor or 1:g} CPU"
        raise ClusterError(
            f"no node has room for one actor of {share} ({_show(nodes)}); ask for less (--gpus-per-actor, "
            "--cpus-per-actor), or say how many to wait for (--actors N)"
        )
    num_actors = min(num_actors, num_shards)
    pool = PoolSize(num_actors, 1.0 if cpus_per_actor is None else cpus_per_actor, gpus)
    # On a cluster that grows, what is there now says nothing of what will hold the actors asked for.
    if cpus_per_actor is None and not _fits(pool, nodes) and (actors == "auto" or not can_grow):
        pool = _shrink(pool, nodes)
    if not can_grow and not _fits(pool, nodes):
        raise ClusterError(f"{pool} were asked, {_show(nodes)}; ask for fewer (--actors) or smaller ones")
    return pool


def _shrink(pool: PoolSize, nodes: Sequence[NodeSize]) -> PoolSize:
    """Give every actor the largest share of a CPU with which all of them fit; leave it as it is if there is none."""
    counts = range(1, math.ceil(1 / MIN_CPU_SHARE) + 1)
    per_node = {math.floor(node.cpus / n * 100) / 100 for node in nodes for n in {*counts, pool.num_actors}}
    shares = sorted((share for share in per_node if MIN_CPU_SHARE <= share < 1), reverse=True)
    smaller = (dataclasses.replace(pool, cpus=share) for share in shares)
    return next((each for each in smaller if _fits(each, nodes)), pool)


def _fits(pool: PoolSize, nodes: Sequence[NodeSize]) -> bool:
    rooms = (
        min(
            math.floor(node.cpus / pool.cpus + 1e-9) if pool.cpus else pool.num_actors,
            math.floor(node.gpus / pool.gpus + 1e-9) if pool.gpus else pool.num_actors,
        )
        for node in nodes
    )
    return sum(rooms) >= pool.num_actors


def _show(nodes: Sequence[NodeSize]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"the cluster has {len(nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs in all"
