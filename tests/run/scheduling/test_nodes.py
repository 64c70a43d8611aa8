from engine.run.scheduling.nodes import AVOIDED_SECONDS, LOSSES_BEFORE_AVOIDED, NodeRecords


def records_with(*living: str) -> NodeRecords:
    records = NodeRecords()
    records.see(frozenset(living))
    return records


def test_a_node_is_avoided_for_a_while_after_three_losses_in_a_row() -> None:
    records = records_with("a", "b")
    assert [records.blame("a", 0) for _ in range(LOSSES_BEFORE_AVOIDED)] == [False, False, True]
    assert records.avoided(AVOIDED_SECONDS - 1) == ("a",)
    assert records.avoided(AVOIDED_SECONDS) == ()


def test_a_shard_done_breaks_the_row() -> None:
    records = records_with("a", "b")
    for _ in range(5):
        assert not records.blame("a", 0)
        assert not records.blame("a", 0)
        records.praise("a")
    assert records.avoided(0) == ()


def test_a_loss_while_it_is_avoided_makes_it_longer_and_is_no_news() -> None:
    records = records_with("a", "b")
    for _ in range(LOSSES_BEFORE_AVOIDED):
        records.blame("a", 0)
    assert records.avoided(0) == ("a",)
    assert not records.blame("a", 100)
    assert records.avoided(AVOIDED_SECONDS + 99) == ("a",)
    assert records.avoided(AVOIDED_SECONDS + 100) == ()


def test_a_node_that_cannot_load_is_avoided_for_good() -> None:
    records = records_with("a", "b")
    records.bar("b")
    records.praise("b")
    assert records.avoided(1e9) == ("b",)


def test_no_node_is_avoided_where_there_is_no_other() -> None:
    records = records_with("a", "b")
    records.bar("a")
    records.bar("b")
    assert records.avoided(0) == ()
    records.see(frozenset("abc"))
    assert records.avoided(0) == ("a", "b")
    records.see(frozenset("ac"))
    assert records.avoided(0) == ("a",)


def test_a_worker_without_a_node_blames_none() -> None:
    records = records_with("a")
    assert not any(records.blame("", 0) for _ in range(5))
    records.bar("")
    records.praise("")
    assert records.avoided(0) == ()
