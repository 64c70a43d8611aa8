import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ClusterError
from engine.run.pool import NodeSize, PoolSize, count_rooms, size_pool

LAPTOP = [NodeSize(8, 0)]
TWO_GPUS = [NodeSize(16, 2)]
GPU_NODES = [NodeSize(4, 0), NodeSize(32, 4), NodeSize(32, 4)]  # a head without GPUs


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "nodes", "num_shards", "expected"),
    [
        # auto: all GPUs, else all CPUs
        ("auto", None, None, LAPTOP, 100, PoolSize(8, 8, 1.0, 0.0)),
        ("auto", None, None, TWO_GPUS, 100, PoolSize(2, 2, 1.0, 1.0)),
        ("auto", None, None, GPU_NODES, 100, PoolSize(8, 8, 1.0, 1.0)),
        ("auto", None, 0.5, TWO_GPUS, 100, PoolSize(4, 4, 1.0, 0.5)),
        ("auto", None, 0.1, TWO_GPUS, 100, PoolSize(20, 20, 0.8, 0.1)),  # 16 CPUs for 20; ten shares of 0.1 fill a GPU
        ("auto", None, 0.4, TWO_GPUS, 100, PoolSize(5, 5, 1.0, 0.4)),
        ("auto", None, 2.0, TWO_GPUS, 100, PoolSize(1, 1, 1.0, 2.0)),
        ("auto", None, 0.0, TWO_GPUS, 100, PoolSize(16, 16, 1.0, 0.0)),  # GPUs there, none wanted
        ("auto", 4.0, None, LAPTOP, 100, PoolSize(2, 2, 4.0, 0.0)),
        ("auto", 3.0, None, LAPTOP, 100, PoolSize(2, 2, 3.0, 0.0)),
        ("auto", 0.1, None, [NodeSize(1, 0)], 100, PoolSize(10, 10, 0.1, 0.0)),  # not 9 by rounding
        ("auto", 4.0, None, TWO_GPUS, 100, PoolSize(2, 2, 4.0, 1.0)),
        ("auto", None, None, [NodeSize(2, 0), NodeSize(2, 0), NodeSize(0, 0)], 100, PoolSize(4, 4, 1.0, 0.0)),
        # never more than shards
        ("auto", None, None, LAPTOP, 3, PoolSize(3, 3, 1.0, 0.0)),
        ("auto", None, None, TWO_GPUS, 1, PoolSize(1, 1, 1.0, 1.0)),
        (64, None, None, LAPTOP, 2, PoolSize(2, 2, 1.0, 0.0)),
        # a number
        (1, None, None, LAPTOP, 100, PoolSize(1, 1, 1.0, 0.0)),
        (3, None, None, LAPTOP, 100, PoolSize(3, 3, 1.0, 0.0)),
        (2, 4.0, None, LAPTOP, 100, PoolSize(2, 2, 4.0, 0.0)),
        (4, None, 0.5, TWO_GPUS, 100, PoolSize(4, 4, 1.0, 0.5)),
        # bounds, all of which there is room for
        ("2:8", None, None, LAPTOP, 100, PoolSize(2, 8, 1.0, 0.0)),
        ("8:8", None, None, LAPTOP, 100, PoolSize(8, 8, 1.0, 0.0)),
        ("1:4", None, 0.5, TWO_GPUS, 100, PoolSize(1, 4, 1.0, 0.5)),
        ("2:64", None, None, LAPTOP, 5, PoolSize(2, 5, 1.0, 0.0)),  # never more than shards
        ("6:64", None, None, LAPTOP, 5, PoolSize(5, 5, 1.0, 0.0)),
        # shares shrink where the actors would not fit otherwise
        ("auto", None, None, [NodeSize(1, 4)], 100, PoolSize(4, 4, 0.25, 1.0)),
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
    assert size_pool(16, None, None, LAPTOP, 100, can_grow=False) == PoolSize(16, 16, 0.5, 0.0)
    assert size_pool(12, None, None, LAPTOP, 100, can_grow=False) == PoolSize(12, 12, 0.66, 0.0)  # rounded down
    two_nodes = [NodeSize(3, 0), NodeSize(3, 0)]  # 6 / 7 of a CPU each would be three a node, six in all
    assert size_pool(7, None, None, two_nodes, 100, can_grow=False) == PoolSize(7, 7, 0.75, 0.0)
    for num_actors, nodes in ((16, LAPTOP), (7, two_nodes)):
        assert size_pool(num_actors, None, None, nodes, 100, can_grow=True) == PoolSize(
            num_actors, num_actors, 1.0, 0.0
        )


@pytest.mark.parametrize(
    ("actors", "gpus", "advice"),
    [
        ("auto", None, "type --actors 1:64 --gpus-per-actor 1 for GPUs, or --gpus-per-actor 0 for CPUs"),
        ("auto", 0.5, "type --actors 1:64 --gpus-per-actor 0.5"),
        ("auto", 0.0, "type --actors 1:64 --gpus-per-actor 0"),
        (8, None, "type --actors 8 --gpus-per-actor 1 for GPUs"),
        ("2:8", None, "type --actors 2:8 --gpus-per-actor 1 for GPUs"),
    ],
)
@pytest.mark.parametrize("nodes", [[], [NodeSize(0, 0)]])
@pytest.mark.parametrize("can_grow", [True, False])
def test_where_nothing_is_there_yet_it_is_said_what_to_type(
    actors: int | str, gpus: float | None, advice: str, nodes: list[NodeSize], can_grow: bool
) -> None:
    with pytest.raises(ClusterError) as caught:
        size_pool(actors, None, gpus, nodes, 100, can_grow)
    assert "nothing to choose actors by: the cluster has" in str(caught.value)
    assert "with 0 CPUs and 0 GPUs in all" in str(caught.value)
    assert advice in str(caught.value)


def test_where_nothing_is_there_yet_what_is_said_is_taken() -> None:
    assert size_pool("1:64", None, 1.0, [], 100, can_grow=True) == PoolSize(1, 64, 1.0, 1.0)
    assert size_pool(8, None, 1.0, [NodeSize(0, 0)], 100, can_grow=True) == PoolSize(8, 8, 1.0, 1.0)


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
    assert pool.min_actors == num_actors
    assert pool.cpus > 0
    rooms = [int(node.cpus / pool.cpus + 1e-9) for node in nodes if node.gpus or not pool.gpus]
    assert sum(rooms) >= num_actors


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "nodes", "words"),
    [
        ("auto", None, 0.0, [NodeSize(0, 2)], ["no node has room", "1 CPU", "0 CPUs and 2 GPUs"]),
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
    assert ("say how many to wait for (--actors N or MIN:MAX)" in str(caught.value)) == can_grow


@pytest.mark.parametrize(
    ("actors", "cpus", "gpus", "nodes", "words"),
    [
        (3, 4.0, None, LAPTOP, ["3 actors of 4 CPU were asked", "8 CPUs", "ask for fewer (--actors) or smaller ones"]),
        (1, None, 1.0, LAPTOP, ["1 actor of 1 CPU, 1 GPU was asked", "0 GPUs", "type --gpus-per-actor 0"]),
        (3, None, 1.0, TWO_GPUS, ["3 actors of 1 CPU, 1 GPU", "2 GPUs", "--actors"]),
        (5, None, 0.5, TWO_GPUS, ["5 actors of 1 CPU, 0.5 GPU", "--actors"]),
        (1, 16.0, None, LAPTOP, ["1 actor of 16 CPU was asked", "ask for less (--gpus-per-actor, --cpus-per-actor)"]),
        (2, 8.0, None, [NodeSize(12, 0), NodeSize(4, 0)], ["2 actors of 8 CPU"]),  # enough in all, not on one node
    ],
)
def test_what_does_not_fit_is_refused_unless_the_cluster_can_grow(
    actors: int, cpus: float | None, gpus: float | None, nodes: list[NodeSize], words: list[str]
) -> None:
    with pytest.raises(ClusterError) as caught:
        size_pool(actors, cpus, gpus, nodes, 100, can_grow=False)
    assert all(word in str(caught.value) for word in words)
    assert size_pool(actors, cpus, gpus, nodes, 100, can_grow=True).min_actors == actors


@pytest.mark.parametrize("nodes", [[], [NodeSize(1, 0)]])
def test_a_cluster_that_can_grow_gives_each_actor_its_cpu(nodes: list[NodeSize]) -> None:
    # nodes will come for what is asked; a share of what is there now would pack 64 actors on the head
    assert size_pool(64, None, 1.0, nodes, 100, can_grow=True) == PoolSize(64, 64, 1.0, 1.0)


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, 1), (1.0, 1), (2.0, 2), (8.0, 8), (0.0, 1)])
def test_threads_are_whole_cpus_and_never_none(cpus: float, threads: int) -> None:
    assert PoolSize(1, 1, cpus, 0.0).threads == threads


@pytest.mark.parametrize(
    ("actors", "gpus", "nodes", "fixed", "growing"),
    [
        ("2:64", None, LAPTOP, PoolSize(2, 8, 1.0, 0.0), PoolSize(2, 64, 1.0, 0.0)),
        ("2:64", None, TWO_GPUS, PoolSize(2, 2, 1.0, 1.0), PoolSize(2, 64, 1.0, 1.0)),
        ("1:64", 0.5, GPU_NODES, PoolSize(1, 16, 1.0, 0.5), PoolSize(1, 64, 1.0, 0.5)),
        ("16:64", None, LAPTOP, PoolSize(16, 16, 0.5, 0.0), PoolSize(16, 64, 1.0, 0.0)),  # shrunk until MIN fits
        ("12:64", None, LAPTOP, PoolSize(12, 12, 0.66, 0.0), PoolSize(12, 64, 1.0, 0.0)),
        ("2:200", None, LAPTOP, PoolSize(2, 8, 1.0, 0.0), PoolSize(2, 100, 1.0, 0.0)),  # 100 shards
    ],
)
def test_the_most_is_cut_to_what_fits_unless_the_cluster_can_grow(
    actors: str, gpus: float | None, nodes: list[NodeSize], fixed: PoolSize, growing: PoolSize
) -> None:
    assert size_pool(actors, None, gpus, nodes, 100, can_grow=False) == fixed
    assert size_pool(actors, None, gpus, nodes, 100, can_grow=True) == growing


def test_the_least_has_to_fit_where_the_cluster_cannot_grow() -> None:
    with pytest.raises(ClusterError) as caught:
        size_pool("3:8", None, 1.0, TWO_GPUS, 100, can_grow=False)
    assert "3 to 8 actors of 1 CPU, 1 GPU were asked, the cluster has 1 node with 16 CPUs and 2 GPUs" in str(
        caught.value
    )
    assert size_pool("3:8", None, 1.0, TWO_GPUS, 100, can_grow=True) == PoolSize(3, 8, 1.0, 1.0)


@pytest.mark.parametrize(
    ("pool", "text"),
    [
        (PoolSize(1, 1, 1.0, 0.0), "1 actor of 1 CPU"),
        (PoolSize(12, 12, 0.5, 0.25), "12 actors of 0.5 CPU, 0.25 GPU"),
        (PoolSize(2, 8, 1.0, 1.0), "2 to 8 actors of 1 CPU, 1 GPU"),
        (PoolSize(1, 64, 2.0, 0.0), "1 to 64 actors of 2 CPU"),
        (PoolSize(3, 3, 1.0, 0.0), "3 actors of 1 CPU"),
    ],
)
def test_a_pool_as_messages_show_it(pool: PoolSize, text: str) -> None:
    assert str(pool) == text


@pytest.mark.parametrize(
    ("cpus", "gpus", "nodes", "rooms"),
    [
        (1.0, 0.0, LAPTOP, 8),  # however few are asked for
        (3.0, 0.0, LAPTOP, 2),
        (0.1, 0.0, [NodeSize(1, 0)], 10),  # not 9 by rounding
        (1.0, 1.0, GPU_NODES, 8),
        (16.0, 1.0, GPU_NODES, 4),
        (1.0, 0.25, TWO_GPUS, 8),
        (1.0, 2.0, [NodeSize(8, 1), NodeSize(8, 1)], 0),  # none has two
        (1.0, 0.0, [], 0),
        (0.0, 0.5, TWO_GPUS, 4),
        (0.0, 0.0, [NodeSize(0, 0), NodeSize(1, 0)], 10),  # what takes nothing fits everywhere
    ],
)
def test_rooms_are_counted_node_by_node(cpus: float, gpus: float, nodes: list[NodeSize], rooms: int) -> None:
    assert count_rooms(PoolSize(2, 5, cpus, gpus), nodes) == rooms


SHARES = st.one_of(st.none(), st.sampled_from([0.1, 0.25, 0.4, 0.5, 1.0, 2.0, 4.0]))
NODES = st.lists(st.builds(NodeSize, st.integers(0, 16), st.integers(0, 8)), max_size=6)
BOUNDS = st.tuples(st.integers(1, 40), st.integers(0, 40)).map(lambda pair: f"{pair[0]}:{sum(pair)}")
ACTORS = st.one_of(st.just("auto"), st.integers(1, 40), BOUNDS)


@given(ACTORS, SHARES, st.one_of(SHARES, st.just(0.0)), NODES, st.integers(1, 50), st.booleans())
def test_a_pool_is_within_its_bounds_and_fits(
    actors: int | str, cpus: float | None, gpus: float | None, nodes: list[NodeSize], num_shards: int, can_grow: bool
) -> None:
    try:
        pool = size_pool(actors, cpus, gpus, nodes, num_shards, can_grow)
    except ClusterError:
        return
    assert 1 <= pool.min_actors <= pool.max_actors <= num_shards
    if not can_grow:
        assert pool.max_actors <= count_rooms(pool, nodes)
    if actors == "auto":
        assert pool.min_actors == pool.max_actors
    else:
        low, _, high = str(actors).partition(":")
        assert pool.min_actors == min(int(low), num_shards)
        assert pool.max_actors <= int(high or low)
        if can_grow:
            assert pool.max_actors == min(int(high or low), num_shards)


@given(ACTORS, SHARES, SHARES, NODES, st.integers(1, 50))
def test_a_number_is_a_pool_whose_bounds_are_one(
    actors: int | str, cpus: float | None, gpus: float | None, nodes: list[NodeSize], num_shards: int
) -> None:
    low = 1 if actors == "auto" else int(str(actors).partition(":")[0])

    def outcome(wanted: int | str) -> PoolSize | str:
        try:
            return size_pool(wanted, cpus, gpus, nodes, num_shards, can_grow=False)
        except ClusterError as error:
            return str(error).replace(f"--actors {wanted} ", "--actors N ")

    assert outcome(low) == outcome(f"{low}:{low}")


@given(
    st.builds(
        PoolSize, st.just(1), st.just(1), st.sampled_from([0.1, 0.5, 1.0, 3.0]), st.sampled_from([0.0, 0.5, 1.0])
    ),
    NODES,
)
def test_rooms_add_up_over_nodes_and_do_not_depend_on_the_number_asked(pool: PoolSize, nodes: list[NodeSize]) -> None:
    rooms = count_rooms(pool, nodes)
    assert rooms == sum(count_rooms(pool, [node]) for node in nodes)
    assert rooms == count_rooms(replace(pool, min_actors=7, max_actors=9), nodes)
    assert all(count_rooms(pool, [node]) * pool.cpus <= node.cpus + 1e-6 for node in nodes)
    assert all(count_rooms(pool, [node]) * pool.gpus <= node.gpus + 1e-6 for node in nodes)
    if not pool.gpus:
        assert rooms == sum(math.floor(node.cpus / pool.cpus + 1e-9) for node in nodes)


GIB = 2**30


@pytest.mark.parametrize(
    ("model_bytes", "memory_bytes", "expected"),
    [
        (0, 0, PoolSize(64, 64, 1.0, 0.0)),  # what is not known is no reason
        (10**8, 256 * GIB, PoolSize(64, 64, 1.0, 0.0)),  # 1.1 GiB each
        (10**9, 256 * GIB, PoolSize(32, 32, 2.0, 0.0)),  # 4.4 GiB each
        (4 * 10**9, 256 * GIB, PoolSize(16, 16, 4.0, 0.0)),
        (10**12, 256 * GIB, PoolSize(1, 1, 64.0, 0.0)),  # it will not fit at all, which loading it tells
    ],
)
def test_auto_keeps_the_copies_of_a_large_model_within_a_node_s_memory(
    model_bytes: int, memory_bytes: float, expected: PoolSize
) -> None:
    nodes = [NodeSize(64, 0, "a", memory_bytes)]
    assert size_pool("auto", None, None, nodes, 1000, can_grow=False, model_bytes=model_bytes) == expected
    assert size_pool(16, None, None, nodes, 1000, False, model_bytes).cpus == 1  # who says how many knows
    assert size_pool("auto", 1.0, None, nodes, 1000, False, model_bytes).cpus == 1
    mixed = [*nodes, NodeSize(4, 0, "b", 64 * GIB)]
    assert size_pool("auto", None, None, mixed, 1000, False, model_bytes).cpus == min(expected.cpus, 64)
