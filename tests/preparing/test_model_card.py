import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from pretending import Pretender

from engine.config import build_config
from engine.model.known import Request, bind_model, read_model
from engine.preparing.model_card import model_card
from engine.preparing.prepare import prepare


def card_of(path: str, **request: Any) -> dict[str, Any]:
    asked = {"feed": {"inputs:0": "inputs"}, "fetch": {"prediction:0": "prediction"}, "constants": {}, **request}
    model = bind_model(read_model(path), Request(**asked))
    return model_card(model, "/place", (), request.get("allow_ops", ()))


def test_a_frozen_graph(tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "m.pb", graphs.linear(400, 30))
    card = card_of(path)
    assert card["parameters"] == 400 * 30
    assert card["parameter_bytes"] == 4 * 400 * 30
    assert card["bytes"] == Path(path).stat().st_size
    assert card["inputs"] == [{"tensor": "inputs:0", "column": "inputs", "dtype": "float32", "shape": [None, 400]}]
    assert card["outputs"] == [
        {"tensor": "prediction:0", "column": "prediction", "dtype": "float32", "shape": [None, 30]}
    ]
    assert (card["findings"], card["random_operations"], card["producer"]) == ([], [], graphs.PRODUCER)
    assert card["operations"] == sum(count for _, count in card["operation_types"])
    assert json.loads(json.dumps(card)) == card


def test_what_is_not_needed_does_not_count(tmp_path: Path) -> None:
    made = graphs.linear(4, 3)
    made.node.append(graphs.constant("unused", np.zeros((100, 100), np.float32)))
    assert card_of(graphs.write(tmp_path / "m.pb", made))["parameters"] == 12


def test_what_the_audit_found_and_the_caller_allowed(tmp_path: Path) -> None:
    made = graphs.graph(
        graphs.placeholder("inputs", "string", []), graphs.node("prediction", "ReadFile", "inputs")
    )  # fmt: skip
    card = card_of(graphs.write(tmp_path / "m.pb", made), allow_ops=("ReadFile",), is_unbatched=True)
    assert card["findings"] == ["prediction (ReadFile) reads files"]
    assert card["allowed"] == ["ReadFile"]


def test_the_plan_keeps_it_and_its_id_does_not_depend_on_it(
    model: str, inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model": model, "input": [inputs], "output": str(tmp_path / "out")}
    job = Pretender(monkeypatch, settings)
    job.score()
    plan = json.loads((tmp_path / "out/_icefloe/plan.json").read_text())
    assert plan["model"]["place"] == model
    assert plan["model"]["sha256"] == plan["settings"]["model_sha256"]
    monkeypatch.setattr("engine.preparing.resuming.model_card", lambda *_: {"other": 1})
    assert prepare(build_config(settings)).plan.plan_id == plan["plan_id"]
    assert "model" not in plan["settings"]


def test_a_model_that_makes_a_piece_raise_leaves_what_is_known(tmp_path: Path) -> None:
    """One whose output no node makes, which none that was bound has."""
    bound = bind_model(
        read_model(graphs.write(tmp_path / "m.pb", graphs.linear(4, 3))),
        Request(feed={"inputs:0": "inputs"}, fetch={"prediction:0": "prediction"}, constants={}),
    )
    card = model_card(replace(bound, fetch={"gone:0": "prediction"}), "/place", ("c:0",), ("ReadFile",))
    assert (card["place"], card["sha256"], card["allowed"]) == ("/place", bound.known.sha256, ["ReadFile"])
    assert (card["parameters"], card["operations"], card["findings"]) == (None, None, None)
    assert "gone" in card["unknown"]
    assert card["outputs"] == [{"tensor": "gone:0", "column": "prediction", "dtype": None, "shape": None}]
    assert card.keys() - model_card(bound, "/place", (), ()).keys() == {"unknown"}
    assert json.loads(json.dumps(card)) == card
