"""A job in fewer bits and compiled, through Ray: its drift is told, and bytes stay the same."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine import JobConfig, score
from engine.data.ledger import Ledger
from engine.errors import ConfigError
from engine.model.precision import lower_precision
from engine.model.session import import_tensorflow, load_session
from engine.run.summary import Summary
from engine.sampling import score_sample

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]


@pytest.fixture
def precision() -> str:
    tensorflow = import_tensorflow(0)
    try:
        lower_precision(tensorflow, tensorflow.compat.v1.ConfigProto(), "bfloat16", "CPU")
    except ConfigError:
        return "float32"
    return "bfloat16"


def run(model: str, inputs: str, output: Path, **more: Any) -> Summary:
    settings: dict[str, Any] = {"model": model, "input": (inputs,), "output": str(output), "shard_size": 4000}
    return score(JobConfig(**{**settings, "batch_size": 32, "xla": True, **more}))


def test_drift_is_told_and_bytes_stay_the_same_whatever_the_actors(
    model: str, inputs: str, tmp_path: Path, precision: str
) -> None:
    output = tmp_path / "out"
    first = run(model, inputs, output, precision=precision, actors=1)
    assert (first.precision, first.xla, first.bytes_stable) == (precision, True, True)
    names = sorted(path.name for path in output.glob("part-*"))
    parts = {name: (output / name).read_bytes() for name in names}
    table = pq.read_table(output / names[0])
    plain = load_session(Path(model).read_bytes(), ["inputs:0"], ["prediction:0"], {})
    rows = np.stack(pq.read_table(Path(inputs) / "f0.parquet")["inputs"].to_numpy())
    difference = np.abs(plain.run({"inputs:0": rows})[0] - np.stack(table["prediction"].to_numpy()))
    drift = first.drift["prediction"]
    assert drift.rows == len(table) == 100
    assert 0 < drift.max_absolute < 3e-2
    assert drift.max_absolute == pytest.approx(difference.max(), rel=0.1, abs=1e-6)
    kept = json.loads((output / "_icefloe" / "summary.json").read_text())
    assert kept["drift"]["prediction"]["max_absolute"] == drift.max_absolute
    assert score_sample(Ledger(str(output)), 50, seed=0).problems == ()
    for name in (names[1], names[3], "_SUCCESS"):
        (output / name).unlink()
    rest = run(model, inputs, output, precision=precision, actors=2)
    assert (rest.attempts, rest.drift["prediction"].rows) == (2, 100)
    assert {path.name: path.read_bytes() for path in output.glob("part-*")} == parts
