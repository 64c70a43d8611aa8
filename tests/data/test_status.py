import json
from pathlib import Path

import pytest

from engine.data.status import ENDS, STATUS, ActorStatus, RunStatus, parse_status, read_status, write_status
from engine.data.storage.local_folder import LocalFolder

FULL = RunStatus(
    plan_id="p", state="scoring", rows=3, seconds_left=None, actors=(ActorStatus(1, "n", "working", (2, 3), "read"),)
)


def test_a_status_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    folder.make()
    write_status(folder, FULL)
    assert read_status(folder) == FULL
    assert json.loads((tmp_path / STATUS).read_text())["actors"][0]["shards"] == [2, 3]


def test_what_a_newer_engine_says_more_is_left_out() -> None:
    document = FULL.to_json() | {"mood": "good"}
    document["actors"] = [{**each, "colour": "red"} for each in document["actors"]]
    assert parse_status(json.loads(json.dumps(document))) == FULL


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"actors": 3}', '{"actors": [3]}', '{"actors": [{}]}'])
def test_what_is_no_status_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "_icefloe").mkdir()
    (tmp_path / STATUS).write_text(text)
    assert read_status(LocalFolder(str(tmp_path))) is None


def test_no_status_is_none(tmp_path: Path) -> None:
    assert read_status(LocalFolder(str(tmp_path / "nowhere"))) is None


@pytest.mark.parametrize("state", ["starting", "loading", "scoring", "done", "failed", "interrupted"])
def test_which_states_are_ends(state: str) -> None:
    assert RunStatus(state=state).is_over == (state in ENDS) == (state in ("done", "failed", "interrupted"))
