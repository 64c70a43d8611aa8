import pytest

from engine.data.quarantine import NUM_SHOWN
from engine.errors import DataError
from engine.run.budget import BadRowTally, read_budget

FOLDER = "/out/_icefloe/quarantine"


@pytest.mark.parametrize(("text", "num_bad", "is_over"), [(0, 0, False), (0, 1, True), (5, 5, False), (5, 6, True)])
def test_a_number_ends_the_job_early(text: int, num_bad: int, is_over: bool) -> None:
    budget = read_budget(text)
    assert budget.is_over(num_bad) == is_over
    budget.check_share(num_bad, num_bad, (), FOLDER)  # and is not judged at the end


@pytest.mark.parametrize(
    ("text", "num_bad", "num_rows", "is_over"),
    [
        ("0%", 0, 10, False),
        ("0%", 1, 10, True),
        ("10%", 1, 10, False),
        ("10%", 2, 19, True),
        ("0.1%", 1, 1000, False),
        ("0.1%", 1, 999, True),
        ("100%", 7, 7, False),
        ("50%", 0, 0, False),
    ],
)
def test_a_share_is_judged_at_the_end(text: str, num_bad: int, num_rows: int, is_over: bool) -> None:
    budget = read_budget(text)
    assert not budget.is_over(10**9)
    if is_over:
        with pytest.raises(DataError, match=rf"of {num_rows} .*where --max-bad-rows allows {text}: a; see"):
            budget.check_share(num_bad, num_rows, ["a"], FOLDER)
    else:
        budget.check_share(num_bad, num_rows, ["a"], FOLDER)


def test_a_tally_names_the_first_few() -> None:
    tally = BadRowTally(read_budget(5), FOLDER)
    tally.add(2)  # of an earlier run
    tally.add(3, ["a", "b", "c"])
    with pytest.raises(DataError) as caught:
        tally.add(1_000, ["d", "e"])
    assert str(caught.value).startswith("1,005 bad rows where --max-bad-rows allows 5: a; b; c; see /out/")
    assert len(tally.shown) == NUM_SHOWN
    with pytest.raises(DataError, match="^1 bad row where --max-bad-rows allows 0; see"):
        BadRowTally(read_budget(0), FOLDER).add(1)
