import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.tf]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits" / "digits.py"


def test_the_digits_are_learned_frozen_and_scored(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE), "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^held-out accuracy (\d\.\d{3})", done.stdout, re.MULTILINE)
    assert found
    assert float(found[1]) >= 0.95
    assert "--actors 2" in done.stdout
    assert re.search(r"^[\d,]+ rows per second", done.stdout, re.MULTILINE)
    for name in ("digits.pb", "images", "predictions"):
        assert str(tmp_path / name) in done.stdout
    parts = list((tmp_path / "predictions").glob("part-*.parquet"))
    assert len(parts) > 1
    assert sum(pq.read_metadata(part).num_rows for part in parts) == 540
    assert (tmp_path / "checkpoint" / "digits.meta").exists()
    command = [sys.executable, "-m", "jobs.report", str(tmp_path / "predictions")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    text = Path(report).read_text()
    for told in ("of 540 read", "All actors together", "prediction: largest entry", "5,418 (21.2 KiB)", "--actors 2"):
        assert told in text, told
