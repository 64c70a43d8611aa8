import json
import subprocess
from typing import Any

import pytest

from engine.config import build_config
from engine.view.reporting.command import given_settings, rerun_command
from jobs.command_line import run, with_job_options
from jobs.help import new_app

BASE: dict[str, Any] = {"model": "/m/n.pb", "input": ["/in"], "output": "/out"}
CALLS: list[dict[str, Any]] = [
    {},
    {"input": ["/a b/*.parquet", "s3://x/y?region=z", "it's"], "provenance": True, "keep": ["id", "a b"]},
    {"feed": {"x:0": "a,b", "y:0": "f_*"}, "fetch": {"p:0": "$p & <q>"}, "set": {"keep_prob:0": 1.0, "t:0": [True]}},
    {"where": ["name = 'x y'", "n in (1, 2)"], "fill": {"age": "0", "name": "it's"}, "max_bad_rows": "1%"},
    {"actors": "2:8", "gpus_per_actor": 0.25, "stall_timeout": 12.5, "limit": 7, "keep": "none", "xla": True},
    {"shard_size": "64MiB", "batch_size": 32, "dictionary": "all", "add": True, "address": "auto", "utf8": ["a", "b"]},
]


@pytest.mark.parametrize("more", CALLS)
def test_the_command_gives_the_same_settings_again(more: dict[str, Any]) -> None:
    """A shell splits it into words, and the command line reads them back."""
    config = build_config({**BASE, **more})
    command = rerun_command(json.loads(json.dumps(config.model_dump(mode="json"))))
    split = "import json, sys; print(json.dumps(sys.argv[1:]))"
    shell = f"icefloe() {{ python3 -c '{split}' \"$@\"; }}\n{command}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    found = []

    def score(config: Any) -> None:
        """Take the config."""
        found.append(config)

    app = new_app()
    app.command(with_job_options(score))
    assert run(app, json.loads(done.stdout)) == 0
    assert found == [config]


def test_only_what_differs_from_the_defaults_is_typed() -> None:
    config = build_config({**BASE, "batch_size": 16, "max_attempts": 4}).model_dump(mode="json")
    assert list(given_settings(config)) == ["model", "input", "output", "batch_size"]


def test_overwrite_is_not_typed_again() -> None:
    config = build_config({**BASE, "overwrite": True}).model_dump(mode="json")
    assert "overwrite" not in rerun_command(config)
