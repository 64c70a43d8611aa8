import json
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from engine import score
from engine.config import build_config
from jobs.__main__ import app
from jobs.command_line import run

pytestmark = [pytest.mark.ray, pytest.mark.tf, pytest.mark.usefixtures("local_ray")]


def test_what_is_measured_is_printed_drawn_and_can_be_scored_with(
    model: str, inputs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "given.toml").write_text(f'output = "{tmp_path}/out"\nbatch_size = 7\nmax_attempts = 2\n')
    words = ["tune", model, "--input", inputs, "--config", str(tmp_path / "given.toml"), "--cpus-per-actor", "1"]
    words += [
        "--output",
        str(tmp_path / "tune"),
        "--seconds",
        "10",
        "--xla",
        "off",
        "--precision",
        "float32",
        "bfloat16",
    ]
    assert run(app, words) == 0
    printed = capsys.readouterr()
    assert "batches of 400: " not in printed.err
    found = json.loads((tmp_path / "tune" / "tune.json").read_text())
    assert found["sample_rows"] == 400
    assert found["sample_files"] == 4
    plain = [each for each in found["measurements"] if each["setting"]["precision"] == "float32"]
    assert [each["batch_rows"] for each in plain if each["is_auto"]] == [found["auto_rows"]]
    for each in found["measurements"]:
        assert each["rows_per_second"] > 0
        assert each["efficiency"] > 0
        assert each["peak_bytes"] > 2**27
        assert each["load_seconds"] > each["first_call_seconds"] > 0
    for line in ("float32, as the graph is", "auto", "<- best", "job.toml", "default "):
        assert line in printed.out
    assert "rows per graph call" in "".join(ET.parse(tmp_path / "tune" / "tune.svg").getroot().itertext())
    config = build_config(tomllib.loads((tmp_path / "tune" / "job.toml").read_text()))
    assert (config.batch_size, config.max_attempts) == (found["best"]["batch_rows"], 2)
    assert (config.precision, config.cpus_per_actor) == (found["best"]["setting"]["precision"], 1.0) or found["faster"]
    assert score(config).rows_out == 400
    assert (tmp_path / "out" / "_SUCCESS").exists()
    refused = [each["reason"] for each in found["failures"] if each["is_left_out"]]
    lowered = [each for each in found["measurements"] if each["setting"]["precision"] == "bfloat16"]
    assert lowered or refused or found["left_out"]
    for each in lowered:
        assert 0 < each["drift"]["prediction"]["max_absolute"] < 0.1
        assert each["drift"]["prediction"]["rows"] == 400
