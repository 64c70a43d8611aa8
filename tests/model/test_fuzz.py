import re
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 2
MIN_TRIED = 50


@pytest.mark.parametrize("seed", [1, 2])
def test_broken_models_are_described_or_refused(seed: int) -> None:
    """Never a traceback, a hang or more than 1 GiB; `fuzz.py SECONDS SEED` goes on for longer."""
    command = [sys.executable, str(FUZZ), str(SECONDS), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SECONDS + 60)
    assert done.returncode == 0, done.stderr[-4000:]
    tried, described, _ = map(int, re.findall(r"\d+", done.stdout))
    assert tried >= MIN_TRIED
    assert 0 < described < tried
