import pytest

from engine.errors import ClusterError
from engine.run.pool import NodeSize, PoolSize, size_pool

LAPTOP = [NodeSize(8, 0)]
TWO_GPUS = [NodeSize(16, 2)]
GPU_NODES = [NodeSize(4, 0), NodeSize(32, 4), NodeSize(32, 4)]  # a head without GPUs


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "nodes", "num_shards", "expected"),
    [
        # auto: all GPUs, else all CPUs
        ("auto", None, None, LAPTOP, 100, PoolSize(8, 1.0, 0.0)),
        ("auto", None, None, TWO_GPUS, 100, PoolSize(2, 1.0, 1.0)),
        ("auto", None, None, GPU_NODES, 100, PoolSize(8, 1.0, 1.0)),
        ("auto", None, 0.5, TWO_GPUS, 100, PoolSize(4, 1.0, 0.5)),
        ("auto", None, 0.1, TWO_GPUS, 100, PoolSize(20, 0.8, 0.1)),  # 16 CPUs for 20; ten shares of 0.1 fill a GPU
        ("auto", None, 0.4, TWO_GPUS, 100, PoolSize(5, 1.0, 0.4)),
        ("auto", None, 2.0, TWO_GPUS, 100, PoolSize(1, 1.0, 2.0)),
        ("auto", None, 0.0, TWO_GPUS, 100, PoolSize(16, 1.0, 0.0)),  # GPUs there, none wanted
        ("auto", 4.0, None, LAPTOP, 100, PoolSize(2, 4.0, 0.0)),
        ("auto", 3.0, None, LAPTOP, 100, PoolSize(2, 3.0, 0.0)),
        ("auto", 0.1, None, [NodeSize(1, 0)], 100, PoolSize(10, 0.1, 0.0)),  # not 9 by rounding
        ("auto", 4.0, None, TWO_GPUS, 100, PoolSize(2, 4.0, 1.0)),
        ("auto", None, None, [NodeSize(2, 0), NodeSize(2, 0), NodeSize(0, 0)], 100, PoolSize(4, 1.0, 0.0)),
        # never more than shards
        ("auto", None, None, LAPTOP, 3, PoolSize(3, 1.0, 0.0)),
        ("auto", None, None, TWO_GPUS, 1, PoolSize(1, 1.0, 1.0)),
        (64, None, None, LAPTOP, 2, PoolSize(2, 1.0, 0.0)),
        # a number
        (1, None, None, LAPTOP, 100, PoolSize(1, 1.0, 0.0)),
        (3, None, None, LAPTOP, 100, PoolSize(3, 1.0, 0.0)),
        (2, 4.0, None, LAPTOP, 100, PoolSize(2, 4.0, 0.0)),
        (4, None, 0.5, TWO_GPUS, 100, PoolSize(4, 1.0, 0.5)),
        # shares shrink where the actors would not fit otherwise
        ("auto", None, None, [NodeSize(1, 4)], 100, PoolSize(4, 0.25, 1.0)),
    ],
)
@pytest.mark.parametrize("can_grow", [True, False])
def test_pools(
    actors: int | str,
    cpus: float | None,
    gpus: float | None,
    nodes: list[NodeSize],
    num_shards: int,
    expected: PoolSize,
    can_grow: bool,
) -> None:
    assert size_pool(actors, cpus, gpus, nodes, num_shards, can_grow) == expected


def test_a_number_of_actors_shrinks_to_what_is_there_unless_more_may_come() -> None:
    assert size_pool(16, None, None, LAPTOP, 100, can_grow=False) == PoolSize(16, 0.5, 0.0)
    assert size_pool(12, None, None, LAPTOP, 100, can_grow=False) == PoolSize(12, 0.66, 0.0)  # rounded down
    two_nodes = [NodeSize(3, 0), NodeSize(3, 0)]  # 6 / 7 of a CPU each would be three a node, six in all
    assert size_pool(7, None, None, two_nodes, 100, can_grow=False) == PoolSize(7, 0.75, 0.0)
    for num_actors, nodes in ((16, LAPTOP), (7, two_nodes)):
        assert size_pool(num_actors, None, None, nodes, 100, can_grow=True) == PoolSize(num_actors, 1.0, 0.0)


@pytest.mark.parametrize("actors", ["auto", 8])
def test_where_nothing_is_there_yet_the_share_has_to_be_said(actors: int | str) -> None:
    with pytest.raises(ClusterError, match=r"type --gpus-per-actor 1 --actors N"):
        size_pool(actors, None, None, [NodeSize(0, 0)], 100, can_grow=True)
    assert size_pool(8, None, 1.0, [NodeSize(0, 0)], 100, can_grow=True) == PoolSize(8, 1.0, 1.0)


@pytest.mark.parametrize(
    ("actors", "nodes", "num_actors"),
    [
        ("auto", [NodeSize(16, 0), NodeSize(4, 8)], 8),  # the head's CPUs are of no use to the GPU node's actors
    ],
)
@pytest.mark.parametrize("can_grow", [True, False])
def test_shares_shrink_until_the_actors_fit_on_nodes(
    actors: int | str, nodes: list[NodeSize], num_actors: int, can_grow: bool
) -> None:
    pool = size_pool(actors, None, None, nodes, 100, can_grow)
    assert pool.num_actors == num_actors
    assert pool.cpus > 0
    rooms = [int(node.cpus / pool.cpus + 1e-9) for node in nodes if node.gpus or not pool.gpus]
    assert sum(rooms) >= num_actors


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "nodes", "words"),
    [
        ("auto", None, None, [], ["0 nodes", "--actors N"]),
        ("auto", None, 0.0, [NodeSize(0, 0)], ["no node has room", "1 CPU", "0 CPUs and 0 GPUs"]),
        ("auto", 16.0, None, LAPTOP, ["no node has room", "16 CPU", "8 CPUs"]),
        ("auto", None, 4.0, TWO_GPUS, ["no node has room", "4 GPU", "2 GPUs"]),
        ("auto", None, 2.0, [NodeSize(8, 1), NodeSize(8, 1)], ["no node has room", "2 GPU"]),  # none has two
    ],
)
@pytest.mark.parametrize("can_grow", [True, False])
def test_auto_needs_something_to_count(
    actors: str, cpus: float | None, gpus: float | None, nodes: list[NodeSize], words: list[str], can_grow: bool
) -> None:
    with pytest.raises(ClusterError) as caught:
        size_pool(actors, cpus, gpus, nodes, 100, can_grow)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "nodes", "words"),
    [
        (3, 4.0, None, LAPTOP, ["3 actors of 4 CPU were asked", "8 CPUs"]),
        (1, None, 1.0, LAPTOP, ["1 actor of 1 CPU, 1 GPU", "0 GPUs"]),
        (3, None, 1.0, TWO_GPUS, ["3 actors of 1 CPU, 1 GPU", "2 GPUs"]),
        (5, None, 0.5, TWO_GPUS, ["5 actors of 1 CPU, 0.5 GPU"]),
        (2, 8.0, None, [NodeSize(12, 0), NodeSize(4, 0)], ["2 actors of 8 CPU"]),  # enough in all, not on one node
    ],
)
def test_what_does_not_fit_is_refused_unless_the_cluster_can_grow(
    actors: int, cpus: float | None, gpus: float | None, nodes: list[NodeSize], words: list[str]
) -> None:
    with pytest.raises(ClusterError) as caught:
        size_pool(actors, cpus, gpus, nodes, 100, can_grow=False)
    assert all(word in str(caught.value) for word in [*words, "--actors"])
    assert size_pool(actors, cpus, gpus, nodes, 100, can_grow=True).num_actors == actors


@pytest.mark.parametrize("nodes", [[], [NodeSize(1, 0)]])
def test_a_cluster_that_can_grow_gives_each_actor_its_cpu(nodes: list[NodeSize]) -> None:
    # nodes will come for what is asked; a share of what is there now would pack 64 actors on the head
    assert size_pool(64, None, 1.0, nodes, 100, can_grow=True) == PoolSize(64, 1.0, 1.0)


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.0, 1), (2.0, 2), (8.0, 8), (0.0, 1)])
def test_threads_are_whole_cpus_and_never_none(cpus: float, threads: int) -> None:
    assert PoolSize(1, cpus, 0.0).threads == threads
